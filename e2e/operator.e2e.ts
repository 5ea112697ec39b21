/**
 * Two replicas of the operator, and what takes them down: each fault is real, and the proof is in the Lease, in the API server's audit log and
 * in what a replica says of itself.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from './cluster/cluster.ts';
import type { InstanceObject, Namespace, PodObject } from './harness.ts';
import {
  auditPod,
  auditSince,
  containerPid,
  freshNamespace,
  instance,
  isOnline,
  isWrite,
  lasting,
  poll,
  testCluster,
} from './harness.ts';
import { releaseNamespace } from './release.ts';

interface Holder {
  /** Name of the pod. */
  readonly pod: string;
  readonly identity: string;
  readonly acquiredMs: number;
}

let cluster: Cluster;
let namespace: Namespace;

before(async () => {
  cluster = await testCluster();
  namespace = await freshNamespace(cluster, 'e2e-operator');
  await settle();
});

after(async () => {
  await settle();
  await namespace.remove();
});

/** Both replicas are up, and one of them leads. */
async function settle(): Promise<Holder> {
  const args = ['rollout', 'status', '-n', releaseNamespace, 'deployment/ringmaster-operator', '--timeout=90s'];
  await cluster.kubectl(args);
  return anotherLeader(undefined);
}

/** Waits until a replica other than `than` holds the lease. */
async function anotherLeader(than: Holder | undefined, timeoutMs = 30_000): Promise<Holder> {
  const ask = async (): Promise<Holder | undefined> => {
    const args = ['get', 'lease', 'ringmaster-operator', '-n', releaseNamespace, '--output=json'];
    const { spec = {} } = JSON.parse(await cluster.kubectl(args)) as {
      spec?: { holderIdentity?: string; acquireTime?: string };
    };
    const identity = spec.holderIdentity ?? '';
    const [pod = ''] = identity.split('_');
    if (pod === '' || identity === than?.identity) return undefined;
    return { pod, identity, acquiredMs: Date.parse(spec.acquireTime ?? '') };
  };
  return poll('another leader', ask, { timeoutMs });
}

async function operatorPod(name: string): Promise<PodObject> {
  return JSON.parse(await cluster.kubectl(['get', 'pod', name, '-n', releaseNamespace, '-o', 'json'])) as PodObject;
}

async function operatorPods(): Promise<PodObject[]> {
  const selector = '--selector=app.kubernetes.io/component=operator';
  const list = await cluster.kubectl(['get', 'pods', '-n', releaseNamespace, selector, '--output=json']);
  return (JSON.parse(list) as { items: PodObject[] }).items;
}

function restartsOf(pod: PodObject): number {
  return pod.status.containerStatuses?.[0]?.restartCount ?? 0;
}

/** Applies an Instance and waits until it is ONLINE, however long nobody leads. */
async function becomesOnline(name: string): Promise<void> {
  await namespace.apply(instance(name, { stop: { gracePeriodSeconds: 1 } }));
  await namespace.kubectl(['wait', '--for=condition=Ready', `instance/${name}`, '--timeout=60s']);
}

/** Restart counts and the leader stay as they are while `fault` runs; afterwards the loop works. */
async function outlasts(name: string, fault: () => Promise<void>): Promise<void> {
  const leader = await settle();
  const before = new Map((await operatorPods()).map((pod) => [pod.metadata.name, restartsOf(pod)]));
  await fault();
  await becomesOnline(name);
  assert.deepEqual(new Map((await operatorPods()).map((pod) => [pod.metadata.name, restartsOf(pod)])), before);
  assert.equal((await anotherLeader(undefined)).identity, leader.identity);
}

describe('the leader', () => {
  test('frozen until another leads, and woken: writes nothing more, ends with an error, and comes back as a candidate', async () => {
    const leader = await settle();
    const before = await operatorPod(leader.pod);
    const pid = containerPid(before, 'operator');
    await becomesOnline('contested');
    process.kill(pid, 'SIGSTOP');
    try {
      // Work that both will want to do.
      await namespace.kubectl(['annotate', 'instance', 'contested', 'ringmaster.dev/restarted-at=now']);
      await anotherLeader(leader);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    const restarted = await poll('the end of the deposed leader', async () => {
      const pod = await operatorPod(leader.pod);
      return restartsOf(pod) > restartsOf(before) ? pod : undefined;
    });
    const terminated = restarted.status.containerStatuses?.[0]?.lastState?.terminated;
    assert.equal(terminated?.exitCode, 1, JSON.stringify(terminated));
    await namespace.until<InstanceObject>(
      'instance',
      'contested',
      (object) => isOnline(object) && object.status?.podSequence === 2,
    );
    const next = await settle();
    const writes = auditSince(cluster, next.acquiredMs)
      .filter((entry) => auditPod(entry) === leader.pod && isWrite(entry))
      .filter(({ responseStatus }) => (responseStatus?.code ?? 0) < 400)
      .map(({ verb, requestURI }) => `${verb} ${requestURI}`);
    assert.deepEqual(writes, []);
    const all = auditSince(cluster, next.acquiredMs).filter((entry) => auditPod(entry) === next.pod && isWrite(entry));
    assert.ok(all.length > 0, 'the audit log does not show the writes of the new leader either');
  });

  test('killed by SIGKILL: the other leads within 20 s and picks up what was left', async () => {
    const leader = await settle();
    const pid = containerPid(await operatorPod(leader.pod), 'operator');
    const killedMs = Date.now();
    process.kill(pid, 'SIGKILL');
    await namespace.apply(instance('orphaned'));
    const next = await anotherLeader(leader);
    assert.ok(next.acquiredMs - killedMs < 20_000, `took ${next.acquiredMs - killedMs} ms`);
    await namespace.kubectl(['wait', '--for=condition=Ready', 'instance/orphaned', '--timeout=30s']);
  });

  test('ended by SIGTERM: the other leads within 2 s', async () => {
    const leader = await settle();
    // Its last word says when the signal came: the kubelet takes a moment to send it. It is gone soon after: the reader has to be there before.
    const log = cluster.kubectl(['logs', leader.pod, '-n', releaseNamespace, '--follow', '--tail=5']);
    await sleep(1000);
    await cluster.kubectl(['delete', 'pod', leader.pod, '-n', releaseNamespace, '--wait=false']);
    const next = await anotherLeader(leader);
    const stopping = (await log)
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as { msg: string; time: string })
      .find(({ msg }) => msg === 'Stopping');
    assert.ok(stopping, 'the leader did not say that it stops');
    const tookMs = next.acquiredMs - Date.parse(stopping.time);
    assert.ok(tookMs < 2000, `took ${tookMs} ms`);
    await becomesOnline('after-sigterm');
  });
});

describe('without a restart and without another leader, the operator outlasts', () => {
  test('an API server that is killed and comes back', async () => {
    await outlasts('after-apiserver', async () => {
      await cluster.kill('kube-apiserver');
      // The port is free only when the last thread of the killed process is gone, which may be a moment after its first.
      await poll('the API server', () => cluster.start('kube-apiserver').then(() => true));
    });
  });

  test('an etcd that is frozen for five seconds', async () => {
    await outlasts('after-etcd', async () => {
      cluster.pause('etcd');
      try {
        await lasting(5000);
      } finally {
        cluster.resume('etcd');
      }
      await cluster.waitUntilReady();
    });
  });
});
