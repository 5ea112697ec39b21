import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { OperatorError } from '../errors.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import { createHub } from './hub.ts';
import type { HubLimits, HubObserver } from './hub.ts';
import { pieceLinesMax } from './pieces.ts';
import type { DirectLines, LogBatch, LogEvent, LogSource, Start } from './source.ts';
import type { Encoder, Hub, Subscription } from './subscription.ts';

/** Everything that was ever written, one entry a line or event; sources read it at their own pace, as from a file. */
class Log {
  readonly entries: ({ text: string } | Exclude<LogEvent, LogBatch>)[] = [];
  readonly #waiting = new Set<() => void>();
  readonly isDirect: boolean;
  opens = 0;
  open = 0;
  /** Events that open streams have given. */
  given = 0;
  failure: unknown;
  /** Batches that were taken in the turn of the write. */
  givenDirectly = 0;

  constructor({ isDirect = false } = {}) {
    this.isDirect = isDirect;
  }

  write(...texts: string[]): void {
    this.entries.push(...texts.map((text) => ({ text })));
    this.wake();
  }

  event(event: Exclude<LogEvent, LogBatch>): void {
    this.entries.push(event);
    this.wake();
  }

  wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    waiting.forEach((resolve) => {
      resolve();
    });
  }

  /** Batches of `batchLines` lines at most. */
  source(batchLines = 3): LogSource {
    return {
      open: (start, signal, direct) => this.#read(start, signal, batchLines, this.isDirect ? direct : undefined),
      tail: () => Promise.reject(new Error('The hub never asks for a tail')),
      compare: (a, b) => this.#indexOf(a) - this.#indexOf(b),
    };
  }

  #indexOf(cursor: string): number {
    if (!/^c\d+$/.test(cursor)) {
      throw new OperatorError('CURSOR_INVALID', `Cannot resume: "${cursor}" is no cursor`);
    }
    return Number(cursor.slice(1));
  }

  async *#read(
    start: Start,
    signal: AbortSignal,
    batchLines: number,
    direct: DirectLines | undefined,
  ): AsyncGenerator<LogEvent> {
    this.opens += 1;
    this.open += 1;
    try {
      let index = 'after' in start ? this.#indexOf(start.after) + 1 : this.#tailIndex(start.tail);
      while (!signal.aborted) {
        if (this.failure !== undefined) {
          throw this.failure as Error;
        }
        const entry = this.entries[index];
        if (entry === undefined) {
          await this.#changed(signal, () => {
            for (; direct?.isReady === true && 'text' in (this.entries[index] ?? {}); this.givenDirectly += 1) {
              const batch = this.#batch(index, batchLines);
              index += batch.lines.length;
              direct.take(batch);
            }
            return this.entries[index] === undefined && this.failure === undefined;
          });
        } else if ('text' in entry) {
          const batch = this.#batch(index, batchLines);
          index += batch.lines.length;
          this.given += 1;
          yield batch;
        } else {
          index += 1;
          this.given += 1;
          yield entry;
        }
        if (entry !== undefined && 'type' in entry && entry.type === 'end') {
          return;
        }
      }
    } finally {
      this.open -= 1;
    }
  }

  /** `isDone`: whether the wait goes on. */
  async #changed(signal: AbortSignal, isDone: () => boolean): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const wake = (): void => {
      if (!signal.aborted && isDone()) this.#waiting.add(wake);
      else resolve(undefined);
    };
    this.#waiting.add(wake);
    signal.addEventListener('abort', wake, { once: true });
    await promise;
  }

  #tailIndex(tail: number): number {
    const lines = this.entries.flatMap((entry, index) => ('text' in entry ? [index] : []));
    return tail === 0 ? this.entries.length : (lines.at(-tail) ?? 0);
  }

  #batch(from: number, batchLines: number): LogBatch {
    const lines: Buffer[] = [];
    for (let index = from; lines.length < batchLines; index += 1) {
      const entry = this.entries[index];
      if (entry === undefined || !('text' in entry)) {
        break;
      }
      lines.push(Buffer.from(entry.text));
    }
    return { type: 'lines', lines, cursorAt: (index) => `c${from + index}`, timeAt: () => undefined };
  }
}

function lab(
  log: Log,
  limits: Partial<HubLimits> = {},
  observer?: HubObserver,
  batchLines?: number,
): { hub: Hub; clock: FakeClock } {
  const clock = new FakeClock();
  const hub = createHub({
    sourceFor: () => log.source(batchLines),
    clock,
    // Nobody is waited for, and a burst is not told from anything else, but where a test says so.
    limits: { patienceMs: 0, packLinesPerSecondMax: Number.POSITIVE_INFINITY, ...limits },
    ...(observer && { observerFor: () => observer }),
  });
  return { hub, clock };
}

