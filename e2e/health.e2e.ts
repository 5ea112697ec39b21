/** What `/healthz` and `/readyz` of a Master mean on the real cluster, when it is cut off from the API server while everybody else is not. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { healthFaults } from '../operator/health.ts';
import { run } from './cluster/command.ts';
import { waitUntil } from './cluster/wait.ts';
import type { PodObject } from './harness.ts';
import { containerPid } from './harness.ts';
import { applyInstance, call, enterWorld, masters, openSocket } from './live-harness.ts';
import type { World } from './live-harness.ts';
import { programUnder } from './runtime-harness.ts';
import { releaseNamespace } from './release.ts';

let world: World;

before(async () => {
  world = await enterWorld();
});

after(() => world.leave());

/** Addresses behind the Masters' Service that take connections. */
async function servingAddresses(): Promise<string[]> {
  const selector = ['-l', 'kubernetes.io/service-name=ringmaster-master'];
  const out = await world.cluster.kubectl(['get', 'endpointslices', '-n', releaseNamespace, ...selector, '-o', 'json']);
  const { items } = JSON.parse(out) as {
    items: { endpoints?: { addresses: string[]; conditions: { ready?: boolean } }[] }[];
  };
  const endpoints = items.flatMap(({ endpoints: own = [] }) => own);
  return endpoints.filter(({ conditions }) => conditions.ready === true).flatMap(({ addresses }) => addresses);
}

test('health: a Master that is cut off from the API leaves the Service after a minute, is not restarted, serves on, and comes back', async () => {
  const { cluster } = world;
  const script = 'i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.2; done';
  const id = await applyInstance(world, 'ticker', programUnder('process', script));
  const [cut, other] = await masters(world);
  const pod = async (): Promise<PodObject> =>
    JSON.parse(await cluster.kubectl(['get', 'pod', cut.name, '-n', releaseNamespace, '-o', 'json'])) as PodObject;
  const restarts = (await pod()).status.containerStatuses?.[0]?.restartCount;
  const inPod = ['--net', '--target', String(containerPid(await pod(), 'master')), 'nft'];
  const socket = await openSocket(world, { url: cut.url, id, query: '?tail=0' });
  await socket.untilFrames(1);

  // Refused at once, also what is under way: its next packet, at the latest a keep-alive.
  const rules =
    'add table inet away { chain o { type filter hook output priority 0; tcp dport { 443, 6443 } reject with tcp reset; }; }';
  await run('nsenter', [...inPod, rules]);
  const cutAt = performance.now();
  const restore = async (): Promise<unknown> => run('nsenter', [...inPod, 'delete', 'table', 'inet', 'away']);
  try {
    // Something for the watches to acknowledge.
    await world.kubectl(['annotate', 'instance', 'ticker', 'example.com/note=1']);
    const untilReadiness = (status: number, timeoutMs: number): Promise<void> =>
      waitUntil({
        what: `/readyz to be ${status}`,
        timeoutMs,
        check: async () => (await call(cut.url, '/readyz')).status === status,
      });
    await untilReadiness(503, 120_000);
    assert.ok(performance.now() - cutAt > 59_000, 'a short fault takes nobody out');
    assert.deepEqual((await call(cut.url, '/readyz')).json, { error: healthFaults.lost });
    assert.deepEqual((await call(cut.url, '/healthz')).json, { status: 'ok' });
    await waitUntil({
      what: 'the Service to lead to the other one alone',
      timeoutMs: 30_000,
      check: async () => (await servingAddresses()).join() === new URL(other.url).hostname,
    });
    // Whoever has a socket notices nothing.
    await socket.untilFrames(socket.frames.length + 5);
    await restore();
    await untilReadiness(200, 45_000);
  } catch (error) {
    await restore().catch(() => undefined);
    throw error;
  }
  await masters(world);
  assert.equal((await pod()).status.containerStatuses?.[0]?.restartCount, restarts);
  socket.terminate();
});
