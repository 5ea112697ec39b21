/** The dispatcher on a real API server. The operator is played by a loop that claims, writes output and ends commands as their lines say. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { parse } from 'yaml';
import { attachCluster } from '../../e2e/cluster/cluster.ts';
import type { ConsoleCommand, ConsoleCommandStatus } from '../api/v1alpha1/consolecommand.ts';
import { consoleCommands } from '../api/v1alpha1/consolecommand.ts';
import { createSilentLogger } from '../log.ts';
import { createMetrics } from '../metrics.ts';
import type { KubernetesObject, Resource } from '../runtime/client.ts';
import { systemClock } from '../runtime/clock.ts';
import { Reflector } from '../runtime/reflector.ts';
import { connectToTestServer, eventually } from '../testing/integration.ts';
import type { CommandEnd } from './dispatch.ts';
import type { DispatcherLimits } from './dispatcher.ts';
import { ClusterDispatcher } from './dispatcher.ts';

const { client, connectAgain, makeNamespace } = connectToTestServer(process.env);
const log = createSilentLogger();

interface Definition extends KubernetesObject {
  status?: { conditions?: { type: string; status: string }[] };
}

const definitions: Resource<Definition> = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  plural: 'customresourcedefinitions',
  namespaced: false,
};

before(async () => {
  const file = new URL('../../crds/consolecommands.yaml', import.meta.url);
  const definition = parse(await readFile(file, 'utf8')) as Definition;
  await client.apply(definitions, definition, { fieldManager: 'test', force: true });
  await eventually(30_000, async () => {
    const made = await client.get(definitions, { name: definition.metadata.name });
    assert.ok(made?.status?.conditions?.some(({ type, status }) => type === 'Established' && status === 'True'));
  });
});

/** Plays the operator. `claimed` has each name once for each claim that succeeded. */
function playOperator(namespace: string, signal: AbortSignal): { claimed: string[]; following: Promise<void> } {
  const own = connectAgain();
  const claimed: string[] = [];
  const seen = new Set<string>();
  const write = async ({ metadata }: ConsoleCommand, status: ConsoleCommandStatus, isClaim = false): Promise<void> => {
    const { name, resourceVersion = '' } = metadata;
    const object = { metadata: { name, namespace, ...(isClaim ? { resourceVersion } : {}) }, status };
    const named = { apiVersion: consoleCommands.apiVersion, kind: consoleCommands.kind, ...object };
    await own.applyStatus(consoleCommands, named, { fieldManager: 'played', force: true });
  };
  const act = async (command: ConsoleCommand): Promise<void> => {
    const [verb, amount = '0'] = command.spec.line.split(' ');
    const output = Array.from({ length: Number(amount) }, (_, index) => `${command.spec.line}: ${index}`);
    if (verb === 'ignore') return;
    if (verb === 'act') {
      await write(command, { phase: 'Running', claimedBy: 'played' }, true);
      claimed.push(command.metadata.name);
      for (let count = 1; count < output.length; count += 1) {
        await write(command, { phase: 'Running', claimedBy: 'played', output: output.slice(0, count) });
      }
    }
    await write(command, { phase: 'Succeeded', exitCode: 0, output, result: { verb } });
  };
  const upsert = (command: ConsoleCommand): void => {
    if (seen.has(command.metadata.name)) return;
    seen.add(command.metadata.name);
    // It was withdrawn first; or the API server is away, which is for the real one to mend.
    act(command).catch(() => undefined);
  };
  const reflector = new Reflector<ConsoleCommand>({
    ...{ client: own, resource: consoleCommands, scope: { namespace }, clock: systemClock, random: () => 0, log },
    sink: {
      replace: (commands) => {
        commands.forEach(upsert);
      },
      upsert,
      remove: () => undefined,
    },
  });
  return { claimed, following: reflector.run(signal) };
}

interface Parts extends AsyncDisposable {
  readonly namespace: string;
  readonly claimed: string[];
  run(line: string): Promise<CommandEnd & { output: string[] }>;
}

