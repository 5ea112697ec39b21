/** Clients behind a real nginx that adds the token, with the configuration of docs/guides/nginx.md, without its login. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ensurePackages } from './cluster/packages.ts';
import { readGuide } from './guide.ts';
import { applyInstance, call, enterWorld, eventually, jsonProtocol, openSocket, shellProgram } from './live-harness.ts';
import type { World } from './live-harness.ts';
import { freePort } from './ports.ts';

const requirements = [{ need: '/usr/sbin/nginx', debian: 'nginx' }];

let world: World;
let id: string;
let scratch: string;
/** nginx's. */
let proxyUrl: string;

before(async () => {
  await ensurePackages(() => undefined, requirements);
  world = await enterWorld();
  scratch = await mkdtemp(join(tmpdir(), 'ringmaster-ways-'));
  world.cleanups.push(() => rm(scratch, { recursive: true, maxRetries: 5 }));
  proxyUrl = await startNginx();
  id = await applyInstance(world, 'ticker', shellProgram('while :; do echo tick; sleep 0.2; done'));
});

after(() => world.leave());

/** Ends with the test file, with everything that it started. */
function start(command: string, args: readonly string[]): void {
  const child = spawn(command, args, { detached: true, stdio: 'ignore' });
  const ended = once(child, 'close');
  world.cleanups.push(async () => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
    await ended;
  });
}

/** nginx with the guide's configuration. Only the addresses and the token are put in, and its login is left out. */
async function startNginx(): Promise<string> {
  const guide = await readFile(join(import.meta.dirname, '../docs/guides/nginx.md'), 'utf8');
  const shown = readGuide(guide).find((step) => step.kind === 'file' && step.name === 'nginx.conf');
  assert.ok(shown?.kind === 'file');
  const port = await freePort();
  let content = shown.content;
  const changes: [RegExp, string][] = [
    [/^daemon on;$/m, 'daemon off;'],
    [/listen 127\.0\.0\.1:8099;/, `listen 127.0.0.1:${port};`],
    [/^ *auth_basic "Ringmaster";\n *auth_basic_user_file users;\n/m, ''],
    [/proxy_pass MASTER;/, `proxy_pass ${world.url};`],
    [/"Bearer TOKEN"/, `"Bearer ${world.token}"`],
  ];
  for (const [pattern, replacement] of changes) {
    assert.match(content, pattern);
    content = content.replace(pattern, replacement);
  }
  const file = join(scratch, 'nginx.conf');
  await writeFile(file, content);
  start('/usr/sbin/nginx', ['-p', scratch, '-c', file, '-e', join(scratch, 'error.log')]);
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
