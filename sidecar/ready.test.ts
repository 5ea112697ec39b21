import assert from 'node:assert/strict';
import { once } from 'node:events';
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { LogFile } from './log.ts';
import { noteStart } from './notes.ts';
import { limits, paths } from './protocol.ts';
import type { SidecarRuntime } from './protocol.ts';
import { compileSearch, ReadyGate, visibleText } from './ready.ts';
import { Starts } from './starts.ts';
import { until, withRig } from './testing/rig.ts';
import type { Rig } from './testing/rig.ts';

const runtimes: readonly SidecarRuntime[] = ['process', 'screen', 'tmux'];

async function withPattern(runtime: SidecarRuntime, pattern: string, body: (rig: Rig) => Promise<void>): Promise<void> {
  await withRig(runtime, body, { RINGMASTER_READY_PATTERN: pattern });
}

async function askReady(rig: Rig): Promise<{ status: number; body: string }> {
  const answer = await fetch(`http://127.0.0.1:${rig.healthPort}${paths.ready}`);
  return { status: answer.status, body: await answer.text() };
}

async function becomes(rig: Rig, status: number, what: string): Promise<void> {
  await until(async () => (await askReady(rig)).status === status, what);
}

test('ready: a workload is ready when a line has matched since its present start, over restarts of both', async () => {
  // The colour is inside the word, the line end is late, and an earlier line only looks like it.
  const command = `echo "Done without a number"; printf 'D\\033[32mone\\033[0m (3.1s)!'; read -r a; echo; read -r b; exit 3`;
  for (const runtime of runtimes) {
    await withPattern(runtime, '^Done \\([0-9.]+s\\)!$', async (rig) => {
      assert.match((await askReady(rig)).body, /has not started yet/);
      const first = rig.launch(['dash'], ['dash', '-c', command]);
      const ended = once(first, 'exit');
      await until(async () => (await rig.logFile()).includes('3.1s'), 'the line without its end');
      const early = await askReady(rig);
      assert.equal(early.status, 503);
      assert.match(early.body, /^\{"error":"No line of the log has matched the pattern yet","code":"NOT_READY"\}$/);
      await rig.call('POST', '/v1/stdin', 'a\n');
      await becomes(rig, 200, `a match under ${runtime}`);
      await rig.endSidecar('SIGKILL');
      await rig.startSidecar();
      await becomes(rig, 200, 'the same after a sidecar restart');
      await rig.call('POST', '/v1/stdin', 'b\n');
      await ended;
      const second = rig.launch(['busybox', 'sh'], ['dash', '-c', command]);
      await becomes(rig, 503, `a restart under ${runtime}`);
      await until(async () => (await rig.logFile()).toString().split('3.1s').length === 3, 'the second run');
      assert.equal((await askReady(rig)).status, 503);
      await rig.call('POST', '/v1/stdin', 'a\n');
      await becomes(rig, 200, 'the second match');
      const gone = once(second, 'exit');
      await rig.call('POST', '/v1/stdin', 'b\n');
      await gone;
    });
  }
});

test('ready: a pattern that cannot be used is told and harms nothing; without one there is no such path', async () => {
  await withPattern('process', '(unclosed', async (rig) => {
    await until(async () => (await askReady(rig)).body.includes('missing closing )'), 'the reason');
    assert.equal((await askReady(rig)).status, 503);
    await until(() => rig.sidecarLog.includes('Cannot use the pattern for readiness'), 'an error line');
    assert.equal((await rig.call('GET', '/healthz')).status, 200);
  });
  await withPattern('process', '', async (rig) => {
    assert.equal((await askReady(rig)).status, 404);
  });
});

test('compileSearch: has the syntax of RE2, and refuses what it cannot do in bounded time', async () => {
  for (const [pattern, text, isMatch] of [
    ['Done \\(', 'x Done (1s)', true],
    ['^Done', 'x Done', false],
    ['(?i)READY', 'Ready', true],
    ['\\pL+ → 🚀$', 'ü → 🚀', true],
    ['', '', true],
  ] as const) {
    assert.equal((await compileSearch(pattern))(text), isMatch, pattern);
  }
  for (const pattern of ['(a)\\1', '(?=a)', '(?<=a)b', '[', 'a{1001}', '(a{30}){30}']) {
    await assert.rejects(compileSearch(pattern), /^Error: Cannot use the pattern for readiness: /, pattern);
  }
});

/** Time for one line, the best of some: what else the machine does only adds to it. */
function bestMs(search: (text: string) => boolean, text: string): number {
  const times = Array.from({ length: 9 }, () => {
    const before = performance.now();
    search(text);
    return performance.now() - before;
  });
  return Math.min(...times);
}

