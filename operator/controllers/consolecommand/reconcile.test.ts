import assert from 'node:assert/strict';
import { test } from 'node:test';
import { consoleCommands, linesOf } from '../../api/v1alpha1/consolecommand.ts';
import { instanceSpec, instances } from '../../api/v1alpha1/instance.ts';
import { ConsoleRig, releaseNamespace } from '../../testing/console.ts';
import { withFaults } from '../../testing/faults.ts';
import { apiError } from '../../testing/store.ts';
import { CommandCleaner } from './clean.ts';
import { Output } from './output.ts';

const { signal } = new AbortController();

async function rigWithLobby(): Promise<ConsoleRig> {
  const rig = new ConsoleRig();
  const ref = { namespace: 'games', name: 'lobby' };
  await rig.server.create(instances, { metadata: ref, spec: instanceSpec.parse({ image: 'a:1' }) });
  rig.server.setStatus(instances, ref, { id: 'a1b2c3', state: 'ONLINE', nodeName: 'node-1', port: 25565 });
  return rig;
}

test('CommandReconciler: a command that reads costs one status write and is not claimed', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance list');
  await rig.operator().reconcile(key, signal);
  assert.deepEqual(rig.writesOf('ConsoleCommand'), ['create', 'updateStatus']);
  const { status } = rig.command(key) ?? {};
  assert.deepEqual(status?.output, ['Instances (1):\na1b2c3 lobby ONLINE node-1 25565']);
  assert.deepEqual([status.phase, status.exitCode], ['Succeeded', 0]);
});

test('CommandReconciler: what only reads is answered before its record is written, and with the same', async () => {
  const rig = await rigWithLobby();
  for (const [line, exitCode] of [
    ['instance list', 0],
    ['instance info nobody', 1],
    ['nonsense', 2],
  ] as const) {
    const key = await rig.issue(line, { answerTo: '10.0.0.7' });
    const writes = rig.writesOf('ConsoleCommand').length;
    await rig.operator().reconcile(key, signal);
    const { metadata, status } = rig.command(key) ?? {};
    assert.equal(status?.exitCode, exitCode);
    const answer = { name: metadata?.name, uid: metadata?.uid, status };
    assert.deepEqual(rig.answers.splice(0), [{ address: '10.0.0.7', answer, writes }]);
  }
});

test('CommandReconciler: what changes something is not answered but recorded, and so is what nobody asked an answer for', async () => {
  const rig = await rigWithLobby();
  const operator = rig.operator();
  await operator.reconcile(await rig.issue('instance execute lobby stop', { answerTo: '10.0.0.7' }), signal);
  await operator.reconcile(await rig.issue('instance list'), signal);
  await operator.reconcile(await rig.issue('instance list', { answerTo: '10.0.0.7' }, 'games'), signal);
  assert.deepEqual(rig.answers, []);
});

test('CommandReconciler: a command that was broken off is not answered', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance logs lobby', { answerTo: '10.0.0.7' });
  const stop = new AbortController();
  const tail = (): Promise<string[]> => {
    stop.abort(new Error('Over'));
    return Promise.reject(new Error('Over'));
  };
  const io = { ...rig.world().io, tail };
  await assert.rejects(rig.operator({ io }).reconcile(key, stop.signal), { message: 'Over' });
  assert.deepEqual(rig.answers, []);
});

