import { once } from 'node:events';
import { createServer, type RequestListener, request } from 'node:http';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { type PageServer, startPageServer } from '../../../scripts/local/page/server.ts';
import { listen } from '../../support/listen.ts';

let api: RequestListener = (_, response) => response.end();
const emulator = createServer((incoming, response) => {
  if (incoming.url !== '/restapis') return api(incoming, response);
  response.end(JSON.stringify({ item: [{ id: 'api', name: 'stack', createdDate: 1 }] }));
});
let page: PageServer;
let takenPort: number;

beforeEach(async () => {
  const port = await listen(emulator);
  takenPort = port;
  const aws = { endpoint: `http://127.0.0.1:${port}`, port, env: {}, logFile: '', reportsFile: '' };
  page = await startPageServer({ ...aws, ended: new Promise(() => undefined), stop: async () => undefined }, takenPort);
  page.deployed({ stackName: 'stack', baseUrl: '', outputs: {} });
});

afterEach(() => {
  page.stop();
  emulator.close();
  emulator.closeAllConnections();
});

/** Sends a request with exactly this path and Host, which fetch would change. Returns the status of the response. */
async function statusOf(path: string, method = 'GET', headers: Readonly<Record<string, string>> = {}) {
  const outgoing = request({ host: '127.0.0.1', port: new URL(page.url).port, path, method, headers, agent: false });
  const [response] = await once(outgoing.end(), 'response');
  response.resume();
  return response.statusCode;
}

test.each(['/', '/events', '/kill', '/Prod/jobs/none'])(
  'a request of %s with a Host that is not a loopback name is refused',
  async (path) => {
    const hosts = ['example.com', 'localhost.example.com', '127.0.0.1.example.com:4580', '192.168.0.1'];

    const statuses = await Promise.all(hosts.map((Host) => statusOf(path, 'GET', { Host })));

    expect(statuses).toEqual([403, 403, 403, 403]);
  },
);

test.each(['/kill', '/send-again'])('a POST of %s from a page of another Origin is refused', async (path) => {
  const origins = ['https://example.com', 'null', 'http://127.0.0.1:1', `${page.url}.example.com`];

  const statuses = await Promise.all(origins.map((Origin) => statusOf(path, 'POST', { Origin })));

  expect(statuses).toEqual([403, 403, 403, 403]);
});

test('a GET of /kill kills nothing', async () => {
  const status = await statusOf('/kill');

  expect(status).toBe(404);
});

test('the page server takes the next port if the first one is taken', () => {
  const port = Number(new URL(page.url).port);

  expect(port).toBeGreaterThan(takenPort);
});

test('a path that is no path of a URL is a 400', async () => {
  const status = await statusOf('//');

  expect(status).toBe(400);
});

test('the page is still served after the emulator breaks a connection in the middle of a response', async () => {
  api = (_, response) => {
    response.writeHead(200, { 'Content-Length': '100' });
    response.write('a part', () => response.socket?.resetAndDestroy());
  };

  const body = fetch(`${page.baseUrl}/jobs`).then((response) => response.text());

  await expect(body).rejects.toThrow();
  expect(await statusOf('/')).toBe(200);
});
