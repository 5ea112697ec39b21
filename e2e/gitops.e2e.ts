/**
 * Instances, configurations and keys that come from Git: what GitOps tools compare stays as it was applied, they judge every stage rightly, and who
 * sets a field is respected or told. The verdicts are those of the tools' own code; see gitops/go.
 */
import assert from 'node:assert/strict';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parse } from 'yaml';
import type { Cluster } from './cluster/cluster.ts';
import type { Health, KStatus, Request, Verdict } from './gitops/judge.ts';
import { ensureJudge, judge } from './gitops/judge.ts';
import type { Condition, InstanceObject, KubeObject, Namespace } from './harness.ts';
import {
  condition,
  freshNamespace,
  hasState,
  instance,
  instancesPath,
  isOnline,
  isStalled,
  lasting,
  poll,
  programs,
  testCluster,
  Watch,
} from './harness.ts';
import { releaseNamespace } from './release.ts';

const operator = 'ringmaster-operator';
const idLabel = 'ringmaster.dev/id';
const restartedAt = 'ringmaster.dev/restarted-at';
const kinds = ['instances', 'instanceconfigurations', 'apikeys'] as const;
/** What Git has: the samples, one configuration and one key. */
let manifests: readonly KubeObject[];

interface FieldsOwned {
  manager: string;
  operation: 'Apply' | 'Update';
  subresource?: string;
  fieldsV1: Record<string, unknown>;
}

type Owned = KubeObject & { metadata: { managedFields?: FieldsOwned[] } };

/** One way that manifests get from Git into a cluster. */
interface Tool {
  readonly manager: string;
  readonly flags: readonly string[];
}

const tools = {
  'kubectl-apply': { manager: 'kubectl-client-side-apply', flags: [] },
  argocd: { manager: 'argocd-controller', flags: ['--server-side', '--field-manager=argocd-controller'] },
  flux: { manager: 'kustomize-controller', flags: ['--server-side', '--field-manager=kustomize-controller'] },
} as const satisfies Record<string, Tool>;
type ToolName = keyof typeof tools;

let cluster: Cluster;
/** A namespace for each way, and one for the rest. */
const synced = new Map<ToolName, Namespace>();
let namespace: Namespace;
let watches: Watch<KubeObject>[];

before(async () => {
  cluster = await testCluster();
  await ensureJudge();
  manifests = await readManifests();
  for (const name of Object.keys(tools) as ToolName[])
    synced.set(name, await freshNamespace(cluster, `e2e-gitops-${name}`));
  namespace = await freshNamespace(cluster, 'e2e-gitops');
  watches = kinds.map((kind) => new Watch(cluster, `${instancesPath}/namespaces/e2e-gitops/${kind}`));
});

after(async () => {
  for (const one of [...synced.values(), namespace]) {
    await one.kubectl(['delete', 'instanceconfigurations', '--all', '--timeout=60s']);
    await one.remove();
  }
  for (const watch of watches) watch.stop();
});

async function readManifests(): Promise<KubeObject[]> {
  const samples: KubeObject[] = [];
  const cwd = join(import.meta.dirname, 'samples');
  for await (const file of glob('**/*.yaml', { cwd }))
    samples.push(parse(await readFile(join(cwd, file), 'utf8')) as KubeObject);
  assert.ok(samples.length >= 7);
  return [...samples, configuration('match', { minimumServiceCount: 1, updateStrategy: {} }), apiKey('dashboard')];
}

/** One tool gets every sample; for the others some of each kind are enough, so that two cores need not run all of them three times. */
function manifestsOf(tool: ToolName): readonly KubeObject[] {
  if (tool === 'kubectl-apply') return manifests;
  const some = ['lobby', 'ticker', 'match', 'dashboard'];
  return manifests.filter(({ metadata }) => some.includes(metadata.name));
}

function configuration(
  name: string,
  spec: Record<string, unknown> = {},
  template: Record<string, unknown> = {},
): KubeObject {
  const ports = [{ name: 'game', port: 4000 }];
  const templateSpec = instance(name, { stop: { gracePeriodSeconds: 1 }, ports, ...template }).spec;
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'InstanceConfiguration',
    metadata: { name },
    spec: { template: { spec: templateSpec }, ...spec },
  };
}

function apiKey(name: string): KubeObject {
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'ApiKey',
    metadata: { name },
    spec: { permission: 'PUBLIC', tokenSHA256: '0'.repeat(64) },
  };
}

