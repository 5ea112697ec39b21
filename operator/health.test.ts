import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { test } from 'node:test';
import { healthFaults, idleMaxMs, livenessFault, lostMaxMs, readinessFault, serveHealth } from './health.ts';
import type { CacheState } from './health.ts';
import { createMetrics } from './metrics.ts';

function cache(state: { hasSynced?: boolean; lostForMs?: number; idleForMs?: number } = {}): CacheState {
  const { hasSynced = true, lostForMs = 0, idleForMs = 0 } = state;
  return { hasSynced, contact: { lostForMs, idleForMs } };
}

test('health: ready is who has filled all caches and hears the API server, or lost it a moment ago', () => {
  assert.equal(readinessFault([cache(), cache({ lostForMs: lostMaxMs })]), undefined);
  assert.equal(readinessFault([cache(), cache({ lostForMs: lostMaxMs + 1 })]), healthFaults.lost);
  assert.equal(readinessFault([cache(), cache({ hasSynced: false })]), healthFaults.notSynced);
  // Of two faults the one that explains more.
  assert.equal(readinessFault([cache({ hasSynced: false, lostForMs: lostMaxMs + 1 })]), healthFaults.notSynced);
});

test('health: an API server that is away makes nobody unhealthy; a cache that does not even try does', () => {
  assert.equal(livenessFault([cache({ hasSynced: false, lostForMs: 1e9, idleForMs: idleMaxMs })]), undefined);
  assert.equal(livenessFault([cache(), cache({ idleForMs: idleMaxMs + 1 })]), healthFaults.idle);
});

test('health: the operator answers probes and metrics, and nothing else, until it is stopped', async (t) => {
  const probe = createServer();
  await once(probe.listen(0, '127.0.0.1'), 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  const caches = [cache()];
  const stop = new AbortController();
  await serveHealth({ port, metrics: createMetrics(), caches }, stop.signal);
  t.after(() => {
    stop.abort();
  });
  const get = async (path: string): Promise<string> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return `${response.status} ${(await response.text()).split('\n')[0] ?? ''}`;
  };
  assert.deepEqual([await get('/healthz'), await get('/readyz')], ['200 ok', '200 ok']);
  caches.push(cache({ hasSynced: false, idleForMs: idleMaxMs + 1 }));
  assert.deepEqual(
    [await get('/healthz'), await get('/readyz')],
    [`503 ${healthFaults.idle}`, `503 ${healthFaults.notSynced}`],
  );
  assert.match(await get('/metrics'), /^200 # HELP /);
  assert.equal(await get('/other'), '404 not found');
  stop.abort();
  await assert.rejects(get('/healthz'));
});
