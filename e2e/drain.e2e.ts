/** A Master that goes away, on purpose or not, on a real cluster: PROTOCOL.md section 6, and what a client that resumes by cursor sees of it. */
import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { after, before, test } from 'node:test';
import {
  applyInstance,
  call,
  enterWorld,
  eventually,
  masters,
  numberWriter,
  openSocket,
  ResumingClient,
  Tally,
} from './live-harness.ts';
import type { World } from './live-harness.ts';
import { releaseNamespace } from './release.ts';

let world: World;
let id: string;

before(async () => {
  world = await enterWorld();
  id = await applyInstance(world, 'writer', numberWriter(world, { lines: 100_000, perSecond: 500 }));
});

after(() => world.leave());

/** A WebSocket client that, once it is connected, never answers: it holds the drain up to the end of its grace. */
async function openDeaf(url: string): Promise<Socket> {
  const { hostname, port, host } = new URL(url);
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connect(Number(port), hostname, () => {
    const headers = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13'];
    const key = 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==';
    const lines = [`GET /api/instances/${id}/live-log?tail=0 HTTP/1.1`, `Host: ${host}`, ...headers, key];
    socket.write(`${[...lines, `Authorization: Bearer ${world.token}`].join('\r\n')}\r\n\r\n`);
  });
  socket.once('data', (data) => {
    if (data.toString('latin1').startsWith('HTTP/1.1 101')) resolve(socket);
    else reject(new Error(data.toString('latin1')));
  });
  socket.on('error', reject);
  return promise;
}

function resume(urls: readonly string[]): { client: ResumingClient; tally: Tally } {
  const tally = new Tally();
  const client = new ResumingClient({
    ...{ world, id, urls },
    onMessage: ({ type, line = '', cause }) => {
      assert.equal(type, 'line', `only lines may come, no ${type} (${String(cause)})`);
      tally.note(Number.parseInt(line, 10));
    },
  });
  client.start();
  return { client, tally };
}

async function untilLine(tally: Tally, number: number): Promise<void> {
  await eventually(`line ${number}`, () => Promise.resolve(tally.last >= number));
}

test('drain: a Master that is told to stop is not ready, sends 1001, refuses upgrades and is gone within its grace period', async () => {
  const [leaving, staying] = await masters(world);
  const { client, tally } = resume([leaving.url, staying.url]);
  await untilLine(tally, 500);
  const plain = await openSocket(world, { url: leaving.url, id });
  const bystander = await openSocket(world, { url: staying.url, id, query: '?tail=0' });
  const deaf = await openDeaf(leaving.url);
  const grace = await world.cluster.kubectl(podField(leaving.name, '{.spec.terminationGracePeriodSeconds}'));
  const startedAt = performance.now();
  const deleting = world.cluster.kubectl(['delete', 'pod', leaving.name, '-n', releaseNamespace]);
  const close = await plain.closed();
  assert.deepEqual([close.code, close.reason], [1001, 'draining']);
  // The client that does not answer holds it here.
  const ready = await call(leaving.url, '/readyz');
  assert.deepEqual([ready.status, ready.json], [503, { error: 'This replica is stopping' }]);
  assert.equal((await call(leaving.url, '/healthz')).status, 200);
  assert.equal((await call(leaving.url, '/api/instances', { token: world.token })).status, 200);
  const refused = openSocket(world, { url: leaving.url, id });
  await assert.rejects(refused, /HTTP 503 \{"error":"This replica is stopping"\}/);
  await deleting;
  const tookMs = performance.now() - startedAt;
  // The kubelet waits for the grace period to pass and then kills; a pod that is gone earlier has ended by itself.
  assert.ok(tookMs < Number(grace) * 1_000, `gone after ${tookMs.toFixed(0)} ms, ${grace} s are allowed`);
  deaf.destroy();
  await bystander.untilFrames(1);
  assert.equal(bystander.close, undefined, 'the sockets of the other replica stay');
  bystander.terminate();
  const atEnd = tally.last;
  await untilLine(tally, atEnd + 500);
  await client.stop();
  tally.check('the client that resumed at the other replica', tally.last);
  assert.equal(client.closes[0]?.code, 1001);
  assert.equal(client.connects, 2);
});

function podField(name: string, path: string): string[] {
  return ['get', 'pod', name, '-n', releaseNamespace, '-o', `jsonpath=${path}`];
}

test('drain: a Master that is killed costs a client that resumes by cursor no line', async () => {
  const [killed, staying] = await masters(world);
  const { client, tally } = resume([killed.url, staying.url]);
  await untilLine(tally, 500);
  process.kill(await processOf(killed.uid), 'SIGKILL');
  await eventually('the client to be at the other replica', () => Promise.resolve(client.connects === 2));
  const atResume = tally.last;
  await untilLine(tally, atResume + 1_000);
  await client.stop();
  tally.check('the client that resumed at the other replica', tally.last);
  assert.equal(client.closes[0]?.code, 1006);
  // The kubelet takes a moment to notice.
  const restarts = podField(killed.name, '{.status.containerStatuses[0].restartCount}');
  await eventually('the killed one to be started again', async () => (await world.cluster.kubectl(restarts)) === '1');
  await masters(world);
});

/** The Master process of a pod, by the pod's cgroup: the nodes of the embedded cluster share this machine's processes. */
async function processOf(podUid: string): Promise<number> {
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const [cgroup, command] = await Promise.all(
      ['cgroup', 'cmdline'].map((file) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '')),
    );
    if (cgroup?.includes(podUid) === true && command?.includes('operator/master.ts') === true) return Number(pid);
  }
  throw new Error(`Pod ${podUid} has no Master process`);
}
