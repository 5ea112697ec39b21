/**
 * What every log source must hold, as tests over a harness: a real or faithful place where a workload writes and a source that reads it.
 * Run it from a test file: `testLogSourceContract('kubernetes', createHarness)`.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OperatorError } from '../../errors.ts';
import type { Cursor, LogEvent, LogSource, Start } from '../source.ts';

export interface LogHarness {
  readonly source: LogSource;
  /** The workload writes these lines, each with its line end; starts the workload first where it does not run. */
  write(...lines: (string | Buffer)[]): Promise<void>;
  /** The workload ends and is started anew in the same pod. */
  restart(): Promise<void>;
  /** The pod is replaced by another, after its log was read to the end. */
  replacePod(): Promise<void>;
  /** Connections between source and storage end: cleanly, or by a reset at any byte. */
  cut(kind: 'eof' | 'reset'): Promise<void>;
  /** The instance is stopped for good. */
  finish(): Promise<void>;
  /** Lets time pass for everybody; real or fake. */
  pass(ms: number): Promise<void>;
  close(): Promise<void>;
}

/** What a reader of a source got, one entry for each line or event. */
export interface Received {
  readonly type: 'line' | 'gap' | 'restart' | 'end';
  readonly text: string;
  readonly cursor: Cursor | undefined;
}

/** Reads a source in the background and remembers everything. */
export class LogReader {
  readonly received: Received[] = [];
  /** What `open` threw. */
  error: unknown;
  isDone = false;
  readonly #abort = new AbortController();
  readonly #harness: Pick<LogHarness, 'source' | 'pass'>;

  constructor(harness: Pick<LogHarness, 'source' | 'pass'>, start: Start, onEvent?: () => Promise<void>) {
    this.#harness = harness;
    void this.#run(start, onEvent);
  }

  get lines(): string[] {
    return this.received.filter((entry) => entry.type === 'line').map((entry) => entry.text);
  }

  /** Lines as text, events as `<type>`. */
  get texts(): string[] {
    return this.received.map((entry) => (entry.type === 'line' ? entry.text : `<${entry.type}>`));
  }

  /** Waits until `isMet`, or fails with what was received so far. */
  async until(isMet: () => boolean, what: string): Promise<void> {
    for (let waitedMs = 0; waitedMs < 600_000;) {
      // Asked first: nothing comes after the end.
      const { isDone } = this;
      if (isMet()) {
        return;
      }
      if (isDone) {
        break;
      }
      const stepMs = waitedMs < 1000 ? 20 : 500;
      await this.#harness.pass(stepMs);
      waitedMs += stepMs;
    }
    assert.fail(`Did not get ${what}: ${JSON.stringify(this.texts.slice(-20))} ${String(this.error)}`);
  }

  async untilLines(count: number): Promise<void> {
    await this.until(() => this.lines.length >= count, `${count} lines`);
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.until(() => this.isDone, 'an end after the signal');
  }

  async #run(start: Start, onEvent: (() => Promise<void>) | undefined): Promise<void> {
    try {
      for await (const event of this.#harness.source.open(start, this.#abort.signal)) {
        this.#remember(event);
        await onEvent?.();
      }
    } catch (error) {
      this.error = error;
    } finally {
      this.isDone = true;
    }
  }

  #remember(event: LogEvent): void {
    if (event.type !== 'lines') {
      const text = event.type === 'end' ? '' : event.cause;
      this.received.push({ type: event.type, text, cursor: undefined });
      return;
    }
    event.lines.forEach((line, index) => {
      this.received.push({ type: 'line', text: line.toString(), cursor: event.cursorAt(index) });
    });
  }
}

/** Registers the contract's tests. `create` makes a fresh instance without lines for each. */
export function testLogSourceContract(name: string, create: () => Promise<LogHarness>): void {
  const run = (promise: string, body: (harness: LogHarness) => Promise<void>): void => {
    test(`${name} log source: ${promise}`, async () => {
      const harness = await create();
      try {
        await body(harness);
      } finally {
        await harness.close();
      }
    });
  };
  for (const [promise, body] of Object.entries({ ...startCases, ...lineCases, ...faultCases })) {
    run(promise, body);
  }
}

type Case = (harness: LogHarness) => Promise<void>;

