/** docs/uninstall.md on the real cluster. It runs behind all other files: afterwards the cluster has no Ringmaster. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { Reader } from '../guide.ts';
import { freshNamespace, instance, isOnline, programs, testCluster } from '../harness.ts';
import type { InstanceObject } from '../harness.ts';
import { releaseNamespace } from '../release.ts';

const page = 'docs/uninstall.md';

test('uninstall: an Instance whose operator is gone hangs in deletion, and goes by what the page says', async () => {
  const cluster = await testCluster();
  const namespace = await freshNamespace(cluster, 'e2e-hanging');
  await namespace.apply(instance('hanging'));
  await namespace.until<InstanceObject>('instance', 'hanging', isOnline);
  const scale = (replicas: number): Promise<string> =>
    cluster.kubectl(['scale', 'deployment/ringmaster-operator', '-n', releaseNamespace, `--replicas=${replicas}`]);
  await scale(0);
  await cluster.kubectl([
    ...['wait', 'pods', '-n', releaseNamespace, '-l', 'app.kubernetes.io/component=operator'],
    ...['--for=delete', '--timeout=60s'],
  ]);
  await namespace.kubectl(['delete', 'instance', 'hanging', '--wait=false']);
  const [, command = ''] =
    /`(kubectl patch instance .*?)`/.exec(await readFile(join(import.meta.dirname, '../..', page), 'utf8')) ?? [];
  const { kubeconfig, binDir } = cluster;
  const reader = await Reader.open({ page, kubeconfig, binDir, env: cluster.env() });
  try {
    assert.match(await namespace.kubectl(['get', 'instance', 'hanging', '-o', 'name']), /hanging/);
    await reader.run(command.replace('NAMESPACE', namespace.name).replace('NAME', 'hanging'));
    await namespace.kubectl(['wait', '--for=delete', '--timeout=30s', 'instance/hanging']);
    await namespace.kubectl(['wait', '--for=delete', '--timeout=60s', 'pods', '--all']);
  } finally {
    await reader.close();
    await scale(2);
  }
  await cluster.kubectl([
    'rollout',
    'status',
    'deployment/ringmaster-operator',
    '-n',
    releaseNamespace,
    '--timeout=90s',
  ]);
});

test('uninstall: by the page programs are stopped by their stop command, and nothing of Ringmaster is left', async () => {
  const cluster = await testCluster();
  const namespace = await freshNamespace(cluster, 'e2e-uninstall');
  const stop = { command: 'stop', gracePeriodSeconds: 20 };
  const { metadata, spec = {} } = instance('minimum', { script: programs.reader, stop });
  await namespace.apply(instance('single', { script: programs.reader, stop }), {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'InstanceConfiguration',
    metadata,
    spec: { minimumServiceCount: 1, template: { spec } },
  });
  await namespace.until<InstanceObject>('instance', 'single', isOnline);
  await namespace.kubectl(['wait', '--for=condition=Ready', '--timeout=60s', 'instanceconfiguration/minimum']);
  const single = await namespace.get<InstanceObject>('instance', 'single');
  const log = namespace.followLog(single.status?.podName ?? '');
  const { kubeconfig, binDir } = cluster;
  const reader = await Reader.open({ page, kubeconfig, binDir, env: cluster.env() });
  try {
    await reader.follow();
    const left = await reader.run(
      `kubectl api-resources --api-group=ringmaster.dev -o name; kubectl get clusterrole,clusterrolebinding,namespace,priorityclass -o name | grep ringmaster || true`,
    );
    assert.equal(left, '');
  } finally {
    await reader.close();
  }
  const lines = (await log.ended).map(({ text }) => text);
  assert.deepEqual(lines, ['up', 'read stop', 'bye']);
  await cluster.kubectl(['delete', 'namespace', namespace.name, '--wait=false']);
});
