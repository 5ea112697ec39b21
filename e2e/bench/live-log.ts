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
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import type { Bench } from '../bench.ts';
import {
  clockScript,
  cursorAfterBegin,
  goal,
  nowMs,
  percentiles,
  readRaw,
  remove,
  startProgram,
} from './readers/readers.ts';
import type { Percentiles, Reading } from './readers/readers.ts';

const latencyLines = 2000;
const backlogLines = 1_000_000;
const rounds = 3;
/** `2026-01-01T00:00:00.000000000Z ` before each line; the kubelet pads the fraction. */
const stampLength = 31;

const ticking = `${clockScript} setInterval(() => process.stdout.write('t ' + now() + '\\n'), 10);`;
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

async function measureLatency(bench: Bench): Promise<{ raw: Percentiles; live: Percentiles }> {
  const { podName, id } = await startProgram(bench, 'ticking', { script: ticking });
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
  const { podName, id } = await startProgram(bench, 'backlog', { script: backlog });
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