/** What `next()` gives until it gives nothing, as texts, added to `texts`; events as `<type>`. */
function take(subscription: Subscription, chunksMax = Number.POSITIVE_INFINITY, texts: string[] = []): string[] {
  for (let count = 0; count < chunksMax; count += 1) {
    const chunk = subscription.next();
    if (chunk === undefined) {
      break;
    }
    texts.push(
      ...(chunk.type === 'lines' ? chunk.batch.lines.slice(chunk.from, chunk.to).map(String) : [`<${chunk.type}>`]),
    );
  }
  return texts;
}

/** Waits as an owner does. */
async function readable(subscription: Subscription): Promise<void> {
  await new Promise<void>((resolve) => {
    if (subscription.whenReadable(resolve)) resolve();
  });
}

async function drain(subscription: Subscription, texts: string[] = []): Promise<string[]> {
  for (let idle = 0; idle < 3;) {
    const before = texts.length;
    take(subscription, Number.POSITIVE_INFINITY, texts);
    idle = texts.length > before ? 0 : idle + 1;
    // Asks, as an owner does: a stream of its own is pulled only then.
    void readable(subscription);
    await settle();
  }
  return texts;
}

const numbered = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, index) => `${from + index}`);

test('hub: any number of subscriptions share one upstream, which closes after the last one and a linger', async () => {
  const log = new Log();
  log.write(...numbered(1, 9));
  const { hub, clock } = lab(log, { lingerMs: 2000 });
  const first = hub.subscribe('a', { tail: 5 });
  assert.deepEqual(await drain(first), numbered(5, 9));
  await clock.advance(1000);
  const others = Array.from({ length: 20 }, () => hub.subscribe('a', { tail: 3 }));
  for (const other of others) {
    assert.deepEqual(await drain(other), numbered(7, 9));
  }
  assert.equal(log.opens, 1);
  for (const subscription of [first, ...others]) {
    subscription.close();
    subscription.close();
  }
  await clock.advance(1999);
  assert.equal(log.open, 1);
  const again = hub.subscribe('a', { tail: 1 });
  await clock.advance(5000);
  assert.deepEqual([log.opens, log.open], [1, 1], 'a reconnect within the linger uses the same upstream');
  again.close();
  await clock.advance(2001);
  assert.equal(log.open, 0);
});

test('hub: live lines wake every subscription, in order, with events between them', async () => {
  const log = new Log();
  const { hub } = lab(log);
  const [a, b] = [hub.subscribe('a', { tail: 10 }), hub.subscribe('a', { tail: 10 })];
  await settle();
  const woken = Promise.all([readable(a), readable(b)]);
  log.write('1');
  log.event({ type: 'restart', cause: 'container' });
  log.write('2');
  await woken;
  const expected = ['1', '<restart>', '2'];
  assert.deepEqual([await drain(a), await drain(b)], [expected, expected]);
  hub.close();
});

test('hub: who waits is called once for all that came, can take it there and then, and wait again within the call', async () => {
  const log = new Log();
  const { hub } = lab(log);
  const calls: string[] = [];
  const follow = (name: string, subscription: Subscription): void => {
    const onWake = (): void => {
      for (let chunk = subscription.next(); chunk !== undefined; chunk = subscription.next()) {
        calls.push(`${name} ${chunk.type === 'lines' ? chunk.batch.lines.join() : chunk.type}`);
      }
      if (subscription.whenReadable(onWake)) calls.push(`${name} is closed`);
    };
    assert.equal(subscription.whenReadable(onWake), false);
  };
  const [a, b] = [hub.subscribe('a', { tail: 10 }), hub.subscribe('a', { tail: 10 })];
  await settle();
  follow('a', a);
  follow('b', b);
  log.write('1', '2');
  await settle();
  log.write('3');
  await settle();
  assert.deepEqual(calls, ['a 1,2', 'b 1,2', 'a 3', 'b 3']);
  hub.close();
  assert.deepEqual(calls.slice(4), ['a is closed', 'b is closed']);
});

test('hub: lines that the source gives directly are there in the turn of the write, and by the iteration where there is no room', async () => {
  const log = new Log({ isDirect: true });
  const { hub } = lab(log, { ringLinesMax: 4 });
  const subscription = hub.subscribe('a', { tail: 10 });
  await settle();
  let texts: string[] = [];
  assert.equal(
    subscription.whenReadable(() => (texts = take(subscription))),
    false,
  );
  log.write('1', '2');
  assert.deepEqual(texts, ['1', '2'], 'nothing was awaited');
  // Nobody takes: the ring has room for four lines, of which two were taken.
  log.write(...numbered(3, 20));
  const { givenDirectly } = log;
  assert.ok(givenDirectly > 1 && givenDirectly < 7, `${givenDirectly} batches were taken at once`);
  log.event({ type: 'restart', cause: 'container' });
  log.write('21');
  assert.deepEqual(await drain(subscription), [...numbered(3, 20), '<restart>', '21']);
  const late = hub.subscribe('a', { tail: 2 });
  assert.deepEqual(await drain(late), ['20', '<restart>', '21']);
  hub.close();
});

