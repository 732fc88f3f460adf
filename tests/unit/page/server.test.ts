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

beforeEach(async () => {
  const port = await listen(emulator);
  const aws = { endpoint: `http://127.0.0.1:${port}`, port, env: {}, logFile: '', reportsFile: '' };
  page = await startPageServer({ ...aws, ended: new Promise(() => undefined), stop: async () => undefined }, 4700);
  page.deployed({ stackName: 'stack', baseUrl: '', outputs: {} });
});

afterEach(() => {
  page.stop();
  emulator.close();
  emulator.closeAllConnections();
});

/** Sends a GET with exactly this path, which fetch would normalize. */
async function statusOf(path: string): Promise<number | undefined> {
  const outgoing = request({ host: '127.0.0.1', port: new URL(page.url).port, path, agent: false }).end();
  const [response] = await once(outgoing, 'response');
  response.resume();
  return response.statusCode;
}

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
