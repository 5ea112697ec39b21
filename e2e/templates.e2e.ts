/** Files from ConfigMaps in the working directory of programs: what the program finds there, and what is said when they cannot be put there. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Cluster } from './cluster/cluster.ts';
import type { InstanceObject, KubeObject, Namespace } from './harness.ts';
import {
  busybox,
  condition,
  freshNamespace,
  hasState,
  instance,
  instancesPath,
  isOnline,
  isStalled,
  poll,
  restrictedPod,
  testCluster,
  Watch,
} from './harness.ts';

const namespaceName = 'e2e-templates';
/** Bytes that are no text in any encoding, with a word in them that would be replaced. */
const blob = Buffer.from([0, 0xff, 0xfe, ...Buffer.from('%PORT%'), 0x80]).toString('base64');

let cluster: Cluster;
let namespace: Namespace;
let instances: Watch<InstanceObject>;

before(async () => {
  cluster = await testCluster();
  namespace = await freshNamespace(cluster, namespaceName);
  instances = new Watch(cluster, `${instancesPath}/namespaces/${namespaceName}/instances`);
  const conf =
    'id=%INSTANCE_ID% name=%INSTANCE_NAME% port=%PORT% node=%NODE% players=%MAX_PLAYERS% motd=%MOTD% %OTHER%\n';
  await namespace.apply(
    configMap('server-files', { data: { 'server.conf': conf, 'raw.txt': '%PORT%\n' }, binaryData: { blob } }),
    configMap('plugins', { data: { 'plugin.yml': 'for %MAX_PLAYERS%\n' } }),
  );
});

after(async () => {
  await namespace.remove();
  instances.stop();
});

function configMap(name: string, content: Record<string, unknown>): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name, labels: { 'ringmaster.dev/template': 'true' } },
    ...content,
  };
}

/** Says what it finds, and whether it may change it. */
const reader = `
cat server.conf raw.txt plugins/config/plugin.yml
echo "blob $(base64 blob)"
echo more >>server.conf && echo more >>plugins/config/new && echo writable
trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done`;

function reading(name: string, spec: Record<string, unknown> = {}): KubeObject {
  return instance(name, {
    script: reader,
    workingDir: '/srv/server',
    ports: [{ name: 'game', port: 25565 }],
    service: { type: 'None' },
    templates: [
      { name: 'server-files', replaceIn: ['server.conf'] },
      { name: 'plugins', path: 'plugins/config', replaceIn: ['plugin.yml'] },
    ],
    properties: { MAX_PLAYERS: '20', MOTD: 'costs $(HOME) 100%PORT%' },
    stop: { gracePeriodSeconds: 5 },
    ...spec,
  });
}

/** What the program in the present pod of an Instance has said, once it has said as many lines as `reader` does. */
async function saidBy({ status }: InstanceObject): Promise<string[]> {
  const pod = status?.podName ?? '';
  return poll(`the log of ${pod}`, async () => {
    const lines = (await namespace.kubectl(['logs', pod, '--container=instance'])).trim().split('\n');
    return lines.at(-1) === 'writable' ? lines : undefined;
  });
}

function expected({ status, metadata }: InstanceObject, players: string): string[] {
  return [
    `id=${status?.id} name=${metadata.name} port=25565 node=${status?.nodeName} players=${players} motd=costs $(HOME) 100%PORT% %OTHER%`,
    '%PORT%',
    `for ${players}`,
    `blob ${blob}`,
    'writable',
  ];
}

/** One whose volume, around the working directory, another user has written into before. */
function prepared(name: string, before: string, script = reader): KubeObject {
  const mount = { name: 'data', mountPath: '/srv' };
  const other = { runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } };
  const prepare = {
    name: 'prepare',
    image: busybox,
    command: ['sh', '-c', `umask 0; ${before}`],
    securityContext: other,
    volumeMounts: [mount],
  };
  const podTemplate = restrictedPod({ initContainers: [prepare] });
  return reading(name, { script, podTemplate, volumes: [{ name: 'data', emptyDir: {} }], volumeMounts: [mount] });
}

async function restart(name: string): Promise<void> {
  const value = `ringmaster.dev/restarted-at=${Date.now()}`;
  await namespace.kubectl(['annotate', 'instance', name, value, '--overwrite']);
}