test('hub: a batch is encoded once for each encoder, however many subscriptions ask, and parts are views', async () => {
  const log = new Log();
  log.write('one', 'two', 'three');
  const { hub, clock } = lab(log);
  let encodes = 0;
  const encoder: Encoder = {
    encode: (batch) => {
      encodes += 1;
      const bytes = Buffer.concat(batch.lines.map((line) => Buffer.concat([line, Buffer.from('|')])));
      const offsets = new Uint32Array(batch.lines.length + 1);
      batch.lines.forEach((line, index) => (offsets[index + 1] = (offsets[index] ?? 0) + line.length + 1));
      return { bytes, offsets };
    },
  };
  const whole = hub.subscribe('a', { tail: 3 });
  await clock.advance(1000);
  const part = hub.subscribe('a', { tail: 1 });
  const chunks = [whole.next(), part.next()].map((chunk) =>
    chunk?.type === 'lines' ? chunk.encoded(encoder) : undefined,
  );
  assert.deepEqual(chunks.map(String), ['one|two|three|', 'three|']);
  assert.equal(chunks[0]?.buffer, chunks[1]?.buffer);
  assert.equal(encodes, 1);
  hub.close();
});

test('hub: a slow subscription falls out of the ring, reads on from the source and returns, losing and repeating nothing', async () => {
  const log = new Log();
  const seen = { behind: 0, up: 0 };
  const observer = { caughtBehind: () => (seen.behind += 1), caughtUp: () => (seen.up += 1) };
  const { hub } = lab(log, { ringLinesMax: 10 }, observer);
  const fast = hub.subscribe('a', { tail: 100 });
  const slow = hub.subscribe('a', { tail: 100 });
  await settle();
  const fastTexts: string[] = [];
  const slowTexts: string[] = [];
  for (let round = 0; round < 20; round += 1) {
    log.write(...numbered(round * 5 + 1, round * 5 + 5));
    fastTexts.push(...(await drain(fast)));
    slowTexts.push(...take(slow, round % 5 === 0 ? 1 : 0));
  }
  slowTexts.push(...(await drain(slow)));
  assert.deepEqual(fastTexts, numbered(1, 100));
  assert.deepEqual(slowTexts, numbered(1, 100));
  assert.ok(seen.behind > 0 && seen.up > 0, JSON.stringify(seen));
  await settle();
  assert.equal(log.open, 1, 'the stream of its own is closed');
  log.write('101');
  assert.deepEqual([await drain(fast), await drain(slow)], [['101'], ['101']]);
  hub.close();
});

test('hub: when every subscription is slow the upstream is not pulled, and nobody falls out', async () => {
  const log = new Log();
  const seen = { behind: 0 };
  const { hub } = lab(log, { ringLinesMax: 10 }, { caughtBehind: () => (seen.behind += 1) });
  const subscriptions = [hub.subscribe('a', { tail: 1000 }), hub.subscribe('a', { tail: 1000 })];
  log.write(...numbered(1, 1000));
  await settle();
  await settle();
  assert.ok(log.given <= 5, `pulled ${log.given} batches`);
  for (const subscription of subscriptions) {
    assert.ok(subscription.behindLines <= 13, `${subscription.behindLines} lines are held`);
  }
  const texts: string[][] = [[], []];
  for (let round = 0; round < 2000; round += 1) {
    subscriptions.forEach((subscription, index) => texts[index]?.push(...take(subscription, 1)));
    await settle();
  }
  assert.deepEqual(texts, [numbered(1, 1000), numbered(1, 1000)]);
  assert.equal(seen.behind, 0);
  assert.equal(log.opens, 1);
  hub.close();
});

test('hub: a subscription that never reads costs the ring alone and stops nobody', async () => {
  const log = new Log();
  const { hub } = lab(log, { ringLinesMax: 30 });
  const dead = hub.subscribe('a', { tail: 10_000 });
  const fast = hub.subscribe('a', { tail: 10_000 });
  await settle();
  let count = 0;
  for (let round = 0; round < 200; round += 1) {
    log.write(...numbered(round * 10 + 1, round * 10 + 10));
    count += (await drain(fast)).length;
  }
  assert.equal(count, 2000);
  assert.ok(dead.behindLines <= 40, `${dead.behindLines} lines`);
  const upstreamBatches = 2000 / 3 + 200;
  assert.ok(log.given <= upstreamBatches + 2, `the stream of the dead one was pulled: ${log.given}`);
  dead.close();
  hub.close();
  await settle();
  assert.equal(log.open, 0);
});