test('CommandReconciler: what somebody has labelled meanwhile, what the operator may only patch, and what was written already gets its status all the same', async () => {
  const key = (rig: ConsoleRig): Promise<string> => rig.issue('instance list');
  const rigs = [await rigWithLobby(), await rigWithLobby(), await rigWithLobby()] as const;
  const [labelled, limited, lost] = rigs;
  const stale = { key: await key(labelled), command: rigs[0].command('ringmaster/c1') };
  const { name = '' } = stale.command?.metadata ?? {};
  await labelled.server.mergePatch(
    consoleCommands,
    { namespace: releaseNamespace, name },
    { metadata: { labels: { a: 'b' } } },
  );
  await labelled.operator({}, { get: () => stale.command }).reconcile(stale.key, signal);
  const forbidden = { verb: 'updateStatus', action: { fail: apiError(403, 'Forbidden', 'may not update') } } as const;
  await limited
    .operator({ client: withFaults(limited.server, limited.clock, [forbidden]) })
    .reconcile(await key(limited), signal);
  const cut = { verb: 'updateStatus', action: { lose: new Error('cut') } } as const;
  const operator = lost.operator({ client: withFaults(lost.server, lost.clock, [cut]) }, { get: () => before });
  const lostKey = await key(lost);
  const before = lost.command(lostKey);
  await assert.rejects(operator.reconcile(lostKey, signal));
  await operator.reconcile(lostKey, signal);
  for (const rig of rigs) {
    const { status, metadata } = rig.command('ringmaster/c1') ?? {};
    assert.deepEqual([status?.phase, linesOf(status?.output ?? []).length], ['Succeeded', 2]);
    assert.deepEqual(rig === labelled ? metadata?.labels : undefined, rig === labelled ? { a: 'b' } : undefined);
  }
});

test('CommandReconciler: an answer whose record fails at first is given once', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance list', { answerTo: '10.0.0.7' });
  const fault = { verb: 'updateStatus', action: { fail: new Error('refused') } } as const;
  const operator = rig.operator({ client: withFaults(rig.server, rig.clock, [fault]) });
  await assert.rejects(operator.reconcile(key, signal));
  await operator.reconcile(key, signal);
  assert.equal(rig.answers.length, 1);
  assert.equal(rig.command(key)?.status?.phase, 'Succeeded');
});

test('CommandReconciler: a command that changes something is claimed first, and runs once however far the cache lags', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance execute lobby say  hi ', { issuedBy: { kind: 'ApiKey', name: 'panel' } });
  const stale = rig.command(key);
  const operator = rig.operator({}, { get: () => stale });
  await operator.reconcile(key, signal);
  await operator.reconcile(key, signal);
  assert.equal(rig.typed.length, 1);
  assert.match(rig.typed[0] ?? '', /:say {2}hi $/);
  assert.deepEqual(rig.writesOf('ConsoleCommand'), ['create', 'mergePatchStatus', 'mergePatchStatus']);
  assert.deepEqual(rig.events, ['lobby ApiKey "panel": instance execute']);
});

test('CommandReconciler: of two operators with the same old cache one runs the command', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance execute lobby stop');
  const stale = rig.command(key);
  const operators = ['operator-1', 'operator-2'].map((identity) => rig.operator({ identity }, { get: () => stale }));
  const outcomes = await Promise.allSettled(operators.map((operator) => operator.reconcile(key, signal)));
  assert.deepEqual(outcomes.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  assert.equal(rig.typed.length, 1);
});

test('CommandReconciler: what another operator had claimed is interrupted, keeps its output, and is never run', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance execute lobby stop');
  const { name = '' } = rig.command(key)?.metadata ?? {};
  const claimed = { phase: 'Running', claimedBy: 'operator-0', output: ['half'] };
  rig.server.setStatus(consoleCommands, { namespace: releaseNamespace, name }, claimed);
  await rig.operator().reconcile(key, signal);
  const { status } = rig.command(key) ?? {};
  assert.deepEqual([status?.phase, status?.exitCode, status?.output], ['Failed', 1, ['half']]);
  assert.equal(status?.conditions?.find(({ type }) => type === 'Ready')?.reason, 'Interrupted');
  assert.deepEqual(rig.typed, []);
});

test('CommandReconciler: at each write in turn, lost or failed, a command acts at most once and ends', async () => {
  for (const action of [{ fail: new Error('refused') }, { lose: new Error('cut') }]) {
    for (const from of [1, 2]) {
      const rig = await rigWithLobby();
      const key = await rig.issue('instance execute lobby stop');
      const fault = { verb: 'mergePatchStatus', resource: 'consolecommands', from, action } as const;
      const operator = rig.operator({ client: withFaults(rig.server, rig.clock, [fault]) });
      await assert.rejects(operator.reconcile(key, signal));
      await operator.reconcile(key, signal);
      assert.equal(rig.typed.length, 1, `${JSON.stringify(action)} at ${from}`);
      assert.equal(rig.command(key)?.status?.phase, 'Succeeded');
    }
  }
});

