/** How clients get in that cannot set a header: a real browser, and a page behind nginx, with what docs/ways-in.md says and nothing else. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { connect, createServer as createTcpServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ensurePackages } from './cluster/packages.ts';
import { applyInstance, call, enterWorld, eventually, jsonProtocol, openSocket, shellProgram } from './live-harness.ts';
import type { World } from './live-harness.ts';

const requirements = [
  { need: 'chromium', debian: 'chromium' },
  { need: '/usr/sbin/nginx', debian: 'nginx' },
];

let world: World;
let id: string;
let guide: string;
let scratch: string;
/** nginx's. */
let proxyUrl: string;

before(async () => {
  await ensurePackages(() => undefined, requirements);
  world = await enterWorld();
  scratch = await mkdtemp(join(tmpdir(), 'ringmaster-ways-'));
  world.cleanups.push(() => rm(scratch, { recursive: true, maxRetries: 5 }));
  guide = await readFile(join(import.meta.dirname, '../docs/ways-in.md'), 'utf8');
  proxyUrl = await startNginx();
  id = await applyInstance(world, 'ticker', shellProgram('while :; do echo tick; sleep 0.2; done'));
});

after(() => world.leave());

/** The guide's code of this language, in order. */
function blocks(language: string): string[] {
  return [...guide.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, 'gms'))].map(([, code = '']) => code);
}

/** Ends with the test file, with everything that it started. */
function start(command: string, args: readonly string[]): void {
  const child = spawn(command, args, { detached: true, stdio: 'ignore' });
  const ended = once(child, 'close');
  world.cleanups.push(async () => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
    await ended;
  });
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

/** A page whose script runs in a browser; gives what the script hands to `report`. */
async function runInBrowser(script: string): Promise<unknown> {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const page = `<!doctype html><script>
    const report = (value) => fetch('/report', { method: 'POST', body: JSON.stringify(value) });
    ${script}</script>`;
  const server = createServer((request, response) => {
    if (request.method === 'POST')
      void bodyOf(request).then((body) => {
        resolve(JSON.parse(body));
      });
    response.setHeader('Content-Type', 'text/html').end(page);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  world.cleanups.push(() => {
    server.close();
    server.closeAllConnections();
  });
  start('chromium', [
    '--headless',
    // Its own sandbox does not work for root.
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--disable-component-update',
    '--no-first-run',
    `--user-data-dir=${join(scratch, 'browser')}`,
    `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
  ]);
  return promise;
}

test('ways-in: a browser opens a live log with its token as a subprotocol', { timeout: 30_000 }, async () => {
  const [code = ''] = blocks('js');
  const origin = 'wss://ringmaster.example.com';
  assert.ok(code.includes(origin) && code.includes('const socket = new WebSocket('));
  const report = await runInBrowser(`
    const [token, id] = ${JSON.stringify([world.token, id])};
    ${code.replace(origin, world.url.replace(/^http/, 'ws'))}
    const frames = [];
    socket.onmessage = ({ data }) => { if (frames.push(data) === 3) report({ protocol: socket.protocol, frames }); };
    socket.onclose = ({ code }) => report({ code, frames });`);
  assert.deepEqual(report, { protocol: 'ringmaster.live-log.v1', frames: ['tick', 'tick', 'tick'] });
});

async function freePort(): Promise<number> {
  const server = createTcpServer();
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** nginx with the guide's configuration; only the Master's address and the token are put in. */
async function startNginx(): Promise<string> {
  const [location = '', maps = ''] = blocks('nginx');
  const master = 'http://ringmaster-master.ringmaster-system:7000';
  assert.ok(location.includes(master) && location.includes('"Bearer TOKEN"') && maps.includes('map '));
  const port = await freePort();
  const ownFolders = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${join(scratch, name)};`)
    .join('\n');
  const file = join(scratch, 'nginx.conf');
  await writeFile(
    file,
    `daemon off; pid ${join(scratch, 'nginx.pid')}; error_log ${join(scratch, 'error.log')}; events {}
    http { access_log off; ${ownFolders}
    ${maps}
    server { listen 127.0.0.1:${port};
    ${location.replace(master, world.url).replace('TOKEN', world.token)} } }`,
  );
  start('/usr/sbin/nginx', ['-c', file, '-e', join(scratch, 'error.log')]);
  await eventually('nginx to listen', async () => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const socket = connect(port, '127.0.0.1', () => {
      resolve(true);
    });
    socket.on('error', () => {
      resolve(false);
    });
    return promise.finally(() => socket.destroy());
  });
  return `http://127.0.0.1:${port}`;
}

test(
  'ways-in: behind nginx that adds the token a client needs none, and what it presents does not count',
  { timeout: 30_000 },
  async () => {
    const url = proxyUrl;
    assert.equal((await call(url, `/api/instances/${id}`)).status, 200);
    assert.equal((await call(world.url, `/api/instances/${id}`)).status, 401);
    const plain = await openSocket(world, { url, id, token: 'nobody' });
    const json = await openSocket(world, { url, id, token: 'nobody', protocols: [jsonProtocol] });
    await Promise.all([plain.untilFrames(3), json.untilFrames(3)]);
    assert.deepEqual(new Set(plain.frames), new Set(['tick']));
    assert.equal(json.ws.protocol, jsonProtocol);
    await assert.rejects(openSocket(world, { url, id: '000000', token: 'nobody' }), /HTTP 404 .*Instance not found/);
  },
);

test('ways-in: behind nginx the end of a log arrives as the end', { timeout: 30_000 }, async () => {
  const url = proxyUrl;
  const last = await applyInstance(world, 'last', { ...shellProgram('echo last words'), restartPolicy: 'Never' });
  const socket = await openSocket(world, { url, id: last, token: 'nobody' });
  await socket.ended();
  assert.deepEqual(socket.frames, ['last words']);
});
