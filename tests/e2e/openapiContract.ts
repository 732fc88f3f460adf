import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { OpenAPIBackend } from 'openapi-backend';
import { parse } from 'yaml';
import { type Answer, isEmulator } from './deployment.ts';

const file = resolve(import.meta.dirname, '..', '..', 'openapi.yaml');

/** A path that API Gateway always passes on to a function. */
const ORDINARY_PATH = /\/jobs(?:\/[\w-]{1,64})?$/;

/**
 * Returns a function that checks a response against openapi.yaml: status, headers, media type and body.
 * It throws an Error that lists the differences. Paths that are not in openapi.yaml are not checked.
 */
export async function openContract(): Promise<(method: string, url: string, response: Answer) => void> {
  const api = new OpenAPIBackend({
    definition: parse(readFileSync(file, 'utf8')),
    // Skips the check of the document, which supports only OpenAPI 3.0. `npm run lint` checks it.
    quick: true,
    customizeAjv: (_ajv, options) => addFormats(new Ajv2020({ ...options, strict: false, allErrors: true })),
  });
  await api.init();

  return (method, url, response) => {
    // A response of the AWS emulator itself, which ignores the template's GatewayResponses.
    if (isEmulator(url) && /^\{"message": ?"/.test(response.text)) return;
    const path = /\/jobs(?:\/[^/?]+)?$/.exec(url)?.[0];
    if (path === undefined) return;
    // API Gateway may reject other ids with responses that a template cannot describe.
    if (!ORDINARY_PATH.test(path) && !response.text.startsWith(`{"error":"Job '`)) return;
    // For any other method, the 405 is described under the method that the path has.
    const operation = [method, 'GET', 'POST']
      .map((candidate) => api.matchOperation({ method: candidate, path, headers: {} }))
      .find((found) => found !== undefined);
    if (operation?.operationId === undefined) return;

    const { status, headers, json } = response;
    const described = operation.responses?.[status];
    const problems: string[] = [];
    if (described === undefined || '$ref' in described) {
      problems.push('this status is not described');
    } else {
      for (const [name, header] of Object.entries(described.headers ?? {})) {
        const isRequired = 'required' in header && header.required === true;
        if (isRequired && !(name.toLowerCase() in headers)) problems.push(`header ${name} is missing`);
      }
      const mediaType = headers['content-type'] ?? 'none';
      if (!(mediaType in (described.content ?? {}))) problems.push(`media type ${mediaType} is not described`);
      const found = [
        api.validateResponse(json, operation, status),
        api.validateResponseHeaders(headers, operation, { statusCode: status }),
      ].flatMap(({ errors }) => errors ?? []);
      problems.push(...found.map(({ instancePath, message }) => `${instancePath || 'the body'} ${message}`));
    }
    if (problems.length > 0) {
      throw new Error(
        `${method} ${path.slice(0, 200)} returned ${status}, which does not match openapi.yaml: ${problems.join('; ')}\n${response.text.slice(0, 1000)}`,
      );
    }
  };
}
