import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLiveness, judge, notePong } from './liveness.ts';

const limits = { pingIntervalMs: 15_000, pongTimeoutMs: 15_000, stalledTimeoutMs: 300_000 };

/** A peer whose traffic is given, judged once a second; gives what happened when. */
function run(options: {
  untilMs: number;
  trafficAt: (ms: number) => { writtenBytes: number; waitingBytes: number };
  pongDelayMs?: (pingedAtMs: number) => number | undefined;
}): string[] {
  const happened: string[] = [];
  const liveness = createLiveness(0, options.trafficAt(0), limits);
  let pongAtMs: number | undefined;
  for (let ms = 0; ms <= options.untilMs; ms += 1_000) {
    if (pongAtMs !== undefined && ms >= pongAtMs) {
      notePong(liveness, ms, limits);
      pongAtMs = undefined;
    }
    const verdict = judge(liveness, ms, options.trafficAt(ms), limits);
    if (verdict === 'wait') continue;
    happened.push(`${verdict}@${ms / 1_000}`);
    if (verdict === 'dead') break;
    const delayMs = options.pongDelayMs?.(ms);
    if (delayMs !== undefined) pongAtMs = ms + delayMs;
  }
  return happened;
}

const quiet = (): { writtenBytes: number; waitingBytes: number } => ({ writtenBytes: 200, waitingBytes: 0 });

test('liveness: a peer that answers is pinged every 15 s and lives', () => {
  const happened = run({ untilMs: 60_000, trafficAt: quiet, pongDelayMs: () => 1_000 });
  assert.deepEqual(happened, ['ping@15', 'ping@30', 'ping@45', 'ping@60']);
});

test('liveness: a peer that does not answer is dead 15 s after the ping', () => {
  assert.deepEqual(run({ untilMs: 60_000, trafficAt: quiet }), ['ping@15', 'dead@30']);
});

test('liveness: a peer that answers the first ping and then vanishes is dead 15 s after the second', () => {
  const pongDelayMs = (pingedAtMs: number): number | undefined => (pingedAtMs < 20_000 ? 0 : undefined);
  assert.deepEqual(run({ untilMs: 60_000, trafficAt: quiet, pongDelayMs }), ['ping@15', 'ping@30', 'dead@45']);
});

test('liveness: a small log makes no difference', () => {
  const trafficAt = (ms: number): { writtenBytes: number; waitingBytes: number } => ({
    writtenBytes: 200 + ms,
    waitingBytes: 0,
  });
  assert.deepEqual(run({ untilMs: 60_000, trafficAt }), ['ping@15', 'dead@30']);
});

test('liveness: a client that pauses for 40 s with a full buffer lives', () => {
  const trafficAt = (ms: number): { writtenBytes: number; waitingBytes: number } =>
    ms < 45_000 ? { writtenBytes: 9_000_000, waitingBytes: 200_000 } : { writtenBytes: 9_000_000, waitingBytes: 0 };
  const pongDelayMs = (pingedAtMs: number): number => Math.max(46_000 - pingedAtMs, 0);
  const happened = run({ untilMs: 70_000, trafficAt, pongDelayMs });
  assert.deepEqual(happened, ['ping@15', 'ping@46', 'ping@61']);
});

test('liveness: a client that pauses for 40 s lives also where the kernels hold all that it has not read', () => {
  const trafficAt = (ms: number): { writtenBytes: number; waitingBytes: number } => ({
    writtenBytes: 200 + 20 * ms,
    waitingBytes: 0,
  });
  const pongDelayMs = (pingedAtMs: number): number => Math.max(46_000 - pingedAtMs, 0);
  assert.deepEqual(run({ untilMs: 50_000, trafficAt, pongDelayMs }), ['ping@15', 'ping@46']);
});

test('liveness: a stuck buffer that never drains is dead after 5 minutes', () => {
  const trafficAt = (): { writtenBytes: number; waitingBytes: number } => ({
    writtenBytes: 9_000_000,
    waitingBytes: 200_000,
  });
  assert.deepEqual(run({ untilMs: 600_000, trafficAt }), ['ping@15', 'dead@300']);
});

test('liveness: a very slow client lives as long as its buffer drains now and then', () => {
  const trafficAt = (ms: number): { writtenBytes: number; waitingBytes: number } => ({
    writtenBytes: 9_000_000 + Math.floor(ms / 240_000) * 1_000,
    waitingBytes: 200_000,
  });
  assert.deepEqual(run({ untilMs: 1_200_000, trafficAt }), ['ping@15']);
});

test('liveness: bytes that the kernel takes are no sign of life', () => {
  const trafficAt = (ms: number): { writtenBytes: number; waitingBytes: number } => ({
    writtenBytes: 200 + 20 * ms,
    waitingBytes: 0,
  });
  assert.deepEqual(run({ untilMs: 600_000, trafficAt }), ['ping@15', 'dead@300']);
});

test('liveness: a pong that nobody asked for changes nothing', () => {
  const liveness = createLiveness(0, quiet(), limits);
  notePong(liveness, 5_000, limits);
  assert.equal(judge(liveness, 14_000, quiet(), limits), 'wait');
  assert.equal(judge(liveness, 15_000, quiet(), limits), 'ping');
});