test('hub: in a burst those that are behind for a moment are waited for; who does not read holds the others up once, and is out then', async () => {
  const log = new Log();
  let fallen = 0;
  const observer: HubObserver = {
    caughtBehind: () => {
      fallen += 1;
    },
  };
  const { hub, clock } = lab(log, { ringLinesMax: 30, patienceMs: 200 }, observer);
  const fast = hub.subscribe('a', { tail: 10_000 });
  const slow = hub.subscribe('a', { tail: 10_000 });
  await settle();
  log.write(...numbered(1, 300));
  const got: Record<'fast' | 'slow', string[]> = { fast: [], slow: [] };
  // One is always ahead, the other half a ring behind it.
  while (got.slow.length < 300) {
    got.fast.push(...(await drain(fast)));
    got.slow.push(...take(slow, 5));
    await settle();
  }
  assert.deepEqual(got, { fast: numbered(1, 300), slow: numbered(1, 300) });
  assert.equal(fallen, 0, 'nobody fell out');

  // Now it reads nothing any more.
  log.write(...numbered(301, 900));
  const before = (await drain(fast)).length;
  assert.ok(before <= 60, `${before} lines while it was waited for`);
  await clock.advance(200);
  assert.equal(before + (await drain(fast)).length, 600, 'everything, once the moment is over');
  assert.equal(fallen, 1);
  log.write(...numbered(901, 1500));
  assert.equal((await drain(fast)).length, 600, 'who is out holds nobody up');
  hub.close();
  await settle();
});

test('hub: where most are behind the source waits longer for them; of few that do not read nobody notices more than a moment', async () => {
  for (const [stopped, ms] of [
    [2, 1000],
    [1, 200],
  ] as const) {
    const log = new Log();
    const { hub, clock } = lab(log, { ringLinesMax: 30, patienceMs: 200, patienceForMostMs: 1000 });
    const fast = hub.subscribe('a', { tail: 10_000 });
    for (let count = 0; count < stopped; count += 1) hub.subscribe('a', { tail: 10_000 });
    await settle();
    log.write(...numbered(1, 300));
    const texts = await drain(fast);
    await clock.advance(ms - 1);
    texts.push(...(await drain(fast)));
    assert.ok(texts.length <= 60, `${texts.length} lines within ${ms} ms`);
    await clock.advance(1);
    texts.push(...(await drain(fast)));
    assert.deepEqual(texts, numbered(1, 300));
    hub.close();
  }
});

test('hub: a cursor in the ring joins there, an older one reads from the source first, a foreign one is refused', async () => {
  const log = new Log();
  log.write(...numbered(0, 99));
  const { hub, clock } = lab(log, { ringLinesMax: 12 });
  const first = hub.subscribe('a', { tail: 100 });
  assert.deepEqual(await drain(first), numbered(0, 99));
  await clock.advance(100);
  const opens = log.opens;
  const near = hub.subscribe('a', { after: 'c95' });
  assert.deepEqual(await drain(near), numbered(96, 99));
  const newest = hub.subscribe('a', { after: hub.newest('a') ?? '' });
  assert.deepEqual(await drain(newest), []);
  assert.equal(log.opens, opens, 'the ring sufficed');
  const old = hub.subscribe('a', { after: 'c40' });
  assert.deepEqual(await drain(old), numbered(41, 99));
  assert.throws(() => hub.subscribe('a', { after: 'x' }), { code: 'CURSOR_INVALID' });
  assert.throws(() => hub.subscribe('b', { after: 'x' }), { code: 'CURSOR_INVALID' });
  hub.close();
});

test('hub: a second subscription while the backlog is still read gets its own right backlog', async () => {
  const log = new Log();
  log.write(...numbered(1, 60));
  const { hub } = lab(log);
  const first = hub.subscribe('a', { tail: 50 });
  await settle();
  const [same, fewer, none] = [
    hub.subscribe('a', { tail: 50 }),
    hub.subscribe('a', { tail: 4 }),
    hub.subscribe('a', { tail: 0 }),
  ];
  await settle();
  log.write('61');
  assert.deepEqual(await drain(first), numbered(11, 61));
  assert.deepEqual(await drain(same), numbered(11, 61));
  assert.deepEqual((await drain(fewer)).slice(-5).at(-1), '61');
  assert.deepEqual((await drain(none)).at(-1) ?? '61', '61');
  hub.close();
});

