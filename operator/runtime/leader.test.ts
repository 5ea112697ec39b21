import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSilentLogger } from '../log.ts';
import { FakeClient } from '../testing/client.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import { withFaults } from '../testing/faults.ts';
import type { FaultyClient } from '../testing/faults.ts';
import { configMaps } from '../testing/kinds.ts';
import { leases } from './client.ts';
import { NotLeadingError, fence } from './fence.ts';
import { LeaderElector } from './leader.ts';
import type { Lead, Leadership } from './leader.ts';

const ref = { namespace: 'system', name: 'operator' };

interface Candidate {
  client: FaultyClient;
  clock: FakeClock;
  leadership: Leadership | undefined;
  hasLed: () => boolean;
  /** SIGTERM. */
  term: AbortController;
  /** Cuts it off from the server for good. */
  cut: () => void;
  ended: Promise<string>;
}

/** Each candidate has a clock of its own, as each machine has; `both` moves them together. */
function start(server: FakeClient, identity: string, lead?: Lead): Candidate {
  const clock = new FakeClock();
  const client = withFaults(server, clock);
  const elector = new LeaderElector({
    client,
    ...ref,
    identity,
    clock,
    random: () => 0.5,
    log: createSilentLogger(),
  });
  const term = new AbortController();
  const candidate: Candidate = {
    client,
    clock,
    leadership: undefined,
    hasLed: () => candidate.leadership !== undefined,
    term,
    cut: () => {
      for (const verb of ['get', 'update', 'create', 'watch'] as const) {
        client.add({ verb, times: Infinity, action: { hang: true } });
      }
    },
    ended: Promise.resolve(''),
  };
  const untilStopped: Lead = async (leadership) => {
    candidate.leadership = leadership;
    await (lead?.(leadership) ?? whenAborted(leadership.stopping));
  };
  candidate.ended = elector.run(term.signal, untilStopped);
  candidate.ended.catch(() => undefined);
  return candidate;
}

async function whenAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    signal.addEventListener('abort', () => {
      resolve();
    });
  });
}

/** In small steps, checking at each that no two lead. */
async function advance(candidates: readonly Candidate[], ms: number): Promise<void> {
  for (let passedMs = 0; passedMs < ms; passedMs += 100) {
    await Promise.all(candidates.map((candidate) => candidate.clock.advance(100)));
    assert.ok(candidates.filter((candidate) => candidate.leadership?.isLeading() === true).length <= 1);
  }
}

test('leader: the first candidate makes the lease and leads; the second waits', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  await settle();
  const b = start(server, 'b');
  await advance([a, b], 60_000);
  assert.equal(a.leadership?.isLeading(), true);
  assert.equal(b.hasLed(), false);
  const { spec } = server.peek(leases, ref) ?? {};
  assert.equal(spec?.holderIdentity, 'a');
  assert.equal(spec.leaseDurationSeconds, 15);
  assert.match(spec.renewTime ?? '', /\.\d{6}Z$/);
  a.term.abort();
  b.term.abort();
  await settle();
  assert.deepEqual(await Promise.all([a.ended, b.ended]), ['stopped', 'stopped']);
  assert.equal(a.clock.pending + b.clock.pending, 0);
});

test('leader: two candidates at the same moment give one leader', async () => {
  const server = new FakeClient();
  const candidates = [start(server, 'a'), start(server, 'b'), start(server, 'c')];
  await advance(candidates, 5_000);
  assert.equal(candidates.filter((candidate) => candidate.leadership !== undefined).length, 1);
  for (const candidate of candidates) candidate.term.abort();
  await Promise.all(candidates.map((candidate) => candidate.ended));
});

test('leader: waiting costs a follower one watch, not a poll', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  await settle();
  const b = start(server, 'b');
  await advance([a, b], 120_000);
  assert.deepEqual(
    b.client.calls.map((call) => call.verb),
    ['get', 'watch'],
  );
  a.term.abort();
  b.term.abort();
  await Promise.all([a.ended, b.ended]);
});

