import { EventEmitter } from 'node:events';
import dynalite from 'dynalite';

/** A request as the SDK hands it to its HTTP handler. */
export interface WireRequest {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** The text of a request's body, which the SDK warns about where it is taken for a string. */
export function textOf({ body }: WireRequest): string {
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString();
}

/** An answer as the SDK takes it from its HTTP handler. */
export interface WireAnswer {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

// dynalite wants to see a signature, and does not check it.
const SIGNATURE = { authorization: 'AWS4-HMAC-SHA256 Credential=c, SignedHeaders=h, Signature=s', 'x-amz-date': 'd' };

/** The real dynalite without a socket: its request listener is called with requests made by hand. */
export class Engine {
  readonly #server = dynalite({ createTableMs: 0 });

  /** Carries one request out. */
  perform(sent: WireRequest): Promise<WireAnswer> {
    const { promise, resolve } = Promise.withResolvers<WireAnswer>();
    const answerHeaders: Record<string, string> = {};
    const request = Object.assign(new EventEmitter(), {
      method: 'POST',
      url: '/',
      headers: { ...sent.headers, ...SIGNATURE },
    });
    const response = {
      statusCode: 200,
      setHeader(name: string, value: unknown) {
        answerHeaders[name.toLowerCase()] = String(value);
      },
      end(text: string) {
        resolve({ statusCode: this.statusCode, headers: answerHeaders, body: Buffer.from(text) });
      },
    };
    this.#server.emit('request', request, response);
    request.emit('data', Buffer.from(textOf(sent)));
    request.emit('end');
    return promise;
  }
}