test('hub: what the source throws for good reaches every subscription after the lines before it, and a new one tries again', async () => {
  const log = new Log();
  log.write('1');
  const { hub } = lab(log);
  const subscription = hub.subscribe('a', { tail: 10 });
  assert.deepEqual(await drain(subscription), ['1']);
  log.write('2');
  await settle();
  log.failure = new Error('gone for good');
  log.wake();
  await readable(subscription);
  await settle();
  assert.deepEqual(take(subscription, 1), ['2']);
  await readable(subscription);
  assert.throws(() => subscription.next(), /gone for good/);
  log.failure = undefined;
  assert.deepEqual(await drain(hub.subscribe('a', { tail: 1 })), ['2']);
  hub.close();
});

test('hub: after the end nothing follows, and a later subscription asks the source anew', async () => {
  const log = new Log();
  log.write('1');
  const { hub } = lab(log);
  const subscription = hub.subscribe('a', { tail: 10 });
  log.event({ type: 'end' });
  assert.deepEqual(await drain(subscription), ['1', '<end>']);
  assert.equal(subscription.next(), undefined);
  await readable(subscription);
  const late = hub.subscribe('a', { tail: 10 });
  assert.deepEqual(await drain(late), ['1', '<end>']);
  assert.equal(log.opens, 2);
  hub.close();
});

test('hub: closing wakes who waits, and gives everything back', async () => {
  const log = new Log();
  const { hub } = lab(log);
  const [a, b] = [hub.subscribe('a', { tail: 10 }), hub.subscribe('b', { tail: 10 })];
  const waiting = [readable(a), readable(b)];
  await settle();
  a.close();
  hub.close();
  await Promise.all(waiting);
  assert.deepEqual([a.next(), b.next()], [undefined, undefined]);
  await settle();
  assert.equal(log.open, 0);
});

/** A subscription that reads on by a stream of its own from line `after` on, behind one that has everything. */
async function lagging(log: Log, after: number): Promise<{ hub: Hub; clock: FakeClock; slow: Subscription }> {
  const { hub, clock } = lab(log, { ringLinesMax: 4, catchUpIdleMs: 2000 });
  await drain(hub.subscribe('a', { tail: 1000 }));
  return { hub, clock, slow: hub.subscribe('a', { after: `c${after}` }) };
}

test('hub: a stream of its own is opened when it is asked, closed when nothing is taken from it, and opened again where it was left', async () => {
  const log = new Log();
  log.write(...numbered(0, 99));
  const { hub, clock, slow } = await lagging(log, 9);
  await clock.advance(10_000);
  assert.equal(log.open, 1, 'nobody has asked yet');
  await readable(slow);
  assert.deepEqual(take(slow, 1), numbered(10, 12));
  await clock.advance(1999);
  assert.equal(log.open, 2);
  await clock.advance(1);
  assert.deepEqual([log.open, clock.pending], [1, 0], 'closed, and no timer is left');

  await readable(slow);
  await clock.advance(1999);
  assert.equal(log.open, 2, 'a batch waits');
  await clock.advance(1);
  assert.deepEqual([log.open, clock.pending], [1, 0]);
  assert.deepEqual(take(slow), [], 'it is read again');
  assert.deepEqual(await drain(slow), numbered(13, 99));
  assert.deepEqual([log.open, clock.pending], [1, 0], 'back in the ring');
  hub.close();
});

test('hub: a stream of its own that is taken from now and then, or has nothing to give, stays open', async () => {
  const log = new Log();
  log.write(...numbered(0, 99));
  const { hub, clock, slow } = await lagging(log, 9);
  const opens = log.opens;
  for (let from = 10; from < 90; from += 3) {
    await readable(slow);
    await clock.advance(1500);
    assert.deepEqual(take(slow, 1), numbered(from, from + 2));
  }
  assert.equal(log.opens, opens + 1);
  hub.close();
  await settle();

  const held = lab(log, { ringLinesMax: 4, catchUpIdleMs: 2000 });
  held.hub.subscribe('a', { tail: 90 });
  await settle();
  const ahead = held.hub.subscribe('a', { after: 'c95' });
  assert.deepEqual(await drain(ahead), numbered(96, 99));
  const opensBefore = log.opens;
  await held.clock.advance(60_000);
  assert.deepEqual([log.open, log.opens], [2, opensBefore], 'the ring stands still, and this one waits for a line');
  const waiting = readable(ahead);
  log.write('100');
  await waiting;
  assert.deepEqual(await drain(ahead), ['100']);
  held.hub.close();
  await settle();

  const quiet = lab(log);
  void quiet.hub.subscribe('a', { tail: 50 });
  await settle();
  // The backlog is still read, so this one has to ask for itself.
  const [none, few] = [quiet.hub.subscribe('a', { tail: 0 }), quiet.hub.subscribe('a', { tail: 2 })];
  const woken = readable(none);
  await readable(few);
  await quiet.clock.advance(60_000);
  assert.equal(log.open, 3);
  log.write(...numbered(101, 109));
  await woken;
  assert.deepEqual(await drain(none), numbered(101, 109));
  assert.deepEqual(await drain(few), numbered(99, 109), 'the last lines as they were when it asked');
  quiet.hub.close();
});

