/**
 * The life of Instances on a real cluster. The tests run side by side, each with Instances of its own, while node 2 is dead: losing a node
 * takes half a minute of waiting that the others use.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Cluster } from './cluster/cluster.ts';
import { kstatusOf } from './gitops/judge.ts';
import type { InstanceObject, KubeObject, Namespace, PodObject, Seen } from './harness.ts';
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
  programs,
  restrictedPod,
  testCluster,
  Watch,
} from './harness.ts';
import { releaseNamespace } from './release.ts';

const namespaceName = 'e2e-instance';
const idLabel = 'ringmaster.dev/id';
const finalizer = 'ringmaster.dev/graceful-stop';
/** More at once only makes every one of them slower: there are two cores. */
const atOnce = 8;
const crowd = 30;

let cluster: Cluster;
let namespace: Namespace;
let instances: Watch<InstanceObject>;
let pods: Watch<PodObject>;

before(async () => {
  cluster = await testCluster();
  await cluster.startNode(2);
  await cluster.kubectl(['uncordon', 'node1', 'node2']);
  await cluster.kubectl(['wait', 'node', '--all', '--for=condition=Ready', '--timeout=60s']);
  namespace = await freshNamespace(cluster, namespaceName);
  instances = new Watch(cluster, `${instancesPath}/namespaces/${namespaceName}/instances`);
  pods = new Watch(cluster, `/api/v1/namespaces/${namespaceName}/pods`);
  await loseNode();
});

after(async () => {
  await restoreNode();
  await namespace.remove();
  instances.stop();
  pods.stop();
});

/** Two programs on node 2; what the other tests need goes to node 1; then node 2 dies. */
async function loseNode(): Promise<void> {
  const onNode2 = restrictedPod({
    affinity: {
      nodeAffinity: {
        preferredDuringSchedulingIgnoredDuringExecution: [
          {
            weight: 100,
            preference: {
              matchExpressions: [{ key: 'kubernetes.io/hostname', operator: 'In', values: ['node2'] }],
            },
          },
        ],
      },
    },
    // Thirty seconds by default.
    tolerations: ['not-ready', 'unreachable'].map((what) => ({
      key: `node.kubernetes.io/${what}`,
      effect: 'NoExecute',
      tolerationSeconds: 3,
    })),
  });
  const spec = { podTemplate: onNode2, stop: { gracePeriodSeconds: 1 } };
  await namespace.apply(instance('lost', spec), instance('lost-deleted', spec));
  for (const name of ['lost', 'lost-deleted']) {
    const { status } = await instances.until(name, isOnline);
    assert.equal(status?.nodeName, 'node2');
  }
  await cluster.kubectl(['cordon', 'node2']);
  await moveFromNode2('kube-system', 'coredns');
  await moveFromNode2(releaseNamespace, await leaderPod());
  await cluster.killNode(2);
}

/** Deletes the pods of this name that are on node 2, and waits until what they belong to is complete again, or another leads. */
async function moveFromNode2(where: string, prefix: string): Promise<void> {
  const names = await cluster.kubectl([
    ...['get', 'pods', '--namespace', where, '--field-selector=spec.nodeName=node2', '--output=name'],
  ]);
  const moved = names.split('\n').filter((name) => name.startsWith(`pod/${prefix}`));
  if (moved.length === 0) return;
  await cluster.kubectl(['delete', '--namespace', where, ...moved]);
  if (where === 'kube-system') await cluster.kubectl(['rollout', 'status', '-n', where, 'deployment/coredns']);
  else await poll('another leader', async () => ((await leaderPod()).startsWith(prefix) ? undefined : true));
}

async function leaderPod(): Promise<string> {
  const args = [
    'get',
    'lease',
    'ringmaster-operator',
    '-n',
    releaseNamespace,
    '--output=jsonpath={.spec.holderIdentity}',
  ];
  return poll('a leader', async () => (await cluster.kubectl(args)).split('_')[0] || undefined);
}

