/**
 * One Instance with many clients: what a frame, an idle client and a client that does not read cost the Master, and how long a line takes to a
 * thousand clients. Beside it, in the same run and on the same file, the plain design: one `ws.send` a line a client.
 *
 * A frame is counted when its bytes have come to a client. CPU is the user and system time of the server's process as the kernel counts it, for the
 * whole of a burst from its first line to its last byte; memory is the resident set. What the kernel holds for sockets is in neither.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from '../bench.ts';
import { waitUntil } from '../cluster/wait.ts';
import { pidsInPod } from '../pids.ts';
import { releaseNamespace } from '../release.ts';
import { Crowd } from './readers/crowd.ts';
import {
  clockScript,
  cpuMsOf,
  goal,
  logFileOf,
  percentiles,
  remove,
  residentKb,
  startProgram,
  type,
} from './readers/readers.ts';
import type { Percentiles, Started } from './readers/readers.ts';

/** What the chart is installed with: the limits that stand in the way of 10,000 clients. */
export const values = [
  'master.sockets.max=12000',
  'master.sockets.perKeyMax=12000',
  'master.sockets.perInstanceMax=12000',
  'master.resources.limits.memory=2Gi',
];

const crowds = [1, 100, 1000, 10_000] as const;
/** Lines of a burst, so that each is some million frames; the plain design gets a twentieth. */
const burstLines: Readonly<Record<number, number>> = { 1: 1_000_000, 100: 100_000, 1000: 10_000, 10_000: 1000 };
const plainShare = 20;
const lineBytes = 100;
/** A line without its end, and a header. */
const frameBytes = lineBytes - 1 + 2;
const laggards = 200;
/** Of those that stop in a backlog more are measured: what reading so much at once makes a process reserve is there whatever their number. */
const laggardsBehind = 800;
const laggardLines = 50_000;
const tickSeconds = 30;
const clientsOfLatency = 1000;
const sampleEvery = 20;
const settleMs = 3000;

const program = `
  ${clockScript}
  require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const [what, amount] = line.split(' ');
    if (what === 'burst') {
      let left = Number(amount);
      const write = () => {
        if (left === 0) return;
        const n = Math.min(left, 1000);
        left -= n;
        process.stdout.write(Array.from({ length: n }, (_, i) => String(i).padStart(${lineBytes - 1}, 'x')).join('\\n') + '\\n', write);
      };
      write();
    } else {
      let left = 10 * Number(amount);
      const timer = setInterval(() => { process.stdout.write('t ' + now() + '\\n'); if (--left === 0) clearInterval(timer); }, 100);
    }
  });
  process.stdout.write('begin\\n');`;

interface Server {
  readonly name: string;
  readonly url: string;
  readonly token?: string;
  readonly pid: number;
}

interface Burst {
  readonly clients: number;
  readonly framesPerCpuSecond: number;
  readonly framesPerSecond: number;
}

export async function run(bench: Bench): Promise<void> {
  const started = await startProgram(bench, 'fanout', {
    script: program,
    spec: { runtime: 'process', image: bench.workbenchImage, logs: { retainBytes: '2Gi', mirrorToStdout: false } },
  });
  const plain = await startPlain(logFileOf(bench, started));
  try {
    // Memory first, each in a process that has held none yet: what a process has had once it does not give back.
    const idleKb = await bench.progress.step(`Memory of ${String(crowds.at(-1))} idle clients`, async () =>
      idleMemory(await freshMaster(bench, started.id)),
    );
    const lagging = await bench.progress.step(`Memory of ${laggards} clients that do not read`, async () =>
      laggingMemory(bench, started, { master: await freshMaster(bench, started.id), isBehind: false }),
    );
    const behind = await bench.progress.step(
      `Memory of ${laggards} and ${laggardsBehind} clients that stop in the middle of a backlog`,
      async () => laggingMemory(bench, started, { master: await freshMaster(bench, started.id), isBehind: true }),
    );
    const master = await freshMaster(bench, started.id);
    const own = await measureBursts(bench, started, master);
    const peer = await measureBursts(bench, started, plain.server);
    const latency = await bench.progress.step('Latency with 1,000 clients', () => latencyOf(bench, started, master));
    const sampleLatency = await bench.progress.step('The same, of one client in twenty', () =>
      latencyOfSample(bench, started, master),
    );
    const plainLatency = await bench.progress.step('The same of the plain design', () =>
      latencyOf(bench, started, plain.server),
    );
    print({ own, peer, idleKb, lagging, behind, latency, sampleLatency, plainLatency });
  } finally {
    plain.close();
    await remove(bench, 'fanout');
  }
}

