/**
 * The live log beside a raw `pods/log?follow` reader, in the same run and on the same pod.
 *
 * Latency: a program writes a line with the present time every 10 ms; both readers note when each line arrives. Throughput: a program writes a
 * million lines of 100 bytes; then the readers read all of them in turn, several times. Goals: p50 at most 0.5 ms and p99 at most 3 ms above
 * raw; at least 0.95 of raw's lines per second.
 *
 * The kubelet is the limit of the backlog, and asked for time stamps (`timestamps=true`), without which no position in a log can be named, it is about
 * half as fast. So there are two raw readers: the goal is held against the one that asks for the same thing, and the other is shown beside it.
 */
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import type { Bench } from '../bench.ts';

const latencyLines = 2000;
const backlogLines = 1_000_000;
const rounds = 3;
/** `2026-01-01T00:00:00.000000000Z ` before each line; the kubelet pads the fraction. */
const stampLength = 31;

const clock = 'const now = () => (performance.timeOrigin + performance.now()).toFixed(3);';
const ticking = `${clock} setInterval(() => process.stdout.write('t ' + now() + '\\n'), 10);`;
const backlog = `
  process.stdout.write('begin\\n');
  setTimeout(() => {
    const block = Array.from({ length: 1000 }, (_, i) => String(i).padStart(99, 'x')).join('\\n') + '\\n';
    let left = ${backlogLines} / 1000;
    const write = () => { if (left-- > 0) process.stdout.write(block, write); else process.stdout.write('done\\n'); };
    write();
  }, 5000);
  setInterval(() => {}, 1e6);`;

export async function run(bench: Bench): Promise<void> {
  const latency = await measureLatency(bench);
  const throughput = await measureThroughput(bench);
  const goals = [
    goal('p50 above raw', latency.live.p50 - latency.raw.p50, { most: 0.5, unit: 'ms' }),
    goal('p99 above raw', latency.live.p99 - latency.raw.p99, { most: 3, unit: 'ms' }),
    goal('lines per second, ratio to raw with time stamps', throughput.ratio, { least: 0.95, unit: 'x' }),
  ];
  process.stdout.write(`
live-log: ${latencyLines} lines, one each 10 ms; write to arrival in ms
  raw pods/log?follow   p50 ${latency.raw.p50.toFixed(2)}   p90 ${latency.raw.p90.toFixed(2)}   p99 ${latency.raw.p99.toFixed(2)}   max ${latency.raw.max.toFixed(2)}
  live-log WebSocket    p50 ${latency.live.p50.toFixed(2)}   p90 ${latency.live.p90.toFixed(2)}   p99 ${latency.live.p99.toFixed(2)}   max ${latency.live.max.toFixed(2)}
backlog of ${backlogLines} lines of 100 bytes, ${rounds} rounds in turn; lines per second
  raw, no time stamps   ${throughput.plain.map(Math.round).join('  ')}
  raw, time stamps      ${throughput.raw.map(Math.round).join('  ')}
  live-log WebSocket    ${throughput.live.map(Math.round).join('  ')}
  ratio of each pair    ${throughput.ratios.map((ratio) => ratio.toFixed(2)).join('  ')}   median ${throughput.ratio.toFixed(2)}
${goals.join('\n')}
`);
}

interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

async function measureLatency(bench: Bench): Promise<{ raw: Percentiles; live: Percentiles }> {
  const { podName, id } = await startProgram(bench, 'ticking', ticking);
  const raw: number[] = [];
  const live: number[] = [];
  const note = (into: number[]) => (line: string) => {
    if (line.startsWith('t ')) into.push(nowMs() - Number(line.slice(2)));
  };
  await bench.progress.step(`Latency over ${latencyLines} lines`, async () => {
    const stop = new AbortController();
    const readers = [
      readRaw(bench, { podName, query: 'follow=true&tailLines=0', onLine: note(raw), signal: stop.signal }),
      readLive(bench, { id, query: '?tail=0', onLine: note(live), signal: stop.signal }),
    ];
    // Some lines of warm-up are taken off again below.
    while (Math.min(raw.length, live.length) < latencyLines + 100) await sleep(100);
    stop.abort();
    await Promise.all(readers);
  });
  await remove(bench, 'ticking');
  return {
    raw: percentiles(raw.slice(100, 100 + latencyLines)),
    live: percentiles(live.slice(100, 100 + latencyLines)),
  };
}

interface Throughput {
  readonly plain: number[];
  readonly raw: number[];
  readonly live: number[];
  readonly ratios: number[];
  readonly ratio: number;
}

