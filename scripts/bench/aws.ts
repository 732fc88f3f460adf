import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { generate } from 'selfsigned';
import { startJobsTable } from '../../tests/support/jobsTable.ts';
import { listen } from '../../tests/support/listen.ts';

/** A call to DynamoDB or Lambda. */
export interface SeenCall {
  /** `PutItem`, `Invoke` and so on. */
  readonly operation: string;
  readonly path: string;
  readonly body: string;
  readonly response: string;
  /** DynamoDB's capacity units. */
  readonly units: number;
}

/** Starts a stand-in for DynamoDB and Lambda over TLS, with an empty jobs table. The directory gets its certificate. */
export async function startStandIn(directory: string) {
  const { private: key, cert } = await generate([{ name: 'commonName', value: '127.0.0.1' }], {
    keyType: 'ec',
    extensions: [{ name: 'subjectAltName', altNames: [{ type: 7, ip: '127.0.0.1' }] }],
  });
  const certificateFile = join(directory, 'certificate.pem');
  await writeFile(certificateFile, cert);
  const table = await startJobsTable();
  const replayed = new Map<string, SeenCall>();
  let seen = { calls: [] as SeenCall[], connections: 0 };

  const perform = async (operation: string, body: string) => {
    if (operation === 'Invoke') return { response: '', units: 0 };
    const answer = await fetch(table.endpoint, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/x-amz-json-1.0',
        'X-Amz-Target': `DynamoDB_20120810.${operation}`,
        'X-Amz-Date': '20250101T000000Z',
        // dynalite requires a signature, but does not check it.
        Authorization: 'AWS4-HMAC-SHA256 Credential=a/1/us-east-1/dynamodb/aws4_request, SignedHeaders=a, Signature=a',
      },
      body: JSON.stringify({ ...JSON.parse(body), ReturnConsumedCapacity: 'TOTAL' }),
    });
    const response = await answer.text();
    if (!answer.ok) throw new Error(`${operation} was refused: ${response}`);
    return { response, units: Number(JSON.parse(response).ConsumedCapacity.CapacityUnits) };
  };

  const server = createServer({ key, cert }, async (request, answer) => {
    const operation = String(request.headers['x-amz-target'] ?? 'Invoke').replace(/^.*\./, '');
    const body = await text(request);
    const { response, units } = replayed.get(operation) ?? (await perform(operation, body));
    seen.calls.push({ operation, path: request.url ?? '', body, response, units });
    const status = operation === 'Invoke' ? 202 : 200;
    answer.writeHead(status, { 'Content-Type': 'application/x-amz-json-1.0' }).end(response);
  });
  server.on('secureConnection', () => {
    seen.connections += 1;
  });
  // Longer than a job takes: AWS keeps connections open for longer than Node's default of 5 s.
  server.keepAliveTimeout = 60_000;
  const url = `https://127.0.0.1:${await listen(server)}`;

  return {
    /** The environment variables that make the SDK use it. */
    environment: { AWS_ENDPOINT_URL: url, NODE_EXTRA_CA_CERTS: certificateFile },
    /** The calls and the number of connections since this was last called. */
    takeSeen() {
      const taken = seen;
      seen = { calls: [], connections: 0 };
      return taken;
    },
    /** From now on, these operations get the same responses again, without the database. */
    replay(calls: readonly SeenCall[]) {
      for (const call of calls) replayed.set(call.operation, call);
    },
    stop() {
      server.close();
      server.closeAllConnections();
      table.stop();
    },
  };
}
