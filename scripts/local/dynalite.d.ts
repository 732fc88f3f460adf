// dynalite comes without types: what is used of it here.
declare module 'dynalite' {
  import type { Server } from 'node:http';

  /** A DynamoDB in memory, as an HTTP server that does not listen yet. `createTableMs`: how long a new table is CREATING. */
  export default function dynalite(options?: { readonly createTableMs?: number }): Server;
}
