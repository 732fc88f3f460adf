/**
 * `fetch` that also reaches an API on the AWS emulator at `http://<apiId>.execute-api.localhost:<port>/<stage>`.
 * curl and browsers resolve names under .localhost themselves, Node does not.
 */
export const localhostFetch: typeof fetch = (input, init) => {
  const url = new URL(input instanceof Request ? input.url : input);
  const apiId = /^(\w+)\.execute-api\.localhost$/.exec(url.hostname)?.[1];
  if (apiId === undefined) return fetch(input, init);
  // The emulator also serves the API at this path. Responses name the path without this beginning.
  return fetch(`http://127.0.0.1:${url.port}/_aws/execute-api/${apiId}${url.pathname}${url.search}`, init);
};
