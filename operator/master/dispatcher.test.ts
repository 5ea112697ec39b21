import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ConsoleCommand, ConsoleCommandStatus } from '../api/v1alpha1/consolecommand.ts';
import { consoleCommands } from '../api/v1alpha1/consolecommand.ts';
import type { Answer } from '../answers/protocol.ts';
import { OperatorError } from '../errors.ts';
import { createSilentLogger } from '../log.ts';
import { createMetrics } from '../metrics.ts';
import type { Metrics } from '../metrics.ts';
import { masterLabel } from '../names.ts';
import { FakeClient } from '../testing/client.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import type { Fault, FaultyClient } from '../testing/faults.ts';
import { withFaults } from '../testing/faults.ts';
import { apiError } from '../testing/store.ts';
import type { CommandEnd } from './dispatch.ts';
import type { DispatcherLimits } from './dispatcher.ts';
import { ClusterDispatcher } from './dispatcher.ts';

const namespace = 'ringmaster-system';
const labels = { [masterLabel]: 'master-0' };

interface Ran {
  readonly output: string[];
  readonly end: Promise<CommandEnd>;
  readonly leave: () => void;
}

interface Parts extends AsyncDisposable {
  readonly server: FakeClient;
  readonly client: FaultyClient;
  readonly clock: FakeClock;
  readonly metrics: Metrics;
  readonly dispatcher: ClusterDispatcher;
  readonly run: (line: string) => Ran;
  /** What is in the cluster now, in the order of creation. */
  readonly stored: () => ConsoleCommand[];
  /** Plays the operator. */
  readonly report: (command: ConsoleCommand, status: ConsoleCommandStatus) => void;
  readonly stop: () => Promise<void>;
}

async function setUp(options: { faults?: Fault[]; limits?: Partial<DispatcherLimits> } = {}): Promise<Parts> {
  const clock = new FakeClock();
  const server = new FakeClient(clock);
  const client = withFaults(server, clock, options.faults);
  const metrics = createMetrics();
  const dispatcher = new ClusterDispatcher({
    ...{ client, clock, metrics, namespace, master: 'master-0', answerTo: '10.0.0.7', random: () => 0 },
    log: createSilentLogger(),
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  });
  const end = new AbortController();
  const following = dispatcher.follow(end.signal);
  await settle();
  const stop = async (): Promise<void> => {
    end.abort(new Error('Over'));
    await clock.advance(0);
    await following;
  };
  return {
    ...{ server, client, clock, metrics, dispatcher, stop },
    run(line) {
      const left = new AbortController();
      const output: string[] = [];
      const ending = dispatcher.run(
        {
          line,
          session: 's1',
          issuedBy: { kind: 'ApiKey', name: 'all' },
          onOutput: (lines) => output.push(...lines),
        },
        left.signal,
      );
      ending.catch(() => undefined);
      return {
        output,
        end: ending,
        leave: () => {
          left.abort(new Error('Left'));
        },
      };
    },
    stored: () =>
      server
        .peekAll(consoleCommands)
        .sort((a, b) => Number(a.metadata.name.split('-').at(-1)) - Number(b.metadata.name.split('-').at(-1))),
    report: ({ metadata }, status) => {
      server.setStatus(consoleCommands, { namespace, name: metadata.name }, status);
    },
    [Symbol.asyncDispose]: stop,
  };
}

const ok: ConsoleCommandStatus = { phase: 'Succeeded', exitCode: 0 };

test('dispatcher: a command becomes a ConsoleCommand of this replica, and its end the result', async () => {
  await using parts = await setUp();
  const { output, end } = parts.run('instance list');
  await settle();
  const [command] = parts.stored();
  assert.deepEqual(command?.metadata.labels, labels);
  assert.deepEqual(command.metadata.annotations, { 'ringmaster.dev/answer-to': '10.0.0.7' });
  assert.equal(command.metadata.namespace, namespace);
  assert.deepEqual(command.spec, {
    line: 'instance list',
    session: 's1',
    issuedBy: { kind: 'ApiKey', name: 'all' },
    ttlSecondsAfterFinished: 300,
  });
  parts.report(command, { ...ok, output: ['Instances (0):'], result: { instances: [] } });
  assert.deepEqual(await end, { exitCode: 0, isTruncated: false, result: { instances: [] } });
  assert.deepEqual(output, ['Instances (0):']);
  assert.match(await parts.metrics.text(), /console_commands_total\{result="ok"\} 1/);
  assert.match(await parts.metrics.text(), /console_commands_waiting\{state="running"\} 0/);
});

