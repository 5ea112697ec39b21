import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';
import { deriveKey, tlsOptions } from '../../sidecar/protocol.ts';
import { createSilentLogger } from '../log.ts';
import type { Logger } from '../log.ts';
import { FakeClock } from '../testing/clock.ts';
import { AnswerListener } from './listener.ts';
import type { Answer } from './protocol.ts';
import { answerBytesMax, answerKeyOf, decodeAnswer, encodeAnswer } from './protocol.ts';
import { AnswerSender } from './sender.ts';

const host = '127.0.0.1';
const [oldKey, newKey, strangersKey] = [1, 2, 3].map((byte) => Buffer.alloc(32, byte)) as [Buffer, Buffer, Buffer];

/** A Master. */
class Desk implements AsyncDisposable {
  readonly received: Answer[] = [];
  keys: readonly Buffer[] = [oldKey];
  port = 0;
  connectionAgeMs: number | undefined;
  #listener: AnswerListener | undefined;

  async open(): Promise<this> {
    this.#listener = new AnswerListener({
      ...{ masterKey: { read: () => Promise.resolve(this.keys) }, log: createSilentLogger(), host, port: this.port },
      ...(this.connectionAgeMs === undefined ? {} : { connectionAgeMs: this.connectionAgeMs }),
      onAnswer: (answer) => this.received.push(answer),
    });
    this.port = await this.#listener.listen();
    return this;
  }

  /** As its process would. */
  close(): void {
    this.#listener?.close();
  }

  async until(count: number): Promise<void> {
    for (let waits = 0; this.received.length < count; waits += 1) {
      assert.ok(waits < 400, `${this.received.length} of ${count} answers came`);
      await sleep(5);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }
}

interface Sending extends Disposable {
  readonly sender: AnswerSender;
  readonly clock: FakeClock;
  readonly warnings: string[];
}

function createSender(port: number, keys: readonly Buffer[] = [oldKey]): Sending {
  const clock = new FakeClock();
  const warnings: string[] = [];
  const log: Logger = createSilentLogger();
  log.warn = (...said: unknown[]) => void warnings.push(String(said[1]));
  const sender = new AnswerSender({ masterKey: { read: () => Promise.resolve(keys) }, clock, log, port });
  return {
    ...{ sender, clock, warnings },
    [Symbol.dispose]() {
      sender.close();
    },
  };
}

function answer(name: string, output: string[] = []): Answer {
  return { name, uid: `uid-${name}`, status: { phase: 'Succeeded', exitCode: 0, output } };
}

const names = (received: readonly Answer[]): string[] => received.map(({ name }) => name);

test('answers: they arrive whole and in order, those too that were sent while the connection was made', async () => {
  await using desk = await new Desk().open();
  using sending = createSender(desk.port);
  const sent = Array.from({ length: 200 }, (_, index) => answer(`c${index}`, ['ü\u2028\n', 'x'.repeat(5_000)]));
  for (const one of sent) sending.sender.send(host, one);
  await desk.until(200);
  assert.deepEqual(desk.received, sent);
  const large = answer('large', [JSON.stringify('\u001b'.repeat(100_000))]);
  sending.sender.send(host, large);
  await desk.until(201);
  assert.deepEqual(desk.received.at(-1), large);
  assert.deepEqual(sending.warnings, []);
});

test('answers: a Master that started anew is answered again', async () => {
  await using desk = await new Desk().open();
  using sending = createSender(desk.port);
  sending.sender.send(host, answer('first'));
  await desk.until(1);
  desk.close();
  await sleep(50);
  await desk.open();
  sending.sender.send(host, answer('second'));
  await desk.until(2);
  assert.deepEqual(names(desk.received), ['first', 'second']);
});

test('answers: a Master that cannot be reached is told of once, left alone for 30 s, and then tried again', async () => {
  await using desk = await new Desk().open();
  desk.close();
  using sending = createSender(desk.port);
  sending.sender.send(host, answer('lost'));
  await sleep(100);
  await desk.open();
  for (const [afterMs, name] of [
    [0, 'too early'],
    [29_999, 'too early as well'],
    [1, 'in time'],
  ] as const) {
    await sending.clock.advance(afterMs);
    sending.sender.send(host, answer(name));
    await sleep(20);
  }
  await desk.until(1);
  assert.deepEqual(names(desk.received), ['in time']);
  assert.deepEqual(sending.warnings, ['Cannot give answers to a Master: it reads the records']);
});

