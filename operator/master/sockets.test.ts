import assert from 'node:assert/strict';
import { Socket } from 'node:net';
import { test } from 'node:test';
import type { Metrics } from '../metrics.ts';
import { createMetrics } from '../metrics.ts';
import { keySpec } from '../testing/master.ts';
import type { FakeTimers } from '../testing/timers.ts';
import { createFakeTimers } from '../testing/timers.ts';
import { fingerprintOf } from './auth.ts';
import type { KeyTable } from './keys.ts';
import { createKeyTable } from './keys.ts';
import { defaultLimits } from './ports.ts';
import type { ClientSocket, Slot, SocketRegistry } from './sockets.ts';
import { createSockets, openState } from './sockets.ts';

/** A WebSocket that notes what was done to it. It stays in CLOSING until its slot is released: its peer does not answer. */
class FakeSocket implements ClientSocket {
  readyState = openState;
  readonly did: string[] = [];
  #onPong: (() => void)[] = [];

  ping(): void {
    this.did.push('ping');
  }

  pause(): void {
    if (!this.did.includes('pause')) this.did.push('pause');
  }

  close(code: number, reason: string): void {
    this.readyState = 2;
    this.did.push(`close ${code} ${reason}`);
  }

  terminate(): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.did.push('terminate');
  }

  on(event: string, listener: (data: Buffer) => void): void {
    if (event === 'pong')
      this.#onPong.push(() => {
        listener(Buffer.alloc(0));
      });
  }

  /** Its own, and one of the peer where nothing is given. */
  pong(data?: Buffer): void {
    if (data === undefined) for (const listener of this.#onPong) listener();
    else this.did.push('pong');
  }
}

interface Parts {
  readonly timers: FakeTimers;
  readonly keys: KeyTable;
  readonly metrics: Metrics;
  readonly sockets: SocketRegistry;
  readonly reserve: (keyName: 'a' | 'b', behindLines?: number) => Slot;
  readonly open: (keyName: 'a' | 'b') => { ws: FakeSocket; slot: Slot };
}

function setUp(): Parts {
  const timers = createFakeTimers();
  const keys = createKeyTable(timers);
  keys.set('a', keySpec('token-a'));
  keys.set('b', keySpec('token-b'));
  const metrics = createMetrics();
  const sockets = createSockets({ limits: defaultLimits, clock: timers, keys, metrics });
  const reserve = (keyName: 'a' | 'b', behindLines = 0): Slot => {
    const key = keys.find(fingerprintOf(`token-${keyName}`))!;
    const slot = sockets.reserve({ kind: 'live-log', key, instanceUid: 'i', behindLines: () => behindLines });
    assert.ok(!('status' in slot));
    return slot;
  };
  const open = (keyName: 'a' | 'b'): { ws: FakeSocket; slot: Slot } => {
    const ws = new FakeSocket();
    const slot = reserve(keyName);
    slot.attach(ws, new Socket());
    return { ws, slot };
  };
  return { timers, keys, metrics, sockets, reserve, open };
}

test('sockets: one timer serves all, and none is left without sockets', () => {
  const { timers, sockets, open } = setUp();
  assert.equal(timers.pendingCount, 0);
  const opened = [open('a'), open('a'), open('b')];
  assert.equal(timers.pendingCount, 1);
  for (const { slot } of opened) {
    slot.release();
    slot.release();
  }
  assert.equal(sockets.openCount, 0);
  assert.equal(timers.pendingCount, 0);
});

test('sockets: a ping every 15 s, and the end 15 s after one that is not answered', () => {
  const { timers, open } = setUp();
  const answering = open('a').ws;
  const silent = open('a').ws;
  timers.advance(15_000);
  answering.pong();
  timers.advance(14_000);
  assert.deepEqual(silent.did, ['ping']);
  timers.advance(1_000);
  assert.deepEqual(silent.did, ['ping', 'terminate']);
  assert.deepEqual(answering.did, ['ping', 'ping']);
});

test('sockets: after the Master itself was held up, nobody is cut before what came meanwhile is read', () => {
  const { timers, open } = setUp();
  const { ws } = open('a');
  timers.advance(15_000);
  assert.deepEqual(ws.did, ['ping']);
  timers.stall(20_000);
  assert.deepEqual(ws.did, ['ping'], 'its pong may wait to be read');
  timers.advance(1_000);
  assert.deepEqual(ws.did, ['ping', 'terminate'], 'it did not');
});

test('sockets: deleting a key closes exactly its sockets, at once, and cuts those that do not answer within a second', () => {
  const { timers, keys, open } = setUp();
  const [a1, a2, b] = [open('a').ws, open('a').ws, open('b').ws];
  keys.remove('a');
  assert.deepEqual([a1.did, a2.did, b.did], [['close 1008 token revoked'], ['close 1008 token revoked'], []]);
  timers.advance(999);
  assert.deepEqual(a1.did, ['close 1008 token revoked', 'terminate']);
  assert.deepEqual(b.did, []);
});

