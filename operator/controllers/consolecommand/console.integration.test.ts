/** The operator's side of the console on a real API server: real caches, queues and claims; no kubelet. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { before, test } from 'node:test';
import { parse } from 'yaml';
import type { ConsoleCommand } from '../../api/v1alpha1/consolecommand.ts';
import { consoleCommands } from '../../api/v1alpha1/consolecommand.ts';
import { apiKeys } from '../../api/v1alpha1/apikey.ts';
import { instanceSpec, instances } from '../../api/v1alpha1/instance.ts';
import { instanceConfigurations } from '../../api/v1alpha1/instanceconfiguration.ts';
import { keepCommand, runConsole } from '../../console.ts';
import { createSilentLogger } from '../../log.ts';
import { templateLabel } from '../../names.ts';
import type { KubernetesObject, Resource } from '../../runtime/client.ts';
import { systemClock } from '../../runtime/clock.ts';
import { Controller } from '../../runtime/controller.ts';
import { InformerSet } from '../../runtime/informerset.ts';
import { WorkQueue } from '../../runtime/workqueue.ts';
import { connectToTestServer, eventually } from '../../testing/integration.ts';
import { indexedId } from '../instance/gather.ts';
import { keepNode, nodes } from '../../runtime/nodes.ts';
import { configMaps } from './world.ts';
import type { ProgramIo } from './world.ts';

const { client, makeNamespace, connectAgain } = connectToTestServer(process.env);
const log = createSilentLogger();
const shared = { clock: systemClock, random: Math.random };

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
  for (const { plural } of [instances, instanceConfigurations, apiKeys, consoleCommands]) {
    const text = await readFile(new URL(`../../../crds/${plural}.yaml`, import.meta.url), 'utf8');
    const definition = parse(text) as Definition;
    await client.apply(definitions, definition, { fieldManager: 'test', force: true });
    await eventually(20_000, async () => {
      const { status } = (await client.get(definitions, { name: definition.metadata.name })) ?? {};
      assert.ok(status?.conditions?.some(({ type, status: holds }) => type === 'Established' && holds === 'True'));
    });
  }
});

/** An operator that leads until it is stopped; `type` is its way to programs. */
async function startOperator(
  namespace: string,
  identity: string,
  type: ProgramIo['type'],
): Promise<() => Promise<void>> {
  const own = connectAgain();
  const options = <T extends KubernetesObject>(
    resource: Resource<T>,
  ): { client: typeof own; resource: Resource<T>; log: typeof log } & typeof shared => ({
    client: own,
    resource,
    log,
    ...shared,
  });
  const indexes = {
    id: (object: Parameters<typeof indexedId>[0]): string[] => [indexedId(object) ?? ''].filter((id) => id !== ''),
  };
  const caches = {
    instances: new InformerSet({ ...options(instances), indexes }, [namespace]),
    configurations: new InformerSet(options(instanceConfigurations), [namespace]),
    keys: new InformerSet(options(apiKeys), [namespace]),
    templates: new InformerSet({ ...options(configMaps), scope: { labelSelector: templateLabel } }, [namespace]),
    nodes: new InformerSet({ ...options(nodes), transform: keepNode }, []),
    commands: new InformerSet({ ...options(consoleCommands), transform: keepCommand }, [namespace]),
  };
  const stopping = new AbortController();
  const informers = Object.values(caches);
  const io: ProgramIo = { tail: () => Promise.resolve(['last']), type, lineFault: () => undefined };
  const world = {
    ...caches,
    ...shared,
    client: own,
    identity,
    io,
    releaseNamespace: namespace,
    defaultImage: undefined,
  };
  const running = [
    ...informers.map((informer) => informer.run(stopping.signal)),
    runConsole(
      {
        ...{ world, commands: caches.commands, log, workers: 16, events: { record: () => undefined } },
        createLoop: (name, reconcile, workers) => {
          const queue = new WorkQueue(shared);
          const stopTimeoutMs = 0;
          return {
            queue,
            controller: new Controller({ name, queue, reconcile, workers, informers, log, stopTimeoutMs, ...shared }),
          };
        },
      },
      stopping.signal,
    ),
  ];
  await Promise.all(informers.map((informer) => informer.whenSynced(stopping.signal)));
  return async () => {
    stopping.abort();
    await Promise.all(running);
  };
}