async function restoreNode(): Promise<void> {
  await cluster.startNode(2);
  await cluster.kubectl(['uncordon', 'node2']);
  await cluster.kubectl(['wait', 'node/node2', '--for=condition=Ready', '--timeout=60s']);
  for (const name of ['operator', 'master'])
    await cluster.kubectl([
      'rollout',
      'status',
      '-n',
      releaseNamespace,
      `deployment/ringmaster-${name}`,
      '--timeout=60s',
    ]);
}

/** Applies an Instance and waits until it is ONLINE. */
async function online(object: KubeObject): Promise<InstanceObject> {
  await namespace.apply(object);
  return instances.until(object.metadata.name, isOnline);
}

/** The pod that the status names. */
async function podOf(name: string): Promise<PodObject> {
  const podName = instances.now(name)?.status?.podName ?? '';
  return pods.until(podName, () => true);
}

/** Waits until it is ONLINE in another pod than this one. */
async function onlineElsewhere(name: string, oldPod: string | undefined): Promise<InstanceObject> {
  return instances.until(name, (object) => isOnline(object) && object.status?.podName !== oldPod);
}

function texts(lines: readonly { text: string }[]): string[] {
  return lines.map(({ text }) => text);
}

describe('an Instance', { concurrency: atOnce }, () => {
  test('lost with its node: OFFLINE, then made again elsewhere under the same id; one is left when the node is back', async () => {
    const before = instances.now('lost');
    await instances.until('lost', hasState('OFFLINE'));
    // The node controller marks the pod and takes it off within seconds here: the operator may see the one before the other, or both at once.
    const said = instances.of('lost').map(({ object }) => condition(object, 'Ready'));
    const lost = said.find((ready) => ready?.reason === 'NodeLost' || ready?.reason === 'PodLost');
    assert.match(lost?.message ?? '', /Node "node2" (no longer reports|does not answer)/, JSON.stringify(said));
    const again = await onlineElsewhere('lost', before?.status?.podName);
    assert.equal(again.status?.nodeName, 'node1');
    assert.equal(again.status.id, before?.status?.id);
    assert.equal(again.status.podSequence, 2);
    await restoreNode();
    await pods.untilGone(before?.status?.podName ?? '');
    assert.equal(instances.now('lost')?.status?.podName, again.status.podName);
    assert.equal((await namespace.list('pods', `${idLabel}=${again.status.id ?? ''}`)).length, 1);
  });

  test('deleted while its node is dead: gone, and not held for ever', async () => {
    await namespace.kubectl(['delete', 'instance', 'lost-deleted', '--timeout=60s']);
    await instances.untilGone('lost-deleted', { timeoutMs: 1000 });
  });

  // The long ones begin first.
  test('that keeps crashing is OFFLINE, CrashLoop, and ONLINE again when a change mends it', async () => {
    await namespace.apply(instance('crashing', { script: programs.crash }));
    const crashing = await instances.until('crashing', isStalled('CrashLoop'));
    assert.equal(crashing.status?.state, 'OFFLINE');
    assert.ok((crashing.status.restarts ?? 0) >= 1);
    assert.match(condition(crashing, 'Stalled')?.message ?? '', /exit code 3/);
    await namespace.patch('crashing', { args: [programs.idle] });
    const mended = await instances.until('crashing', isOnline);
    assert.equal(mended.status?.id, crashing.status.id);
    assert.equal(mended.status?.restarts, 0);
  });

  test('that needs a ConfigMap which is missing: stalled with its name, and ONLINE when it is there', async () => {
    await namespace.apply(instance('unfed', { envFrom: [{ configMapRef: { name: 'unfed' } }] }));
    const stalled = await instances.until('unfed', isStalled('PodRejected'));
    assert.match(condition(stalled, 'Stalled')?.message ?? '', /configmap "unfed" not found/);
    await namespace.kubectl(['create', 'configmap', 'unfed', '--from-literal=A=1']);
    await instances.until('unfed', isOnline, { timeoutMs: 90_000 });
  });

  test('applied: ONLINE for kubectl wait, with an id, its pod, node and address in the status', async () => {
    await namespace.apply(
      instance('hello', {
        script: `echo "I am $RINGMASTER_INSTANCE_ID"; ${programs.idle}`,
        ports: [{ name: 'game', port: 4000 }],
      }),
    );
    await namespace.kubectl(['wait', '--for=condition=Ready', 'instance/hello', '--timeout=60s']);
    const { metadata, status } = await namespace.get<InstanceObject>('instance', 'hello');
    const id = status?.id ?? '';
    assert.match(id, /^[0-9a-z]{6}$/);
    const pod = await namespace.get<PodObject>('pod', `hello-${id}-1`);
    assert.deepEqual(
      { ...status, conditions: undefined },
      {
        id,
        state: 'ONLINE',
        podName: `hello-${id}-1`,
        podSequence: 1,
        nodeName: 'node1',
        hostAddress: pod.status.podIP,
        podIP: pod.status.podIP,
        port: 4000,
        restarts: 0,
        observedGeneration: metadata.generation,
        conditions: undefined,
      },
    );
    assert.deepEqual(metadata.finalizers, [finalizer]);
    assert.equal(pod.spec.containers[0]?.stdin, true);
    for (const kind of ['instance', 'pod', 'service'])
      assert.equal((await namespace.list(kind, `${idLabel}=${id}`)).length, 1, kind);
    assert.match(await namespace.kubectl(['logs', `hello-${id}-1`]), new RegExp(`^I am ${id}$`, 'm'));
  });

  test('with ports: reachable by its name from another pod', async () => {
    const script = 'mkdir /tmp/www; echo welcome >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www';
    await online(
      instance('web', {
        script,
        ports: [{ name: 'http', port: 8080 }],
        readiness: { tcpSocket: { port: 'http' }, periodSeconds: 1 },
      }),
    );
    const ask =
      'until wget -q -O - http://web:8080/ 2>/dev/null; do sleep 0.2; done; wget -q -O - http://web.e2e-instance.svc.cluster.local:8080/';
    await namespace.apply(instance('asker', { script: ask, restartPolicy: 'Never' }));
    // The cluster's DNS may have been on the node that was lost: until it is back, names are not known.
    const { status } = await instances.until('asker', hasState('STOPPED'), { timeoutMs: 90_000 });
    assert.equal(await namespace.kubectl(['logs', status?.podName ?? '']), 'welcome\nwelcome\n');
    await namespace.patch('web', { service: { type: 'None' } });
    await namespace.kubectl(['wait', '--for=delete', 'service/web', '--timeout=20s']);
  });

  test('stopped: the program reads the command and ends long before the grace period; started again under the same id', async () => {
    const { status } = await online(
      instance('polite', { script: programs.reader, stop: { command: 'stop', gracePeriodSeconds: 60 } }),
    );
    const log = namespace.followLog(status?.podName ?? '');
    await log.until('up');
    await namespace.patch('polite', { desiredState: 'Stopped' });
    const stopped = await instances.until('polite', hasState('STOPPED'), { timeoutMs: 30_000 });
    assert.deepEqual(texts(await log.ended), ['up', 'read stop', 'bye']);
    assert.equal(condition(stopped, 'Ready'), undefined);
    assert.equal(condition(stopped, 'Reconciling')?.reason, 'Stopped');
    assert.deepEqual(await namespace.list('pods', `${idLabel}=${status?.id ?? ''}`), []);
    await namespace.eventOf('polite', 'StopCommandSent');
    await namespace.patch('polite', { desiredState: 'Running' });
    const again = await instances.until('polite', isOnline);
    assert.equal(again.status?.id, status?.id);
    assert.equal(again.status?.podSequence, 2);
    const made = await namespace.eventOf('polite', 'PodCreated');
    assert.ok(made.startsWith(`Made pod "${again.status.podName ?? ''}"`), made);
  });

  test('that ignores the stop command gets SIGTERM after the grace period, and after another one SIGKILL', async () => {
    const { status } = await online(
      instance('stubborn', { script: programs.stubborn, stop: { command: 'stop', gracePeriodSeconds: 3 } }),
    );
    const log = namespace.followLog(status?.podName ?? '');
    await log.until('up');
    await namespace.patch('stubborn', { desiredState: 'Stopped' });
    await instances.until('stubborn', hasState('STOPPED'));
    const lines = await log.ended;
    const at = (text: string): number => lines.find((line) => line.text === text)?.atMs ?? NaN;
    const toTermMs = at('got TERM') - at('read stop');
    const toKillMs = (lines.at(-1)?.atMs ?? NaN) - at('got TERM');
    assert.ok(toTermMs > 1500 && toTermMs < 6000, `SIGTERM came ${toTermMs} ms after the command`);
    assert.ok(toKillMs > 1500 && toKillMs < 6000, `SIGKILL came ${toKillMs} ms after SIGTERM`);
  });

  test('without a stop command gets SIGTERM at once', async () => {
    const { status } = await online(instance('plain', { stop: { gracePeriodSeconds: 30 } }));
    const log = namespace.followLog(status?.podName ?? '');
    await log.until('up');
    await namespace.patch('plain', { desiredState: 'Stopped' });
    await instances.until('plain', hasState('STOPPED'), { timeoutMs: 20_000 });
    assert.deepEqual(texts(await log.ended), ['up', 'got TERM']);
  });

  test('that ends well under restartPolicy Never is STOPPED, Completed, and run again when annotated', async () => {
    await namespace.apply(instance('batch', { script: programs.success, restartPolicy: 'Never' }));
    const first = await instances.until('batch', hasState('STOPPED'));
    assert.equal(condition(first, 'Ready'), undefined);
    assert.equal(condition(first, 'Reconciling')?.reason, 'Completed');
    await namespace.kubectl(['annotate', 'instance', 'batch', 'ringmaster.dev/restarted-at=again']);
    const isSecond = (object: InstanceObject): boolean =>
      hasState('STOPPED')(object) && object.status?.podSequence === 2;
    const second = await instances.until('batch', isSecond);
    assert.equal(second.status?.id, first.status?.id);
    assert.equal(condition(second, 'Reconciling')?.reason, 'Completed');
  });

  test('that ended well is not run again because its pod is cleaned up', async () => {
    await namespace.apply(instance('cleaned', { script: programs.success, restartPolicy: 'Never' }));
    const { status } = await instances.until('cleaned', hasState('STOPPED'));
    await namespace.kubectl(['delete', 'pod', status?.podName ?? '']);
    // Whatever the deletion sets going is done when a later Instance has gone all the way.
    await online(instance('cleaned-later'));
    const now = instances.now('cleaned');
    assert.equal(now?.status?.state, 'STOPPED');
    assert.equal(condition(now, 'Reconciling')?.reason, 'Completed');
    assert.equal(now.status.podName, status?.podName);
    assert.equal(podsOf('cleaned').filter(({ type }) => type === 'ADDED').length, 1);
  });

  test('that fails under restartPolicy Never is STOPPED, Failed, and says its exit code', async () => {
    await namespace.apply(instance('failure', { script: programs.crash, restartPolicy: 'Never' }));
    const failed = await instances.until('failure', isStalled('Failed'));
    assert.equal(failed.status?.state, 'STOPPED');
    assert.equal(condition(failed, 'Ready')?.status, 'False');
    assert.equal(condition(failed, 'Stalled')?.message, 'The program ended with exit code 3.');
    assert.equal(await namespace.eventOf('failure', 'Failed'), 'The program ended with exit code 3.');
  });

  test('changed in what the pod is made of: the old pod ends first, the id stays; service and desiredState keep the pod', async () => {
    const first = await online(
      instance('changing', {
        script: programs.reader,
        stop: { command: 'stop', gracePeriodSeconds: 20 },
        ports: [{ name: 'game', port: 4000 }],
      }),
    );
    await namespace.patch('changing', { env: [{ name: 'COLOUR', value: 'red' }] });
    const second = await onlineElsewhere('changing', first.status?.podName);
    await namespace.patch('changing', {
      image: process.env.RINGMASTER_IMAGE ?? '',
      command: ['/usr/local/bin/node', '--eval'],
      args: ['process.stdin.on("data", () => process.exit(0))'],
    });
    const third = await onlineElsewhere('changing', second.status?.podName);
    assert.equal((await podOf('changing')).spec.containers[0]?.image, process.env.RINGMASTER_IMAGE);
    assert.equal(third.status?.podSequence, 3);
    assert.equal(third.status.id, first.status?.id);

    await namespace.patch('changing', { service: { type: 'NodePort' }, desiredState: 'Running' });
    await namespace.until('service', 'changing', ({ spec }) => spec?.['type'] === 'NodePort');
    const same = await instances.until('changing', isOnline);
    assert.equal(same.status?.podName, third.status.podName);
    await namespace.eventOf('changing', 'PodReplaced');
  });

  test('annotated with restarted-at: its pod is replaced once', async () => {
    const first = await online(instance('restarted', { stop: { gracePeriodSeconds: 1 } }));
    await namespace.kubectl(['annotate', 'instance', 'restarted', 'ringmaster.dev/restarted-at=now']);
    const second = await onlineElsewhere('restarted', first.status?.podName);
    assert.equal(second.status?.podSequence, 2);
    assert.equal(second.status.id, first.status?.id);
  });

  test('whose pod is deleted: stopped by its command, and made again under the same id', async () => {
    const first = await online(
      instance('podless', { script: programs.reader, stop: { command: 'stop', gracePeriodSeconds: 20 } }),
    );
    const log = namespace.followLog(first.status?.podName ?? '');
    await log.until('up');
    await namespace.kubectl(['delete', 'pod', first.status?.podName ?? '', '--wait=false']);
    const second = await onlineElsewhere('podless', first.status?.podName);
    assert.deepEqual(texts(await log.ended), ['up', 'read stop', 'bye']);
    assert.equal(second.status?.id, first.status?.id);
  });

  test('whose pod is evicted: made again under the same id', async () => {
    const first = await online(instance('evicted', { stop: { gracePeriodSeconds: 1 } }));
    const pod = first.status?.podName ?? '';
    const eviction = { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: pod, namespace: namespaceName } };
    const path = `/api/v1/namespaces/${namespaceName}/pods/${pod}/eviction`;
    await namespace.kubectl(['create', '--raw', path, '-f', '-'], JSON.stringify(eviction));
    const second = await onlineElsewhere('evicted', pod);
    assert.equal(second.status?.id, first.status?.id);
  });

  test('with a readiness check: CREATING until it passes, OFFLINE while it fails, ONLINE when it passes again', async () => {
    const readiness = { exec: { command: ['test', '-e', '/tmp/ready'] }, periodSeconds: 1, failureThreshold: 1 };
    await namespace.apply(instance('probed', { readiness }));
    const creating = await instances.until('probed', (object) => condition(object, 'Ready')?.reason === 'PodNotReady');
    assert.equal(creating.status?.state, 'CREATING');
    const exec = ['exec', creating.status.podName ?? '', '--'];
    await namespace.kubectl([...exec, 'touch', '/tmp/ready']);
    await instances.until('probed', isOnline);
    await namespace.kubectl([...exec, 'rm', '/tmp/ready']);
    const offline = await instances.until('probed', hasState('OFFLINE'));
    assert.equal(condition(offline, 'Reconciling')?.reason, 'PodNotReady');
    await namespace.kubectl([...exec, 'touch', '/tmp/ready']);
    const again = await instances.until('probed', isOnline);
    assert.equal(again.status?.podSequence, 1);
  });

  test('with a pod overlay: node selector, labels and another container are in the pod', async () => {
    const helper = {
      name: 'helper',
      image: busybox,
      command: ['sh', '-c', programs.idle],
      securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
    };
    const base = restrictedPod({ nodeSelector: { 'kubernetes.io/hostname': 'node1' } });
    base.spec['containers'] = [...(base.spec['containers'] as object[]), helper];
    await online(instance('overlaid', { podTemplate: { metadata: { labels: { team: 'red' } }, ...base } }));
    const pod = await podOf('overlaid');
    assert.equal(pod.spec.nodeName, 'node1');
    assert.equal(pod.metadata.labels?.['team'], 'red');
    assert.deepEqual(
      pod.spec.containers.map(({ name }) => name),
      ['instance', 'helper'],
    );
  });

  test('whose overlay sets a field that has one of its own: InvalidSpec with an Event, and ONLINE when mended', async () => {
    const sentence = 'podTemplate.spec.restartPolicy cannot be set: set spec.restartPolicy instead.';
    await namespace.apply(instance('reserved', { podTemplate: restrictedPod({ restartPolicy: 'Never' }) }));
    const invalid = await instances.until('reserved', isStalled('InvalidSpec'));
    assert.equal(condition(invalid, 'Stalled')?.message, sentence);
    assert.equal(await namespace.eventOf('reserved', 'InvalidSpec'), sentence);
    await online(instance('reserved'));
  });

  test('whose pod the API server refuses: PodRejected with its words, and ONLINE when mended', async () => {
    await namespace.apply(instance('insecure', { podTemplate: { spec: {} } }));
    const rejected = await instances.until('insecure', isStalled('PodRejected'));
    assert.match(condition(rejected, 'Stalled')?.message ?? '', /violates PodSecurity "restricted:latest"/);
    await namespace.eventOf('insecure', 'PodRejected');
    await online(instance('insecure'));
  });

  test('whose image cannot be pulled: ImageUnavailable with its name, and ONLINE with another', async () => {
    await namespace.apply(instance('imageless', { image: 'ringmaster.local/missing:1' }));
    const stalled = await instances.until('imageless', isStalled('ImageUnavailable'));
    assert.match(condition(stalled, 'Stalled')?.message ?? '', /ringmaster\.local\/missing:1/);
    assert.equal(stalled.status?.state, 'CREATING');
    await online(instance('imageless'));
  });

  test('that no node can take says so in the words of the scheduler', async () => {
    await namespace.apply(instance('homeless', { podTemplate: restrictedPod({ nodeSelector: { planet: 'mars' } }) }));
    const is = (object: InstanceObject): boolean => condition(object, 'Reconciling')?.reason === 'Unschedulable';
    const pending = await instances.until('homeless', is);
    assert.match(condition(pending, 'Ready')?.message ?? '', /0\/2 nodes are available/);
  });

  test('whose Service has the name of another: ServiceConflict, and the other is not touched', async () => {
    await namespace.kubectl(['create', 'service', 'clusterip', 'taken', '--tcp=80:80']);
    const before = await namespace.get('service', 'taken');
    await namespace.apply(instance('taken', { ports: [{ name: 'game', port: 4000 }] }));
    const stalled = await instances.until('taken', isStalled('ServiceConflict'));
    assert.match(condition(stalled, 'Stalled')?.message ?? '', /^Service "taken" exists and is not this Instance's/);
    assert.deepEqual(await namespace.get('service', 'taken'), before);
    await namespace.patch('taken', { service: { type: 'None' } });
    await instances.until('taken', isOnline);
    await namespace.kubectl(['delete', 'instance', 'taken']);
    assert.deepEqual(await namespace.get('service', 'taken'), before);
  });

  test('deleted: the finalizer stops it gracefully, then it, its pod and its Service are gone', async () => {
    const spec = {
      script: programs.reader,
      stop: { command: 'stop', gracePeriodSeconds: 20 },
      ports: [{ name: 'game', port: 4000 }],
    };
    const { status } = await online(instance('deleted', spec));
    const log = namespace.followLog(status?.podName ?? '');
    await log.until('up');
    await namespace.kubectl(['delete', 'instance', 'deleted', '--timeout=30s']);
    assert.deepEqual(texts(await log.ended), ['up', 'read stop', 'bye']);
    await poll('the end of what it owned', async () => {
      const left = await namespace.list('pods,services', `${idLabel}=${status?.id ?? ''}`);
      return left.length === 0 ? true : undefined;
    });
  });

  test('restored from a backup, without status: has its old id again', async () => {
    const { status } = await online(instance('restored', { stop: { gracePeriodSeconds: 1 } }));
    const { metadata, spec, ...kind } = await namespace.get<InstanceObject>('instance', 'restored');
    await namespace.kubectl(['delete', 'instance', 'restored', '--timeout=30s']);
    const { labels = {}, finalizers = [] } = metadata;
    assert.equal(labels[idLabel], status?.id);
    const backup = {
      apiVersion: kind.apiVersion ?? '',
      kind: kind.kind ?? '',
      metadata: { name: 'restored', labels, finalizers },
      spec: spec ?? {},
    };
    await namespace.kubectl(['create', '-f', '-'], JSON.stringify(backup));
    const again = await instances.until(
      'restored',
      (object) => isOnline(object) && object.metadata.uid !== metadata.uid,
    );
    assert.equal(again.status?.id, status?.id);
  });

  test(`in a crowd of ${crowd}, applied at once: each has an id of its own, and all become ONLINE`, async () => {
    const names = Array.from({ length: crowd }, (_, index) => `many-${index}`);
    await namespace.apply(...names.map((name) => instance(name, { stop: { gracePeriodSeconds: 1 } })));
    const all = await Promise.all(names.map((name) => instances.until(name, isOnline, { timeoutMs: 90_000 })));
    const ids = new Set(all.map(({ status }) => status?.id));
    assert.equal(ids.size, crowd);
    for (const { metadata, status } of all) assert.equal(metadata.labels?.[idLabel], status?.id);
  });
});