/** A Master that was just started, alone. */
async function freshMaster(bench: Bench, id: string): Promise<Server> {
  const { cluster } = bench;
  const selector = ['-n', releaseNamespace, '-l', 'app.kubernetes.io/component=master'];
  const before = await cluster.kubectl(['get', 'pods', ...selector, '-o', 'name']);
  await cluster.kubectl(['rollout', 'restart', '-n', releaseNamespace, 'deployment/ringmaster-master']);
  await cluster.kubectl(['rollout', 'status', '-n', releaseNamespace, 'deployment/ringmaster-master', '--timeout=90s']);
  await cluster.kubectl(['wait', '-n', releaseNamespace, before.trim(), '--for=delete', '--timeout=60s']);
  const podUid = await cluster.kubectl(['get', 'pods', ...selector, '-o', 'jsonpath={.items[0].metadata.uid}']);
  const [pid] = await pidsInPod(podUid, 'operator/master.ts');
  if (pid === undefined) throw new Error('The Master is not running');
  const url = `${bench.url.replace('http', 'ws')}/api/instances/${id}/live-log?tail=0`;
  return { name: 'ringmaster', url, token: bench.token, pid };
}

async function startPlain(file: string): Promise<{ server: Server; close: () => void }> {
  const child = spawn(process.execPath, [new URL('./readers/plain.ts', import.meta.url).pathname, file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const port of createInterface({ input: child.stdout })) {
    const server = { name: 'plain ws.send', url: `ws://127.0.0.1:${port}/`, pid: child.pid ?? 0 };
    return { server, close: () => child.kill() };
  }
  throw new Error('The plain design did not start');
}

async function measureBursts(bench: Bench, started: Started, server: Server): Promise<Burst[]> {
  const crowd = new Crowd();
  const bursts: Burst[] = [];
  try {
    for (const clients of crowds) {
      const whole = burstLines[clients] ?? 0;
      const lines = server.token === undefined ? whole / plainShare : whole;
      await crowd.grow(server.url, { count: clients, ...server });
      await sleep(settleMs);
      const burst = await bench.progress.step(`${server.name}: ${lines} lines to ${clients} clients`, () =>
        measureBurst(bench, started, { server, crowd, lines }),
      );
      bursts.push({ clients, ...burst });
    }
  } finally {
    crowd.close();
  }
  return bursts;
}

async function measureBurst(
  bench: Bench,
  started: Started,
  { server, crowd, lines }: { server: Server; crowd: Crowd; lines: number },
): Promise<Omit<Burst, 'clients'>> {
  const before = crowd.bytes;
  const expected = lines * crowd.size * frameBytes;
  const [cpuBefore, startedMs] = [await cpuMsOf(server.pid), performance.now()];
  await type(bench, started.id, `burst ${lines}`);
  // Pings come between the frames, so that it may be a little more.
  await waitUntil({
    what: `${expected} bytes of frames`,
    timeoutMs: 300_000,
    check: () => crowd.bytes - before >= expected,
  });
  const tookMs = performance.now() - startedMs;
  const cpuMs = (await cpuMsOf(server.pid)) - cpuBefore;
  if (crowd.open !== crowd.size) throw new Error(`${crowd.size - crowd.open} clients were cut off`);
  const frames = lines * crowd.size;
  return { framesPerCpuSecond: frames / (cpuMs / 1000), framesPerSecond: frames / (tookMs / 1000) };
}

/** Resident memory that each idle client adds. */
async function idleMemory(master: Server): Promise<number> {
  const crowd = new Crowd();
  try {
    await crowd.grow(master.url, { count: 100, ...master });
    await sleep(settleMs);
    const before = await residentKb(master.pid);
    await crowd.grow(master.url, { count: crowds[3], ...master });
    await sleep(settleMs);
    return ((await residentKb(master.pid)) - before) / (crowds[3] - 100);
  } finally {
    crowd.close();
    await sleep(settleMs);
  }
}

interface Lagging {
  /** Resident memory that each takes of so many clients, the most of them last. */
  readonly shares: readonly { readonly count: number; readonly kb: number }[];
  /** Of buffers alone, for each of the most. */
  readonly buffersKb: number;
  readonly delivered: boolean;
}

/**
 * Resident memory that each client adds that takes nothing of 5 MB, while another reads all. `isBehind`: the lines are there before the clients, so that
 * each has begun to read them by a stream of its own from the source when it stops.
 */
async function laggingMemory(
  bench: Bench,
  started: Started,
  { master, isBehind }: { master: Server; isBehind: boolean },
): Promise<Lagging> {
  const slow = new Crowd();
  const quick = new Crowd();
  const bytes = laggardLines * frameBytes;
  const burst = async (): Promise<void> => {
    const before = quick.bytes;
    await type(bench, started.id, `burst ${laggardLines}`);
    await waitUntil({ what: 'the burst', timeoutMs: 120_000, check: () => quick.bytes - before >= bytes });
  };
  try {
    await quick.grow(master.url, { count: 1, ...master });
    await sleep(settleMs);
    const url = isBehind ? master.url.replace('tail=0', `cursor=${await cursorOf(bench, started.id)}`) : master.url;
    // What a burst costs without anybody who lags.
    await burst();
    await atRest(master.pid);
    const before = [await residentKb(master.pid), await buffersKb(bench)] as const;
    const shares: { count: number; kb: number }[] = [];
    for (const count of isBehind ? [laggards, laggardsBehind] : [laggards]) {
      await slow.grow(url, { count, isPaused: true, ...master });
      if (!isBehind) await burst();
      await atRest(master.pid);
      shares.push({ count, kb: ((await residentKb(master.pid)) - before[0]) / count });
    }
    const buffers = (await buffersKb(bench)) - before[1];
    const all = slow.size;
    slow.resume();
    // Nothing is lost by it: each of them gets all of it.
    await waitUntil({
      what: 'the clients that did not read to have everything',
      timeoutMs: 300_000,
      check: () => slow.bytes >= bytes * all,
    });
    return {
      shares,
      buffersKb: buffers / all,
      delivered: slow.open === all,
    };
  } finally {
    slow.close();
    quick.close();
    await sleep(settleMs);
  }
}

/** What the one Master holds outside of the engine's heap. */
async function buffersKb(bench: Bench): Promise<number> {
  const response = await fetch(`${bench.url}/api/metrics`, { headers: { authorization: `Bearer ${bench.token}` } });
  const bytes = /^nodejs_external_memory_bytes (\S+)$/m.exec(await response.text())?.[1];
  if (bytes === undefined) throw new Error('The Master does not say how much memory its buffers take');
  return Number(bytes) / 1024;
}

/** The position after the newest line. */
async function cursorOf(bench: Bench, id: string): Promise<string> {
  const response = await fetch(`${bench.url}/api/instances/${id}/logs?lines=1`, {
    headers: { authorization: `Bearer ${bench.token}` },
  });
  if (!response.ok) throw new Error(`Cannot read the log: ${response.status} ${await response.text()}`);
  return ((await response.json()) as { nextCursor: string }).nextCursor;
}

/** Resolves when the process has done next to nothing for a while: who was to fall behind or to be closed is. */
async function atRest(pid: number): Promise<void> {
  await waitUntil({
    what: 'a Master at rest',
    timeoutMs: 120_000,
    check: async () => {
      const before = await cpuMsOf(pid);
      await sleep(settleMs);
      return (await cpuMsOf(pid)) - before <= settleMs / 20;
    },
  });
}

/** Of all clients. They are read by one process, which takes about as long for a line as the server: what is measured is both. */
async function latencyOf(bench: Bench, started: Started, server: Server): Promise<Percentiles> {
  const crowd = new Crowd();
  try {
    await crowd.grow(server.url, { count: clientsOfLatency, ...server });
    return await measureTicks(bench, started, crowd);
  } finally {
    crowd.close();
    await sleep(settleMs);
  }
}

/** Of one client in twenty, evenly among those that are served before and after it. What the others are sent waits in the kernel, so that the server is measured. */
async function latencyOfSample(bench: Bench, started: Started, server: Server): Promise<Percentiles> {
  const [sample, others] = [new Crowd(), new Crowd()];
  try {
    for (let count = 1; count * sampleEvery <= clientsOfLatency; count += 1) {
      await others.grow(server.url, { count: count * (sampleEvery - 1), ...server });
      await sample.grow(server.url, { count, ...server });
    }
    others.pause();
    return await measureTicks(bench, started, sample);
  } finally {
    sample.close();
    others.close();
    await sleep(settleMs);
  }
}

async function measureTicks(bench: Bench, started: Started, crowd: Crowd): Promise<Percentiles> {
  await sleep(settleMs);
  const values: number[] = [];
  crowd.measure(values);
  await type(bench, started.id, `tick ${tickSeconds}`);
  const wanted = 10 * tickSeconds * crowd.size;
  await waitUntil({ what: 'all lines', timeoutMs: tickSeconds * 4000, check: () => values.length >= wanted });
  return percentiles(values);
}

interface Results {
  readonly own: readonly Burst[];
  readonly peer: readonly Burst[];
  readonly idleKb: number;
  readonly lagging: Lagging;
  readonly behind: Lagging;
  readonly latency: Percentiles;
  readonly sampleLatency: Percentiles;
  readonly plainLatency: Percentiles;
}

function laggingRows(name: string, { shares, buffersKb }: Lagging): string[] {
  return [
    ...shares.map(({ count, kb }) =>
      goal(`memory of each of ${count} clients that ${name}`, kb, { most: 256, unit: 'KB' }),
    ),
    `    of which buffers: ${buffersKb.toFixed(0)} KB`,
  ];
}

function print({ own, peer, idleKb, lagging, behind, latency, sampleLatency, plainLatency }: Results): void {
  const row = (name: string, { p50, p99, max }: Percentiles): string =>
    `  ${name.padEnd(16)}p50 ${p50.toFixed(2)}   p99 ${p99.toFixed(2)}   max ${max.toFixed(2)}`;
  const million = (value: number): string => (value / 1e6).toFixed(2).padStart(8);
  const at100 = own.find(({ clients }) => clients === 100)?.framesPerCpuSecond ?? 0;
  const plainAt100 = peer.find(({ clients }) => clients === 100)?.framesPerCpuSecond ?? Number.NaN;
  const lines = [
    `\nfanout: bursts of lines of ${lineBytes} bytes; million frames per CPU second (and per second)`,
    '  clients      ringmaster            plain ws.send',
    ...own.map((burst, index) => {
      const other = peer[index];
      const pair = (one: Burst | undefined): string =>
        `${million(one?.framesPerCpuSecond ?? 0)} (${million(one?.framesPerSecond ?? 0)})`;
      return `  ${String(burst.clients).padStart(7)}  ${pair(burst)}  ${pair(other)}`;
    }),
    `write to arrival with ${clientsOfLatency} clients at 10 lines/s, in ms`,
    row('ringmaster', latency),
    row('- one in twenty', sampleLatency),
    row('plain ws.send', plainLatency),
    goal('frames per CPU second with 100 clients', at100 / 1e6, { least: 3, unit: 'million' }),
    goal('the same, ratio to the plain design', at100 / plainAt100, { least: 10, unit: 'x' }),
    goal('memory of an idle client', idleKb, { most: 25, unit: 'KB' }),
    ...laggingRows('do not read', lagging),
    ...laggingRows('stopped in a backlog', behind),
    `  both got everything afterwards: ${lagging.delivered && behind.delivered ? 'yes' : 'NO'}`,
    goal('p99 with 1,000 clients', latency.p99, { most: 50, unit: 'ms' }),
    goal('p99 of one client in twenty of them', sampleLatency.p99, { most: 50, unit: 'ms' }),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
