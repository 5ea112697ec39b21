/** Who may open a live log, on a real cluster: PROTOCOL.md sections 1 and 2, by raw TCP where a client library would hide what is sent. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import {
  applyInstance,
  applyKey,
  call,
  createKey,
  enterWorld,
  eventually,
  exchange,
  masters,
  openSocket,
  parseAnswer,
  shellProgram,
} from './live-harness.ts';
import type { LiveSocket, MasterPod, World } from './live-harness.ts';
import { createToken, releaseNamespace } from './release.ts';

let world: World;
let id: string;
let pods: [MasterPod, MasterPod];

before(async () => {
  world = await enterWorld();
  id = await applyInstance(
    world,
    'ticker',
    shellProgram('i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.1; done'),
  );
  pods = await masters(world);
});

after(() => world.leave());

interface Upgrade {
  path?: string;
  method?: string;
  /** Replace those of a good request; undefined leaves one out, an array sends it as often. */
  headers?: Record<string, string | string[] | undefined>;
}

/** The bytes of an upgrade that is good but for what is given. No token unless given. */
function upgrade({ path = `/api/instances/${id}/live-log`, method = 'GET', headers = {} }: Upgrade = {}): string {
  const all: Record<string, string | string[] | undefined> = {
    Host: new URL(world.url).host,
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
    ...headers,
  };
  const lines = Object.entries(all).flatMap(([name, value]) =>
    [value ?? []].flat().map((each) => `${name}: ${each}\r\n`),
  );
  return `${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

/** The one answer to an upgrade; nothing may come but this refusal, and the connection ends. */
async function refusal(
  request: Upgrade,
): Promise<{ status: number; body: string; headers: Readonly<Record<string, string>> }> {
  const received = await exchange(world.url, upgrade(request));
  assert.ok(!received.includes('101'), `no byte of a 101: ${received}`);
  const answer = parseAnswer(received);
  assert.equal(answer.headers['connection'], 'close');
  assert.equal(answer.headers['content-type'], 'application/json; charset=utf-8');
  return answer;
}

async function assertUnauthorized(what: string, request: Upgrade): Promise<void> {
  const { status, body, headers } = await refusal(request);
  const seen = { status, body, authenticate: headers['www-authenticate'] };
  assert.deepEqual(seen, { status: 401, body: '{"error":"Unauthorized"}', authenticate: 'Bearer' }, what);
}

const bearer = (token: string): Record<string, string> => ({ Authorization: `Bearer ${token}` });
const carrier = (token: string): string =>
  `base64url.bearer.authorization.k8s.io.${Buffer.from(token).toString('base64url')}`;

test('auth: no token, a malformed or an unknown one is 401 before 101, whatever the path', async () => {
  const token = world.token;
  const cases: Record<string, Upgrade> = {
    'no token': {},
    'an empty header': { headers: { Authorization: '' } },
    'the scheme alone': { headers: { Authorization: 'Bearer' } },
    'an empty token': { headers: { Authorization: 'Bearer ' } },
    'no scheme': { headers: { Authorization: token } },
    'another scheme': { headers: { Authorization: `Basic ${token}` } },
    'two words': { headers: bearer(`${token} x`) },
    'characters that no token has': { headers: bearer(`${token}!`) },
    'the token twice': { headers: { Authorization: [`Bearer ${token}`, `Bearer ${token}`] } },
    'a token that is too long': { headers: bearer('a'.repeat(8193)) },
    'an unknown token': { headers: bearer(createToken()) },
    'the beginning of a token': { headers: bearer(token.slice(0, -1)) },
    'the hash of a token': { headers: bearer(createHash('sha256').update(token).digest('hex')) },
    'a PUBLIC token': { headers: bearer(world.publicToken) },
    'a token in the query': { path: `/api/instances/${id}/live-log?token=${token}` },
    'a token as access_token': { path: `/api/instances/${id}/live-log?access_token=${token}` },
    'a token in a cookie': { headers: { Cookie: `token=${token}` } },
    'a subprotocol token alone': { headers: { 'Sec-WebSocket-Protocol': carrier(token) } },
    'an unknown subprotocol token': {
      headers: { 'Sec-WebSocket-Protocol': `${carrier('nobody')}, ringmaster.live-log.v1` },
    },
    'an unknown id': { path: '/api/instances/000000/live-log' },
    'a malformed id': { path: '/api/instances/no-id/live-log' },
    'an unknown path': { path: '/api/nothing' },
    'no version': { headers: { 'Sec-WebSocket-Version': undefined } },
    'a malformed key': { headers: { 'Sec-WebSocket-Key': 'x' } },
    'another method': { method: 'POST' },
  };
  for (const [what, request] of Object.entries(cases)) await assertUnauthorized(what, request);
});

test('auth: with a token each fault of the request has its own answer before 101', async () => {
  const log = `/api/instances/${id}/live-log`;
  const cases: [Upgrade, number, RegExp][] = [
    [{ path: '/api/nothing' }, 404, /^Not found$/],
    [{ path: `${log}/` }, 404, /^Not found$/],
    [{ path: '/api/instances/zzzzzz/live-log' }, 404, /^Instance not found$/],
    [{ path: '/api/instances/ABCDEF/live-log' }, 400, /instance id/],
    [{ path: '/api/instances/abc/live-log' }, 400, /instance id/],
    [{ path: `${log}?tail=-1` }, 400, /"tail".*0 to 10000/],
    [{ path: `${log}?tail=10001` }, 400, /"tail".*0 to 10000/],
    [{ path: `${log}?tail=` }, 400, /"tail"/],
    [{ path: `${log}?tail=1&tail=2` }, 400, /"tail"/],
    [{ path: `${log}?ansi=keep` }, 400, /"ansi".*"strip"/],
    [{ path: `${log}?follow=1` }, 400, /"follow".*tail, cursor, ansi/],
    [{ path: `${log}?token=${world.token}` }, 400, /"token"/],
    [{ path: `${log}?cursor=nonsense` }, 400, /cursor/i],
    [{ path: `${log}?cursor=x&tail=1` }, 400, /"tail" and "cursor"/],
    [{ method: 'POST' }, 405, /GET/],
    [{ headers: { 'Sec-WebSocket-Version': '8' } }, 426, /13/],
    [{ headers: { 'Sec-WebSocket-Key': 'x' } }, 400, /Sec-WebSocket-Key/],
    [{ headers: { 'Content-Length': '5' } }, 400, /body/],
    [{ headers: { Expect: '100-continue' } }, 417, /Expect/],
  ];
  for (const [request, status, error] of cases) {
    const answer = await refusal({ ...request, headers: { ...bearer(world.token), ...request.headers } });
    const what = JSON.stringify(request);
    assert.equal(answer.status, status, `${what}: ${answer.body}`);
    const body = JSON.parse(answer.body) as Record<string, unknown>;
    assert.deepEqual(Object.keys(body), ['error'], what);
    assert.match(String(body['error']), error, what);
  }
});

test('auth: what is no HTTP, or too much of it, is refused without a 101', async () => {
  const cases: [string, number][] = [
    ['nonsense\r\n\r\n', 400],
    [upgrade({ headers: { ...bearer(world.token), 'X-Padding': 'x'.repeat(17 * 1024) } }), 431],
  ];
  for (const [request, status] of cases) {
    const received = await exchange(world.url, request);
    assert.ok(!received.includes('101'));
    assert.equal(parseAnswer(received).status, status);
  }
});

test('auth: the token of a browser, as a subprotocol, is accepted and never sent back', async () => {
  const offered = `${carrier(world.token)}, ringmaster.live-log.v1`;
  const { hostname, port } = new URL(world.url);
  const socket = await openSocketRaw(
    hostname,
    Number(port),
    upgrade({ headers: { 'Sec-WebSocket-Protocol': offered } }),
  );
  assert.match(socket, /^HTTP\/1\.1 101 Switching Protocols\r\n/);
  assert.match(socket, /\r\nSec-WebSocket-Protocol: ringmaster\.live-log\.v1\r\n/);
  assert.ok(!socket.includes('base64url.bearer'));
});

/** The head of the answer to an upgrade that succeeds. */
async function openSocketRaw(host: string, port: number, request: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connect(port, host, () => socket.write(request));
  let received = '';
  socket.setEncoding('latin1').on('data', (text: string) => {
    received += text;
    const end = received.indexOf('\r\n\r\n');
    if (end >= 0) resolve(received.slice(0, end + 4));
  });
  socket.on('error', reject);
  return promise.finally(() => socket.destroy());
}

async function isGranted(url: string, token: string): Promise<boolean> {
  return (await call(url, '/api/instances', { token })).status === 200;
}

/** How long after `change` each replica behaves as it should. */
async function timeUntil(
  what: string,
  change: () => Promise<void>,
  check: (url: string) => Promise<boolean>,
): Promise<number> {
  await change();
  const changedAt = performance.now();
  await Promise.all(pods.map(({ url }) => eventually(`${what} on ${url}`, () => check(url))));
  return performance.now() - changedAt;
}

test('auth: a new key counts within a second on every replica', async () => {
  const token = createToken();
  world.cleanups.push(() => removeKey('e2e-new'));
  const change = (): Promise<void> => applyKey(world, 'e2e-new', { token, permission: 'ALL' });
  const tookMs = await timeUntil('the new key to count', change, (url) => isGranted(url, token));
  assert.ok(tookMs < 1_000, `${tookMs.toFixed(0)} ms`);
});

async function removeKey(name: string): Promise<void> {
  await world.cluster.kubectl(['delete', 'apikey', name, '-n', releaseNamespace, '--ignore-not-found', '--wait=false']);
}

/** Two sockets on each replica with this token. */
async function openOnBoth(token: string): Promise<LiveSocket[]> {
  const sockets = [...pods, ...pods].map(({ url }) => openSocket(world, { url, token, id, query: '?tail=0' }));
  return Promise.all(sockets);
}

/** Does what takes the key away; each socket then closes with 1008 within a second, the bystanders go on. */
async function assertRevoked(
  sockets: LiveSocket[],
  bystanders: LiveSocket[],
  change: () => Promise<void>,
): Promise<void> {
  await change();
  const changedAt = performance.now();
  for (const socket of sockets) {
    const { code, reason, atMs } = await socket.closed();
    assert.deepEqual({ code, reason }, { code: 1008, reason: 'token revoked' });
    assert.ok(atMs - changedAt < 1_000, `closed after ${(atMs - changedAt).toFixed(0)} ms`);
  }
  await Promise.all(bystanders.map((socket) => socket.untilFrames(socket.frames.length + 3)));
}

test('auth: deleting a key closes its sockets with 1008 within a second on both replicas, and no others', async () => {
  const token = await createKey(world, 'e2e-deleted');
  const other = await createKey(world, 'e2e-bystander');
  await Promise.all(
    pods.map(({ url }) =>
      eventually('the keys to count', async () => (await isGranted(url, token)) && isGranted(url, other)),
    ),
  );
  const [sockets, bystanders] = [await openOnBoth(token), await openOnBoth(other)];
  await assertRevoked(sockets, bystanders, () => removeKey('e2e-deleted'));
  for (const socket of bystanders) socket.terminate();
  await assertUnauthorized('a deleted key', { headers: bearer(token) });
});

test('auth: downgrading a key to PUBLIC closes its sockets with 1008 within a second on both replicas, and no others', async () => {
  const token = await createKey(world, 'e2e-downgraded');
  await Promise.all(pods.map(({ url }) => eventually('the key to count', () => isGranted(url, token))));
  const [sockets, bystanders] = [await openOnBoth(token), await openOnBoth(world.token)];
  await assertRevoked(sockets, bystanders, () => applyKey(world, 'e2e-downgraded', { token, permission: 'PUBLIC' }));
  for (const socket of bystanders) socket.terminate();
  await assertUnauthorized('a downgraded key', { headers: bearer(token) });
});

test('auth: a client that does not read is cut within a second when its key goes', async () => {
  const token = await createKey(world, 'e2e-deaf');
  const [{ url }] = pods;
  await eventually('the key to count', () => isGranted(url, token));
  const socket = await openSocket(world, { url, token, id });
  socket.ws.pause();
  await removeKey('e2e-deaf');
  const removedAt = performance.now();
  // Paused, it sees nothing; the server's count does.
  await eventually('the server to have cut it', async () => {
    const { text } = await call(url, '/api/metrics');
    return /^ringmaster_master_sockets_open\{kind="live-log"\} 0$/m.test(text);
  });
  assert.ok(performance.now() - removedAt < 1_000);
  socket.terminate();
});

test('auth: a key counts until it expires; then its sockets close with 1008', async () => {
  const expiresAtMs = Math.ceil(Date.now() / 1_000) * 1_000 + 3_000;
  const expiresAt = new Date(expiresAtMs).toISOString();
  const token = await createKey(world, 'e2e-expiring', { expiresAt });
  await Promise.all(pods.map(({ url }) => eventually('the key to count', () => isGranted(url, token))));
  const sockets = await openOnBoth(token);
  for (const socket of sockets) {
    const { code, reason } = await socket.closed();
    assert.deepEqual({ code, reason }, { code: 1008, reason: 'token revoked' });
    const lateMs = Date.now() - expiresAtMs;
    assert.ok(lateMs > -50 && lateMs < 1_000, `closed ${lateMs} ms after it expired`);
  }
  await assertUnauthorized('an expired key', { headers: bearer(token) });
});

test('auth: a key in another namespace than the release counts nowhere', async () => {
  const token = await createKey(world, 'foreign', { namespace: world.namespace });
  await world.kubectl(['wait', '--for=condition=Stalled', 'apikey/foreign', '--timeout=20s']);
  // By now a key of the release namespace that was made later counts as well.
  const later = await createKey(world, 'e2e-later');
  await Promise.all(pods.map(({ url }) => eventually('the later key to count', () => isGranted(url, later))));
  for (const { url } of pods) assert.equal(await isGranted(url, token), false);
  await assertUnauthorized('a key of another namespace', { headers: bearer(token) });
});