function listOf(objects: readonly KubeObject[]): string {
  return JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
}

function inGit(name: string): KubeObject {
  return manifests.find(({ metadata }) => metadata.name === name)!;
}

async function sync(tool: ToolName, objects: readonly KubeObject[], flags: readonly string[] = []): Promise<string> {
  return synced.get(tool)!.kubectl(['apply', ...tools[tool].flags, ...flags, '-f', '-'], listOf(objects));
}

/** The objects of this kind and namespace, with who owns their fields. */
async function live(where: Namespace, { kind = '', metadata }: KubeObject): Promise<Owned> {
  const args = ['get', kind, metadata.name, '--show-managed-fields', '--output=json'];
  return JSON.parse(await where.kubectl(args)) as Owned;
}

/** What Argo CD would change of these by each of its ways of comparing, as far as it can compare what this tool has applied. */
async function driftOf(tool: ToolName, objects: readonly KubeObject[]): Promise<Record<string, Verdict['drift']>> {
  const where = synced.get(tool)!;
  const { manager } = tools.argocd;
  const dryRun = ['--server-side', '--force-conflicts', `--field-manager=${manager}`, '--dry-run=server'];
  const show = ['--output=json', '--show-managed-fields', '-f', '-'];
  const requests: Request[] = [];
  for (const manifest of objects) {
    if (tool === 'kubectl-apply') requests.push({ object: await live(where, manifest), manifest });
    if (tool !== 'argocd') continue;
    // What is compared must be of one moment: the status may change between the two.
    const request = await poll('an object that stays as it is for a moment', async () => {
      const object = await live(where, manifest);
      const predicted = JSON.parse(
        await where.kubectl(['apply', ...dryRun, ...show], JSON.stringify(manifest)),
      ) as object;
      const after = await live(where, manifest);
      return after.metadata.resourceVersion === object.metadata.resourceVersion
        ? { object, manifest, predicted }
        : undefined;
    });
    requests.push(request);
  }
  const verdicts = requests.length === 0 ? [] : await judge(cluster, requests);
  const drifts = verdicts.map(({ drift }, index) => [objects[index]?.metadata.name ?? '', drift] as const);
  return Object.fromEntries(drifts.filter(([, drift]) => drift !== undefined));
}

/** Fails where anything of ours, or of a default, differs from what was applied. */
async function assertNoDrift(tool: ToolName, when: string): Promise<void> {
  const where = synced.get(tool)!;
  const said = `${tool}, ${when}`;
  const objects = manifestsOf(tool);
  assert.equal(await where.kubectl(['diff', ...tools[tool].flags, '-f', '-'], listOf(objects)), '', said);
  assert.deepEqual(await driftOf(tool, objects), {}, said);
}

function isSettled(object: InstanceObject): boolean {
  const { status, metadata } = object;
  const isAtRest = condition(object, 'Reconciling')?.status !== 'True';
  return status?.observedGeneration === metadata.generation && status?.conditions !== undefined && isAtRest;
}

async function untilSettled(where: Namespace, objects: readonly KubeObject[]): Promise<void> {
  for (const { kind = '', metadata } of objects) await where.until<InstanceObject>(kind, metadata.name, isSettled);
}

/** A line of the console; what it printed. */
async function command(line: string): Promise<string> {
  const url = `${process.env.RINGMASTER_URL ?? ''}/api/commands/execute`;
  const headers = { authorization: `Bearer ${process.env.RINGMASTER_TOKEN ?? ''}` };
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ command: line }) });
  const { output, exitCode } = (await response.json()) as { output: string; exitCode: number };
  assert.equal(exitCode, 0, output);
  return output;
}

/** Ends every operator; another one leads, and has looked at everything, when this resolves. */
async function restartOperators(): Promise<void> {
  const where = ['--namespace', releaseNamespace];
  const holder = ['get', 'lease', operator, ...where, '--output=jsonpath={.spec.holderIdentity}'];
  const before = await cluster.kubectl(holder);
  await cluster.kubectl([
    'delete',
    'pods',
    ...where,
    '--selector=app.kubernetes.io/component=operator',
    '--wait=false',
  ]);
  await poll('another leader', async () => {
    const now = await cluster.kubectl(holder);
    return now !== '' && now !== before ? now : undefined;
  });
  await cluster.kubectl(['rollout', 'status', ...where, `deployment/${operator}`, '--timeout=90s']);
  // It answers a command when its caches are filled.
  await poll('an operator that answers', () => command('cluster status'));
  await lasting(2000);
}