async function setUp(limits: Partial<DispatcherLimits> = {}): Promise<Parts> {
  const made = await makeNamespace();
  const namespace = made.name;
  const stop = new AbortController();
  const { claimed, following } = playOperator(namespace, stop.signal);
  const dispatcher = new ClusterDispatcher({
    ...{ client: connectAgain(), namespace, master: 'ringmaster-master-abc-1', clock: systemClock, random: () => 0 },
    ...{ log, limits, metrics: createMetrics() },
  });
  const dispatching = dispatcher.follow(stop.signal);
  return {
    namespace,
    claimed,
    async run(line) {
      const output: string[] = [];
      const request = { line, issuedBy: { kind: 'ApiKey', name: 'test' }, session: 's' } as const;
      const onOutput = (lines: readonly string[]): void => void output.push(...lines);
      const end = await dispatcher.run({ ...request, onOutput }, new AbortController().signal);
      return { ...end, output };
    },
    async [Symbol.asyncDispose]() {
      stop.abort(new Error('Over'));
      await Promise.all([following, dispatching]);
      await made[Symbol.asyncDispose]();
    },
  };
}

const outputOf = (line: string, amount: number): string[] =>
  Array.from({ length: amount }, (_, index) => `${line}: ${index}`);

test('dispatcher: three hundred commands of ten sessions each run once, and their growing output comes once and in order', async () => {
  await using parts = await setUp();
  const sessions = Array.from({ length: 10 }, async (_, session) => {
    for (let count = 0; count < 30; count += 1) {
      const line = `${count % 3 === 0 ? 'act' : 'read'} ${count % 7} of ${session}`;
      const { output, ...end } = await parts.run(line);
      assert.deepEqual(output, outputOf(line, count % 7));
      assert.deepEqual(end, { exitCode: 0, isTruncated: false, result: { verb: line.split(' ')[0] } });
    }
  });
  await Promise.all(sessions);
  assert.equal(parts.claimed.length, 100);
});

test('dispatcher: what nobody takes is deleted; what the API server refuses is said', async () => {
  await using parts = await setUp({ takenTimeoutMs: 300 });
  assert.equal((await parts.run('ignore')).reason, 'Unavailable');
  const left = await client.list(consoleCommands, { namespace: parts.namespace });
  assert.deepEqual(left.items, []);
  await assert.rejects(parts.run('two\nlines'), { code: 'COMMAND_REFUSED' });
});

test('dispatcher: where claims and withdrawals race, exactly what was claimed runs, and nothing else is said to have', async () => {
  let withdrawn = 0;
  let ran = 0;
  for (const takenTimeoutMs of [0, 2, 5, 8, 12, 20]) {
    await using parts = await setUp({ takenTimeoutMs });
    // One at a time at first, so that the watches are up.
    await parts.run('act 1').catch(() => undefined);
    parts.claimed.length = 0;
    const ends = await Promise.all(Array.from({ length: 40 }, () => parts.run('act 3')));
    const succeeded = ends.filter(({ exitCode }) => exitCode === 0);
    for (const { output } of succeeded) assert.deepEqual(output, outputOf('act 3', 3));
    for (const { exitCode, reason, output } of ends) {
      if (exitCode !== 0) assert.deepEqual({ reason, output }, { reason: 'Unavailable', output: [] });
    }
    assert.equal(parts.claimed.length, succeeded.length);
    ran += succeeded.length;
    withdrawn += ends.length - succeeded.length;
  }
  assert.ok(ran > 0 && withdrawn > 0, `${ran} ran and ${withdrawn} were withdrawn: there was no race`);
});

test('dispatcher: an API server that is killed and comes back loses no command that was given before, during or after', async () => {
  const cluster = await attachCluster('integration');
  assert.ok(cluster !== undefined, 'the cluster "integration" is not up');
  await using parts = await setUp();
  await parts.run('read 1');
  const early = Array.from({ length: 20 }, () => parts.run('read 2'));
  await cluster.kill('kube-apiserver');
  const during = Array.from({ length: 20 }, () => parts.run('read 3'));
  await cluster.start('kube-apiserver');
  const all = [...early, ...during, parts.run('read 4')];
  // The played operator gives up what it could not write: such a one is withdrawn, and that is said.
  for (const { exitCode, reason, output } of await Promise.all(all)) {
    if (exitCode === 0) assert.ok(output.length >= 2);
    else assert.deepEqual({ reason, output }, { reason: 'Unavailable', output: [] });
  }
  assert.equal((await parts.run('read 5')).output.length, 5);
});

after(async () => {
  await client.remove(definitions, { name: 'consolecommands.ringmaster.dev' });
});