test('hub: events around which a stream of its own was closed are given exactly once and in order', async () => {
  const events = ['10', '<gap>', '<restart>', '<restart>', '11', '12', '<gap>'];
  for (let stallAfter = 0; stallAfter <= events.length; stallAfter += 1) {
    for (const isAsked of [true, false]) {
      const log = new Log();
      log.write(...numbered(0, 10));
      log.event({ type: 'gap', lines: 3, cause: 'expired' });
      log.event({ type: 'restart', cause: 'container' });
      log.event({ type: 'restart', cause: 'pod' });
      log.write('11', '12');
      log.event({ type: 'gap', lines: undefined, cause: 'rotated' });
      log.write(...numbered(13, 30));
      const { hub, clock, slow } = await lagging(log, 9);
      log.event({ type: 'end' });
      const texts: string[] = [];
      while (texts.length < stallAfter) {
        await readable(slow);
        texts.push(...take(slow, 1));
      }
      if (isAsked) await readable(slow);
      await clock.advance(5000);
      assert.equal(log.open, 0, 'the upstream has ended');
      assert.equal(log.opens, stallAfter > 0 || isAsked ? 2 : 1, 'it had a stream of its own');
      // Once more, at the same place.
      await readable(slow);
      await clock.advance(5000);
      texts.push(...(await drain(slow)));
      assert.deepEqual(texts, [...events, ...numbered(13, 30), '<end>'], `stalled after ${stallAfter}`);
      assert.equal(slow.next(), undefined);
      hub.close();
      await settle();
      assert.deepEqual([log.open, clock.pending], [0, 0]);
    }
  }
});

test('hub: a large batch is given in pieces, and what is left of it is dropped with its stream', async () => {
  const log = new Log();
  log.write(...numbered(0, 4999));
  const { hub, clock } = lab(log, { ringLinesMax: 100 }, {}, 5000);
  await drain(hub.subscribe('a', { tail: 5000 }));
  const slow = hub.subscribe('a', { after: 'c99' });
  await readable(slow);
  assert.deepEqual(take(slow, 2), numbered(100, 100 + 2 * pieceLinesMax - 1));
  await clock.advance(2000);
  assert.equal(log.open, 1);
  assert.deepEqual(take(slow), []);
  assert.deepEqual(await drain(slow), numbered(100 + 2 * pieceLinesMax, 4999));
  hub.close();
});

test('hub: who goes while its stream is closed, is pulled or waits gives everything back', async () => {
  for (const stage of ['closed', 'pulled', 'waits'] as const) {
    const log = new Log();
    log.write(...numbered(0, 99));
    const { hub, clock, slow } = await lagging(log, 9);
    await readable(slow);
    take(slow, 1);
    if (stage === 'closed') await clock.advance(2000);
    if (stage !== 'closed') void slow.whenReadable(() => undefined);
    if (stage === 'waits') await settle();
    slow.close();
    await settle();
    assert.deepEqual([log.open, clock.pending], [1, 0], stage);
    hub.close();
  }
});

test('hub: what the source throws for good reaches who comes back to a closed stream', async () => {
  const log = new Log();
  log.write(...numbered(0, 99));
  const { hub, clock, slow } = await lagging(log, 9);
  await readable(slow);
  take(slow, 1);
  await clock.advance(2000);
  log.failure = new Error('gone for good');
  await readable(slow);
  assert.throws(() => slow.next(), /gone for good/);
  await clock.advance(5000);
  assert.throws(() => slow.next(), /gone for good/, 'as often as it is asked');
  hub.close();
});

test('hub: of what everybody has taken only the newest is kept, unless somebody is on the way back to the ring', async () => {
  const log = new Log();
  const { hub, clock } = lab(log, { ringLinesMax: 100, keptLines: 20, packEntries: 4 });
  const write = async (from: number, to: number): Promise<void> => {
    for (let line = from; line <= to; line += 1) {
      log.write(line.toString());
      assert.deepEqual(await drain(fast), [line.toString()]);
    }
  };
  const fast = hub.subscribe('a', { tail: 0 });
  await settle();
  await write(1, 60);
  await clock.advance(100);
  // Nothing has to be read again for those who are content with what is kept.
  const joined = hub.subscribe('a', { tail: 20 });
  assert.deepEqual(take(joined), numbered(41, 60));
  assert.equal(log.opens, 1);
  const outside = hub.subscribe('a', { after: 'c29' });
  assert.deepEqual(await drain(outside), numbered(31, 60));
  assert.equal(log.opens, 2, 'an older line is no longer in the ring');
  const away = hub.subscribe('a', { after: 'c9' });
  joined.close();
  outside.close();
  await write(61, 120);
  assert.ok(away.behindLines > 60, 'lines that somebody is on the way to stay');
  assert.deepEqual(await drain(away), numbered(11, 120));
  await write(121, 130);
  assert.ok(hub.subscribe('a', { after: 'c0' }).behindLines < 30);
  hub.close();
});

