import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { InstanceSpec } from '../../api/v1alpha1/instance.ts';
import type { Pod } from '../../runtime/client.ts';
import { makeInstance, sidecarContext } from '../../testing/objects.ts';
import { gather } from './gather.ts';
import { overlayFaults } from './overlay.ts';
import { buildPod, podHash } from './pod.ts';
import { runtimeFault } from './sidecarpod.ts';

type PodSpec = NonNullable<Pod['spec']>;
type Container = PodSpec['containers'][number];

const templated: Partial<InstanceSpec> = { workingDir: '/data', templates: [{ name: 'server-files' }] };

function podOf(spec: Partial<InstanceSpec>): PodSpec {
  const instance = makeInstance({ spec: { ...templated, ...spec } });
  const pod = buildPod(
    instance,
    { id: 'a1b2c3', sequence: 1 },
    { settings: sidecarContext.settings, keySecret: 'key' },
  );
  assert.ok(pod.spec);
  return pod.spec;
}

function initOf(pod: PodSpec): Container {
  const init = pod.initContainers?.at(-1);
  assert.equal(init?.name, 'ringmaster-templates');
  return init;
}

const variables = ({ env = [] }: Container): Record<string, string | undefined> =>
  Object.fromEntries(env.map(({ name, value }) => [name, value]));
const mountsOf = ({ volumeMounts = [] }: Container): string[] =>
  volumeMounts.map(({ name, mountPath, readOnly }) => `${name} ${mountPath}${readOnly === true ? ' ro' : ''}`);
const sourceOf = (pod: PodSpec, index = 0): Record<string, unknown> =>
  JSON.parse(variables(initOf(pod))[`RINGMASTER_TEMPLATE_${index}`] ?? '') as Record<string, unknown>;

test('withTemplates: without templates the pod is what it was', () => {
  const identity = { id: 'a1b2c3', sequence: 1 };
  for (const templates of [undefined, []]) {
    const plain = makeInstance({ spec: { workingDir: '/data', templates, properties: { A: 'x' } } });
    assert.deepEqual(
      buildPod(plain, identity, sidecarContext),
      buildPod(makeInstance({ spec: { workingDir: '/data' } }), identity),
    );
  }
});

test('withTemplates: an empty volume at the working directory, ConfigMaps by the kubelet, and nothing of them for the program', () => {
  const pod = podOf({});
  assert.deepEqual(pod.volumes, [
    { name: 'ringmaster-work', emptyDir: {} },
    { name: 'ringmaster-template-0', configMap: { name: 'server-files', optional: true, defaultMode: 0o444 } },
  ]);
  assert.deepEqual(mountsOf(pod.containers[0]!), ['ringmaster-work /data']);
  const init = initOf(pod);
  assert.deepEqual(mountsOf(init), [
    'ringmaster-work /ringmaster-target/data',
    'ringmaster-template-0 /ringmaster-templates/0 ro',
  ]);
  assert.equal(init.image, 'example.com/sidecar:1');
  assert.deepEqual(init.command, ['node', '/app/sidecar/templates.js']);
  assert.deepEqual(init.resources, sidecarContext.settings.resources);
  assert.equal(init.restartPolicy, undefined);
});

test('withTemplates: it passes Pod Security "restricted", as the user of the program where the Instance says so, and never as root', () => {
  const userOf = (securityContext: object, own?: object): unknown => {
    const containers = own === undefined ? [] : [{ name: 'instance', securityContext: own }];
    const { securityContext: used } = initOf(podOf({ podTemplate: { spec: { securityContext, containers } } }));
    const { runAsUser, runAsGroup, ...rest } = used ?? {};
    assert.deepEqual(rest, {
      runAsNonRoot: true,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
      seccompProfile: { type: 'RuntimeDefault' },
    });
    return [runAsUser, runAsGroup];
  };
  assert.deepEqual(userOf({}), [65532, 65532]);
  assert.deepEqual(userOf({ runAsUser: 1000 }), [1000, 65532]);
  assert.deepEqual(userOf({ runAsUser: 1000, runAsGroup: 1001 }, { runAsUser: 2000 }), [2000, 1001]);
  assert.deepEqual(userOf({ runAsUser: 0, runAsGroup: 0 }), [65532, 65532]);
  assert.deepEqual(userOf({ runAsUser: 1000, runAsGroup: 0 }), [1000, 65532]);
});