describe('templates', { concurrency: true }, () => {
  test('templates: under kubernetes the program finds its files, and a changed ConfigMap after a restart alone', async () => {
    await namespace.apply(reading('plain'));
    const first = await instances.until('plain', isOnline);
    assert.deepEqual(await saidBy(first), expected(first, '20'));
    const patch = JSON.stringify({ data: { 'raw.txt': '%PORT% is new\n' } });
    await namespace.kubectl(['patch', 'configmap', 'server-files', '--type=merge', '--patch', patch]);
    await restart('plain');
    const isSecond = (object: InstanceObject): boolean => isOnline(object) && object.status?.podSequence === 2;
    const second = await instances.until('plain', isSecond);
    const wanted = expected(second, '20').map((line) => (line === '%PORT%' ? '%PORT% is new' : line));
    assert.deepEqual(await saidBy(second), wanted);
    // Both pods: the change of the ConfigMap made none.
    assert.notEqual(first.status?.podName, second.status?.podName);
  });

  test('templates: under process the program finds its files, as whichever user it runs', async () => {
    const podTemplate = restrictedPod({ securityContext: { runAsNonRoot: true, runAsUser: 1000 } });
    await namespace.apply(configMap('own-files', { data: { 'raw.txt': '%PORT%\n' } }));
    const templates = [
      { name: 'server-files', replaceIn: ['server.conf'] },
      { name: 'plugins', path: 'plugins/config', replaceIn: ['plugin.yml'] },
      // The later one counts, and the test beside this one changes the earlier one.
      { name: 'own-files' },
    ];
    const spec = { runtime: 'process', command: ['sh', '-c', reader], podTemplate, templates };
    await namespace.apply(reading('launched', spec));
    const object = await instances.until('launched', isOnline);
    assert.deepEqual(await saidBy(object), expected(object, '20'));
    await namespace.patch('launched', { properties: { MAX_PLAYERS: '30' } });
    const isSecond = (seen: InstanceObject): boolean => isOnline(seen) && seen.status?.podSequence === 2;
    const changed = await instances.until('launched', isSecond);
    assert.deepEqual(await saidBy(changed), expected(changed, '30'), 'a changed property is a changed Instance');
  });

  test('templates: a missing ConfigMap is named, and the program starts once it is there', async () => {
    await namespace.apply(reading('waits', { templates: [{ name: 'late' }], script: 'cat late.txt; sleep 3600' }));
    const object = await instances.until('waits', isStalled('TemplateFailed'));
    const sentence = 'The ConfigMap "late" does not exist in the namespace of the Instance, or has no files.';
    assert.equal(condition(object, 'Stalled')?.message, sentence);
    await namespace.apply(configMap('late', { data: { 'late.txt': 'better late\n' } }));
    const online = await instances.until('waits', isOnline);
    assert.match(
      await namespace.kubectl(['logs', online.status?.podName ?? '', '--container=instance']),
      /better late/,
    );
  });

  test('templates: a file that the ConfigMap does not have is named, under every restartPolicy', async () => {
    const templates = [{ name: 'plugins', replaceIn: ['plugin.yml', 'absent.yml'] }];
    await namespace.apply(
      reading('lacks', { templates, runtime: 'process', command: ['sh', '-c', reader] }),
      reading('lacks-once', { templates, restartPolicy: 'Never' }),
    );
    for (const [name, state] of Object.entries({ lacks: 'CREATING', 'lacks-once': 'STOPPED' })) {
      // The init container has failed before its pod has.
      const isIn = hasState(state);
      const object = await instances.until(name, (seen) => isIn(seen) && isStalled('TemplateFailed')(seen));
      const sentence = 'The ConfigMap "plugins" has no file "absent.yml", which replaceIn names.';
      assert.equal(condition(object, 'Stalled')?.message, sentence);
    }
  });

  test('templates: on a volume that has files already its own are replaced, others stay, and no link is followed', async () => {
    const see = 'cat server.conf raw.txt plugins/config/plugin.yml world.dat; echo writable; sleep 3600';
    await namespace.apply(
      prepared('kept', 'mkdir /srv/server; echo old >/srv/server/raw.txt; echo kept >/srv/server/world.dat', see),
      prepared('linked', 'mkdir /srv/server; ln -s /tmp /srv/server/plugins'),
      prepared('denied', 'mkdir /srv/server; mkdir -m 755 /srv/server/plugins'),
    );
    const kept = await instances.until('kept', isOnline);
    const wanted = expected(kept, '20').map((line) => (line.startsWith('blob') ? 'kept' : line));
    const said = await saidBy(kept);
    assert.deepEqual([said[0], ...said.slice(2)], [wanted[0], ...wanted.slice(2)]);
    assert.match(said[1] ?? '', /^%PORT%/, 'the old file was replaced');
    const causes = {
      linked: 'a part of this path is a file or a symbolic link.',
      denied:
        'its user may not write in this volume: set podTemplate.spec.securityContext.fsGroup, or runAsUser to the owner.',
    };
    for (const [name, cause] of Object.entries(causes)) {
      const object = await instances.until(name, isStalled('TemplateFailed'));
      assert.equal(condition(object, 'Stalled')?.message, `Cannot make "/srv/server/plugins/config": ${cause}`);
    }
  });
});
