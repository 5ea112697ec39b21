/**
 * Many streams: 200 Instances that each write 10 lines a second, and one client each. What a stream costs the Master in CPU and memory, beside one stern that
 * follows the same pods, in turn and in the same run.
 *
 * CPU is the user and system time of the process as the kernel counts it, over half a minute of steady lines; memory is the resident set at the end of it. What the API
 * server and the kubelet spend for it is shown beside. `STREAMS=40` takes fewer: two hundred pods take some minutes to start.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from '../bench.ts';
import type { ComponentName } from '../cluster/cluster.ts';
import { ensureStern } from '../cluster/stern.ts';
import { waitUntil } from '../cluster/wait.ts';
import { pidsInPod } from '../pids.ts';
import { releaseNamespace } from '../release.ts';
import { Crowd } from './readers/crowd.ts';
import { cpuMsOf, residentKb } from './readers/readers.ts';

const streams = Number(process.env.STREAMS ?? 200);
const linesPerSecond = 10;
const settleMs = 5_000;
const measureMs = 30_000;
const rounds = 2;
const startTimeoutMs = 900_000;

/** All pods are on one node. */
export const kubeletConfig = { maxPods: 240 };

/** Lines of one length, and no process started for the wait. */
const program = `mkfifo /tmp/never; exec 3<>/tmp/never; i=1000000
while :; do i=$((i+1)); echo "t $i of a program that has something to say"; read -r -t ${1 / linesPerSecond} -u 3 never; done`;
const lineBytes = 48;

/** Somebody who follows all of them; `pid` is whose cost is measured. */
interface Follower {
  readonly pid: number;
  /** Lines, or what comes to the same: grows by one or more a line. */
  count(): number;
  close(): void;
}

interface Cost {
  /** Of one core, for each stream: thousandths. */
  readonly cpuPerStream: number;
  readonly memoryMb: number;
  readonly linesPerSecond: number;
  /** Of one core. */
  readonly apiServerCpu: number;
  readonly kubeletCpu: number;
}

export async function run(bench: Bench): Promise<void> {
  const stern = await ensureStern({
    log: (line) => {
      bench.progress.say(line);
    },
  });
  const ids = await bench.progress.step(`Starting ${streams} Instances`, () => startAll(bench));
  const pid = await masterPid(bench);
  const idleMb = (await residentKb(pid)) / 1024;
  const own: Cost[] = [];
  const peer: Cost[] = [];
  for (let round = 0; round < rounds; round += 1) {
    own.push(
      await bench.progress.step('The Master', async () => measure(bench, await followByMaster(bench, pid, ids))),
    );
    peer.push(await bench.progress.step('stern', () => measure(bench, followByStern(bench, stern))));
  }
  print(own, peer, idleMb);
  // Two cores may not be enough for all programs and their readers: then the cost of a line is what can be compared, if we did not just read less.
  const rateOf = (costs: readonly Cost[]): number => Math.min(...costs.map(({ linesPerSecond: rate }) => rate));
  if (rateOf(own) < rateOf(peer) * 0.8) throw new Error('The Master read fewer lines than stern');
}

async function startAll(bench: Bench): Promise<string[]> {
  const { cluster } = bench;
  const manifests = Array.from({ length: streams }, (_, index) =>
    JSON.stringify({
      apiVersion: 'ringmaster.dev/v1alpha1',
      kind: 'Instance',
      metadata: { name: `stream-${index}`, namespace: 'default' },
      spec: { image: 'ringmaster.local/busybox:1', command: ['sh', '-c', program] },
    }),
  );
  await cluster.kubectl(['apply', '-f', '-'], { input: manifests.join('\n---\n') });
  await cluster.kubectl(['wait', 'instances', '--all', '--for=condition=Ready', `--timeout=${startTimeoutMs / 1000}s`]);
  const ids = await cluster.kubectl(['get', 'instances', '-o', 'jsonpath={.items[*].status.id}']);
  return ids.split(' ');
}

async function masterPid({ cluster }: Bench): Promise<number> {
  const selector = ['-n', releaseNamespace, '-l', 'app.kubernetes.io/component=master'];
  const podUid = await cluster.kubectl(['get', 'pods', ...selector, '-o', 'jsonpath={.items[0].metadata.uid}']);
  const [pid] = await pidsInPod(podUid, 'operator/master.ts');
  if (pid === undefined) throw new Error('The Master is not running');
  return pid;
}

