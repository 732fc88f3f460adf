import { EventEmitter } from 'node:events';
import dynalite from 'dynalite';

/** A request as the SDK passes it to its HTTP handler. */
export interface WireRequest {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** The body as text. (The SDK warns if the bytes are used as a string.) */
export function textOf({ body }: WireRequest): string {
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString();
}

/** A response as the SDK expects it from its HTTP handler. */
export interface WireResponse {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** A successful response without content. */
export const EMPTY: WireResponse = { statusCode: 200, headers: {}, body: Buffer.from('{}') };

// dynalite requires a signature, but does not check it.
const SIGNATURE = { authorization: 'AWS4-HMAC-SHA256 Credential=c, SignedHeaders=h, Signature=s', 'x-amz-date': 'd' };

/** dynalite without a socket: its request listener is called directly. */
export class DynamodbEngine {
  readonly #server = dynalite({ createTableMs: 0 });

  /** Carries out one request. */
  perform(sent: WireRequest): Promise<WireResponse> {
    const { promise, resolve } = Promise.withResolvers<WireResponse>();
    const responseHeaders: Record<string, string> = {};
    const request = Object.assign(new EventEmitter(), {
      method: 'POST',
      url: '/',
      headers: { ...sent.headers, ...SIGNATURE },
    });
    const response = {
      statusCode: 200,
      setHeader(name: string, value: unknown) {
        responseHeaders[name.toLowerCase()] = String(value);
      },
      end(text: string) {
        resolve({ statusCode: this.statusCode, headers: responseHeaders, body: Buffer.from(text) });
      },
    };
    this.#server.emit('request', request, response);
    request.emit('data', Buffer.from(textOf(sent)));
    request.emit('end');
    return promise;
  }
}