describe('what is applied from Git', () => {
  test('by kubectl, Argo CD and Flux: applied twice, the second time changes nothing', async () => {
    for (const tool of Object.keys(tools) as ToolName[]) await sync(tool, manifestsOf(tool));
    for (const [tool, where] of synced) {
      await untilSettled(where, manifestsOf(tool));
      const again = await sync(tool, manifestsOf(tool));
      if (tool === 'kubectl-apply') assert.doesNotMatch(again, /configured|created/, again);
      await assertNoDrift(tool, 'when it runs');
    }
  });

  test('the operator owns its label, its finalizer and the status, and nothing else', async () => {
    for (const [tool, where] of synced)
      for (const manifest of manifestsOf(tool)) assertOwners(await live(where, manifest), tools[tool].manager);
  });

  test('stays so when a command stops it, starts it and restarts it', async () => {
    for (const [tool, where] of synced) {
      const name = `${where.name}/ticker`;
      assert.doesNotMatch(await command(`instance stop ${name}`), /Note/);
      await where.until<InstanceObject>('instance', 'ticker', hasState('STOPPED'));
      await assertNoDrift(tool, 'stopped');
      await sync(tool, manifestsOf(tool));
      assert.equal((await where.get('instance', 'ticker')).spec?.['desiredState'], 'Stopped');
      assert.doesNotMatch(await command(`instance start ${name}`), /Note/);
      const { status } = await where.until<InstanceObject>('instance', 'ticker', isOnline);
      assert.doesNotMatch(await command(`instance restart ${name}`), /Note/);
      await where.until<InstanceObject>(
        'instance',
        'ticker',
        (object) => isOnline(object) && (object.status?.podSequence ?? 0) > (status?.podSequence ?? 0),
      );
      await assertNoDrift(tool, 'started and restarted');
    }
  });

  test('stays so, to the byte, when the operators are restarted', async () => {
    const versions = async (): Promise<(string | undefined)[]> => {
      const all = [...synced].flatMap(([tool, where]) => manifestsOf(tool).map((manifest) => live(where, manifest)));
      return (await Promise.all(all)).map(({ metadata }) => metadata.resourceVersion);
    };
    const before = await versions();
    await restartOperators();
    assert.deepEqual(await versions(), before);
  });

  test('wins over commands where it says the same field, and the commands say so', async () => {
    for (const [tool, where] of synced) {
      const ticker = inGit('ticker');
      const pinned = {
        ...ticker,
        metadata: { ...ticker.metadata, annotations: { [restartedAt]: 'v1' } },
        spec: { ...ticker.spec, desiredState: 'Running' },
      };
      // The commands of the test before have set the same fields.
      await sync(tool, [pinned], tool === 'kubectl-apply' ? [] : ['--force-conflicts']);
      await where.until<InstanceObject>('instance', 'ticker', isOnline);
      const stopped = await command(`instance stop ${where.name}/ticker`);
      assert.ok(stopped.includes(`spec.desiredState is also set by ${owner[tool]}, which may set it back`), stopped);
      await where.until<InstanceObject>('instance', 'ticker', hasState('STOPPED'));
      const drift = await driftOf(tool, [pinned]);
      if (tool === 'kubectl-apply') assert.deepEqual(Object.keys(drift['ticker'] ?? {}), ['patch']);
      if (tool === 'argocd') assert.deepEqual(Object.keys(drift['ticker'] ?? {}).sort(), ['dryRun', 'owners']);
      await sync(tool, [pinned], tool === 'kubectl-apply' ? [] : ['--force-conflicts']);
      const { status } = await where.until<InstanceObject>('instance', 'ticker', isOnline);
      const restarted = await command(`instance restart ${where.name}/ticker`);
      assert.ok(restarted.includes(`the annotation ${restartedAt} is also set by ${owner[tool]}`), restarted);
      await where.until<InstanceObject>(
        'instance',
        'ticker',
        (object) => isOnline(object) && (object.status?.podSequence ?? 0) > (status?.podSequence ?? 0),
      );
    }
  });

  test('wins over commands that change or delete all of an object, and the commands say so', async () => {
    for (const [tool, where] of synced) {
      const name = `${where.name}/match`;
      const { spec = {} } = await where.get('instanceconfiguration', 'match');
      const apply = async (changed: object): Promise<string> =>
        command(`config apply ${name} ${JSON.stringify({ ...spec, ...changed })}`);
      const note = `Note: the spec is also set by ${owner[tool]}, which may set it back`;
      // Git says nothing of it.
      assert.doesNotMatch(await apply({ maxUnavailable: 2 }), /Note/, tool);
      const changed = await apply({ minimumServiceCount: 0 });
      assert.ok(changed.includes(note), changed);
      const force = tool === 'kubectl-apply' ? [] : ['--force-conflicts'];
      await sync(tool, manifestsOf(tool), force);
      const deleted = [await command(`config delete ${name}`), await command(`instance delete ${where.name}/ticker`)];
      for (const text of deleted)
        assert.ok(text.includes(`is applied by ${owner[tool]}, which may make it again`), text);
      for (const kind of ['instanceconfiguration/match', 'instance/ticker'])
        await where.kubectl(['wait', '--for=delete', kind, '--timeout=60s']);
      await sync(tool, manifestsOf(tool), force);
      await untilSettled(where, manifestsOf(tool));
    }
  });
});

