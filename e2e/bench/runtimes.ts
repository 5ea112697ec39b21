/**
 * Every runtime's log through the Master, beside readers of the same bytes in the same run: websocketd over `tail -n +1 -F` on the very file of the
 * `process` runtime (on the node itself: no network hop, no encryption), a raw `pods/log?follow`, and `kubectl logs`.
 *
 * Latency: a program writes a line with the present time every 10 ms. Backlog: a million lines of 100 bytes, read several times in turn. Goals: `process`
 * at most twice websocketd's p50 and p99, and both below the raw reader's; its backlog at least 3 x websocketd's lines per second and 6 x
 * those of `kubectl logs`. Resident memory of a sidecar at most 65 MB, and no measurable CPU while nothing is written.
 */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from '../bench.ts';
import { ensurePackages } from '../cluster/packages.ts';
import { waitUntil } from '../cluster/wait.ts';
import { pidsInPod } from '../pids.ts';
import { countFrames } from './readers/frames.ts';
import type { Frames } from './readers/frames.ts';
import {
  clockScript,
  cpuMsOf,
  cursorAfterBegin,
  goal,
  logFileOf,
  nowMs,
  percentiles,
  readRaw,
  remove,
  startProgram,
  type,
} from './readers/readers.ts';
import type { Percentiles, Started } from './readers/readers.ts';

const runtimes = ['process', 'screen', 'tmux', 'docker', 'kubernetes'] as const;
type Runtime = (typeof runtimes)[number];

const latencyLines = 2000;
const warmUpLines = 200;
const settleMs = 2000;
const backlogLines = 1_000_000;
const rounds = 3;
const idleMs = 20_000;
const websocketdPort = 7980;

const ticking = `
  ${clockScript}
  setInterval(() => process.stdout.write('t ' + now() + '\\n'), 10);`;
const backlog = `
  process.stdout.write('begin\\n');
  process.stdin.once('data', () => {
    const block = Array.from({ length: 1000 }, (_, i) => String(i).padStart(99, 'x')).join('\\n') + '\\n';
    let left = ${backlogLines} / 1000;
    const write = () => { if (left-- > 0) process.stdout.write(block, write); else process.stdout.write('done\\n'); };
    write();
  });`;