test('dispatcher: output comes once, in order, as it grows', async () => {
  await using parts = await setUp();
  const { output, end } = parts.run('instance logs a1b2c3');
  await settle();
  const command = parts.stored()[0]!;
  parts.report(command, { phase: 'Running', output: ['1'] });
  await settle();
  assert.deepEqual(output, ['1']);
  parts.report(command, { phase: 'Running', output: ['1', '2', ''] });
  parts.report(command, { phase: 'Running', output: ['1', '2', '', '4\n\n5'] });
  await settle();
  assert.deepEqual(output, ['1', '2', '', '4', '', '5']);
  parts.report(command, { phase: 'Failed', exitCode: 1, output: ['1', '2', '', '4\n\n5', '6'], truncated: true });
  assert.deepEqual(await end, { exitCode: 1, isTruncated: true });
  assert.deepEqual(output, ['1', '2', '', '4', '', '5', '6']);
});

test('dispatcher: several commands are told apart', async () => {
  await using parts = await setUp();
  const all = Array.from({ length: 200 }, (_, index) => parts.run(`command ${index}`));
  await settle();
  const stored = parts.stored();
  assert.equal(new Set(stored.map(({ metadata }) => metadata.name)).size, 200);
  for (const command of stored.toReversed()) parts.report(command, { ...ok, output: [command.spec.line] });
  await Promise.all(all.map(({ end }) => end));
  assert.deepEqual(
    all.map(({ output }) => output),
    all.map((_, index) => [`command ${index}`]),
  );
});

function answerOf({ metadata: { name, uid = '' } }: ConsoleCommand, output: string[]): Answer {
  return { name, uid, status: { ...ok, output } };
}

test('dispatcher: an answer of the operator is the end, and the record that follows adds nothing to it', async () => {
  await using parts = await setUp();
  const { output, end } = parts.run('instance list');
  await settle();
  const command = parts.stored()[0]!;
  parts.dispatcher.answer(answerOf(command, ['Instances (0):']));
  assert.deepEqual(await end, { exitCode: 0, isTruncated: false });
  assert.deepEqual(output, ['Instances (0):']);
  // A second leader may read anew what the first one has answered.
  parts.report(command, { ...ok, output: ['Instances (1):', 'a1b2c3'] });
  parts.dispatcher.answer(answerOf(command, ['again', 'and again']));
  await settle();
  assert.deepEqual(output, ['Instances (0):']);
  assert.equal(parts.stored().length, 1);
  assert.match(await parts.metrics.text(), /console_command_ends_total\{type="answer"\} 1/);
  assert.doesNotMatch(await parts.metrics.text(), /console_command_ends_total\{type="record"\}/);
});

test('dispatcher: an answer behind the record adds nothing to it', async () => {
  await using parts = await setUp();
  const { output, end } = parts.run('instance list');
  await settle();
  const command = parts.stored()[0]!;
  parts.report(command, { ...ok, output: ['Instances (0):'] });
  assert.equal((await end).exitCode, 0);
  parts.dispatcher.answer(answerOf(command, ['Instances (0):', 'more']));
  assert.deepEqual(output, ['Instances (0):']);
  assert.match(await parts.metrics.text(), /console_command_ends_total\{type="record"\} 1/);
  assert.doesNotMatch(await parts.metrics.text(), /console_command_ends_total\{type="answer"\}/);
});

test('dispatcher: an answered command is not taken back when the watch shows it late, and its record is written', async () => {
  for (const isByList of [false, true]) {
    await using parts = await setUp();
    const { server, clock, client } = parts;
    client.add({ verb: 'watch', action: { fail: new Error('cut') } });
    server.breakWatches();
    const { end } = parts.run('instance list');
    await settle();
    const command = parts.stored()[0]!;
    parts.dispatcher.answer(answerOf(command, []));
    await end;
    if (isByList) server.compact();
    await clock.advance(5_000);
    assert.deepEqual(parts.stored(), [command], 'it was seen without a status');
    parts.report(command, ok);
    await settle();
    assert.equal(parts.stored().length, 1);
  }
});

