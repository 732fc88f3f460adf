import { createServer } from 'node:https';
import { text } from 'node:stream/consumers';
import { generate } from 'selfsigned';

/** A request as AWS would see it. */
export interface SeenCall {
  /** `PutItem`, `Invoke` and so on. */
  readonly operation: string;
  readonly path: string;
  readonly body: string;
}

/** Local stand-ins for DynamoDB and Lambda over TLS, each with its own endpoint. */
export interface Stub {
  /** The environment variables that make the SDK use the stub. */
  readonly environment: Readonly<Record<string, string>>;
  /** The calls, and the number of connections to each endpoint, since this was last called. */
  takeSeen(): { readonly calls: readonly SeenCall[]; readonly connections: readonly number[] };
  stop(): void;
}

/** In PEM format. */
export interface Certificate {
  readonly key: string;
  readonly cert: string;
}

/** Creates a self-signed certificate for 127.0.0.1. */
export async function selfSigned(): Promise<Certificate> {
  const { private: key, cert } = await generate([{ name: 'commonName', value: '127.0.0.1' }], {
    keyType: 'ec',
    extensions: [{ name: 'subjectAltName', altNames: [{ type: 7, ip: '127.0.0.1' }] }],
  });
  return { key, cert };
}

/** Starts a stub. `respond` returns the body of DynamoDB's response to a call. */
export async function startStub(certificate: Certificate, respond: (call: SeenCall) => Promise<string>): Promise<Stub> {
  let calls: SeenCall[] = [];

  const startEndpoint = async () => {
    const server = createServer(certificate, async (request, response) => {
      const operation = String(request.headers['x-amz-target'] ?? 'Invoke').replace(/^.*\./, '');
      const call = { operation, path: request.url ?? '', body: await text(request) };
      calls.push(call);
      if (operation === 'Invoke') {
        response.writeHead(202).end();
        return;
      }
      response.writeHead(200, { 'Content-Type': 'application/x-amz-json-1.0' }).end(await respond(call));
    });
    // Longer than a job takes. After Node's default of 5 s, the server would close a connection that AWS keeps open.
    server.keepAliveTimeout = 60_000;
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    if (typeof address !== 'object' || address === null) throw new Error('The stub is not listening');
    const endpoint = { server, url: `https://127.0.0.1:${address.port}`, connections: 0 };
    server.on('secureConnection', () => {
      endpoint.connections += 1;
    });
    return endpoint;
  };

  const dynamodb = await startEndpoint();
  const lambda = await startEndpoint();
  return {
    environment: { AWS_ENDPOINT_URL_DYNAMODB: dynamodb.url, AWS_ENDPOINT_URL_LAMBDA: lambda.url },
    takeSeen() {
      const seen = { calls, connections: [dynamodb.connections, lambda.connections] };
      calls = [];
      dynamodb.connections = 0;
      lambda.connections = 0;
      return seen;
    },
    stop() {
      for (const { server } of [dynamodb, lambda]) {
        server.close();
        server.closeAllConnections();
      }
    },
  };
}