test('hub: who stands among entries that are packed goes on at the same line', async () => {
  const log = new Log();
  const { hub } = lab(log, { packEntries: 4 });
  const fast = hub.subscribe('a', { tail: 0 });
  const slow = hub.subscribe('a', { tail: 0 });
  await settle();
  for (const from of [0, 3, 6, 9]) {
    log.write(...numbered(from, from + 2));
    await drain(fast);
  }
  assert.deepEqual(take(slow, 1), numbered(0, 2));
  // In the middle of the batch of 6 to 8.
  const within = hub.subscribe('a', { after: 'c6' });
  for (let line = 12; line < 30; line += 1) {
    log.write(line.toString());
    await drain(fast);
  }
  assert.deepEqual(take(slow), numbered(3, 29));
  assert.deepEqual(take(within), numbered(7, 29));
  assert.equal(log.opens, 1);
  hub.close();
});

test('hub: many rings share their memory', async () => {
  const log = new Log();
  const clock = new FakeClock();
  const hub = createHub({
    sourceFor: () => log.source(1),
    clock,
    limits: { ringBytesInAll: 80_000, ringBytesMin: 10_000, packEntries: 1000, patienceMs: 0 },
  });
  const linesOf = async (count: number): Promise<number> => {
    await clock.advance(100);
    const subscriptions = Array.from({ length: count }, (_, index) => hub.subscribe(`i${index}`, { tail: 0 }));
    await settle();
    for (const text of numbered(1, 150)) {
      log.write(text);
      for (const each of subscriptions) await drain(each);
    }
    const behind = hub.subscribe('i0', { after: 'c0' });
    const { behindLines } = behind;
    for (const each of [...subscriptions, behind]) each.close();
    return behindLines;
  };
  const [alone, ofTwo, ofMany] = [await linesOf(1), await linesOf(2), await linesOf(30)];
  hub.close();
  assert.ok(alone > 1.5 * ofTwo && ofTwo > 1.5 * ofMany && ofMany > 5, `${alone}, ${ofTwo}, ${ofMany} lines`);
});

test('hub: who waits for an entry that is dropped before its turn in the sweep is woken for it all the same', async () => {
  const log = new Log();
  // Each batch is more than the ring may hold: the first to take it has it dropped.
  const { hub } = lab(log, { ringLinesMax: 2 });
  const texts: Record<'a' | 'b' | 'c', string[]> = { a: [], b: [], c: [] };
  const follow = (name: keyof typeof texts, subscription: Subscription): void => {
    const onWake = (): void => {
      texts[name].push(...take(subscription));
      assert.equal(subscription.whenReadable(onWake), false);
    };
    onWake();
  };
  for (const name of ['a', 'b', 'c'] as const) follow(name, hub.subscribe('a', { tail: 10 }));
  for (let from = 0; from < 30; from += 3) {
    await settle();
    log.write(...numbered(from, from + 2));
  }
  await settle();
  const all = numbered(0, 29);
  assert.deepEqual(texts, { a: all, b: all, c: all });
});

type Action =
  | { readonly do: 'pause'; readonly ms: number }
  | { readonly do: 'fault' }
  | { readonly do: 'write'; readonly count: number }
  | { readonly do: 'event'; readonly type: 'restart' | 'gap' }
  | { readonly do: 'join'; readonly tail: number }
  | { readonly do: 'resume' | 'leave'; readonly who: number }
  | { readonly do: 'take'; readonly who: number; readonly chunks: number }
  | { readonly do: 'settle' };

const who = fc.nat({ max: 5 });
const actionArbitrary: fc.Arbitrary<Action> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant('write' as const), count: fc.integer({ min: 1, max: 9 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('event' as const),
      type: fc.constantFrom('restart' as const, 'gap' as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('join' as const), tail: fc.constantFrom(0, 1, 4, 15, 1000) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('resume' as const, 'leave' as const), who }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('take' as const), who, chunks: fc.constantFrom(1, 1, 2, 100) }) },
  { weight: 4, arbitrary: fc.constant({ do: 'settle' as const }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('pause' as const), ms: fc.constantFrom(1000, 2000, 5000) }) },
  { weight: 1, arbitrary: fc.constant({ do: 'fault' as const }) },
);

