// dynalite has no types. This declares only what is used here.
declare module 'dynalite' {
  import type { Server } from 'node:http';

  /** An in-memory DynamoDB: an HTTP server that does not listen yet. A new table is CREATING for `createTableMs`. */
  export default function dynalite(options?: { readonly createTableMs?: number }): Server;
}