test('CommandReconciler: a command in a foreign namespace does nothing and says so', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance execute lobby stop', {}, 'games');
  await rig.operator().reconcile(key, signal);
  const { status } = rig.command(key) ?? {};
  assert.equal(status?.conditions?.[0]?.reason, 'ForeignNamespace');
  assert.deepEqual(rig.typed, []);
});

test('CommandReconciler: output is flushed while the command runs, 25 ms after it was printed', async () => {
  const rig = await rigWithLobby();
  await rig.configure('arena');
  const key = await rig.issue('instance create arena 9');
  const slow = { verb: 'create', resource: 'instances', from: 9, action: { delayMs: 100 } } as const;
  const running = rig.operator({ client: withFaults(rig.server, rig.clock, [slow]) }).reconcile(key, signal);
  await rig.clock.advance(24);
  assert.deepEqual([rig.command(key)?.status?.phase, rig.command(key)?.status?.output], ['Running', undefined]);
  await rig.clock.advance(1);
  const [flushed = ''] = rig.command(key)?.status?.output ?? [];
  assert.equal(linesOf([flushed]).length, 8);
  await rig.clock.advance(75);
  await running;
  // What was written once stays as it was: a Master counts the pieces that it has passed on.
  const { output = [] } = rig.command(key)?.status ?? {};
  assert.deepEqual([output.length, output[0], linesOf(output).length], [2, flushed, 9]);
  // The claim, one flush, the end.
  assert.equal(rig.writesOf('ConsoleCommand').length, 4);
});

test('CommandReconciler: a command that takes too long is given up and says so', async () => {
  const rig = await rigWithLobby();
  const key = await rig.issue('instance stop lobby');
  const client = withFaults(rig.server, rig.clock, [{ verb: 'apply', resource: 'instances', action: { hang: true } }]);
  const running = rig.operator({ client }).reconcile(key, signal);
  await rig.clock.advance(45_000);
  await running;
  assert.match(rig.command(key)?.status?.output?.[0] ?? '', /^Given up after 45 s/);
});

test('Output: what does not fit is dropped from there on, and said', () => {
  const output = new Output({ linesMax: 2, bytesMax: 20 });
  output.print('a\nb');
  output.print('c');
  assert.deepEqual([output.pieces(), output.isTruncated], [['a\nb'], true]);
  const escaped = new Output({ linesMax: 9, bytesMax: 20 });
  escaped.print('\u001b\u001b\u001b\u001b');
  assert.deepEqual([escaped.pieces(), escaped.isTruncated], [[], true]);
});

test('Output: a piece stays as it is, and an empty line is one', () => {
  const output = new Output();
  output.print('');
  assert.deepEqual(output.pieces(), ['']);
  assert.deepEqual(output.pieces(), ['']);
  output.print('a');
  output.print('\n');
  assert.deepEqual(output.pieces(), ['', 'a\n\n']);
  assert.deepEqual(linesOf(output.pieces()), ['', 'a', '', '']);
  assert.deepEqual(new Output().pieces(), []);
});

test('CommandCleaner: a command is deleted when its time is over, and not before', async () => {
  const rig = new ConsoleRig();
  const key = await rig.issue('help', { ttlSecondsAfterFinished: 10 });
  const commands = rig.cache(consoleCommands);
  const cleaner = new CommandCleaner({ client: rig.server, clock: rig.clock, commands, releaseNamespace });
  assert.deepEqual(await cleaner.reconcile(key, signal), {});
  await rig.operator().reconcile(key, signal);
  assert.deepEqual(await cleaner.reconcile(key, signal), { requeueAfterMs: 10_000 });
  await rig.clock.advance(10_000);
  await cleaner.reconcile(key, signal);
  assert.equal(rig.command(key), undefined);
});
