import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSilentLogger } from '../log.ts';
import { FakeClient } from '../testing/client.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import { withFaults } from '../testing/faults.ts';
import { configMaps } from '../testing/kinds.ts';
import { worstOf } from './contact.ts';
import { InformerSet } from './informerset.ts';

test('contact: is lost from the first failure on, whatever fails after it, until the server takes a watch', async () => {
  const clock = new FakeClock();
  const server = new FakeClient(clock);
  const client = withFaults(server, clock);
  const informer = new InformerSet(
    { client, resource: configMaps, clock, random: () => 0.5, log: createSilentLogger() },
    ['one', 'two'],
  );
  const stop = new AbortController();
  const running = informer.run(stop.signal);
  await settle();
  assert.deepEqual(informer.contact, { lostForMs: 0, idleForMs: 0 });

  // At rest nothing comes for as long as the server sends no bookmark: that is idle, and not lost.
  await clock.advance(70_000);
  assert.deepEqual(informer.contact, { lostForMs: 0, idleForMs: 70_000 });
  server.bookmark();
  await settle();
  assert.deepEqual(informer.contact, { lostForMs: 0, idleForMs: 0 });

  const back = client.add({ verb: 'watch', times: Infinity, action: { fail: new Error('refused') } });
  server.breakWatches();
  await settle();
  await clock.advance(100_000);
  const { lostForMs, idleForMs } = informer.contact;
  assert.equal(lostForMs, 100_000);
  assert.ok(idleForMs <= 30_000, 'it goes on trying');

  back();
  await clock.advance(30_000);
  await settle();
  // The watches are open; no event has come on them yet.
  assert.equal(informer.contact.lostForMs, 0);
  stop.abort();
  await running;
});

test('contact: a list that cannot be had is lost as well, and a set is as its worst', async () => {
  const clock = new FakeClock();
  const client = withFaults(new FakeClient(clock), clock, [
    { verb: 'list', from: 2, times: Infinity, action: { fail: new Error('forbidden') } },
  ]);
  const informer = new InformerSet(
    { client, resource: configMaps, clock, random: () => 0.5, log: createSilentLogger() },
    ['one', 'two'],
  );
  const stop = new AbortController();
  const running = informer.run(stop.signal);
  await settle();
  await clock.advance(10_000);
  assert.equal(informer.hasSynced, false);
  assert.equal(informer.contact.lostForMs, 10_000);
  assert.deepEqual(worstOf([]), { lostForMs: 0, idleForMs: 0 });
  stop.abort();
  await running;
});