test('withTemplates: the innermost volume that has the working directory in it is used, and nothing beside it is shown', () => {
  const volumes = ['outer', 'inner', 'world', 'secret', 'file'].map((name) => ({ name, emptyDir: {} }));
  const volumeMounts = [
    { name: 'outer', mountPath: '/srv' },
    { name: 'inner', mountPath: '/srv/game/', subPath: 'a' },
    { name: 'world', mountPath: '/srv/game/server/world' },
    { name: 'secret', mountPath: '/srv/game/server/keys' },
    { name: 'file', mountPath: '/srv/game/server/whitelist.json', subPath: 'whitelist.json' },
  ];
  const templates = [{ name: 'server-files' }, { name: 'worlds', path: 'world/datapacks', replaceIn: ['pack'] }];
  const pod = podOf({ volumes, volumeMounts, workingDir: '/srv/game/server', templates });
  assert.deepEqual(pod.containers[0]?.volumeMounts, volumeMounts);
  assert.ok(pod.volumes?.every(({ name }) => name !== 'ringmaster-work'));
  assert.deepEqual(mountsOf(initOf(pod)), [
    'inner /ringmaster-target/srv/game',
    'world /ringmaster-target/srv/game/server/world',
    // Each of these might be a single file that a template has as well.
    'secret /ringmaster-target/srv/game/server/keys',
    'file /ringmaster-target/srv/game/server/whitelist.json',
    'ringmaster-template-0 /ringmaster-templates/0 ro',
    'ringmaster-template-1 /ringmaster-templates/1 ro',
  ]);
  assert.equal(initOf(pod).volumeMounts?.[0]?.subPath, 'a');
  assert.equal(variables(initOf(pod))['RINGMASTER_TEMPLATE_ROOT'], '/ringmaster-target/srv/game');
  assert.deepEqual(sourceOf(pod), {
    name: 'server-files',
    files: '/ringmaster-templates/0',
    path: 'server',
    folder: '/srv/game/server',
    replaceIn: [],
  });
  assert.deepEqual(sourceOf(pod, 1), {
    name: 'worlds',
    files: '/ringmaster-templates/1',
    path: 'server/world/datapacks',
    folder: '/srv/game/server/world/datapacks',
    replaceIn: ['pack'],
  });
  const deeper = podOf({ volumes, volumeMounts, workingDir: '/srv/game/server', templates: templates.slice(1) });
  assert.deepEqual(mountsOf(initOf(deeper)).slice(0, 2), [
    'inner /ringmaster-target/srv/game',
    'world /ringmaster-target/srv/game/server/world',
  ]);
});

test('withTemplates: a volume that only the overlay mounts counts, and its init containers come first', () => {
  const overlay = {
    volumes: [{ name: 'claim', ephemeral: {} }],
    containers: [{ name: 'instance', volumeMounts: [{ name: 'claim', mountPath: '/data' }] }],
    initContainers: [{ name: 'chown', image: 'x' }],
  };
  const pod = podOf({ podTemplate: { spec: overlay }, runtime: 'process', command: ['a'] });
  assert.equal(mountsOf(initOf(pod))[0], 'claim /ringmaster-target/data');
  assert.deepEqual(
    pod.initContainers?.map(({ name }) => name),
    ['ringmaster-sidecar', 'chown', 'ringmaster-templates'],
  );
  assert.deepEqual(mountsOf(pod.containers[0]!), ['ringmaster /ringmaster', 'claim /data']);
});