/** Who is said to apply what each of the ways has applied. */
const owner: Readonly<Record<ToolName, string>> = {
  'kubectl-apply': 'the manifest that it was applied from',
  argocd: 'argocd-controller',
  flux: 'kustomize-controller',
};

/** In the form of `managedFields`. */
const ownFields = {
  'f:metadata': {
    'f:finalizers': { 'v:"ringmaster.dev/graceful-stop"': {} },
    'f:labels': { [`f:${idLabel}`]: {} },
  },
};

function assertOwners({ metadata }: Owned, applier: string): void {
  assert.equal(metadata.generation, 1);
  assert.ok(metadata.managedFields?.some(({ manager }) => manager === applier));
  for (const { manager, subresource, fieldsV1 } of metadata.managedFields ?? []) {
    const said = `${metadata.name}: ${manager} ${JSON.stringify(fieldsV1)}`;
    if (subresource === 'status') assert.deepEqual([manager, Object.keys(fieldsV1)], [operator, ['f:status']], said);
    else if (manager === operator) assert.deepEqual(fieldsV1, ownFields, said);
    else assert.equal(manager, applier, said);
  }
}

/** What tools say while the object has this state; the two must always agree. */
const healthOf: Readonly<Record<KStatus, Health>> = {
  Current: 'Healthy',
  InProgress: 'Progressing',
  Failed: 'Degraded',
  Terminating: 'Progressing',
  NotFound: 'Missing',
  Unknown: 'Unknown',
};

async function kstatus(...objects: KubeObject[]): Promise<KStatus[]> {
  const verdicts = await judge(
    cluster,
    objects.map((object) => ({ object })),
  );
  return verdicts.map(({ kstatus: { status } }) => status);
}