const startCases: Record<string, Case> = {
  'the backlog is the last lines, and live lines follow without gap or duplicate': async (harness) => {
    await harness.write(...numbered(1, 50));
    const reader = new LogReader(harness, { tail: 10 });
    await reader.untilLines(10);
    await harness.write(...numbered(51, 60));
    await reader.untilLines(20);
    assert.deepEqual(reader.texts, numbered(41, 60));
    await reader.stop();
  },
  'tail 0 gives only new lines': async (harness) => {
    await harness.write(...numbered(1, 5));
    const reader = new LogReader(harness, { tail: 0 });
    await harness.pass(1000);
    await harness.write(...numbered(6, 7));
    await reader.untilLines(2);
    assert.deepEqual(reader.texts, numbered(6, 7));
    await reader.stop();
  },
  'a reader that comes before the first line gets it': async (harness) => {
    const reader = new LogReader(harness, { tail: 100 });
    await harness.pass(500);
    await harness.write('first');
    await reader.untilLines(1);
    assert.deepEqual(reader.texts, ['first']);
    await reader.stop();
  },
  'a cursor of any line gives exactly what follows': async (harness) => {
    await harness.write(...numbered(1, 20));
    const first = new LogReader(harness, { tail: 100 });
    await first.untilLines(20);
    await first.stop();
    for (const index of [0, 7, 18]) {
      const resumed = new LogReader(harness, { after: first.received[index]?.cursor ?? '' });
      await resumed.untilLines(19 - index);
      assert.deepEqual(resumed.texts, numbered(index + 2, 20));
      await resumed.stop();
    }
  },
  'cursors are in the order of the lines, and the same for every reader': async (harness) => {
    await harness.write(...numbered(1, 30));
    const [all, some] = [new LogReader(harness, { tail: 100 }), new LogReader(harness, { tail: 5 })];
    await all.untilLines(30);
    await some.untilLines(5);
    const cursors = all.received.map((entry) => entry.cursor ?? '');
    assert.deepEqual(
      cursors.slice(25),
      some.received.map((entry) => entry.cursor),
    );
    cursors.slice(1).forEach((cursor, index) => {
      assert.ok(harness.source.compare(cursors[index] ?? '', cursor) < 0);
    });
    assert.equal(harness.source.compare(cursors[3] ?? '', cursors[3] ?? ''), 0);
    await all.stop();
    await some.stop();
  },
  'tail gives the last lines, and its cursor exactly what follows them': async (harness) => {
    await harness.write(...numbered(1, 30));
    const { lines, cursor } = await harness.source.tail(7, new AbortController().signal);
    assert.deepEqual(lines.map(String), numbered(24, 30));
    await harness.write(...numbered(31, 33));
    const reader = new LogReader(harness, { after: cursor });
    await reader.untilLines(3);
    assert.deepEqual(reader.texts, numbered(31, 33));
    await reader.stop();
  },
  'tail of a program that has just been started anew begins with what it wrote before': async (harness) => {
    await harness.write(...numbered(1, 5));
    await harness.restart();
    await harness.write(...numbered(6, 8));
    const { lines } = await harness.source.tail(6, new AbortController().signal);
    assert.deepEqual(lines.map(String), numbered(3, 8));
  },
  'tail before the first line is empty, and its cursor gives everything, without a gap': async (harness) => {
    const { lines, cursor } = await harness.source.tail(10, new AbortController().signal);
    assert.deepEqual(lines, []);
    const reader = new LogReader(harness, { after: cursor });
    await harness.pass(500);
    await harness.write('first');
    await reader.untilLines(1);
    assert.deepEqual(reader.texts, ['first']);
    await reader.stop();
  },
  'a cursor that is not of this instance is refused': async (harness) => {
    await harness.write('x');
    for (const cursor of ['', 'garbage', 'k1.1.2.3.4.5.6', '%00', 'a'.repeat(5000)]) {
      const reader = new LogReader(harness, { after: cursor });
      await reader.until(() => reader.isDone, 'a refusal');
      assert.ok(reader.error instanceof OperatorError && reader.error.code === 'CURSOR_INVALID', String(reader.error));
      assert.throws(() => harness.source.compare(cursor, cursor), { code: 'CURSOR_INVALID' });
    }
  },
};