test('answers: who has no master key can neither give answers nor take them', async () => {
  await using desk = await new Desk().open();
  using stranger = createSender(desk.port, [strangersKey]);
  stranger.sender.send(host, answer('forged'));
  await sleep(100);
  assert.deepEqual(desk.received, []);
  assert.equal(stranger.warnings.length, 1);
  // The key of a sidecar, under the right name: it comes from the same master key.
  const { identity } = answerKeyOf(oldKey);
  const socket = connectTls({
    ...{ ...tlsOptions, host, port: desk.port, checkServerIdentity: () => undefined },
    pskCallback: () => ({ psk: deriveKey(oldKey, '1b4e28ba-2fa1-11d2-883f-0016d3cca427'), identity }),
  });
  await assert.rejects(once(socket, 'secureConnect'));
});

/** A connection that brings nothing: from the next one on the listener has the keys that are there now. */
function knock(desk: Desk): void {
  connectTcp({ host, port: desk.port })
    .on('error', () => undefined)
    .end();
}

test('answers: while the master key is replaced, both count, and afterwards the new one', async () => {
  await using desk = await new Desk().open();
  desk.keys = [oldKey, newKey];
  using before = createSender(desk.port, [oldKey]);
  using during = createSender(desk.port, [newKey, oldKey]);
  before.sender.send(host, answer('with the old key'));
  await desk.until(1);
  during.sender.send(host, answer('with the new key'));
  await desk.until(2);
  desk.keys = [newKey];
  knock(desk);
  await sleep(50);
  using late = createSender(desk.port, [oldKey]);
  late.sender.send(host, answer('too late'));
  await sleep(100);
  assert.deepEqual(names(desk.received), ['with the old key', 'with the new key']);
  assert.equal(late.warnings.length, 1);
});

test('answers: a connection is given up when it is old, and who has only a replaced key does not come back', async () => {
  await using desk = new Desk();
  desk.connectionAgeMs = 2_000;
  await desk.open();
  using sending = createSender(desk.port);
  sending.sender.send(host, answer('while it is young'));
  await desk.until(1);
  desk.keys = [newKey];
  knock(desk);
  sending.sender.send(host, answer('still'));
  await desk.until(2);
  await sleep(2_500);
  sending.sender.send(host, answer('too late'));
  await sleep(100);
  assert.deepEqual(names(desk.received), ['while it is young', 'still']);
  assert.equal(sending.warnings.length, 1);
});

test('answers: what is no address, or too large, is not sent', async () => {
  await using desk = await new Desk().open();
  using sending = createSender(desk.port);
  for (const address of ['localhost', '', '127.0.0.1:1', 'kubernetes.default.svc'])
    sending.sender.send(address, answer('a'));
  sending.sender.send(host, answer('b', ['x'.repeat(answerBytesMax)]));
  sending.sender.send(host, answer('c'));
  await desk.until(1);
  assert.deepEqual(names(desk.received), ['c']);
  assert.deepEqual(sending.warnings, []);
});

test('answers: a line that is none is passed over, and one without an end ends the connection', async () => {
  await using desk = await new Desk().open();
  const { identity, psk } = answerKeyOf(oldKey);
  const socket = connectTls({
    ...{ ...tlsOptions, host, port: desk.port, checkServerIdentity: () => undefined },
    pskCallback: () => ({ psk, identity }),
  });
  socket.on('error', () => undefined);
  socket.resume();
  await once(socket, 'secureConnect');
  for (const line of ['', 'null', '[]', '{}', '{"name":"a","uid":"b","status":null}', '\u0000'])
    socket.write(`${line}\n`);
  socket.write(encodeAnswer(answer('a')));
  await desk.until(1);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write('x'.repeat(2 * answerBytesMax));
  await closed;
});

test('answers: what is encoded is decoded', () => {
  const one = answer('c', ['a\nb', '\u2029']);
  assert.deepEqual(decodeAnswer(encodeAnswer(one).trimEnd()), one);
});