async function measureThroughput(bench: Bench): Promise<Throughput> {
  const { podName, id } = await startProgram(bench, 'backlog', backlog);
  const cursor = await cursorAfterBegin(bench, id);
  await bench.progress.step(`Writing ${backlogLines} lines`, async () => {
    while (!(await bench.cluster.kubectl(['logs', podName, '--tail=1'])).startsWith('done')) await sleep(500);
  });
  const plain: number[] = [];
  const raw: number[] = [];
  const live: number[] = [];
  await bench.progress.step(`Reading them, ${rounds} times each`, async () => {
    for (let round = 0; round < rounds; round += 1) {
      const readers = [
        { into: plain, query: 'follow=true', stampLength: 0 },
        { into: raw, query: 'follow=true&timestamps=true', stampLength },
      ];
      for (const { into, query, stampLength: skip } of readers) {
        into.push(
          await rate((onLine, signal) =>
            readRaw(bench, {
              podName,
              query,
              onLine: (line) => {
                onLine(line.slice(skip));
              },
              signal,
            }),
          ),
        );
      }
      live.push(
        await rate((onLine, signal) =>
          readLive(bench, { id, query: `?cursor=${encodeURIComponent(cursor)}`, onLine, signal }),
        ),
      );
    }
  });
  await remove(bench, 'backlog');
  const ratios = live.map((value, index) => value / (raw[index] ?? Number.NaN));
  return {
    plain,
    raw,
    live,
    ratios,
    ratio: [...ratios].sort((a, b) => a - b)[Math.floor(ratios.length / 2)] ?? Number.NaN,
  };
}

/** Lines per second from the first to the last line. */
async function rate(read: (onLine: (line: string) => void, signal: AbortSignal) => Promise<void>): Promise<number> {
  const stop = new AbortController();
  let count = 0;
  let firstMs = 0;
  let lastMs = 0;
  await read((line) => {
    if (line === 'begin') return;
    if (count === 0) firstMs = nowMs();
    if (line === 'done') {
      lastMs = nowMs();
      stop.abort();
    } else count += 1;
  }, stop.signal);
  if (count !== backlogLines) throw new Error(`${count} lines instead of ${backlogLines}`);
  return count / ((lastMs - firstMs) / 1000);
}

async function startProgram(bench: Bench, name: string, script: string): Promise<{ podName: string; id: string }> {
  const manifest = {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'Instance',
    metadata: { name, namespace: 'default' },
    spec: { image: bench.nodeImage, command: ['node', '-e', script], stop: { gracePeriodSeconds: 1 } },
  };
  await bench.cluster.kubectl(['apply', '-f', '-'], { input: JSON.stringify(manifest) });
  await bench.cluster.kubectl(['wait', `instance/${name}`, '--for=condition=Ready', '--timeout=60s']);
  const status = await bench.cluster.kubectl([
    'get',
    'instance',
    name,
    '-o',
    'jsonpath={.status.podName} {.status.id}',
  ]);
  const [podName = '', id = ''] = status.split(' ');
  return { podName, id };
}

async function remove(bench: Bench, name: string): Promise<void> {
  await bench.cluster.kubectl(['delete', 'instance', name, '--wait']);
}

async function cursorAfterBegin(bench: Bench, id: string): Promise<string> {
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

interface Reading {
  readonly query: string;
  readonly onLine: (line: string) => void;
  readonly signal: AbortSignal;
}

async function readRaw(bench: Bench, reading: Reading & { podName: string }): Promise<void> {
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

async function readLive(bench: Bench, reading: Reading & { id: string }): Promise<void> {
  const url = `${bench.url.replace('http', 'ws')}/api/instances/${reading.id}/live-log${reading.query}`;
  const socket = new WebSocket(url, { headers: { authorization: `Bearer ${bench.token}` }, skipUTF8Validation: true });
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  socket.on('message', (data: Buffer) => {
    reading.onLine(data.toString('latin1'));
  });
  socket.once('error', reject);
  socket.once('close', () => {
    resolve(undefined);
  });
  reading.signal.addEventListener('abort', () => {
    socket.terminate();
  });
  await promise;
}

function percentiles(values: readonly number[]): Percentiles {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? Number.NaN;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) };
}

function goal(name: string, value: number, limit: { most?: number; least?: number; unit: string }): string {
  const isMet = limit.most === undefined ? value >= (limit.least ?? 0) : value <= limit.most;
  const bound = limit.most === undefined ? `at least ${limit.least ?? 0}` : `at most ${limit.most}`;
  return `  goal: ${name} ${value.toFixed(2)} ${limit.unit}, ${bound}: ${isMet ? 'met' : 'MISSED'}`;
}

function nowMs(): number {
  return performance.timeOrigin + performance.now();
}