describe('kstatus and Argo CD judge rightly', () => {
  test('an Instance that is made, fails, is mended, stopped and deleted', async () => {
    const [instances] = watches as [Watch<InstanceObject>];
    const stages: [InstanceObject, KStatus][] = [];
    const change = async (
      spec: Record<string, unknown>,
      is: (object: InstanceObject) => boolean,
      end: KStatus,
    ): Promise<void> => {
      await namespace.patch('life', spec);
      const last = await instances.until('life', is);
      const first = instances.of('life').find(({ object }) => object.metadata.generation === last.metadata.generation);
      stages.push([first!.object, 'InProgress'], [last, end]);
    };
    await namespace.apply(
      instance('life', { script: programs.reader, stop: { command: 'stop', gracePeriodSeconds: 9 } }),
    );
    const online = await instances.until('life', isOnline);
    stages.push([instances.of('life')[0]!.object, 'InProgress'], [online, 'Current']);
    await change({ args: [programs.crash] }, isStalled('CrashLoop'), 'Failed');
    await change(
      { image: 'ringmaster.local/missing:1', imagePullPolicy: 'Never' },
      isStalled('ImageUnavailable'),
      'Failed',
    );
    const { image } = online.spec ?? {};
    await change({ image, imagePullPolicy: null, args: [programs.reader] }, isOnline, 'Current');
    await change({ desiredState: 'Stopped' }, hasState('STOPPED'), 'Current');
    await change({ desiredState: 'Running' }, isOnline, 'Current');
    await namespace.kubectl(['delete', 'instance', 'life']);
    await instances.untilGone('life');
    const ending = instances.of('life').find(({ object }) => object.metadata.deletionTimestamp !== undefined);
    stages.push([ending!.object, 'Terminating']);
    const said = await kstatus(...stages.map(([object]) => object));
    assert.deepEqual(
      said,
      stages.map(([, expected]) => expected),
    );
  });

  test('a runtime that is missing in the image, and a program that ends', async () => {
    const [instances] = watches as [Watch<InstanceObject>];
    await namespace.apply(
      instance('screenless', { runtime: 'screen', command: ['sleep', '60'] }),
      instance('done', { script: programs.success, restartPolicy: 'Never' }),
    );
    const missing = await instances.until('screenless', isStalled('RuntimeMissing'));
    const done = await instances.until('done', hasState('STOPPED'));
    assert.deepEqual(await kstatus(missing, done), ['Failed', 'Current']);
  });

  test('a configuration that comes up, cannot be rolled out, and is mended', async () => {
    const configurations = watches[1] as Watch<KubeObject & { status?: { conditions?: Condition[] } }>;
    await namespace.apply(configuration('round', { minimumServiceCount: 1 }));
    const made = await configurations.until('round', (object) => condition(object, 'Ready')?.status === 'True');
    const first = configurations.of('round')[0]!.object;
    const bad = { image: 'ringmaster.local/missing:1', imagePullPolicy: 'Never' };
    await namespace.apply(configuration('round', { minimumServiceCount: 1 }, bad));
    const stalled = await configurations.until('round', (object) => condition(object, 'Stalled')?.status === 'True');
    await namespace.apply(configuration('round', { minimumServiceCount: 1 }));
    const mended = await configurations.until(
      'round',
      (object) => condition(object, 'Ready')?.status === 'True' && object.metadata.generation === 3,
    );
    assert.deepEqual(await kstatus(first, made, stalled, mended), ['InProgress', 'Current', 'Failed', 'Current']);
  });

  test('keys that count and that do not, and commands that run, end well and fail', async () => {
    const keys = watches[2]!;
    await namespace.apply(apiKey('elsewhere'));
    const stray = await keys.until('elsewhere', (object) => isSettled(object));
    const counting = JSON.parse(
      await cluster.kubectl(['get', 'apikey', 'test-all', '--namespace', releaseNamespace, '--output=json']),
    ) as KubeObject;
    const commands = new Watch<KubeObject>(cluster, `${instancesPath}/namespaces/${releaseNamespace}/consolecommands`);
    const create = (name: string, line: string): Promise<string> => {
      const object = { ...apiKey(name), kind: 'ConsoleCommand', spec: { line } };
      return cluster.kubectl(['create', '--namespace', releaseNamespace, '-f', '-'], { input: JSON.stringify(object) });
    };
    await create('gitops-good', `key create gitops-made PUBLIC --token-sha256=${'3'.repeat(64)}`);
    await create('gitops-bad', 'instance stop nobody');
    const has = (phase: string) => (object: KubeObject) => object.status?.['phase'] === phase;
    const good = await commands.until('gitops-good', has('Succeeded'));
    const bad = await commands.until('gitops-bad', has('Failed'));
    const running = commands.of('gitops-good').find(({ object }) => has('Running')(object));
    const fresh = commands.of('gitops-good')[0]!.object;
    commands.stop();
    await cluster.kubectl(['delete', 'apikey', 'gitops-made', '--namespace', releaseNamespace]);
    assert.deepEqual(await kstatus(stray, counting, fresh, running!.object, good, bad), [
      ...['Failed', 'Current', 'InProgress', 'InProgress', 'Current', 'Failed'],
    ]);
    const health = await judge(cluster, [{ object: running!.object }, { object: bad }]);
    assert.deepEqual(
      health.map(({ health: { status } }) => status),
      ['Progressing', 'Degraded'],
    );
    assert.match(health[1]?.health.message ?? '', /^CommandFailed: The command failed/);
  });

  test('the two agree on every object that was seen', async () => {
    const seen = watches.flatMap(({ history }) => history.map(({ object }) => object));
    const verdicts = await judge(
      cluster,
      seen.map((object) => ({ object })),
    );
    assert.ok(verdicts.length > 30);
    for (const [index, { kstatus: said, health }] of verdicts.entries())
      assert.equal(health.status, healthOf[said.status], JSON.stringify([said, health, seen[index]]));
  });
});