export async function run(bench: Bench): Promise<void> {
  await ensurePackages(
    (line) => {
      bench.progress.say(line);
    },
    [{ need: 'websocketd', debian: 'websocketd' }],
  );
  const latency = await measureLatency(bench);
  const throughput = await measureBacklog(bench);
  const sidecar = throughput.sidecar;
  const { websocketd, raw } = latency.peers;
  const own = latency.own.process;
  const processRate = median(throughput.own.process);
  const lines = [
    `\nruntimes: ${latencyLines} lines, one each 10 ms; write to arrival in ms`,
    ...Object.entries({ ...latency.own, 'websocketd, tail -F': websocketd, 'raw pods/log?follow': raw }).map(
      ([name, value]) => row(name, value),
    ),
    `backlog of ${backlogLines} lines of 100 bytes, ${rounds} rounds in turn; lines per second`,
    ...Object.entries({
      ...throughput.own,
      'websocketd, tail -F': throughput.websocketd,
      'kubectl logs': throughput.kubectl,
    }).map(
      ([name, rates]) => `  ${name.padEnd(22)}${rates.map((rate) => String(Math.round(rate)).padStart(9)).join(' ')}`,
    ),
    `sidecar of an idle program: ${sidecar.residentMb.toFixed(1)} MB resident, ${sidecar.cpuMs} ms of CPU in ${idleMs / 1000} s`,
    goal('process p50, ratio to websocketd', own.p50 / websocketd.p50, { most: 2, unit: 'x' }),
    goal('process p99, ratio to websocketd', own.p99 / websocketd.p99, { most: 2, unit: 'x' }),
    goal('process p50, ratio to raw pods/log', own.p50 / raw.p50, { most: 1, unit: 'x' }),
    goal('process p99, ratio to raw pods/log', own.p99 / raw.p99, { most: 1, unit: 'x' }),
    goal('process backlog, ratio to websocketd', processRate / median(throughput.websocketd), { least: 3, unit: 'x' }),
    goal('process backlog, ratio to kubectl logs', processRate / median(throughput.kubectl), { least: 6, unit: 'x' }),
    goal('resident memory of the sidecar', sidecar.residentMb, { most: 65, unit: 'MB' }),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

function row(name: string, { p50, p90, p99, max }: Percentiles): string {
  return `  ${name.padEnd(22)}p50 ${p50.toFixed(2)}   p90 ${p90.toFixed(2)}   p99 ${p99.toFixed(2)}   max ${max.toFixed(2)}`;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

async function startEach(bench: Bench, prefix: string, script: string): Promise<Record<Runtime, Started>> {
  const started = {} as Record<Runtime, Started>;
  for (const runtime of runtimes) {
    const spec = {
      runtime,
      image: bench.workbenchImage,
      ...(runtime === 'kubernetes' ? {} : { logs: { retainBytes: '1Gi' } }),
    };
    started[runtime] = await startProgram(bench, `${prefix}-${runtime}`, { script, spec });
  }
  return started;
}

/** One reader after the other, so that each has the machine to itself; websocketd reads the file of `process`, the raw reader the pod of `kubernetes`. */
async function measureLatency(
  bench: Bench,
): Promise<{ own: Record<Runtime, Percentiles>; peers: { websocketd: Percentiles; raw: Percentiles } }> {
  const own = {} as Record<Runtime, Percentiles>;
  const peers: { websocketd?: Percentiles; raw?: Percentiles } = {};
  for (const runtime of runtimes) {
    const name = `ticking-${runtime}`;
    const started = await startProgram(bench, name, {
      script: ticking,
      spec: { runtime, image: bench.workbenchImage },
    });
    await bench.progress.step(`Latency under ${runtime}`, async () => {
      const live = await countFrames(liveUrl(bench, started.id, '?tail=0'), { token: bench.token });
      own[runtime] = await latencyOf(live);
      live.close();
    });
    if (runtime === 'process') {
      peers.websocketd = await bench.progress.step('Latency of websocketd', () =>
        withWebsocketd(bench, started, async (url) => {
          const frames = await countFrames(url);
          const result = await latencyOf(frames);
          frames.close();
          return result;
        }),
      );
    }
    if (runtime === 'kubernetes') {
      peers.raw = await bench.progress.step('Latency of raw pods/log', () => rawLatency(bench, started.podName));
    }
    await remove(bench, name);
  }
  const { websocketd, raw } = peers;
  if (websocketd === undefined || raw === undefined) throw new Error('A peer was not measured');
  return { own, peers: { websocketd, raw } };
}

async function latencyOf(frames: Frames): Promise<Percentiles> {
  const values: number[] = [];
  // What a reader is given first was written before it came.
  const startMs = nowMs() + settleMs;
  frames.onLine = (line, atMs) => {
    const writtenMs = Number(line.slice(2));
    if (line.startsWith('t ') && writtenMs > startMs) values.push(atMs - writtenMs);
  };
  while (values.length < latencyLines) await sleep(50);
  return percentiles(values.slice(0, latencyLines));
}

async function rawLatency(bench: Bench, podName: string): Promise<Percentiles> {
  const values: number[] = [];
  const stop = new AbortController();
  const reader = readRaw(bench, {
    podName,
    query: 'follow=true&tailLines=0',
    signal: stop.signal,
    onLine: (line) => {
      if (line.startsWith('t ')) values.push(nowMs() - Number(line.slice(2)));
    },
  });
  while (values.length < warmUpLines + latencyLines) await sleep(50);
  stop.abort();
  await reader;
  return percentiles(values.slice(-latencyLines));
}

interface Backlog {
  readonly own: Record<Runtime, number[]>;
  readonly websocketd: number[];
  readonly kubectl: number[];
  readonly sidecar: { residentMb: number; cpuMs: number };
}

async function measureBacklog(bench: Bench): Promise<Backlog> {
  const started = await startEach(bench, 'backlog', backlog);
  const cursors = {} as Record<Runtime, string>;
  for (const runtime of runtimes) cursors[runtime] = await cursorAfterBegin(bench, started[runtime].id);
  const sidecar = await bench.progress.step(`Watching an idle sidecar for ${idleMs / 1000} s`, () =>
    watchSidecar(started.process),
  );
  for (const runtime of runtimes) {
    await bench.progress.step(`Writing ${backlogLines} lines under ${runtime}`, () =>
      write(bench, started[runtime].id),
    );
  }
  const own = Object.fromEntries(runtimes.map((runtime) => [runtime, [] as number[]])) as Record<Runtime, number[]>;
  const websocketd: number[] = [];
  const kubectl: number[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    await bench.progress.step(`Reading them, round ${round} of ${rounds}`, async () => {
      for (const runtime of runtimes) {
        const url = liveUrl(bench, started[runtime].id, `?cursor=${encodeURIComponent(cursors[runtime])}`);
        own[runtime].push(await rateOf(await countFrames(url, { token: bench.token })));
      }
      websocketd.push(await withWebsocketd(bench, started.process, async (url) => rateOf(await countFrames(url))));
      kubectl.push(await kubectlRate(bench, started.kubernetes.podName));
    });
  }
  for (const runtime of runtimes) await remove(bench, `backlog-${runtime}`);
  return { own, websocketd, kubectl, sidecar };
}

/** Types the line that starts the program, and waits for its last one. */
async function write(bench: Bench, id: string): Promise<void> {
  const headers = { authorization: `Bearer ${bench.token}`, 'content-type': 'application/json' };
  await type(bench, id, 'go');
  for (;;) {
    const answer = await fetch(`${bench.url}/api/instances/${id}/logs?lines=1`, { headers });
    const { lines } = (await answer.json()) as { lines?: string[] };
    if (lines?.[0] === 'done') return;
    await sleep(500);
  }
}

/** Lines per second from the first frame to the last. */
async function rateOf(frames: Frames): Promise<number> {
  await frames.until('done');
  frames.close();
  const { count, firstMs, lastMs } = frames;
  // `begin`, where the reader starts before it, and `done`.
  if (count < backlogLines + 1 || count > backlogLines + 2)
    throw new Error(`${count} frames instead of ${backlogLines + 1}`);
  return backlogLines / ((lastMs - firstMs) / 1000);
}

async function kubectlRate(bench: Bench, podName: string): Promise<number> {
  const { cluster } = bench;
  const child = spawn(`${cluster.binDir}/kubectl`, ['logs', podName, '-c', 'instance'], {
    env: { ...process.env, ...cluster.env() },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let count = 0;
  let firstMs = 0;
  child.stdout.on('data', (data: Buffer) => {
    if (count === 0) firstMs = nowMs();
    for (let at = data.indexOf(10); at !== -1; at = data.indexOf(10, at + 1)) count += 1;
  });
  const { promise, resolve } = Promise.withResolvers<undefined>();
  child.once('close', () => {
    resolve(undefined);
  });
  await promise;
  if (count !== backlogLines + 2) throw new Error(`kubectl logs gave ${count} lines`);
  return backlogLines / ((nowMs() - firstMs) / 1000);
}

/** On this machine, which is the node: the log is a file in a volume of the pod. */
async function withWebsocketd<T>(bench: Bench, started: Started, use: (url: string) => Promise<T>): Promise<T> {
  const args = [
    '--address=127.0.0.1',
    `--port=${websocketdPort}`,
    '--loglevel=fatal',
    'tail',
    '-n',
    '+1',
    '-F',
    logFileOf(bench, started),
  ];
  const child = spawn('websocketd', args, { stdio: 'ignore' });
  try {
    await waitUntil({
      what: 'websocketd to listen',
      timeoutMs: 10_000,
      check: () =>
        fetch(`http://127.0.0.1:${websocketdPort}/`).then(
          () => true,
          () => false,
        ),
    });
    return await use(`ws://127.0.0.1:${websocketdPort}/`);
  } finally {
    child.kill('SIGKILL');
  }
}

async function watchSidecar({ podUid }: Started): Promise<{ residentMb: number; cpuMs: number }> {
  const [pid] = await pidsInPod(podUid, 'sidecar/main.js');
  if (pid === undefined) throw new Error('The sidecar is not running');
  const before = await cpuMsOf(pid);
  await sleep(idleMs);
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const residentMb = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
  return { residentMb, cpuMs: (await cpuMsOf(pid)) - before };
}

function liveUrl(bench: Bench, id: string, query: string): string {
  return `${bench.url.replace('http', 'ws')}/api/instances/${id}/live-log${query}`;
}
