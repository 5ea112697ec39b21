import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isAtLeast, parseVersion } from './golang.ts';
import type { ClusterSettings } from './settings.ts';
import { clusterNames, clusterSettings, defaultCacheDir, nodesMax, versions } from './settings.ts';

const all = clusterNames.map((name) => clusterSettings(name, '/cache'));

/** Everything of a cluster that must be its own on a machine. */
function claims(settings: ClusterSettings): string[] {
  const { ports, nodeNet, podNet, serviceNet, bridge, cgroup, netnsPrefix, vethPrefix, stateDir } = settings;
  const names = [nodeNet, podNet, serviceNet, bridge, cgroup, netnsPrefix, vethPrefix, stateDir];
  return [...Object.values(ports).map((port) => `port ${String(port)}`), ...names];
}

test('settings: no two clusters claim the same port, network, interface, cgroup or folder', () => {
  const claimed = all.flatMap(claims);
  assert.deepEqual(
    claimed.filter((claim, index) => claimed.indexOf(claim) !== index),
    [],
  );
});

test('settings: no prefix of one cluster begins that of another', () => {
  const prefixes = all.flatMap(({ netnsPrefix, vethPrefix, bridge }) => [netnsPrefix, vethPrefix, bridge]);
  for (const prefix of prefixes) {
    assert.deepEqual(
      prefixes.filter((other) => other !== prefix && other.startsWith(prefix)),
      [],
    );
  }
});

test('settings: interface names fit in the 15 characters that the kernel has for them', () => {
  for (const { bridge, vethPrefix } of all) {
    assert.ok(bridge.length <= 15);
    assert.ok(`${vethPrefix}${String(nodesMax)}`.length <= 15);
  }
});

test('settings: ports are below those that the kernel hands out', () => {
  for (const { ports } of all) assert.ok(Object.values(ports).every((port) => port > 1024 && port < 32768));
});

test('settings: the DNS address follows the service network', () => {
  for (const { dnsAddress, serviceNet } of all) assert.equal(dnsAddress, `${serviceNet}.0.10`);
});

test('settings: the cache folder follows XDG_CACHE_HOME unless that is relative', () => {
  assert.equal(defaultCacheDir({ XDG_CACHE_HOME: '/x' }), '/x/ringmaster');
  assert.match(defaultCacheDir({ XDG_CACHE_HOME: 'x' }), /\/\.cache\/ringmaster$/);
  assert.match(defaultCacheDir({}), /\/\.cache\/ringmaster$/);
});

test('settings: the versions are those of the Go modules', async () => {
  const modules = await Promise.all(
    ['go', 'go-helm', '../gitops/go', 'go-kwok', 'go-kube-router', 'go-adapter', 'go-stern'].map((dir) =>
      readFile(join(import.meta.dirname, dir, 'go.mod'), 'utf8'),
    ),
  );
  const [kubernetes = '', helm = '', , kwok = '', kubeRouter = '', adapter = '', stern = ''] = modules;
  assert.ok(kubernetes.includes(`k8s.io/kubernetes v${versions.kubernetes}\n`));
  assert.ok(kubernetes.includes(`go.etcd.io/etcd/server/v3 v${versions.etcd}\n`));
  assert.ok(kubernetes.includes(`github.com/coredns/coredns v${versions.coredns}\n`));
  assert.ok(kwok.includes(`sigs.k8s.io/kwok v${versions.kwok} `));
  assert.ok(kubeRouter.includes(`github.com/cloudnativelabs/kube-router/v2 v${versions.kubeRouter}\n`));
  assert.ok(adapter.includes(`\tsigs.k8s.io/prometheus-adapter v${versions.prometheusAdapter} `));
  for (const text of modules.slice(0, -1)) {
    const wanted = /^go (.*)$/m.exec(text)?.[1] ?? assert.fail();
    assert.ok(isAtLeast(parseVersion(versions.goMin), parseVersion(wanted)), wanted);
  }
  assert.match(helm, new RegExp(`helm\\.sh/helm/v3 v${versions.helm.replaceAll('.', '\\.')}\\b`));
  assert.ok(stern.includes(`\tgithub.com/stern/stern v${versions.stern} `));
});
