/** docs/support-bundle.sh on the real cluster: what is in it, and that no secret of anybody is. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { run } from './cluster/command.ts';
import { applyInstance, call, createKey, enterWorld, eventually, masters, podOf } from './live-harness.ts';
import type { World } from './live-harness.ts';
import { apiKeyManifest, releaseNamespace } from './release.ts';

const script = join(import.meta.dirname, '../docs/support-bundle.sh');
/** Stands in every place that a secret could be in. */
const marker = `secret${randomBytes(8).toString('hex')}`;

let world: World;
let scratch: string;
let token: string;

before(async () => {
  world = await enterWorld();
  scratch = await mkdtemp(join(tmpdir(), 'ringmaster-bundle-'));
  world.cleanups.push(() => rm(scratch, { recursive: true }));
  token = await createKey(world, 'bundle');
});

after(() => world.leave());

test('support-bundle: resources, logs, events, metrics and versions, and no secret', { timeout: 120_000 }, async () => {
  await world.kubectl(['create', 'secret', 'generic', 'bot', `--from-literal=token=${marker}`]);
  const id = await applyInstance(world, 'bot', {
    ...{ runtime: 'process', image: 'ringmaster.local/busybox:1', command: ['sh', '-c'] },
    args: [`echo ${marker}; while read -r line; do echo "read $line"; done\n\necho ${marker}`],
    env: [
      { name: 'PASSWORD', value: `${marker}\n\n  ${marker}` },
      { name: 'TOKEN', valueFrom: { secretKeyRef: { name: 'bot', key: 'token' } } },
    ],
    podTemplate: { metadata: { annotations: { 'example.com/note': marker } } },
    stop: { command: 'stop', gracePeriodSeconds: 2 },
  });
  await world.kubectl(['wait', '--for=condition=Ready', '--timeout=60s', 'instance/bot']);
  // Of a first pod there is no Event.
  const first = await podOf(world, 'bot');
  await world.kubectl(['delete', 'pod', first]);
  await eventually('another pod', async () => ![first, ''].includes(await podOf(world, 'bot')));
  await world.kubectl(['wait', '--for=condition=Ready', '--timeout=60s', 'instance/bot']);
  const command = await fetch(`${world.url}/api/commands/execute`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ command: `instance execute ${id} login ${marker}` }),
  });
  assert.equal(command.status, 200, await command.text());
  const [master] = await masters(world);
  await eventually('the line to be typed', async () => {
    const { text } = await call(master.url, `/api/instances/${id}/logs`, { token });
    return text.includes(`read login ${marker}`);
  });

  const archive = join(scratch, 'bundle.tar.gz');
  const path = `${world.cluster.binDir}:${process.env.PATH ?? ''}`;
  const out = await run('sh', [script, '-n', releaseNamespace, '-o', archive], {
    env: { ...world.cluster.env(), PATH: path },
  });
  assert.match(out, /^\S+bundle\.tar\.gz: \d+ files\n$/);
  await run('tar', ['-xzf', archive, '-C', scratch]);
  const [folder = ''] = (await readdir(scratch)).filter((name) => name.startsWith('ringmaster-support-'));
  const files = new Map<string, string>();
  for (const name of await readdir(join(scratch, folder)))
    files.set(name, await readFile(join(scratch, folder, name), 'utf8'));

  await checkContents(files);
  const hash = (JSON.parse(apiKeyManifest('any', { token, permission: 'ALL' })) as { spec: { tokenSHA256: string } })
    .spec.tokenSHA256;
  const masterKey = await world.cluster.kubectl([
    ...['get', 'secret', 'ringmaster-master-key', '-n', releaseNamespace, '-o', 'jsonpath={.data.key}'],
  ]);
  const secrets = { marker, token, hash, masterKey, encoded: Buffer.from(marker).toString('base64'), all: world.token };
  for (const [name, text] of files) {
    for (const [what, secret] of Object.entries(secrets)) assert.ok(!text.includes(secret), `${name} has the ${what}`);
    assert.doesNotMatch(text, /eyJ[A-Za-z0-9_-]{20}|rm_[A-Za-z0-9_-]{20}/, name);
  }
});

/** One file of each kind says what it is there for. */
async function checkContents(files: ReadonlyMap<string, string>): Promise<void> {
  const { namespace } = world;
  const pods = await world.cluster.kubectl([
    ...['get', 'pods', '-n', releaseNamespace, '-o', 'jsonpath={.items[*].metadata.name}'],
  ]);
  const instancePod = await world.kubectl(['get', 'instance', 'bot', '-o', 'jsonpath={.status.podName}']);
  const expected: [string, RegExp][] = [
    ['version.txt', /Server Version: v1\.\d+/],
    ['nodes.txt', /node1 .*Ready/],
    ['crds.txt', /instances\.ringmaster\.dev +v1alpha1 +v1alpha1/],
    ['overview.txt', /deployment\.apps\/ringmaster-operator/],
    ['workloads.yaml', /RINGMASTER_LEASE_NAME/],
    ['pods.yaml', /phase: Running/],
    ['rbac.txt', /serviceaccount\/ringmaster-master/],
    ['instances.txt', new RegExp(`${namespace} +bot +\\w{6} +process +ONLINE`)],
    ['instances.yaml', /gracePeriodSeconds: 2/],
    ['conditions.txt', new RegExp(`Instance ${namespace}/bot ONLINE.* Ready=True Ready`)],
    ['apikeys.txt', /ringmaster-system +bundle /],
    ['commands.yaml', /phase: Succeeded/],
    ['instance-pods.yaml', new RegExp(`name: ${instancePod}`)],
    ['instance-events.txt', /bot +Normal +PodCreated/],
    [`sidecar-${namespace}-${instancePod}.txt`, /"message":"Serving"|"msg":"Serving"|Serving/],
    ...pods.split(' ').flatMap((pod): [string, RegExp][] => [
      // An operator that waits for the lead has nothing to say.
      [`log-${pod}.txt`, pod.includes('-master-') ? /"name":"ringmaster-master"/ : /^$|"name":"ringmaster-operator"/],
      [`metrics-${pod}.txt`, /^# TYPE ringmaster_/m],
    ]),
  ];
  const logs = [...files].filter(([name]) => name.startsWith('log-ringmaster-operator-')).map(([, text]) => text);
  assert.match(logs.join(''), /"name":"ringmaster-operator"/);
  for (const [name, pattern] of expected) assert.match(files.get(name) ?? `no file ${name}`, pattern, name);
  const failed = [...files].filter(([name, text]) => !name.endsWith('-previous.txt') && /^failed: /m.test(text));
  assert.deepEqual(
    failed.map(([name, text]) => `${name}: ${text.slice(0, 200)}`),
    [],
  );
}
