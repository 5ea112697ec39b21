/** Every command against an API server in memory: what it prints, what it writes, and how it fails. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { apiKeys } from '../../../api/v1alpha1/apikey.ts';
import type { InstanceSpec } from '../../../api/v1alpha1/instance.ts';
import { instanceSpec, instances } from '../../../api/v1alpha1/instance.ts';
import { instanceConfigurations } from '../../../api/v1alpha1/instanceconfiguration.ts';
import type { InstanceConfiguration as Configuration } from '../../../api/v1alpha1/instanceconfiguration.ts';
import {
  configurationLabel,
  idLabel,
  operatorFieldManager,
  restartedAtAnnotation,
  templateLabel,
} from '../../../names.ts';
import { pods } from '../../../runtime/client.ts';
import { ConsoleRig, releaseNamespace } from '../../../testing/console.ts';
import { nodes } from '../../../runtime/nodes.ts';
import { configMaps } from '../world.ts';

const lobby = { namespace: 'games', name: 'lobby' };

async function rigWith(
  ...names: { namespace: string; name: string; id?: string; spec?: Partial<InstanceSpec> }[]
): Promise<ConsoleRig> {
  const rig = new ConsoleRig();
  for (const { namespace, name, id = 'a1b2c3', spec = {} } of names) {
    await rig.server.create(instances, {
      metadata: { namespace, name },
      spec: instanceSpec.parse({ image: 'a:1', ...spec }),
    });
    const status = { id, state: 'ONLINE', nodeName: 'node-1', port: 25565, podName: `${name}-1` };
    rig.server.setStatus(instances, { namespace, name }, status);
  }
  return rig;
}

test('instance list: an Instance without a node and a port has hyphens, and the configuration names it', async () => {
  const rig = await rigWith(lobby);
  const labels = { [configurationLabel]: 'arena', [idLabel]: 'zzzzzz' };
  await rig.server.create(instances, {
    metadata: { namespace: 'games', name: 'arena-x', labels },
    spec: instanceSpec.parse({ image: 'a:1' }),
  });
  assert.deepEqual((await rig.run('instances list')).output, [
    ...['Instances (2):', 'a1b2c3 lobby ONLINE node-1 25565', 'zzzzzz arena CREATING - -'],
  ]);
});

test('an Instance is found by id, namespace/name and name; a name that two have is refused', async () => {
  const rig = await rigWith(lobby, { namespace: 'dev', name: 'lobby', id: 'b1b2c3' });
  assert.equal((await rig.run('instance info a1b2c3')).output[2], 'namespace: games');
  assert.equal((await rig.run('instance info dev/lobby')).output[0], 'id: b1b2c3');
  const { output, exitCode, result } = await rig.run('instance info lobby');
  assert.deepEqual(output, ['"lobby" is ambiguous: dev/lobby, games/lobby. Write namespace/name or the id']);
  assert.deepEqual([exitCode, result], [1, { code: 409 }]);
  assert.deepEqual((await rig.run('instance info nobody')).output, ['Instance not found: nobody']);
});

test('instance stop and start: set desiredState, and name a manager that applies it', async () => {
  const rig = await rigWith();
  const spec = instanceSpec.parse({ image: 'a:1' });
  await rig.server.apply(instances, { metadata: lobby, spec }, { fieldManager: 'argocd-controller' });
  const { output, exitCode } = await rig.run('instance stop lobby');
  assert.equal(exitCode, 0);
  assert.deepEqual(output, [
    'Note: spec.desiredState is also set by argocd-controller, which may set it back',
    'Stopping games/lobby',
  ]);
  assert.equal(rig.server.peek(instances, lobby)?.spec.desiredState, 'Stopped');
  assert.deepEqual((await rig.run('instance start lobby')).output, ['Starting games/lobby']);
  assert.equal(rig.server.peek(instances, lobby)?.spec.desiredState, 'Running');
});

test('instance restart: asks for another pod, and starts one that is stopped', async () => {
  const rig = await rigWith({ ...lobby, spec: { desiredState: 'Stopped' } });
  assert.deepEqual((await rig.run('instance restart a1b2c3')).output, ['Restarting a1b2c3']);
  const { metadata, spec } = rig.server.peek(instances, lobby) ?? assert.fail();
  assert.equal(spec.desiredState, 'Running');
  assert.ok(metadata.annotations?.[restartedAtAnnotation]);
});

test('instance restart: names who else sets the annotation, and gives up nothing that a command set before', async () => {
  const rig = await rigWith();
  const spec = instanceSpec.parse({ image: 'a:1' });
  const metadata = { ...lobby, annotations: { [restartedAtAnnotation]: '1' } };
  await rig.server.apply(
    instances,
    { metadata, spec: { image: spec.image } as InstanceSpec },
    { fieldManager: 'flux' },
  );
  await rig.run('instance stop lobby');
  await rig.run('instance start lobby');
  assert.deepEqual((await rig.run('instance restart lobby')).output, [
    `Note: the annotation ${restartedAtAnnotation} is also set by flux, which may set it back and so restart the Instance once more`,
    'Restarting games/lobby',
  ]);
  const restarted = rig.server.peek(instances, lobby) ?? assert.fail();
  assert.notEqual(restarted.metadata.annotations?.[restartedAtAnnotation], '1');
  assert.equal(restarted.spec.desiredState, 'Running');
  assert.deepEqual((await rig.run('instance restart lobby')).output, ['Restarting games/lobby']);
});

test('instance restart: says when the manifest that an Instance was applied from has the annotation', async () => {
  const rig = await rigWith(lobby);
  const manifest = JSON.stringify({ metadata: { annotations: { [restartedAtAnnotation]: '1' } } });
  const annotations = { 'kubectl.kubernetes.io/last-applied-configuration': manifest };
  await rig.server.mergePatch(instances, lobby, { metadata: { annotations } });
  const [note = ''] = (await rig.run('instance restart lobby')).output;
  assert.match(note, /is also set by the manifest that it was applied from, which may set it back/);
});

test('instance kill: the pod has one second, no stop command is left to write, and the Instance stays stopped', async () => {
  const rig = await rigWith(lobby);
  const ref = { namespace: 'games', name: 'lobby-1' };
  await rig.server.create(pods, { metadata: ref, spec: { containers: [], nodeName: 'node-1' } });
  assert.deepEqual((await rig.run('instance kill lobby')).output, ['Killed a1b2c3']);
  const pod = rig.server.peek(pods, ref);
  assert.equal(pod?.metadata.deletionGracePeriodSeconds, 1);
  assert.ok(pod.metadata.annotations?.['ringmaster.dev/stop-command-sent']);
  assert.equal(rig.server.peek(instances, lobby)?.spec.desiredState, 'Stopped');
});

test('instance logs: the last 25 lines, or as many as asked for', async () => {
  const rig = await rigWith(lobby);
  rig.log = Array.from({ length: 30 }, (_, index) => `line ${index}`);
  assert.deepEqual((await rig.run('instance logs a1b2c3')).output, rig.log.slice(5));
  assert.deepEqual((await rig.run('instance logs a1b2c3 1')).output, ['line 29']);
  assert.equal((await rig.run('instance logs a1b2c3 0')).exitCode, 2);
});

test('instance create: as many as asked for, each with an id at once', async () => {
  const rig = await rigWith();
  await rig.configure('arena');
  const { output, result } = await rig.run('instance create arena 3');
  const made = rig.server.peekAll(instances);
  assert.equal(made.length, 3);
  assert.deepEqual(
    output.toSorted(),
    made.map(({ metadata }) => `Created ${metadata.labels?.[idLabel] ?? ''} games/${metadata.name}`).toSorted(),
  );
  assert.ok(made.every(({ metadata }) => metadata.labels?.[configurationLabel] === 'arena'));
  assert.equal((result as { instances: unknown[] }).instances.length, 3);
  assert.deepEqual((await rig.run('instance create nothing')).result, { code: 404 });
  assert.equal((await rig.run('instance create arena 1001')).exitCode, 2);
});

test('instance delete and instance state: are written, and their results say which', async () => {
  const rig = await rigWith(lobby);
  assert.deepEqual((await rig.run('instance state lobby ONLINE 1700000000000')).output, [
    'Recorded a1b2c3 ONLINE 1700000000000',
  ]);
  assert.equal((await rig.run('instance state lobby BROKEN 1')).exitCode, 2);
  assert.equal((await rig.run('instance delete lobby')).exitCode, 0);
  assert.equal(rig.server.peek(instances, lobby), undefined);
});

test('config: create, list, show, apply and delete', async () => {
  const rig = await rigWith();
  assert.match((await rig.run('config create lobby process ./run')).output[0] ?? '', /^No image is known/);
  assert.equal((await rig.run('config create lobby process --image=a:1 ./run --port=1')).exitCode, 0);
  const ref = { namespace: releaseNamespace, name: 'lobby' };
  const spec = rig.server.peek(instanceConfigurations, ref)?.spec.template.spec;
  assert.deepEqual(spec, { runtime: 'process', image: 'a:1', command: ['./run', '--port=1'] });
  const json = '{"minimumServiceCount":2,"template":{"spec":{"image":"it\'s","runtime":"process"}}}';
  assert.deepEqual((await rig.run(`config apply lobby ${json}`)).output, ['Changed configuration lobby']);
  assert.deepEqual((await rig.run(`config apply arena '${json.replace("'", String.raw`'\''`)}'`)).output, [
    'Created configuration arena',
  ]);
  assert.deepEqual((await rig.run('config list')).output, [
    'Configurations (2):',
    'arena process 0 2',
    'lobby process 0 2',
  ]);
  assert.match((await rig.run('config show arena')).output.join(''), /"it's"/);
  assert.equal((await rig.run('config apply arena [1]')).exitCode, 2);
  assert.equal((await rig.run('config delete arena')).exitCode, 0);
  assert.deepEqual((await rig.run('config delete arena')).result, { code: 404 });
});

test('key: create takes a hash alone, list and delete', async () => {
  const rig = await rigWith();
  const sha = 'ab'.repeat(32);
  const refused = await rig.run('key create panel ALL');
  assert.deepEqual([refused.exitCode, refused.output[1]], [2, 'Usage: key create <keyId> <ALL|PUBLIC>']);
  assert.deepEqual((await rig.run(`key create panel ALL --token-sha256=${sha}`)).output, ['Created key panel ALL']);
  assert.equal(rig.server.peek(apiKeys, { namespace: releaseNamespace, name: 'panel' })?.spec.tokenSHA256, sha);
  assert.deepEqual((await rig.run(`key create panel ALL --token-sha256=${sha}`)).result, { code: 409 });
  assert.deepEqual((await rig.run('keys list')).output, ['Keys (1):', 'panel ALL -']);
  assert.deepEqual((await rig.run('key delete panel')).output, ['Deleted key panel']);
});

test('node and cluster: what nodes have and what Instances request; without the right a sentence', async () => {
  const rig = await rigWith({ ...lobby, spec: { resources: { requests: { cpu: '500m', memory: '1Gi' } } } });
  await rig.server.create(nodes, { metadata: { name: 'node-1' } });
  const ready = [{ type: 'Ready', status: 'True' }];
  rig.server.setStatus(nodes, { name: 'node-1' }, { allocatable: { cpu: '4', memory: '8Gi' }, conditions: ready });
  assert.deepEqual((await rig.run('node resources')).output, [
    'Node node-1:',
    ...['cpu: 0.5 of 4 requested by Instances', 'memory: 1024Mi of 8192Mi requested by Instances', 'instances: 1'],
  ]);
  assert.deepEqual((await rig.run('cluster nodes')).output, ['Nodes (1):', 'node-1 READY 4 8192Mi 1']);
  assert.deepEqual((await rig.run('cluster status')).output, [
    ...['Nodes: 1 (1 ready)', 'Instances: 1 (CREATING 0, ONLINE 1, OFFLINE 0, STOPPED 0)'],
    ...['Configurations: 0', 'Operator: operator-1'],
  ]);
  assert.equal((await rig.run('node info node-1')).output[1], 'state: READY');
  assert.match((await rig.run('cluster nodes', { nodes: undefined })).output[0] ?? '', /^Nodes cannot be read/);
});

test('template: list, show, and what one file holds', async () => {
  const rig = await rigWith();
  const metadata = { namespace: 'games', name: 'survival', labels: { [templateLabel]: '' } };
  await rig.server.create(configMaps, { metadata, data: { 'server.properties': 'a=1\nb=2\n' } });
  assert.deepEqual((await rig.run('template list')).output, ['Templates (1):', 'games/survival 1']);
  assert.equal((await rig.run('template show survival')).output[1], 'server.properties 8');
  assert.deepEqual((await rig.run('template show survival server.properties')).output, ['a=1', 'b=2']);
});

test('help: the list, a group, and a command; nonsense is answered as the protocol says', async () => {
  const rig = await rigWith();
  assert.deepEqual((await rig.run('help')).output, [
    'Available commands: instance, config, template, cluster, key, node, help, exit',
  ]);
  assert.match((await rig.run('help instances logs')).output[0] ?? '', /^instance logs <id> \[lines\] - /);
  const { output, exitCode } = await rig.run('nonsense');
  assert.deepEqual([output, exitCode], [['Unknown command: nonsense. Type "help" for a list of commands.'], 2]);
});

const fileAnnotation = 'kubectl.kubernetes.io/last-applied-configuration';
const theFile = 'the manifest that it was applied from';

test('instance, config and key delete: name who applies what is deleted and may make it again, and nobody where nobody does', async () => {
  const rig = await rigWith(lobby);
  const template = { spec: { image: 'a:1' } };
  const arena = { namespace: releaseNamespace, name: 'arena' };
  const panel = { namespace: releaseNamespace, name: 'panel' };
  await rig.run(`config apply arena ${JSON.stringify({ template })}`);
  await rig.run(`key create panel ALL --token-sha256=${'0'.repeat(64)}`);
  const asGit = { fieldManager: 'argocd-controller' };
  await rig.server.apply(instances, { metadata: { ...lobby, labels: { team: 'a' } } }, asGit);
  // The operator's own label and finalizer, and a field that somebody once wrote, are nobody's who comes back.
  await rig.server.apply(
    instances,
    { metadata: { ...lobby, labels: { [idLabel]: 'a1b2c3' } } },
    {
      fieldManager: operatorFieldManager,
    },
  );
  await rig.server.apply(
    instanceConfigurations,
    { metadata: { ...arena, labels: { team: 'a' } } },
    {
      fieldManager: 'kustomize-controller',
    },
  );
  await rig.server.mergePatch(apiKeys, panel, { metadata: { annotations: { [fileAnnotation]: '{}' } } });
  const removed = await rig.run('instance delete lobby');
  const note = 'Instance games/lobby is applied by argocd-controller, which may make it again';
  assert.deepEqual(removed.output, [`Note: ${note}`, 'Deleting a1b2c3']);
  assert.deepEqual((removed.result as { notes?: unknown }).notes, [note]);
  assert.deepEqual((await rig.run('config delete arena')).output, [
    'Note: configuration arena is applied by kustomize-controller, which may make it again',
    'Deleted configuration arena',
  ]);
  assert.deepEqual((await rig.run('key delete panel')).output, [
    `Note: key panel is applied by ${theFile}, which may make it again`,
    'Deleted key panel',
  ]);
  const own = await rigWith(lobby);
  await own.server.apply(
    instances,
    { metadata: { ...lobby, labels: { [idLabel]: 'a1b2c3' } } },
    {
      fieldManager: operatorFieldManager,
    },
  );
  await own.run('instance stop lobby');
  assert.deepEqual((await own.run('instance delete lobby')).output, ['Deleting a1b2c3']);
});

test('config apply: names who applies what it changes, and nobody for what they leave out', async () => {
  const rig = await rigWith();
  const arena = { namespace: releaseNamespace, name: 'arena' };
  const apply = async (minimum: number, image: string): Promise<readonly string[]> => {
    const spec = { minimumServiceCount: minimum, template: { spec: { image } } };
    return (await rig.run(`config apply arena ${JSON.stringify(spec)}`)).output;
  };
  const said = (by: string): string[] => [
    `Note: the spec is also set by ${by}, which may set it back`,
    'Changed configuration arena',
  ];
  assert.deepEqual(await apply(1, 'a:1'), ['Created configuration arena']);
  const fromGit = { metadata: arena, spec: { template: { spec: { image: 'a:1' } } } } as Configuration;
  await rig.server.apply(instanceConfigurations, fromGit, { fieldManager: 'flux' });
  assert.deepEqual(await apply(2, 'a:1'), ['Changed configuration arena'], 'the minimum is not in Git');
  assert.deepEqual(await apply(2, 'a:2'), said('flux'));
  assert.deepEqual(
    await apply(2, 'a:3'),
    ['Changed configuration arena'],
    'until it is set back it is no longer theirs',
  );
  const annotations = { [fileAnnotation]: JSON.stringify(fromGit) };
  await rig.server.mergePatch(instanceConfigurations, arena, { metadata: { annotations } });
  assert.deepEqual(await apply(2, 'a:4'), said(theFile));
  assert.deepEqual(await apply(2, 'a:4'), ['Changed configuration arena'], 'nothing was changed');
  assert.deepEqual(await apply(3, 'a:1'), ['Changed configuration arena'], 'what the manifest says is there');
});