describe('pruned and applied again', () => {
  test('an Instance is stopped, and comes back under a new id; what is still in Git stays', async () => {
    const [instances] = watches as [Watch<InstanceObject>];
    const labels = { gitops: 'prune' };
    const pair = ['kept', 'pruned'].map((name) => {
      const object = instance(name, { stop: { gracePeriodSeconds: 1 } });
      return { ...object, metadata: { name, labels } };
    });
    const prune = ['--prune', '--selector=gitops=prune', '--prune-allowlist=ringmaster.dev/v1alpha1/Instance'];
    const apply = (objects: readonly KubeObject[]): Promise<string> =>
      namespace.kubectl(['apply', ...prune, '-f', '-'], listOf(objects));
    await apply(pair);
    const kept = await instances.until('kept', isOnline);
    const first = await instances.until('pruned', isOnline);
    await apply(pair.slice(0, 1));
    await instances.untilGone('pruned');
    assert.equal(instances.now('kept')?.metadata.uid, kept.metadata.uid);
    await apply(pair);
    const second = await instances.until('pruned', isOnline);
    assert.notEqual(second.status?.id, first.status?.id);
    assert.equal(instances.now('kept')?.status?.id, kept.status?.id);
  });

  test('a static configuration finds its claim again', async () => {
    const [instances] = watches as [Watch<InstanceObject>];
    const storage = { size: '1Mi', storageClassName: 'none', mountPath: '/world' };
    const world = configuration('world', { static: true, minimumServiceCount: 1, storage });
    await namespace.apply(world);
    const first = await instances.until('world', ({ status }) => status?.id !== undefined);
    const claim = await namespace.until('persistentvolumeclaim', 'world', () => true);
    await namespace.kubectl(['delete', 'instanceconfiguration', 'world', '--timeout=30s']);
    await instances.untilGone('world');
    await namespace.apply(world);
    const second = await instances.until('world', ({ status }) => status?.id !== undefined);
    assert.notEqual(second.status?.id, first.status?.id);
    assert.deepEqual(second.spec?.['volumes'], [{ name: 'storage', persistentVolumeClaim: { claimName: 'world' } }]);
    assert.equal((await namespace.get('persistentvolumeclaim', 'world')).metadata.uid, claim.metadata.uid);
  });
});

describe('server-side apply', () => {
  test('two managers share an Instance, and only what both set is a conflict', async () => {
    const apply = (manager: string, object: KubeObject): readonly string[] => [
      ...['apply', '--server-side', `--field-manager=${manager}`, '-f', '-'],
      JSON.stringify(object),
    ];
    const bare: KubeObject = { apiVersion: 'ringmaster.dev/v1alpha1', kind: 'Instance', metadata: { name: 'both' } };
    const run = (manager: string, object: KubeObject): Promise<string> => {
      const args = apply(manager, object);
      return namespace.kubectl(args.slice(0, -1), args.at(-1));
    };
    const refused = (manager: string, object: KubeObject): Promise<string> => {
      const args = apply(manager, object);
      return namespace.kubectlFails(args.slice(0, -1), args.at(-1));
    };
    const [instances] = watches as [Watch<InstanceObject>];
    await run('platform', instance('both', { desiredState: 'Stopped' }));
    await instances.until('both', hasState('STOPPED'));
    await run('team', {
      ...bare,
      metadata: { name: 'both', labels: { team: 'red' } },
      spec: { env: [{ name: 'MOTD', value: 'hi' }], ports: [{ name: 'game', port: 1 }] },
    });
    const image = await refused('team', { ...bare, spec: { image: 'example.com/other:1' } });
    assert.match(image, /conflict with "platform"[^]*\.spec\.image/);
    const label = await refused('team', { ...bare, metadata: { name: 'both', labels: { [idLabel]: 'zzzzzz' } } });
    assert.match(label, /conflict with "ringmaster-operator"/);
    // What a manager no longer applies goes, and nothing else does.
    await run('team', { ...bare, metadata: { name: 'both', labels: { team: 'blue' } } });
    const { metadata, spec } = await namespace.get<InstanceObject>('instance', 'both');
    assert.equal(metadata.labels?.['team'], 'blue');
    assert.match(metadata.labels[idLabel] ?? '', /^[0-9a-z]{6}$/);
    assert.deepEqual([spec?.['env'], spec?.['ports'], spec?.['desiredState']], [undefined, undefined, 'Stopped']);
  });
});