test('sockets: a downgrade, another token, a new uid and an expiry close the sockets too', () => {
  const expiresAt = new Date(1_700_000_000_000 + 5_000).toISOString();
  for (const change of [{ permission: 'PUBLIC' as const }, { tokenSHA256: fingerprintOf('x') }, { uid: 'new' }]) {
    const { keys, open } = setUp();
    const { ws } = open('a');
    keys.set('a', keySpec('token-a', change));
    assert.deepEqual(ws.did, ['close 1008 token revoked']);
  }
  const { timers, keys, open } = setUp();
  const { ws } = open('a');
  keys.set('a', keySpec('token-a', { expiresAt }));
  assert.deepEqual(ws.did, []);
  timers.advance(5_000);
  assert.deepEqual(ws.did, ['close 1008 token revoked']);
});

test('sockets: a key that is revoked between the decision and 101 closes the socket as it opens', () => {
  const { keys, reserve } = setUp();
  const slot = reserve('a');
  keys.remove('a');
  const ws = new FakeSocket();
  slot.attach(ws, new Socket());
  assert.deepEqual(ws.did, ['close 1008 token revoked']);
});

test('sockets: drain closes all with 1001, refuses new ones, and cuts what is left after the grace', async () => {
  const { timers, sockets, open } = setUp();
  const quick = open('a');
  const slow = open('b');
  const drained = sockets.drain();
  assert.equal(sockets.drain(), drained);
  assert.deepEqual(quick.ws.did, ['close 1001 draining']);
  const refusal = sockets.reserve({
    kind: 'live-log',
    key: { name: 'a', uid: 'u', tokenSHA256: '', permission: 'ALL', expiresAtMs: undefined },
    instanceUid: 'i',
    behindLines: () => 0,
  });
  assert.ok('status' in refusal);
  assert.equal(refusal.status, 503);
  quick.slot.release();
  timers.advance(defaultLimits.drainGraceMs);
  await drained;
  assert.deepEqual(slow.ws.did, ['close 1001 draining', 'terminate']);
});

test('sockets: drain is over as soon as the last socket has gone', async () => {
  const { sockets, open, timers } = setUp();
  const { slot } = open('a');
  const drained = sockets.drain();
  slot.release();
  await drained;
  assert.equal(timers.pendingCount, 0);
});

test('sockets: a close that the peer does not finish is cut after 30 s, a patient one after 5 minutes', () => {
  const { timers, open } = setUp();
  const hasty = open('a');
  const patient = open('a');
  const close = { code: 1000, reason: 'r', cause: 'stopped' } as const;
  hasty.slot.close({ ...close, isPatient: false });
  patient.slot.close({ ...close, isPatient: true });
  timers.advance(32_000);
  assert.deepEqual(hasty.ws.did, ['close 1000 r', 'terminate']);
  assert.deepEqual(patient.ws.did, ['close 1000 r']);
  timers.advance(270_000);
  assert.deepEqual(patient.ws.did, ['close 1000 r', 'terminate']);
});

test('sockets: one that says too much is told so, not read from any more, and cut within two seconds', () => {
  const { timers, metrics, open } = setUp();
  const { ws } = open('a');
  for (let frame = 0; frame < 1_000; frame++) ws.pong();
  timers.advance(1_000);
  for (let frame = 0; frame < 100; frame++) ws.pong();
  assert.deepEqual(ws.did, [], 'so many a second are nothing to speak of');
  ws.pong();
  ws.pong();
  assert.deepEqual(ws.did, ['close 1008 too many frames', 'pause']);
  timers.advance(2_000);
  assert.deepEqual(ws.did.slice(2), ['terminate']);
  return assertCounted(metrics, 'ringmaster_master_sockets_closed_total{cause="flooding"} 1');
});

async function assertCounted(metrics: Metrics, line: string): Promise<void> {
  assert.ok((await metrics.text()).split('\n').includes(line));
}

test('sockets: those that are open, those that lag, the busiest and the limits are metrics, and none names a key', async () => {
  const { metrics, sockets, reserve, open } = setUp();
  for (const kind of ['live-log', 'console'])
    await assertCounted(metrics, `ringmaster_master_sockets_open{kind="${kind}"} 0`);
  reserve('a', 5);
  reserve('b', 7);
  const { slot } = open('a');
  assert.equal(sockets.openCount, 3);
  sockets.measure();
  const text = await metrics.text();
  for (const line of [
    'ringmaster_hub_subscribers_behind 2',
    'ringmaster_hub_subscriber_lag_max_lines 7',
    'ringmaster_master_sockets_busiest{scope="key"} 2',
    'ringmaster_master_sockets_busiest{scope="instance"} 3',
    'ringmaster_master_sockets_limit{scope="key"}',
  ]) {
    assert.ok(text.includes(`\n${line}`), line);
  }
  assert.match(await metrics.text(), /^ringmaster_master_sockets_open\{kind="live-log"\} 1$/m);
  slot.release();
  assert.match(await metrics.text(), /^ringmaster_master_sockets_open\{kind="live-log"\} 0$/m);
});