test('dispatcher: an answer counts while the creation is not known to have succeeded', async () => {
  await using parts = await setUp({ faults: [{ verb: 'create', action: { lose: new Error('reset') } }] });
  const { output, end } = parts.run('instance list');
  await settle();
  const command = parts.stored()[0]!;
  parts.dispatcher.answer(answerOf(command, ['x']));
  assert.equal((await end).exitCode, 0);
  parts.report(command, { ...ok, output: ['x'] });
  await parts.clock.advance(60_000);
  assert.deepEqual(output, ['x']);
  assert.equal(parts.server.writes.filter(({ verb }) => verb === 'create').length, 1);
  assert.equal(parts.stored().length, 1);
});

test('dispatcher: an answer to a command of another name or uid, or to one whose client left, counts for nothing', async () => {
  await using parts = await setUp();
  const { output, end, leave } = parts.run('instance list');
  await settle();
  const command = parts.stored()[0]!;
  parts.dispatcher.answer({ ...answerOf(command, ['x']), uid: 'another' });
  parts.dispatcher.answer({ ...answerOf(command, ['x']), name: 'another' });
  await settle();
  assert.deepEqual(output, []);
  leave();
  await assert.rejects(end, { message: 'Left' });
  parts.dispatcher.answer(answerOf(command, ['x']));
  await settle();
  assert.deepEqual(output, []);
});

test('dispatcher: an operator that was lost is said', async () => {
  await using parts = await setUp();
  const { end } = parts.run('instance stop a1b2c3');
  await settle();
  const condition = { type: 'Ready', status: 'False' as const, reason: 'Interrupted', message: 'm' };
  parts.report(parts.stored()[0]!, {
    phase: 'Failed',
    exitCode: 1,
    conditions: [{ ...condition, lastTransitionTime: '2026-01-01T00:00:00Z' }],
  });
  assert.deepEqual(await end, { exitCode: 1, isTruncated: false, reason: 'Interrupted' });
});

test('dispatcher: a command that nobody takes is withdrawn after 30 s', async () => {
  await using parts = await setUp();
  const { end } = parts.run('instance list');
  await parts.clock.advance(29_999);
  assert.equal(parts.stored().length, 1);
  await parts.clock.advance(1);
  assert.deepEqual(await end, { exitCode: 1, isTruncated: false, reason: 'Unavailable' });
  assert.deepEqual(parts.stored(), []);
});

test('dispatcher: a command that was claimed is waited for, however long it takes', async () => {
  await using parts = await setUp();
  const { end } = parts.run('instance restart a1b2c3');
  await settle();
  parts.report(parts.stored()[0]!, { phase: 'Running', claimedBy: 'operator-1' });
  await parts.clock.advance(600_000);
  parts.report(parts.stored()[0]!, ok);
  assert.equal((await end).exitCode, 0);
});

test('dispatcher: a claim at the moment of the withdrawal wins, and the command is waited for', async () => {
  await using parts = await setUp();
  const { server, clock, client } = parts;
  const { end, output } = parts.run('instance stop a1b2c3');
  await settle();
  // The watch is behind, and the claim falls between the last look and the deletion.
  const restore = client.add({ verb: 'watch', times: Infinity, action: { fail: new Error('cut') } });
  server.breakWatches();
  client.add({ verb: 'remove', action: { delayMs: 1_000 } });
  await clock.advance(30_000);
  const command = parts.stored()[0]!;
  parts.report(command, { phase: 'Running', claimedBy: 'operator-1', output: ['Stopping'] });
  await clock.advance(1_000);
  assert.deepEqual(output, ['Stopping'], 'it was looked at again after the refused deletion');
  assert.equal(parts.stored().length, 1);
  restore();
  parts.report(command, { ...ok, output: ['Stopping', 'Stopped'] });
  await clock.advance(31_000);
  assert.equal((await end).exitCode, 0);
  assert.deepEqual(output, ['Stopping', 'Stopped']);
});