async function followByMaster(bench: Bench, pid: number, ids: readonly string[]): Promise<Follower> {
  const crowd = new Crowd();
  const base = `${bench.url.replace('http', 'ws')}/api/instances`;
  for (const [index, id] of ids.entries()) {
    await crowd.grow(`${base}/${id}/live-log?tail=0`, { count: index + 1, token: bench.token });
  }
  return {
    pid,
    // A frame has two bytes before its line.
    count: () => crowd.bytes / (lineBytes + 2),
    close: () => {
      if (crowd.open !== crowd.size) throw new Error(`${crowd.size - crowd.open} clients were cut off`);
      crowd.close();
    },
  };
}

function followByStern({ cluster }: Bench, stern: string): Follower {
  const limits = ['--tail', '0', '--max-log-requests', String(2 * streams)];
  const args = [
    '.',
    '--namespace',
    'default',
    '--container',
    'instance',
    ...limits,
    '--output',
    'raw',
    '--color',
    'never',
  ];
  const child: ChildProcess = spawn(stern, args, {
    env: { ...process.env, ...cluster.env() },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let bytes = 0;
  child.stdout?.on('data', (data: Buffer) => (bytes += data.length));
  return {
    pid: child.pid ?? 0,
    count: () => bytes / (lineBytes + 1),
    close: () => {
      if (child.exitCode !== null) throw new Error(`stern ended with exit code ${child.exitCode}`);
      child.kill('SIGKILL');
    },
  };
}

async function measure(bench: Bench, follower: Follower): Promise<Cost> {
  try {
    const expected = streams * linesPerSecond;
    await waitUntil({ what: 'lines to come', timeoutMs: 60_000, check: () => follower.count() > expected });
    await sleep(settleMs);
    const before = await look(bench, follower);
    await sleep(measureMs);
    const after = await look(bench, follower);
    const seconds = (after.atMs - before.atMs) / 1000;
    const rate = (after.lines - before.lines) / seconds;
    const coreShare = (name: 'cpuMs' | 'apiServerMs' | 'kubeletMs'): number =>
      (after[name] - before[name]) / (seconds * 1000);
    return {
      cpuPerStream: (coreShare('cpuMs') * 1000) / streams,
      memoryMb: (await residentKb(follower.pid)) / 1024,
      linesPerSecond: rate,
      apiServerCpu: coreShare('apiServerMs'),
      kubeletCpu: coreShare('kubeletMs'),
    };
  } finally {
    follower.close();
    await sleep(settleMs);
  }
}

interface Look {
  readonly atMs: number;
  readonly lines: number;
  readonly cpuMs: number;
  readonly apiServerMs: number;
  readonly kubeletMs: number;
}

async function look({ cluster }: Bench, follower: Follower): Promise<Look> {
  const cpuOf = async (component: ComponentName): Promise<number> => cpuMsOf(cluster.pid(component) ?? 0);
  return {
    atMs: performance.now(),
    lines: follower.count(),
    cpuMs: await cpuMsOf(follower.pid),
    apiServerMs: await cpuOf('kube-apiserver'),
    kubeletMs: await cpuOf('kubelet-1'),
  };
}

function print(own: readonly Cost[], peer: readonly Cost[], idleMb: number): void {
  const mean = (costs: readonly Cost[], of: (cost: Cost) => number): number =>
    costs.reduce((sum, cost) => sum + of(cost), 0) / costs.length;
  const row = (name: string, of: (cost: Cost) => number): string => {
    const shown = (costs: readonly Cost[]): string => costs.map((cost) => of(cost).toFixed(2).padStart(9)).join('');
    const ratio = mean(own, of) / mean(peer, of);
    return `  ${name.padEnd(34)}${shown(own)}   ${shown(peer)}   ${ratio.toFixed(2).padStart(6)}`;
  };
  const lines = [
    `\nstreams: ${streams} Instances at ${linesPerSecond} lines/s, a client each; ${rounds} rounds of ${measureMs / 1000} s in turn`,
    `  ${''.padEnd(34)}${'Master'.padStart(9 * rounds)}   ${'stern'.padStart(9 * rounds)}    ratio`,
    row('lines per second', ({ linesPerSecond: value }) => value),
    row('CPU a line, microseconds', (cost) => (cost.cpuPerStream * streams * 1000) / cost.linesPerSecond),
    row('CPU a stream, 1/1000 of a core', ({ cpuPerStream }) => cpuPerStream),
    row('memory, MB', ({ memoryMb }) => memoryMb),
    row('memory a stream, KB', ({ memoryMb }) => (memoryMb * 1024) / streams),
    row('of the API server, cores', ({ apiServerCpu }) => apiServerCpu),
    row('of the kubelet, cores', ({ kubeletCpu }) => kubeletCpu),
    `  the Master without any client: ${idleMb.toFixed(0)} MB; each stream adds ${(((mean(own, ({ memoryMb }) => memoryMb) - idleMb) * 1024) / streams).toFixed(0)} KB`,
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