test('leader: after SIGTERM the lease is released and another leads at once', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  await settle();
  const b = start(server, 'b');
  await advance([a, b], 5_000);
  a.term.abort();
  assert.equal(await a.ended, 'stopped');
  await settle();
  assert.equal(b.leadership?.isLeading(), true);
  assert.equal(a.leadership?.isLeading(), false);
  assert.equal(server.peek(leases, ref)?.spec?.leaseTransitions, 1);
  b.term.abort();
  await b.ended;
});

test('leader: while it stops, its work may still write, until it returns', async () => {
  const server = new FakeClient();
  const seen: boolean[] = [];
  const a = start(server, 'a', async (leadership) => {
    await whenAborted(leadership.stopping);
    await a.clock.after(3_000);
    seen.push(leadership.isLeading());
  });
  await settle();
  const b = start(server, 'b');
  await advance([a, b], 1_000);
  a.term.abort();
  await advance([a, b], 2_000);
  assert.equal(b.hasLed(), false);
  await advance([a, b], 1_100);
  assert.deepEqual(seen, [true]);
  assert.equal(b.leadership?.isLeading(), true);
  b.term.abort();
  await b.ended;
});

test('leader: work that does not stop when told loses its leadership after the stop time', async () => {
  const server = new FakeClient();
  const a = start(server, 'a', () => new Promise(() => undefined));
  await settle();
  a.term.abort();
  await advance([a], 5_000);
  assert.equal(await a.ended, 'stopped');
  assert.equal(a.leadership?.signal.aborted, true);
  assert.equal(server.peek(leases, ref)?.spec?.holderIdentity, '');
});

test('leader: a leader that is cut off stops before its lease can be taken, and another leads within 20 s', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  await settle();
  const b = start(server, 'b');
  await advance([a, b], 5_000);
  a.cut();
  await advance([a, b], 10_100);
  assert.equal(a.leadership?.signal.aborted, true);
  assert.equal(await a.ended, 'lost');
  assert.equal(b.hasLed(), false);
  await advance([a, b], 9_900);
  assert.equal(b.leadership?.isLeading(), true);
  b.term.abort();
  await b.ended;
});

test('leader: a leader that was suspended does not lead when it wakes, before any timer has fired', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  await settle();
  const b = start(server, 'b');
  await advance([a, b], 5_000);
  await advance([b], 16_000);
  assert.equal(b.leadership?.isLeading(), true);
  a.clock.jump(16_000);
  assert.equal(a.leadership?.isLeading(), false);
  const fenced = fence(server, a.leadership);
  await assert.rejects(fenced.create(configMaps, { metadata: { name: 'x', namespace: 'default' } }), NotLeadingError);
  await a.clock.advance(0);
  assert.equal(await a.ended, 'lost');
  assert.equal(server.peek(leases, ref)?.spec?.holderIdentity, 'b');
  b.term.abort();
  await b.ended;
});

test('leader: wall clocks that are hours apart do not matter', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  a.clock.wallOffsetMs = -7_200_000;
  await settle();
  const b = start(server, 'b');
  b.clock.wallOffsetMs = 7_200_000;
  await advance([a, b], 60_000);
  assert.equal(a.leadership?.isLeading(), true);
  assert.equal(b.hasLed(), false);
  a.term.abort();
  b.term.abort();
  await Promise.all([a.ended, b.ended]);
});

for (const [name, verb, action] of [
  ['renewals that fail for a while', 'update', { fail: new Error('ECONNREFUSED') }],
  ['a renewal whose answer is lost', 'update', { lose: new Error('reset') }],
  ['a renewal that hangs', 'update', { hang: true }],
] as const) {
  test(`leader: keeps leading through ${name}`, async () => {
    const server = new FakeClient();
    const a = start(server, 'a');
    await settle();
    const b = start(server, 'b');
    await advance([a, b], 3_000);
    a.client.add({ verb, times: 'fail' in action ? 3 : 1, action });
    await advance([a, b], 30_000);
    assert.equal(a.leadership?.isLeading(), true);
    assert.equal(b.hasLed(), false);
    a.term.abort();
    b.term.abort();
    await Promise.all([a.ended, b.ended]);
  });
}