async function issue(namespace: string, name: string, line: string, ttlSecondsAfterFinished = 300): Promise<void> {
  await client.create(consoleCommands, { metadata: { name, namespace }, spec: { line, ttlSecondsAfterFinished } });
}

async function statusOf(namespace: string, name: string): Promise<ConsoleCommand['status']> {
  return (await client.get(consoleCommands, { namespace, name }))?.status;
}

test('integration: a command line is answered, its manager is named by the real server, and its record goes after its time', async () => {
  await using namespace = await makeNamespace();
  const ref = { namespace: namespace.name, name: 'lobby' };
  const spec = instanceSpec.parse({ image: 'a:1' });
  await client.apply(instances, { metadata: ref, spec }, { fieldManager: 'argocd-controller' });
  const stop = await startOperator(namespace.name, 'one', () => Promise.resolve());
  try {
    await issue(namespace.name, 'list', 'instance list');
    await issue(namespace.name, 'halt', 'instance stop lobby');
    await issue(namespace.name, 'bad', 'config apply x {"template":{"spec":{"image":"a b"}}}');
    await issue(namespace.name, 'gone', 'nonsense', 0);
    await eventually(10_000, async () => {
      assert.deepEqual((await statusOf(namespace.name, 'list'))?.output, ['Instances (1):\n- lobby CREATING - -']);
      assert.match((await statusOf(namespace.name, 'halt'))?.output?.[0] ?? '', /also set by argocd-controller/);
      assert.match(
        (await statusOf(namespace.name, 'bad'))?.output?.[0] ?? '',
        /^Kubernetes refuses it: .*without blanks/,
      );
      assert.equal(await client.get(consoleCommands, { namespace: namespace.name, name: 'gone' }), undefined);
    });
    assert.equal((await client.get(instances, ref))?.spec.desiredState, 'Stopped');
  } finally {
    await stop();
  }
});

test('integration: a command whose operator is lost in the middle ends as Interrupted, and is never run twice', async () => {
  await using namespace = await makeNamespace();
  const spec = instanceSpec.parse({ image: 'a:1' });
  await client.create(instances, { metadata: { namespace: namespace.name, name: 'lobby' }, spec });
  const typed: string[] = [];
  const begun = Promise.withResolvers<undefined>();
  const never = new Promise<void>(() => undefined);
  const stopFirst = await startOperator(namespace.name, 'one', async (_, line) => {
    typed.push(`one ${line}`);
    begun.resolve(undefined);
    await never;
  });
  await issue(namespace.name, 'typed', 'instance execute lobby say hi');
  await begun.promise;
  // The first one hangs from here on, as one whose node is gone.
  const stopSecond = await startOperator(namespace.name, 'two', (_, line) => {
    typed.push(`two ${line}`);
    return Promise.resolve();
  });
  try {
    await eventually(10_000, async () => {
      const status = await statusOf(namespace.name, 'typed');
      assert.equal(status?.phase, 'Failed');
      assert.equal(status.conditions?.find(({ type }) => type === 'Stalled')?.reason, 'Interrupted');
      assert.equal(status.claimedBy, 'one');
    });
    assert.deepEqual(typed, ['one say hi']);
  } finally {
    await Promise.all([stopFirst(), stopSecond()]);
  }
});

test('integration: commands a second with sixteen workers', async (context) => {
  await using namespace = await makeNamespace();
  const stop = await startOperator(namespace.name, 'one', () => Promise.resolve());
  const watching = new AbortController();
  const seen = new InformerSet({ client, resource: consoleCommands, log, ...shared }, [namespace.name]);
  const running = seen.run(watching.signal);
  try {
    const startedMs = performance.now();
    const names = Array.from({ length: 300 }, (_, index) => `c${index}`);
    await Promise.all(names.map((name) => issue(namespace.name, name, 'instance list')));
    await eventually(30_000, () => {
      assert.equal(seen.list().filter(({ status }) => status?.phase === 'Succeeded').length, names.length);
    });
    context.diagnostic(`${Math.round((names.length / (performance.now() - startedMs)) * 1000)} commands/s`);
  } finally {
    watching.abort();
    await Promise.all([running, stop()]);
  }
});