describe('in all that happened above', () => {
  test('no Instance ever had two living pods, but the one whose node was lost', () => {
    const names = new Set(instances.history.map(({ object }) => object.metadata.name));
    for (const name of names) {
      const most = mostAtOnce(podsOf(name));
      assert.ok(most <= (name.startsWith('lost') ? 2 : 1), `${name}: ${most} at once`);
    }
  });

  test('no id ever changed, and the label always said the same', () => {
    const ids = new Map<string, string>();
    for (const { object } of instances.history) {
      const { uid = '', labels } = object.metadata;
      const id = object.status?.id;
      if (id === undefined) continue;
      assert.equal(ids.get(uid) ?? id, id);
      assert.equal(labels?.[idLabel], id);
      ids.set(uid, id);
    }
    assert.ok(ids.size > crowd);
  });

  test('Ready always meant ONLINE, and what tools take for current was ONLINE or STOPPED', async () => {
    const all = instances.history.map(({ object }) => object);
    const settled = all.filter(
      ({ status, metadata }) =>
        status?.observedGeneration === metadata.generation && metadata.deletionTimestamp === undefined,
    );
    const verdicts = await kstatusOf(cluster, settled);
    for (const [index, { status }] of settled.entries()) {
      const isReady = condition({ status }, 'Ready')?.status === 'True';
      const isExpected = {
        // While it is being stopped, or cannot be brought to its new spec, a program that runs stays ONLINE.
        InProgress: !isReady,
        Failed: !isReady,
        Current: isReady ? status?.state === 'ONLINE' : status?.state === 'STOPPED',
        Terminating: false,
        NotFound: false,
        Unknown: false,
      }[verdicts[index] ?? 'Unknown'];
      assert.ok(isExpected, JSON.stringify(status));
    }
  });
});

/** What happened to the pods of one Instance, in order. */
function podsOf(name: string): Seen<PodObject>[] {
  return pods.history.filter(({ object }) => object.metadata.labels?.['ringmaster.dev/instance'] === name);
}

/** How many of these pods were there, and had not ended, at one moment. */
function mostAtOnce(history: readonly Seen<PodObject>[]): number {
  const living = new Set<string>();
  let most = 0;
  for (const { type, object } of history) {
    const isLiving = type !== 'DELETED' && !['Succeeded', 'Failed'].includes(object.status.phase ?? '');
    if (isLiving) living.add(object.metadata.uid ?? '');
    else living.delete(object.metadata.uid ?? '');
    most = Math.max(most, living.size);
  }
  return most;
}