test('leader: a lease that was deleted is made again; one that another wrote its name into is lost', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  await advance([a], 3_000);
  await server.remove(leases, ref);
  await advance([a], 3_000);
  assert.equal(server.peek(leases, ref)?.spec?.holderIdentity, 'a');
  assert.equal(a.leadership?.isLeading(), true);
  const lease = server.peek(leases, ref);
  assert.ok(lease !== undefined);
  await server.update(leases, { ...lease, spec: { ...lease.spec, holderIdentity: 'intruder' } });
  await advance([a], 2_100);
  assert.equal(await a.ended, 'lost');
  assert.equal(server.peek(leases, ref)?.spec?.holderIdentity, 'intruder');
});

test('leader: waits on when its watch breaks, ends or is refused', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  await settle();
  const b = start(server, 'b');
  b.client.add({ verb: 'watch', times: 3, action: { fail: new Error('403') } });
  await advance([a, b], 20_000);
  server.breakWatches();
  await advance([a, b], 10_000);
  server.endWatches();
  await advance([a, b], 10_000);
  server.compact();
  await advance([a, b], 10_000);
  assert.equal(a.leadership?.isLeading(), true);
  assert.equal(b.hasLed(), false);
  a.term.abort();
  await a.ended;
  await advance([b], 3_000);
  assert.equal(b.leadership?.isLeading(), true);
  b.term.abort();
  await b.ended;
});

test('leader: a candidate waits while the API server is down', async () => {
  const server = new FakeClient();
  const a = start(server, 'a');
  a.client.add({ verb: 'get', times: 5, action: { fail: new Error('ECONNREFUSED') } });
  await advance([a], 20_000);
  assert.equal(a.leadership?.isLeading(), true);
  a.term.abort();
  await a.ended;
});

test('leader: what the work throws comes out, and the lease is released', async () => {
  const server = new FakeClient();
  const a = start(server, 'a', () => Promise.reject(new Error('cannot start')));
  await settle();
  await assert.rejects(a.ended, /cannot start/);
  assert.equal(server.peek(leases, ref)?.spec?.holderIdentity, '');
});

test('leader: periods that cannot be safe are refused', () => {
  const options = { client: new FakeClient(), ...ref, identity: 'a', clock: new FakeClock(), random: Math.random };
  const log = createSilentLogger();
  assert.throws(() => new LeaderElector({ ...options, log, renewDeadlineMs: 15_000 }), RangeError);
  assert.throws(() => new LeaderElector({ ...options, log, retryPeriodMs: 10_000 }), RangeError);
});

test('fence: reads pass, writes throw when not leading, and a write in flight is aborted with the leadership', async () => {
  const server = new FakeClient();
  const clock = new FakeClock();
  const client = withFaults(server, clock, [{ verb: 'apply', from: 2, action: { hang: true } }]);
  const over = new AbortController();
  let isLeading = true;
  const fenced = fence(client, { signal: over.signal, isLeading: () => isLeading });
  const object = { metadata: { name: 'x', namespace: 'default' }, data: { value: '1' } };
  await fenced.apply(configMaps, object, { fieldManager: 'test' });
  const inFlight = fenced.apply(configMaps, object, { fieldManager: 'test' });
  await settle();
  isLeading = false;
  over.abort(new Error('over'));
  await assert.rejects(inFlight, NotLeadingError);
  const before = client.calls.length;
  const at = { namespace: 'default', name: 'x' };
  const writes = [
    () => fenced.create(configMaps, object),
    () => fenced.update(configMaps, object),
    () => fenced.apply(configMaps, object, { fieldManager: 'test' }),
    () => fenced.applyStatus(configMaps, object, { fieldManager: 'test' }),
    () => fenced.mergePatch(configMaps, at, {}),
    () => fenced.remove(configMaps, at),
    () => fenced.attachStdin(at, 'main', Buffer.from('x')),
  ];
  for (const write of writes) await assert.rejects(write, NotLeadingError);
  assert.equal(client.calls.length, before);
  assert.equal((await fenced.get(configMaps, at))?.data?.['value'], '1');
  assert.equal((await fenced.list(configMaps, {})).items.length, 1);
});