test('dispatcher: the end is not lost when the watch is cut, and not when its history is gone', async () => {
  for (const isCompacted of [false, true]) {
    await using parts = await setUp();
    const { server, clock, client } = parts;
    const { end, output } = parts.run('instance logs a1b2c3');
    await settle();
    const command = parts.stored()[0]!;
    parts.report(command, { phase: 'Running', output: ['1'] });
    await settle();
    client.add({ verb: 'watch', times: 2, action: { fail: new Error('cut') } });
    server.breakWatches();
    await settle();
    parts.report(command, { phase: 'Running', output: ['1', '2'] });
    parts.report(command, { ...ok, output: ['1', '2', '3'] });
    if (isCompacted) server.compact();
    await clock.advance(5_000);
    assert.equal((await end).exitCode, 0);
    assert.deepEqual(output, ['1', '2', '3']);
  }
});

test('dispatcher: what the watch does not show in time is looked for', async () => {
  await using parts = await setUp();
  parts.client.add({ verb: 'watch', times: Infinity, action: { fail: new Error('cut') } });
  parts.server.breakWatches();
  const { end, output } = parts.run('instance list');
  await settle();
  parts.report(parts.stored()[0]!, { ...ok, output: ['Instances (0):'] });
  await parts.clock.advance(30_000);
  assert.equal((await end).exitCode, 0);
  assert.deepEqual(output, ['Instances (0):']);
});

test('dispatcher: a command that somebody deleted has an end, whether a watch or a list shows it', async () => {
  for (const isByList of [false, true]) {
    await using parts = await setUp();
    const { end } = parts.run('instance restart a1b2c3');
    await settle();
    const command = parts.stored()[0]!;
    parts.report(command, { phase: 'Running' });
    await settle();
    if (isByList) parts.server.breakWatches();
    await parts.server.remove(consoleCommands, { namespace, name: command.metadata.name });
    if (isByList) parts.server.compact();
    await parts.clock.advance(2_000);
    assert.equal((await end).reason, 'Deleted');
  }
});

test('dispatcher: a refused creation says so at once, and nothing is retried', async () => {
  for (const [code, reason, expected] of [
    [422, 'Invalid', 'COMMAND_REFUSED'],
    [403, 'Forbidden', 'COMMAND_UNAVAILABLE'],
    [404, 'NotFound', 'COMMAND_UNAVAILABLE'],
  ] as const) {
    await using parts = await setUp({
      faults: [{ verb: 'create', action: { fail: apiError(code, reason, 'spec.line: too long') } }],
    });
    await assert.rejects(parts.run('x').end, (error: unknown) => {
      assert.ok(error instanceof OperatorError);
      assert.equal(error.code, expected);
      return true;
    });
    assert.equal(parts.client.calls.filter(({ verb }) => verb === 'create').length, 1);
  }
});

test('dispatcher: a creation that fails for now is tried again', async () => {
  await using parts = await setUp({
    faults: [{ verb: 'create', times: 3, action: { fail: apiError(429, 'TooManyRequests', 'slow down') } }],
  });
  const { end } = parts.run('instance list');
  await parts.clock.advance(1_000);
  parts.report(parts.stored()[0]!, ok);
  assert.equal((await end).exitCode, 0);
});

test('dispatcher: a creation whose answer is lost makes one command, and its output comes', async () => {
  for (const isSeen of [true, false]) {
    await using parts = await setUp({ faults: [{ verb: 'create', action: { lose: new Error('reset') } }] });
    if (!isSeen) {
      parts.client.add({ verb: 'watch', action: { fail: new Error('cut') } });
      parts.server.breakWatches();
    }
    const { end, output } = parts.run('instance list');
    await settle();
    const stored = parts.stored();
    assert.equal(stored.length, 1);
    await parts.clock.advance(200);
    parts.report(stored[0]!, { ...ok, output: ['x'] });
    await parts.clock.advance(2_000);
    assert.equal((await end).exitCode, 0);
    assert.deepEqual(output, ['x']);
    assert.equal(parts.stored().length, 1);
  }
});

test('dispatcher: without an API server a command is never said to have been withdrawn until that is certain', async () => {
  await using parts = await setUp();
  const { client, clock } = parts;
  const down = [
    client.add({ verb: 'create', times: Infinity, action: { lose: new Error('reset') } }),
    client.add({ verb: 'get', times: Infinity, action: { fail: new Error('refused') } }),
    client.add({ verb: 'remove', times: Infinity, action: { fail: new Error('refused') } }),
    client.add({ verb: 'watch', times: Infinity, action: { fail: new Error('refused') } }),
  ];
  parts.server.breakWatches();
  const { end } = parts.run('instance stop a1b2c3');
  await clock.advance(61_000);
  await clock.advance(2_000);
  assert.deepEqual(await end, { exitCode: 1, isTruncated: false, reason: 'Unknown' });
  assert.equal(parts.stored().length, 1);
  for (const restore of down) restore();
  await clock.advance(5_000);
  assert.deepEqual(parts.stored(), [], 'it is withdrawn as soon as that can be done');
});

