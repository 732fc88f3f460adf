import type { APIGatewayProxyEvent } from 'aws-lambda';
import { HttpError } from './http.ts';
import { MAX_TEXT_BYTES, sizeAsJson } from './job.ts';

/** The text of a `POST /jobs`, trimmed. Throws an HttpError 400 or 413 that says what is wrong with it. */
export function parseText(event: APIGatewayProxyEvent): string {
  const body = parseBody(event);
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new HttpError(400, 'Request body must be a JSON object');
  }
  const value: unknown = 'text' in body ? body.text : undefined;
  if (value !== undefined && typeof value !== 'string') throw new HttpError(400, "Field 'text' must be a string");
  const text = value?.trim() ?? '';
  if (text === '') throw new HttpError(400, "Field 'text' is required and must not be empty");
  // UTF-8 cannot encode lone surrogates, so DynamoDB would silently store a different text.
  if (!text.isWellFormed()) throw new HttpError(400, "Field 'text' must be well-formed Unicode");
  if (sizeAsJson(text) > MAX_TEXT_BYTES) {
    throw new HttpError(413, `Field 'text' must not exceed ${MAX_TEXT_BYTES} bytes as JSON`);
  }
  return text;
}

function parseBody(event: APIGatewayProxyEvent): unknown {
  const { body, isBase64Encoded } = event;
  if (body === null || body === '') return {};
  try {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    const text = isBase64Encoded ? decoder.decode(Buffer.from(body, 'base64')) : body;
    // Some clients start UTF-8 with a byte order mark, which JSON.parse rejects.
    return JSON.parse(text.replace(/^\ufeff/, ''));
  } catch {
    // The parser's message quotes the body, so it is neither returned nor logged.
    throw new HttpError(400, 'Invalid JSON in request body');
  }
}

const MAX_KEY_CHARACTERS = 255;

/** A string of RFC 9651, section 3.3.3: printable ASCII in quotes, with `\"` and `\\` for `"` and `\`. */
const QUOTED_STRING = /^"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"$/;

/** What many clients send instead: printable ASCII without spaces and quotes. */
const BARE_STRING = /^[\x21\x23-\x7e]+$/;

/**
 * The idempotency key, or undefined if there is no `Idempotency-Key` header. The value is a string in
 * quotes, as draft-ietf-httpapi-idempotency-key-header requires, or without.
 *
 * @throws HttpError 400 if it is neither, occurs twice, or does not have 1 to 255 characters
 */
export function parseIdempotencyKey(event: APIGatewayProxyEvent): string | undefined {
  const values = Object.entries({ ...event.headers, ...event.multiValueHeaders }).flatMap(([name, value]) =>
    name.toLowerCase() === 'idempotency-key' ? (value ?? []) : [],
  );
  const [value, ...more] = values;
  if (value === undefined) return undefined;
  const key = more.length > 0 ? undefined : unquote(value.trim());
  if (key === undefined || key.length < 1 || key.length > MAX_KEY_CHARACTERS) {
    throw new HttpError(
      400,
      `Header 'Idempotency-Key' must be one string of 1 to ${MAX_KEY_CHARACTERS} printable ASCII characters`,
    );
  }
  return key;
}

function unquote(value: string): string | undefined {
  if (QUOTED_STRING.test(value)) return value.slice(1, -1).replace(/\\(.)/g, '$1');
  return BARE_STRING.test(value) ? value : undefined;
}
