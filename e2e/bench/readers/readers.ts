/** What the benchmarks share: programs that run as Instances, readers of their logs, and how figures are shown. */
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from '../../bench.ts';

export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export interface Started {
  readonly id: string;
  readonly podName: string;
  readonly podUid: string;
}

/** Runs a script for Node, and waits until it is ONLINE. `spec` adds to the Instance, or replaces what is there. */
export async function startProgram(
  bench: Bench,
  name: string,
  { script, spec = {} }: { script: string; spec?: Record<string, unknown> },
): Promise<Started> {
  const { cluster } = bench;
  const program = { image: bench.nodeImage, command: ['node', '-e', script], stop: { gracePeriodSeconds: 1 } };
  const manifest = {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'Instance',
    metadata: { name, namespace: 'default' },
    spec: { ...program, ...spec },
  };
  await cluster.kubectl(['apply', '-f', '-'], { input: JSON.stringify(manifest) });
  await cluster.kubectl(['wait', `instance/${name}`, '--for=condition=Ready', '--timeout=60s']);
  const status = await cluster.kubectl(['get', 'instance', name, '-o', 'jsonpath={.status.podName} {.status.id}']);
  const [podName = '', id = ''] = status.split(' ');
  const podUid = await cluster.kubectl(['get', 'pod', podName, '-o', 'jsonpath={.metadata.uid}']);
  return { id, podName, podUid };
}

export async function remove(bench: Bench, name: string): Promise<void> {
  await bench.cluster.kubectl(['delete', 'instance', name, '--wait']);
}

/** The position after the line `begin`, once it is there. */
export async function cursorAfterBegin(bench: Bench, id: string): Promise<string> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const response = await fetch(`${bench.url}/api/instances/${id}/logs?lines=1`, {
      headers: { authorization: `Bearer ${bench.token}` },
    });
    const body = (await response.json()) as { lines: string[]; nextCursor: string };
    if (body.lines[0] === 'begin') return body.nextCursor;
    await sleep(100);
  }
  throw new Error('The program did not begin');
}

/** Where the log of an Instance with a sidecar is: this machine is the node, and the log a file in a volume of the pod. */
export function logFileOf(bench: Bench, { podUid }: Started): string {
  const { stateDir } = bench.cluster.settings;
  return `${stateDir}/node1/kubelet/pods/${podUid}/volumes/kubernetes.io~empty-dir/ringmaster/log`;
}

/** A line to the program's standard input. */
export async function type(bench: Bench, id: string, command: string): Promise<void> {
  const response = await fetch(`${bench.url}/api/instances/${id}/execute`, {
    method: 'POST',
    headers: { authorization: `Bearer ${bench.token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ command }),
  });
  if (!response.ok) throw new Error(`Cannot type: ${response.status} ${await response.text()}`);
}

export interface Reading {
  readonly query: string;
  readonly onLine: (line: string) => void;
  readonly signal: AbortSignal;
}

/** By the API server, with nothing of ours in between. */
export async function readRaw(bench: Bench, reading: Reading & { podName: string }): Promise<void> {
  const { cluster } = bench;
  const agent = new Agent({
    ca: readFileSync(cluster.ca),
    cert: readFileSync(cluster.cert),
    key: readFileSync(cluster.key),
  });
  const url = `${cluster.apiUrl}/api/v1/namespaces/default/pods/${reading.podName}/log?container=instance&${reading.query}`;
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  const call = request(url, { agent, signal: reading.signal }, (response: IncomingMessage) => {
    let rest = '';
    response.setEncoding('latin1');
    response.on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) reading.onLine(line);
    });
    response.once('error', () => {
      resolve(undefined);
    });
    response.once('end', () => {
      resolve(undefined);
    });
  });
  call.once('error', (error) => {
    if (reading.signal.aborted) resolve(undefined);
    else reject(error);
  });
  call.end();
  await promise;
}

export function percentiles(values: readonly number[]): Percentiles {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? Number.NaN;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) };
}

/** One line that says whether a goal is met. */
export function goal(name: string, value: number, limit: { most?: number; least?: number; unit: string }): string {
  const isMet = limit.most === undefined ? value >= (limit.least ?? 0) : value <= limit.most;
  const bound = limit.most === undefined ? `at least ${limit.least ?? 0}` : `at most ${limit.most}`;
  return `  goal: ${name} ${value.toFixed(2)} ${limit.unit}, ${bound}: ${isMet ? 'met' : 'MISSED'}`;
}

/** `nowMs` for the scripts of programs that are measured, as text. */
export const clockScript = 'const now = () => (Number(process.hrtime.bigint()) / 1e6).toFixed(3);';

/**
 * Milliseconds, with fractions, of the machine's monotonic clock, which is the same for all its processes. `performance.timeOrigin` is not: a process that
 * is held up while it begins has another by milliseconds.
 */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** User and system time; the kernel counts in hundredths of a second. */
export async function cpuMsOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Memory of a process that is in use and not swapped out. */
export async function residentKb(pid: number): Promise<number> {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]);
}
