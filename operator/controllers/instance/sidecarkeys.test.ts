import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deriveKey } from '../../../sidecar/protocol.ts';
import { createSilentLogger } from '../../log.ts';
import { ApiError } from '../../runtime/client.ts';
import type { Client } from '../../runtime/client.ts';
import { FakeClient } from '../../testing/client.ts';
import { FakeClock } from '../../testing/clock.ts';
import { withFaults } from '../../testing/faults.ts';
import { makeInstance } from '../../testing/objects.ts';
import { Refused } from './refused.ts';
import { SidecarKeys, secrets } from './sidecarkeys.ts';

const master = { namespace: 'ringmaster-system', name: 'master-key' };
const { signal } = new AbortController();
const forbidden = new ApiError({ code: 403, reason: 'Forbidden', message: 'secrets is forbidden' });

/** A server whose first answer to a read is that error. */
function failing(error: Error): Client {
  const clock = new FakeClock();
  return withFaults(new FakeClient(clock), clock, [{ verb: 'get', action: { fail: error } }]);
}

function keysOf(client: Client, clock = new FakeClock(), byte = 7): SidecarKeys {
  return new SidecarKeys({
    client,
    namespace: master.namespace,
    secretName: master.name,
    randomBytes: (size) => new Uint8Array(size).fill(byte),
    clock,
    log: createSilentLogger(),
  });
}

test('sidecarKeys: the first leader makes the master key, and later ones keep it', async () => {
  const server = new FakeClient(new FakeClock());
  await keysOf(server).run(signal);
  const made = server.peek(secrets, master)?.data;
  assert.equal(Buffer.from(made?.['key'] ?? '', 'base64').length, 32);
  await keysOf(server, new FakeClock(), 8).run(signal);
  assert.deepEqual(server.peek(secrets, master)?.data, made);
});

test('sidecarKeys: of two that make it at once, both use the one that was stored', async () => {
  const server = new FakeClient(new FakeClock());
  const [first, second] = [keysOf(server), keysOf(server, new FakeClock(), 8)];
  const names = await Promise.all([first, second].map((keys) => keys.ensure(makeInstance(), 'a1b2c3', signal)));
  assert.equal(names[0], names[1]);
});

test('sidecarKeys: an Instance gets an immutable Secret with its own key, which goes with it', async () => {
  const server = new FakeClient(new FakeClock());
  const keys = keysOf(server);
  const name = await keys.ensure(makeInstance(), 'a1b2c3', signal);
  assert.match(name, /^lobby-a1b2c3-sidecar-[0-9a-f]{8}$/);
  const secret = server.peek(secrets, { namespace: 'games', name });
  assert.equal(secret?.immutable, true);
  assert.equal(secret.data?.['key'], deriveKey(new Uint8Array(32).fill(7), 'uid-lobby').toString('base64'));
  assert.equal(secret.metadata.ownerReferences?.[0]?.uid, 'uid-lobby');
  const writes = server.writes.length;
  assert.equal(await keys.ensure(makeInstance(), 'a1b2c3', signal), name, 'again, for the next pod');
  assert.equal(server.writes.length, writes);
});

test('sidecarKeys: another master key makes another Secret, so that a running pod keeps its own', async () => {
  const names = [7, 8].map((byte) => keysOf(new FakeClient(new FakeClock()), new FakeClock(), byte));
  const [one, two] = await Promise.all(names.map((keys) => keys.ensure(makeInstance(), 'a1b2c3', signal)));
  assert.notEqual(one, two);
});

test('sidecarKeys: a new master key counts within ten seconds, with the previous one beside it; one that cannot be read changes nothing', async () => {
  const clock = new FakeClock();
  const server = new FakeClient(clock);
  const keys = keysOf(server, clock);
  const before = await keys.ensure(makeInstance(), 'a1b2c3', signal);
  const put = async (data: Record<string, Buffer>): Promise<void> => {
    const encoded = Object.entries(data).map(([entry, key]) => [entry, key.toString('base64')]);
    const { resourceVersion = '' } = server.peek(secrets, master)?.metadata ?? {};
    await server.update(secrets, {
      metadata: { ...master, resourceVersion },
      data: Object.fromEntries(encoded) as Record<string, string>,
    });
  };
  const [old, fresh] = [7, 8].map((byte) => Buffer.alloc(32, byte)) as [Buffer, Buffer];
  await put({ key: fresh, previous: old, next: Buffer.alloc(31) });
  assert.deepEqual(await keys.read(signal), [old], 'it is not asked for again at once');
  await clock.advance(10_000);
  assert.deepEqual(await keys.read(signal), [fresh, old]);
  const after = await keys.ensure(makeInstance(), 'a1b2c3', signal);
  assert.notEqual(after, before);
  assert.equal(
    server.peek(secrets, { namespace: 'games', name: after })?.data?.['key'],
    deriveKey(fresh, 'uid-lobby').toString('base64'),
  );
  await put({ key: Buffer.from('short') });
  await clock.advance(10_000);
  assert.deepEqual(await keys.read(signal), [fresh, old]);
  await server.remove(secrets, master);
  await clock.advance(10_000);
  assert.deepEqual(await keys.read(signal), [fresh, old]);
  assert.equal(server.peek(secrets, master), undefined, 'and no other is made');
});

test('sidecarKeys: a key that is too short is refused with what to do, and never overwritten', async () => {
  const server = new FakeClient(new FakeClock());
  await server.create(secrets, { metadata: master, data: { key: Buffer.from('short').toString('base64') } });
  await assert.rejects(
    () => keysOf(server).ensure(makeInstance(), 'a1b2c3', signal),
    (error) => error instanceof Refused && error.reason === 'MasterKeyUnavailable' && /5 bytes/.test(error.message),
  );
});

test('sidecarKeys: a right that is missing is a condition; a connection that broke is only tried again', async () => {
  const refused = failing(forbidden);
  await assert.rejects(
    () => keysOf(refused).ensure(makeInstance(), 'a1b2c3', signal),
    (error) => error instanceof Refused && error.reason === 'MasterKeyUnavailable',
  );
  const broken = failing(new Error('reset'));
  await assert.rejects(() => keysOf(broken).ensure(makeInstance(), 'a1b2c3', signal), /^Error: reset$/);
});

test('sidecarKeys: what could not be read at the start is read later', async () => {
  const clock = new FakeClock();
  const server = new FakeClient(clock);
  const done = keysOf(withFaults(server, clock, [{ verb: 'get', action: { fail: forbidden } }]), clock).run(signal);
  await clock.advance(10_000);
  await done;
  assert.ok(server.peek(secrets, master));
});