test('withTemplates: values are the Instance’s own and its properties, none of which the kubelet expands', () => {
  const ports = [{ name: 'game', port: 25565, protocol: 'TCP' as const, hostPort: 30000 }];
  const init = initOf(podOf({ ports, properties: { MOTD: '$(HOME) $$' } }));
  const given = variables(init);
  assert.equal(given['RINGMASTER_VALUE_INSTANCE_ID'], 'a1b2c3');
  assert.equal(given['RINGMASTER_VALUE_INSTANCE_NAME'], 'lobby');
  assert.equal(given['RINGMASTER_VALUE_PORT'], '25565');
  assert.equal(given['RINGMASTER_VALUE_MOTD'], '$$(HOME) $$$$');
  const node = init.env?.find(({ name }) => name === 'RINGMASTER_VALUE_NODE');
  assert.equal(node?.valueFrom?.fieldRef?.fieldPath, 'spec.nodeName');
  assert.ok(!('RINGMASTER_VALUE_PORT' in variables(initOf(podOf({})))));
});

test('podHash: templates and their properties count; properties without templates do not', () => {
  const hash = (spec: Partial<InstanceSpec>): string => podHash(makeInstance({ spec }).spec);
  const one = hash(templated);
  assert.notEqual(one, hash({ workingDir: '/data' }));
  assert.notEqual(one, hash({ ...templated, properties: { A: '1' } }));
  assert.notEqual(one, hash({ ...templated, templates: [{ name: 'server-files', path: 'a' }] }));
  assert.equal(hash({ properties: { A: '1' } }), hash({}));
  assert.equal(hash({ templates: [] }), hash({}));
});

test('runtimeFault: templates need the image of the sidecar under every runtime', () => {
  const { spec } = makeInstance({ spec: templated });
  assert.deepEqual(runtimeFault(spec, undefined), {
    reason: 'RuntimeDisabled',
    message:
      'The operator has no image for the sidecar, which puts templates into place: set the chart value sidecar.image.repository.',
  });
  assert.equal(runtimeFault(spec, sidecarContext.settings), undefined);
  assert.equal(runtimeFault(makeInstance().spec, undefined), undefined);
  const instance = makeInstance({ spec: templated });
  const caches = {
    instances: { get: () => instance, byIndex: () => [] },
    pods: { get: () => undefined, byIndex: () => [] },
    services: { get: () => undefined, byIndex: () => [] },
  };
  const gathered = gather(caches, 'games/lobby', { nowMs: 0, assignedIds: new Map() });
  assert.equal(gathered?.observed.runtimeFault?.reason, 'RuntimeDisabled');
  assert.throws(() => buildPod(instance, { id: 'a1b2c3', sequence: 1 }), /templates need the image of the sidecar/);
});

const faults: Record<string, { overlay: Record<string, unknown>; fault: RegExp }> = {
  'our container': { overlay: { initContainers: [{ name: 'ringmaster-templates', image: 'x' }] }, fault: /is ours/ },
  'our volumes': { overlay: { volumes: [{ name: 'ringmaster-work', emptyDir: {} }] }, fault: /is taken here/ },
  'all volumes': { overlay: { volumes: null }, fault: /volumes must be a list/ },
  'the working directory': {
    overlay: { containers: [{ name: 'instance', workingDir: '/tmp' }] },
    fault: /set spec\.workingDir instead/,
  },
};

for (const [name, { overlay, fault }] of Object.entries(faults)) {
  test(`overlayFaults: ${name} cannot be changed beside templates, and can without`, () => {
    assert.match(overlayFaults(overlay, 'kubernetes', true).join(), fault);
    assert.deepEqual(overlayFaults(overlay, 'kubernetes', false), []);
  });
}

test('overlayFaults: beside templates the rest of the program can be changed under kubernetes', () => {
  const overlay = { containers: [{ name: 'instance', env: [{ name: 'A', value: '1' }], command: ['sh'] }] };
  assert.deepEqual(overlayFaults(overlay, 'kubernetes', true), []);
});
