import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { createSilentLogger } from '../../log.ts';
import type { Client, KubernetesObject } from '../../runtime/client.ts';
import { FakeClock, settle } from '../../testing/clock.ts';
import { LogServer } from '../../testing/logserver.ts';
import { makeInstance, makePod, runningStatus } from '../../testing/objects.ts';
import { LineCutter, LogPatternGates } from './logpattern.ts';
import { PatternTooSlowError } from './matcher.ts';
import { viewPod } from './observe.ts';
import type { PodView } from './observe.ts';

const times = { periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 };
const gated = makeInstance({ spec: { readiness: { logPattern: 'Done \\(', ...times } } });

class World {
  readonly clock = new FakeClock();
  readonly server = new LogServer();
  readonly stop = new AbortController();
  /** What was said of the pod: status and message. */
  readonly said: string[] = [];
  isSlow = false;
  readonly gates: LogPatternGates;

  constructor(followsMax = 10) {
    this.server.createPod();
    this.server.startContainer();
    const applyStatus = (_resource: unknown, object: KubernetesObject & { status?: unknown }): Promise<never> => {
      const { conditions } = object.status as { conditions: { status: string; message: string }[] };
      this.said.push(...conditions.map(({ status, message }) => `${status}: ${message}`));
      return Promise.resolve(object as never);
    };
    const { client } = this.server;
    this.gates = new LogPatternGates({
      client: { log: (ref, options) => client.log(ref, options), applyStatus } as Pick<
        Client,
        'log' | 'applyStatus'
      > as Client,
      clock: this.clock,
      log: createSilentLogger(),
      matcher: {
        matches: (pattern, lines) =>
          this.isSlow
            ? Promise.reject(new PatternTooSlowError(pattern))
            : Promise.resolve(lines.some((line) => new RegExp(pattern).test(line))),
      },
      stripAnsi: (line) => Buffer.from(line.toString('latin1').replaceAll('\u001b[32m', ''), 'latin1'),
      signal: this.stop.signal,
      followsMax,
    });
  }

  /** As after a change of the pod or the Instance. */
  sync(pod: PodView | undefined = this.pod(), instance: Instance = gated, key = 'games/lobby'): void {
    this.gates.sync(key, instance, pod);
  }

  pod(containerId = 'containerd://1', logPattern = { isMatched: false, isTrue: false }): PodView {
    const view = viewPod(makePod(gated, runningStatus === undefined ? {} : { status: runningStatus }));
    return { ...view, name: 'game-1', containerId, logPattern };
  }

  async write(text: string): Promise<void> {
    this.server.write({ seconds: 1, nanos: 0, text });
    await settle();
  }
}

const matched = (container: number): string => `True: A line of container "containerd://${container}" matches.`;

test('logPattern: the line that matches makes the pod ready, colours or not, and the log is let go', async () => {
  const world = new World();
  world.sync();
  await settle();
  await world.write('Done soon');
  assert.deepEqual(world.said, []);
  assert.equal(world.server.openCount, 1);
  await world.write('Done\u001b[32m (1.2s)');
  assert.deepEqual(world.said, [matched(1)]);
  assert.equal(world.server.openCount, 0);
});

test('logPattern: a line from before the follow counts, and any number of events opens one follow', async () => {
  const world = new World();
  await world.write('Done (1 s)');
  for (let event = 0; event < 5; event += 1) world.sync();
  await settle();
  assert.deepEqual(world.said, [matched(1)]);
  assert.equal(world.server.requests.length, 1);
});

test('logPattern: after a restart the old match is taken back, and the new container has to say it again', async () => {
  const world = new World();
  world.sync(world.pod('containerd://2', { isMatched: false, isTrue: true }));
  await settle();
  assert.deepEqual(world.said, ['False: The program was started again.']);
  await world.write('Done (1 s)');
  assert.deepEqual(world.said.slice(1), [matched(2)]);
});

test('logPattern: a connection that breaks is opened again, from the first line', async () => {
  const world = new World();
  world.sync();
  await settle();
  await world.write('starting');
  world.server.cut('reset');
  await settle();
  await world.clock.advance(1000);
  assert.equal(world.server.requests.length, 2);
  await world.write('Done (1 s)');
  assert.deepEqual(world.said, [matched(1)]);
});

const endings: Record<string, (world: World) => void> = {
  'the pod says that it matched': (world) => {
    world.sync(world.pod('containerd://1', { isMatched: true, isTrue: true }));
  },
  'the pod is being deleted': (world) => {
    world.sync({ ...world.pod(), deletionDueMs: 1 });
  },
  'the container has ended': (world) => {
    world.sync({ ...world.pod(), containerId: undefined });
  },
  'there is no pod': (world) => {
    world.gates.sync('games/lobby', gated, undefined);
  },
  'the pattern is gone': (world) => {
    world.sync(world.pod(), makeInstance());
  },
  'the Instance is gone': (world) => {
    world.gates.forget('games/lobby');
  },
  'the leadership ends': (world) => {
    world.stop.abort();
  },
};

for (const [name, end] of Object.entries(endings)) {
  test(`logPattern: nothing is followed any more when ${name}`, async () => {
    const world = new World();
    world.sync();
    await settle();
    assert.equal(world.server.openCount, 1);
    end(world);
    await settle();
    assert.equal(world.server.openCount, 0);
    assert.equal(world.clock.pending, 0);
    assert.deepEqual(world.said, []);
  });
}

test('logPattern: a pod that has gone ends it without another request', async () => {
  const world = new World();
  world.server.deletePod();
  world.sync();
  await world.clock.advance(60_000);
  assert.equal(world.server.requests.length, 1);
});

test('logPattern: a pattern that takes too long is said, and tried again after five minutes', async () => {
  const world = new World();
  world.isSlow = true;
  await world.write('a line');
  world.sync();
  await settle();
  assert.match(world.said[0] ?? '', /^False: readiness\.logPattern takes too long/);
  await world.clock.advance(299_000);
  assert.equal(world.server.requests.length, 1);
  world.isSlow = false;
  await world.write('Done (1 s)');
  await world.clock.advance(1000);
  assert.deepEqual(world.said.slice(1), [matched(1)]);
});

test('logPattern: above the limit the others wait, and one that has not matched for a minute gives its turn away', async () => {
  const world = new World(1);
  world.sync(world.pod('containerd://1'), gated, 'games/a');
  world.sync(world.pod('containerd://2'), gated, 'games/b');
  await settle();
  assert.equal(world.server.openCount, 1);
  await world.clock.advance(61_000);
  assert.equal(world.server.openCount, 1);
  assert.equal(world.server.requests.length, 2);
  await world.write('Done (1 s)');
  assert.deepEqual(world.said, [matched(2), matched(1)], 'the first comes back when the second has matched');
});

test('lineCutter: lines come whole from any pieces, without their ends, and no longer than the limit', () => {
  const text = 'one\r\n\ntwo and more\nthree';
  for (const size of [1, 2, 5, 100]) {
    const cutter = new LineCutter(5);
    const lines: string[] = [];
    for (let at = 0; at < text.length; at += size) {
      lines.push(...cutter.cut(Buffer.from(text.slice(at, at + size))).map((line) => line.toString()));
    }
    assert.deepEqual(lines, ['one', '', 'two a']);
  }
});