const lineCases: Record<string, Case> = {
  'blank lines, spaces, tabs and control characters arrive as written': async (harness) => {
    const lines = [
      '',
      '  two before',
      'two after  ',
      '\ttab',
      '',
      '\u001b[31mred\u001b[0m',
      'ünï → 🚀',
      '2026-01-01T00:00:00Z not a stamp',
    ];
    await harness.write(...lines);
    const reader = new LogReader(harness, { tail: 100 });
    await reader.untilLines(lines.length);
    assert.deepEqual(reader.texts, lines);
    await reader.stop();
  },
  'the carriage return before a line end is dropped, others stay': async (harness) => {
    await harness.write('a\r', '\r', 'b\rc');
    const reader = new LogReader(harness, { tail: 100 });
    await reader.untilLines(3);
    assert.deepEqual(reader.texts, ['a', '', 'b\rc']);
    await reader.stop();
  },
  'a stream does not stop after the first thousand lines': async (harness) => {
    await harness.write(...numbered(1, 1500));
    const reader = new LogReader(harness, { tail: 1000 });
    await reader.untilLines(1000);
    await harness.write(...numbered(1501, 3000));
    await reader.untilLines(2500);
    assert.deepEqual(reader.texts, numbered(501, 3000));
    await reader.stop();
  },
  'equal lines are not taken for one another': async (harness) => {
    await harness.write(...Array.from({ length: 40 }, () => 'same'));
    const reader = new LogReader(harness, { tail: 100 });
    await reader.untilLines(40);
    await harness.cut('reset');
    await harness.write('same', 'same', 'other');
    await reader.until(() => reader.lines.includes('other'), 'the other line');
    assert.equal(reader.lines.length, 43);
    await reader.stop();
  },
};

const faultCases: Record<string, Case> = {
  'connections that end lose and repeat nothing': async (harness) => {
    const reader = new LogReader(harness, { tail: 100 });
    for (let round = 0; round < 6; round += 1) {
      await harness.write(...numbered(round * 10 + 1, round * 10 + 10));
      await harness.cut(round % 2 === 0 ? 'eof' : 'reset');
    }
    await reader.untilLines(60);
    assert.deepEqual(reader.texts, numbered(1, 60));
    await reader.stop();
  },
  'a workload that is started anew goes on in the same stream': async (harness) => {
    const reader = new LogReader(harness, { tail: 100 });
    await harness.write(...numbered(1, 10));
    await reader.untilLines(1);
    await harness.restart();
    await harness.write(...numbered(11, 20));
    await reader.untilLines(20);
    assert.deepEqual(reader.texts, [...numbered(1, 10), '<restart>', ...numbered(11, 20)]);
    await reader.stop();
  },
  'a replaced pod goes on in the same stream': async (harness) => {
    const reader = new LogReader(harness, { tail: 100 });
    await harness.write(...numbered(1, 10));
    await reader.untilLines(10);
    await harness.replacePod();
    await harness.write(...numbered(11, 20));
    await reader.untilLines(20);
    assert.deepEqual(reader.texts, [...numbered(1, 10), '<restart>', ...numbered(11, 20)]);
    await reader.stop();
  },
  'a finished instance gives its last lines, then ends': async (harness) => {
    await harness.write(...numbered(1, 10));
    const live = new LogReader(harness, { tail: 100 });
    await live.untilLines(10);
    await harness.write('bye');
    await harness.finish();
    await live.until(() => live.isDone, 'the end');
    assert.deepEqual(live.texts, [...numbered(1, 10), 'bye', '<end>']);
    const late = new LogReader(harness, { tail: 3 });
    await late.until(() => late.isDone, 'the end');
    assert.deepEqual(late.texts, ['line 9', 'line 10', 'bye', '<end>']);
    for (const index of [3, 9, 10]) {
      const resumed = new LogReader(harness, { after: live.received[index]?.cursor ?? '' });
      await resumed.until(() => resumed.isDone, 'the end');
      assert.deepEqual(resumed.texts, live.texts.slice(index + 1));
    }
    const { lines, cursor } = await harness.source.tail(2, new AbortController().signal);
    assert.deepEqual(lines.map(String), ['line 10', 'bye']);
    assert.equal(harness.source.compare(cursor, live.received[10]?.cursor ?? ''), 0);
  },
  'the signal ends a reader at once, also while it waits': async (harness) => {
    const waiting = new LogReader(harness, { tail: 0 });
    await harness.pass(100);
    await waiting.stop();
    await harness.write('x');
    const following = new LogReader(harness, { tail: 1 });
    await following.untilLines(1);
    await following.stop();
    assert.equal(following.error, undefined);
  },
};

function numbered(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, index) => `line ${from + index}`);
}