test('hub: whoever comes, goes or lags, each sees one unbroken run of the log, and memory stays bounded', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(actionArbitrary, { minLength: 5, maxLength: 80 }),
      fc.integer({ min: 3, max: 25 }),
      fc.boolean(),
      fc.record({ packEntries: fc.integer({ min: 2, max: 5 }), keptLines: fc.integer({ min: 0, max: 25 }) }),
      playHub,
    ),
    { numRuns: Number(process.env['MODEL_RUNS'] ?? 200) },
  );
});

async function playHub(
  actions: Action[],
  ringLinesMax: number,
  isDirect: boolean,
  packing: Partial<HubLimits> = {},
): Promise<void> {
  const log = new Log({ isDirect });
  const { hub, clock } = lab(log, { ringLinesMax, catchUpIdleMs: 2000, ...packing });
  const sessions: Session[] = [];
  const join = (start: Start, texts: string[]): void => {
    sessions.push({ subscription: hub.subscribe('a', start), texts, isOpen: true, hasFailed: false });
  };
  let written = 0;
  for (const action of actions) {
    const session = 'who' in action ? sessions.filter((each) => each.isOpen).at(action.who) : undefined;
    switch (action.do) {
      case 'write':
        log.write(...numbered(written, written + action.count - 1));
        written += action.count;
        break;
      case 'event':
        log.event(
          action.type === 'gap' ? { type: 'gap', lines: 1, cause: 'rotated' } : { type: 'restart', cause: 'pod' },
        );
        break;
      case 'join':
        join({ tail: action.tail }, []);
        break;
      case 'leave':
      case 'resume': {
        if (session === undefined) {
          break;
        }
        session.subscription.close();
        session.isOpen = false;
        const last = session.texts.findLast((text) => !text.startsWith('<'));
        if (action.do === 'resume' && last !== undefined) {
          const cursor = `c${log.entries.findIndex((entry) => 'text' in entry && entry.text === last)}`;
          join({ after: cursor }, session.texts.slice(0, session.texts.indexOf(last) + 1));
        }
        break;
      }
      case 'take':
        if (session === undefined) {
          break;
        }
        await untilFault(session, () => take(session.subscription, action.chunks, session.texts));
        void readable(session.subscription);
        break;
      case 'pause':
        await clock.advance(action.ms);
        break;
      case 'fault':
        log.failure = fault;
        log.wake();
        await settle();
        log.failure = undefined;
        break;
      case 'settle':
        await settle();
    }
    for (const each of sessions) {
      assert.ok(each.subscription.behindLines <= ringLinesMax + 3, 'the ring is bounded');
    }
  }
  log.event({ type: 'end' });
  const all = log.entries.map((entry) => ('text' in entry ? entry.text : `<${entry.type}>`));
  for (const each of sessions.filter((one) => one.isOpen)) {
    await untilFault(each, () => drain(each.subscription, each.texts));
    if (!each.hasFailed) {
      assert.deepEqual(each.texts, all.slice(all.length - each.texts.length), 'a suffix of the log');
    }
  }
  for (const { texts, hasFailed } of sessions) {
    const isRun = all.some((_, from) => texts.every((text, index) => all[from + index] === text));
    assert.ok(!hasFailed || isRun, `a run of the log: ${texts.join()}`);
  }
  hub.close();
  await settle();
  assert.deepEqual([log.open, clock.pending], [0, 0]);
}

interface Session {
  readonly subscription: Subscription;
  readonly texts: string[];
  isOpen: boolean;
  hasFailed: boolean;
}

const fault = new Error('The source is gone for good');

/** What the source threw ends a session, as it ends a socket. */
async function untilFault(session: Session, run: () => unknown): Promise<void> {
  try {
    await run();
  } catch (error) {
    assert.equal(error, fault);
    session.subscription.close();
    session.isOpen = false;
    session.hasFailed = true;
  }
}

test("hub: a later client of a log that never pauses gets its own last lines, not the earlier client's", async () => {
  const log = new Log();
  log.write(...numbered(1, 5));
  // The clock stands still: for the hub the backlog never ends.
  const { hub } = lab(log);
  const first = hub.subscribe('a', { tail: 1 });
  assert.deepEqual(await drain(first), ['5']);
  log.write(...numbered(6, 9));
  assert.deepEqual(await drain(first), numbered(6, 9));
  const second = hub.subscribe('a', { tail: 1 });
  assert.deepEqual(await drain(second), ['9']);
  hub.close();
});

test('hub: an event that was evicted behind a line is still given to who returns from that line', async () => {
  // Found by the model above.
  const write = (count: number): Action => ({ do: 'write', count });
  const join = (tail: number): Action => ({ do: 'join', tail });
  const take: Action = { do: 'take', who: 1, chunks: 1 };
  const settled: Action = { do: 'settle' };
  const before = [write(1), join(1000), { do: 'event', type: 'restart' } as const, write(1), settled, join(1), take];
  await playHub([...before, write(4), settled, join(0), take, settled, write(1), join(0)], 4, false);
});