test('compileSearch: patterns that kill other engines take time in proportion to the line', async () => {
  for (const pattern of ['(a+)+$', '(a|aa)+$', '(a*)*[b-c]', '(?:a?){60}a{60}[b-c]', '([a-z]+\\s?)*[!?]$']) {
    const search = await compileSearch(pattern);
    const line = (length: number): string => `${'a'.repeat(length)}-`;
    bestMs(search, line(limits.matchBytesMax));
    const [short, long] = [bestMs(search, line(2048)), bestMs(search, line(16_384))];
    // Eight times the line. Quadratic would be 64 times, exponential would never end.
    assert.ok(long / short < 30, `${pattern}: ${short} ms, then ${long} ms`);
  }
});

test('visibleText: takes escape sequences out, and in time linear in the line', () => {
  const text = (line: string): string => visibleText(Buffer.from(line));
  assert.equal(
    text('\u001b[1;31mred\u001b[0m\u001b]0;title\u0007 \u001b(Bplain\u001b]8;;x\u001b\\\u001b7ü\r'),
    'red plainü',
  );
  assert.equal(text('\u001b[38;2;1;2;3'), '\u001b[38;2;1;2;3');
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme' }).filter((each) => !/[\u001b\r]/.test(each)),
      (plain) => {
        assert.equal(text(plain), Buffer.from(plain).toString());
        assert.equal(text(`\u001b[0m${plain}\u001b[m`), Buffer.from(plain).toString());
      },
    ),
  );
  for (const piece of ['\u001b[', '\u001b]', '\u001b[0', '\u001b]a\u001b', '\u001b(']) {
    const line = (bytes: number): Buffer => Buffer.from(piece.repeat(bytes / piece.length));
    const time = (bytes: number): number => bestMs(() => visibleText(line(bytes)) === '', '');
    time(1 << 18);
    const [short, long] = [time(1 << 15), time(1 << 18)];
    assert.ok(long / Math.max(short, 0.05) < 30, `${JSON.stringify(piece)}: ${short} ms, then ${long} ms`);
  }
});

interface Bench {
  readonly log: LogFile;
  readonly starts: Starts;
  readonly folder: string;
  /** As a sidecar that is started anew: the gate before it ends. */
  readonly gate: (pattern: string) => ReadyGate;
}

async function withBench(body: (bench: Bench) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'ready-'));
  const log = await LogFile.open(join(folder, 'log'), join(folder, 'state.json'));
  const starts = await Starts.open(folder);
  let stop = new AbortController();
  log.file.onChange.push(() => {
    starts.refresh();
  });
  const onFault = (error: unknown): never => {
    throw error;
  };
  const gate = (pattern: string): ReadyGate => {
    stop.abort();
    stop = new AbortController();
    const made = new ReadyGate({ log, starts, pattern, statePath: join(folder, 'ready'), onFault });
    void made.run(stop.signal);
    return made;
  };
  try {
    await body({ log, starts, folder, gate });
  } finally {
    stop.abort();
    log.file.wake();
    await new Promise((resolve) => setImmediate(resolve));
    await log.close();
    await rm(folder, { recursive: true, force: true });
  }
}

test('ReadyGate: matches the first 16 KiB of a line and no line of an earlier start', async () => {
  await withBench(async ({ log, folder, gate }) => {
    await appendFile(log.file.path, 'ready\n');
    await noteStart(folder, { starts: 2, offset: 6 });
    const made = gate('ready|found');
    await appendFile(log.file.path, `${'x'.repeat(limits.matchBytesMax)}found\n${'y'.repeat(1_000_000)}\nready`);
    log.file.refresh();
    await until(() => made.reason?.includes('No line') === true, 'a look at it');
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.match(made.reason ?? '', /No line/);
    await appendFile(log.file.path, '\n');
    log.file.refresh();
    await until(() => made.reason === undefined, 'the match');
    assert.equal(await readFile(join(folder, 'ready'), 'utf8'), '2\n');
    await noteStart(folder, { starts: 3, offset: log.end });
    assert.match(made.reason ?? '', /No line/);
  });
});

test('ReadyGate: a match whose line was reclaimed since is still known to the next sidecar, and a lost one is none', async () => {
  await withBench(async ({ log, folder, gate }) => {
    await noteStart(folder, { starts: 1, offset: 0 });
    await appendFile(log.file.path, 'ready\nmore\n');
    log.file.refresh();
    const first = gate('ready');
    await until(() => first.reason === undefined, 'the match');
    await log.advance(6, 1);
    const second = gate('ready');
    await until(() => second.reason === undefined, 'what the first one knew');
    await noteStart(folder, { starts: 2, offset: log.end });
    await appendFile(log.file.path, 'ready\nmore\n');
    await log.advance(log.end + 6, 1);
    log.file.refresh();
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.match(second.reason ?? '', /No line/);
    await appendFile(log.file.path, 'ready again\n');
    log.file.refresh();
    await until(() => second.reason === undefined, 'a line that is still there');
  });
});