test('dispatcher: a client that leaves takes back what was not claimed', async () => {
  await using parts = await setUp();
  const { end, leave } = parts.run('instance stop a1b2c3');
  await settle();
  leave();
  await assert.rejects(end, { message: 'Left' });
  await parts.dispatcher.idle(0);
  assert.deepEqual(parts.stored(), []);
  assert.match(await parts.metrics.text(), /console_commands_total\{result="cancelled"\} 1/);
});

test('dispatcher: a client that leaves while its command is being created takes it back', async () => {
  await using parts = await setUp({ faults: [{ verb: 'create', action: { delayMs: 500 } }] });
  const { end, leave } = parts.run('instance stop a1b2c3');
  await settle();
  leave();
  await assert.rejects(end, { message: 'Left' });
  await parts.clock.advance(500);
  await parts.dispatcher.idle(0);
  assert.equal(parts.server.writes.filter(({ verb }) => verb === 'create').length, 1);
  assert.deepEqual(parts.stored(), []);
});

test('dispatcher: a client that leaves hears nothing more of what was claimed, and it runs on', async () => {
  await using parts = await setUp();
  const { end, leave, output } = parts.run('instance stop a1b2c3');
  await settle();
  const command = parts.stored()[0]!;
  parts.report(command, { phase: 'Running', output: ['1'] });
  await settle();
  leave();
  await assert.rejects(end, { message: 'Left' });
  parts.report(command, { ...ok, output: ['1', '2'] });
  await settle();
  assert.deepEqual(output, ['1']);
  assert.equal(parts.stored().length, 1);
});

test('dispatcher: commands of an earlier process of this pod that nobody has claimed do not run any more', async () => {
  const clock = new FakeClock();
  const server = new FakeClient(clock);
  const make = async (name: string, own: boolean): Promise<void> => {
    await server.create(consoleCommands, {
      metadata: { name, namespace, labels: own ? labels : { [masterLabel]: 'master-1' } },
      spec: { line: 'x', ttlSecondsAfterFinished: 300 },
    });
  };
  await make('old', true);
  await make('claimed', true);
  await make('of-another', false);
  server.setStatus(consoleCommands, { namespace, name: 'claimed' }, { phase: 'Running' });
  const dispatcher = new ClusterDispatcher({
    ...{ client: server, clock, namespace, master: 'master-0', random: () => 0 },
    ...{ metrics: createMetrics(), log: createSilentLogger() },
  });
  const end = new AbortController();
  const following = dispatcher.follow(end.signal);
  await settle();
  const names = (): string[] => server.peekAll(consoleCommands).map(({ metadata }) => metadata.name);
  assert.deepEqual(names(), ['claimed', 'of-another']);
  // One that comes later with the label was made by somebody else on purpose.
  await make('later', true);
  await settle();
  assert.deepEqual(names(), ['claimed', 'later', 'of-another']);
  end.abort(new Error('Over'));
  await following;
});

test('dispatcher: more than the most commands are refused, and room is made by each end', async () => {
  await using parts = await setUp({ limits: { commandsMax: 2 } });
  const [first] = [parts.run('1'), parts.run('2')];
  await assert.rejects(parts.run('3').end, { code: 'COMMAND_UNAVAILABLE' });
  await settle();
  parts.report(parts.stored()[0]!, ok);
  await first.end;
  parts.run('4');
  await settle();
  assert.equal(parts.stored().length, 3);
});

test('dispatcher: when it stops, what waits is told, and nothing is left running', async () => {
  const parts = await setUp();
  const { end } = parts.run('instance list');
  await settle();
  const stopped = parts.stop();
  await assert.rejects(end, { code: 'COMMAND_UNAVAILABLE' });
  await stopped;
  assert.equal(parts.clock.pending, 0);
  await assert.rejects(parts.run('x').end, { code: 'COMMAND_UNAVAILABLE' });
});
