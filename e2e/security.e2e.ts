/** What docs/security.md says of records, logs and keys, on a real cluster. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { deriveKey } from '../sidecar/protocol.ts';
import { failureOf } from './harness.ts';
import type { Message, World } from './live-harness.ts';
import {
  applyInstance,
  applyInstances,
  call,
  createKey,
  enterWorld,
  eventually,
  masters,
  openSocket,
  podOf,
  ResumingClient,
} from './live-harness.ts';
import { releaseName, releaseNamespace } from './release.ts';
import type { Runtime } from './runtime-harness.ts';
import { programUnder, runtimes, Typist, underEach } from './runtime-harness.ts';

let world: World;
/** Of one Instance under each runtime, named like it, that says how many lines it has read and nothing of what they are. */
let everyId: Record<Runtime, string>;
const stopWord = randomWord('stop');

before(async () => {
  world = await enterWorld('privileged');
  const script = 'n=0; while read -r line; do n=$((n+1)); echo "heard $n"; done; sleep 3600';
  everyId = await applyInstances(world, underEach(script, { stop: { command: stopWord, gracePeriodSeconds: 3 } }));
  await Promise.all(runtimes.map(ready));
});

function randomWord(name: string): string {
  return `${name}-${randomBytes(9).toString('hex')}`;
}

async function ready(name: string): Promise<void> {
  await world.kubectl(['wait', '--for=condition=Ready', `instance/${name}`, '--timeout=60s']);
}

after(() => world.leave());

const atHome = ['--namespace', releaseNamespace];

test('security: nobody but the Master can write a command that names somebody else as who gave it', async () => {
  const { cluster } = world;
  await cluster.kubectl(['create', 'rolebinding', 'security-alice', '--clusterrole=admin', '--user=alice', ...atHome]);
  world.cleanups.push(() => cluster.kubectl(['delete', 'rolebinding', 'security-alice', ...atHome]));
  const master = `system:serviceaccount:${releaseNamespace}:${releaseName}-master`;
  const create = async (
    as: readonly string[],
    { annotations = {}, ...spec }: { annotations?: object },
    namespace = releaseNamespace,
  ): Promise<string> => {
    const metadata = { generateName: 'security-', namespace, annotations };
    const command = { apiVersion: 'ringmaster.dev/v1alpha1', kind: 'ConsoleCommand', metadata };
    const input = JSON.stringify({ ...command, spec: { line: 'help', ...spec } });
    return cluster.kubectl(['create', '--dry-run=server', '--output=name', '-f', '-', ...as], { input });
  };
  const key = { issuedBy: { kind: 'ApiKey', name: 'test-all' } };
  const user = (name: string): object => ({ issuedBy: { kind: 'User', name } });
  const accepted: [string[], object, string?][] = [
    [['--as=alice'], {}],
    [['--as=alice'], user('alice')],
    [[`--as=${master}`], { ...key, session: 's' }],
    [[`--as=${master}`], user('alice')],
    [[`--as=${master}`], { annotations: { 'ringmaster.dev/answer-to': '10.0.0.1' } }],
    [['--as=alice'], { annotations: { note: 'by hand' } }],
    // It counts for nothing there.
    [[], key, world.namespace],
  ];
  for (const given of accepted) assert.match(await create(...given), /^consolecommand\.ringmaster\.dev\/security-/);
  const sentence = (name: string): RegExp =>
    new RegExp(`spec\\.issuedBy names who gives the command: leave it out, or write kind User and name ${name}\n?$`);
  const refused: [string[], object, RegExp][] = [
    [['--as=alice'], key, sentence('alice')],
    [['--as=alice'], user('bob'), sentence('alice')],
    [['--as=alice'], { issuedBy: { kind: 'ApiKey', name: 'alice' } }, sentence('alice')],
    [['--as=alice'], { session: 's' }, /spec\.session belongs to a console session of the Master: leave it out/],
    // The operator would connect to it.
    [
      ['--as=alice'],
      { annotations: { 'ringmaster.dev/answer-to': '10.0.0.1' } },
      /the annotation ringmaster\.dev\/answer-to is the Master's: leave it out/,
    ],
    // Whoever may do everything, too, and another account of ours.
    [[], key, /names who gives the command/],
    [['--as=alice', '--as-group=system:masters'], user('bob'), sentence('alice')],
  ];
  for (const [as, spec, message] of refused) assert.match(await failureOf(() => create(as, spec)), message);
});

const keySecret = `${releaseName}-master-key`;

interface Container {
  readonly name: string;
  readonly image: string;
  readonly securityContext?: Record<string, unknown> & { capabilities?: { drop?: string[] } };
}

test('security: no container of ours can write its root file system, gain rights, or is root, but the launcher of docker', async () => {
  const out = await world.cluster.kubectl(['get', 'pods', '--all-namespaces', '--output=json']);
  const { items } = JSON.parse(out) as {
    items: {
      metadata: { name: string; namespace: string };
      spec: { containers: Container[]; initContainers?: Container[]; securityContext: Record<string, unknown> };
    }[];
  };
  const images = [process.env.RINGMASTER_IMAGE, process.env.RINGMASTER_SIDECAR_IMAGE];
  const seen: string[] = [];
  // Those of other tests may not be gone yet, and are what they made them.
  const ours = items.filter(({ metadata }) => [releaseNamespace, world.namespace].includes(metadata.namespace));
  for (const { metadata, spec } of ours) {
    for (const { name, image, securityContext = {} } of [...spec.containers, ...(spec.initContainers ?? [])]) {
      if (!images.includes(image)) continue;
      const where = `${metadata.namespace}/${metadata.name} ${name}`;
      const { runAsUser, runAsNonRoot, seccompProfile } = { ...spec.securityContext, ...securityContext };
      assert.equal(securityContext.readOnlyRootFilesystem, true, where);
      assert.equal(securityContext.allowPrivilegeEscalation, false, where);
      assert.deepEqual(securityContext.capabilities?.drop, ['ALL'], where);
      assert.deepEqual(seccompProfile, { type: 'RuntimeDefault' }, where);
      const isLauncher = name === 'instance' && image === process.env.RINGMASTER_SIDECAR_IMAGE;
      assert.deepEqual([runAsUser, runAsNonRoot], isLauncher ? [0, false] : [65532, true], where);
      if (isLauncher || metadata.namespace === releaseNamespace || name === 'ringmaster-sidecar') seen.push(name);
    }
  }
  const kinds = [...new Set(seen)].sort();
  assert.deepEqual(kinds, ['instance', 'master', 'operator', 'ringmaster-sidecar']);
});

test('security: no token, no key and nothing that was typed is in a log, an Event or a record', async () => {
  const since = Date.now();
  const secrets = new Map<string, string>();
  const secret = (name: string, value = randomWord(name)): string => {
    secrets.set(name, value);
    return value;
  };
  secret('stop command', stopWord);
  const ids = everyId;

  // From here to the end of the pods.
  const ending = logsOf(world.namespace, '--follow', '--max-log-requests=8');
  // Awaited below.
  ending.catch(() => undefined);

  // Every way in for a token.
  const key = secret('ApiKey', await createKey(world, 'security-header'));
  const carried = secret('ApiKey as a subprotocol', await createKey(world, 'security-carried'));
  await world.kubectl(['create', 'serviceaccount', 'security']);
  await world.kubectl([
    'create',
    'rolebinding',
    'security',
    '--clusterrole=edit',
    `--serviceaccount=${world.namespace}:security`,
  ]);
  const ofKubernetes = (await world.kubectl(['create', 'token', 'security', '--audience=ringmaster'])).trim();
  secret('token of Kubernetes', ofKubernetes.split('.')[2]);
  const carrier = (token: string): string =>
    `base64url.bearer.authorization.k8s.io.${Buffer.from(token).toString('base64url')}`;
  secret('carrier', carrier(carried).slice(-40));
  const ws = (protocols: string[]): Promise<string> => {
    const url = `${world.url.replace(/^http/, 'ws')}/api/instances/${ids.process}/live-log?tail=0`;
    const socket = new WebSocket(url, protocols);
    const { promise, resolve } = Promise.withResolvers<string>();
    socket.on('open', () => {
      resolve('open');
      socket.close();
    });
    socket.on('error', () => undefined);
    socket.on('unexpected-response', (_, { statusCode }) => {
      resolve(String(statusCode));
      socket.terminate();
    });
    return promise;
  };
  for (const token of [carried, ofKubernetes]) {
    assert.equal(await ws([carrier(token), 'ringmaster.live-log.v1']), 'open');
  }
  assert.equal(await ws([carrier(secret('unknown token as a subprotocol')), 'ringmaster.live-log.v1']), '401');
  for (const token of [key, ofKubernetes]) {
    assert.equal((await call(world.url, `/api/instances/${ids.process}/logs`, { token })).status, 200);
  }
  assert.equal((await call(world.url, '/api/instances', { token: secret('unknown token') })).status, 401);
  const inUrl = secret('token in a URL');
  assert.equal(
    (await call(world.url, `/api/instances/${ids.process}/logs?token=${inUrl}`, { token: key })).status,
    400,
  );
  assert.equal((await call(world.url, `/api/instances?access_token=${inUrl}`)).status, 401);
  const basic = await fetch(`${world.url}/api/instances`, { headers: { authorization: `Basic ${secret('Basic')}` } });
  assert.equal(basic.status, 401);

  // Everything that can be typed. A line of the console is in the `spec.line` of its record, and only there.
  const typist = new Typist(world);
  const run = async (command: string): Promise<{ output: string; exitCode: number }> => {
    const response = await fetch(`${world.url}/api/commands/execute`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}` },
      body: JSON.stringify({ command }),
    });
    return (await response.json()) as { output: string; exitCode: number };
  };
  for (const name of runtimes) {
    assert.equal((await typist.type(ids[name], secret(`typed into ${name}`))).status, 200);
    assert.equal((await run(`instance execute ${ids[name]} ${secret(`console into ${name}`)}`)).exitCode, 0);
  }
  assert.equal((await run(`instances ${secret('mistyped word')}`)).exitCode, 2);
  assert.equal((await run(secret('mistyped command'))).exitCode, 2);
  assert.notEqual((await run(`config apply none {"password":"${secret('JSON')}"}`)).exitCode, 0);
  const { output } = await run('key create security-made PUBLIC');
  world.cleanups.push(() => world.cluster.kubectl(['delete', 'apikey', 'security-made', ...atHome]));
  secret('made by key create', /: (rm_[\w-]{43})$/m.exec(output)?.[1]);
  const masterKey = ['get', 'secret', keySecret, ...atHome, '-o', 'jsonpath={.data.key}'];
  secret('master key', await world.cluster.kubectl(masterKey));
  for (const data of await sidecarKeys()) secret(`sidecar key ${data.slice(0, 4)}`, data);
  for (const name of runtimes) {
    // The program has heard all of it: so the operator, the Master and the sidecar have had it.
    await eventually(`${name} to have heard both lines`, async () =>
      /heard 2/.test((await call(world.url, `/api/instances/${ids[name]}/logs`, { token: key })).text),
    );
  }
  // Each stop command is typed, too.
  await world.kubectl(['delete', 'instances', '--all', '--timeout=60s']);
  const places = [...(await ending), ...(await logsOf(releaseNamespace)), ...(await records(since))];

  // That they are looked into is shown by what must be there.
  const whole = places.map(({ text }) => text).join('\n');
  assert.match(whole, /"command":"instance execute"/);
  assert.match(whole, /"key":"security-header"/);
  assert.match(whole, /heard 2/);
  assert.match(whole, /"reason":"Stopping"|StopCommand|PodCreated/);
  for (const [name, value] of secrets) {
    const forms = [
      value,
      Buffer.from(value).toString('base64').slice(0, -4),
      Buffer.from(value, 'base64').toString('hex'),
    ];
    for (const form of forms) {
      const found = places.filter(({ text }) => text.includes(form)).map((place) => place.name);
      assert.deepEqual(found, [], `${name} is in ${found.join(', ')}`);
    }
  }
});

interface Place {
  readonly name: string;
  readonly text: string;
}

/** Of every container of every pod, the sidecars among them. */
async function logsOf(namespace: string, ...options: readonly string[]): Promise<Place[]> {
  const names = await world.cluster.kubectl(['get', 'pods', '--namespace', namespace, '--output=name']);
  const pods = names.split('\n').filter((name) => name !== '');
  return Promise.all(
    pods.map(async (pod) => ({
      name: `the log of ${pod}`,
      text: await world.cluster.kubectl(['logs', '--namespace', namespace, pod, '--all-containers', ...options]),
    })),
  );
}

/** What the cluster keeps of what was done: Events, the audit log, and the commands without their line. */
async function records(since: number): Promise<Place[]> {
  const { cluster } = world;
  const list = async (kind: string): Promise<{ items: { spec?: { line?: string } }[] }> =>
    JSON.parse(await cluster.kubectl(['get', kind, '--all-namespaces', '--output=json'])) as Awaited<
      ReturnType<typeof list>
    >;
  const commands = await list('consolecommands');
  for (const { spec } of commands.items) delete spec?.line;
  const others = ['events.v1.', 'events.v1.events.k8s.io', 'apikeys'];
  const audit = (await readFile(join(cluster.logDir, 'audit.log'), 'utf8'))
    .split('\n')
    .filter((line) => Date.parse(/"requestReceivedTimestamp":"([^"]+)"/.exec(line)?.[1] ?? '') >= since);
  return [
    { name: 'a record', text: JSON.stringify(commands) },
    { name: 'the audit log', text: audit.join('\n') },
    ...(await Promise.all(others.map(async (kind) => ({ name: kind, text: JSON.stringify(await list(kind)) })))),
  ];
}

/** In base64. */
async function sidecarKeys(): Promise<string[]> {
  const out = await world.kubectl(['get', 'secrets', '--output=json']);
  const { items } = JSON.parse(out) as { items: { data?: Record<string, string> }[] };
  return items.flatMap(({ data }) => data?.key ?? []);
}

/** What the Secret with the master keys holds, replaced as docs/security.md says; resolves when both Masters have it. */
async function putKeys(keys: Readonly<Record<string, Buffer | null>>): Promise<void> {
  const { cluster } = world;
  const data = Object.fromEntries(
    Object.entries(keys).map(([entry, key]) => [entry, key === null ? null : key.toString('base64')]),
  );
  await cluster.kubectl([
    ...['patch', 'secret', keySecret, ...atHome, '--type=merge', '--patch', JSON.stringify({ data })],
  ]);
  // The kubelet looks at mounted Secrets once a minute, and whenever the pod changes.
  const selector = ['--selector', `app.kubernetes.io/name=${releaseName},app.kubernetes.io/component=master`];
  const round = `ringmaster.test/round=${randomBytes(4).toString('hex')}`;
  await cluster.kubectl(['annotate', 'pods', ...atHome, ...selector, '--overwrite', round]);
  const wanted = Object.entries(keys).map(([entry, key]) => `${entry} ${key === null ? '' : hashOf(key)}`);
  const script = `const { readFileSync } = require('node:fs'), { createHash } = require('node:crypto');
    for (const entry of ${JSON.stringify(Object.keys(keys))}) {
      let hash = '';
      try { hash = createHash('sha256').update(readFileSync('/etc/ringmaster/master-key/' + entry)).digest('hex'); } catch {}
      console.log(entry + ' ' + hash);
    }`;
  for (const { name } of await masters(world)) {
    await eventually(`${name} to have the keys`, async () => {
      const exec = ['exec', name, ...atHome, '--', '/usr/local/bin/node', '-e', script];
      return (await cluster.kubectl(exec)).trimEnd() === wanted.join('\n').trimEnd();
    });
  }
}

function hashOf(key: Buffer): string {
  return createHash('sha256').update(key).digest('hex');
}

/** Whether the sidecar of an Instance was given the key that comes from this master key. */
async function hasKeyOf(name: string, masterKey: Buffer): Promise<boolean> {
  const uid = await world.kubectl(['get', 'instance', name, '-o', 'jsonpath={.metadata.uid}']);
  const path = 'jsonpath={.spec.volumes[?(@.name=="ringmaster-key")].secret.secretName}';
  const secret = await world.kubectl(['get', 'pod', await podOf(world, name), '-o', path]);
  const data = await world.kubectl(['get', 'secret', secret, '-o', 'jsonpath={.data.key}']);
  return data === deriveKey(masterKey, uid).toString('base64');
}

// The last one: afterwards no pod from before is in reach.
test('security: the master key is replaced while streams are open: none is cut, no line is lost, old pods and new ones are served', async () => {
  const writer = programUnder('process', 'i=0; while :; do i=$((i+1)); echo "$i"; sleep 0.02; done');
  const ids = await applyInstances(world, { streamed: writer, quiet: writer });
  await Promise.all([ready('streamed'), ready('quiet')]);
  const [first, second] = await masters(world);
  const numbers: number[] = [];
  const others: Message[] = [];
  const stream = new ResumingClient({
    ...{ world, id: ids.streamed, urls: [first.url] },
    onMessage: (message) => {
      if (message.type === 'line') numbers.push(parseInt(message.line ?? '', 10));
      else others.push(message);
    },
  });
  stream.start();
  const flows = async (): Promise<void> => {
    const length = numbers.length;
    await eventually('more lines', () => Promise.resolve(numbers.length > length + 20));
  };
  const logsOf = async (url: string, id: string): Promise<number> =>
    (await call(url, `/api/instances/${id}/logs?lines=5`, { token: world.token })).status;
  await flows();

  const path = ['get', 'secret', keySecret, ...atHome, '-o', 'jsonpath={.data.key}'];
  const old = Buffer.from(await world.cluster.kubectl(path), 'base64');
  const fresh = randomBytes(32);
  await putKeys({ key: old, next: fresh });
  await putKeys({ key: fresh, previous: old, next: null });
  // As long as the operator may remember the old one.
  await sleep(10_500);

  const made = await applyInstance(world, 'made', writer);
  await ready('made');
  assert.deepEqual([await hasKeyOf('made', fresh), await hasKeyOf('quiet', old)], [true, true]);
  for (const { url } of [first, second]) {
    for (const id of [made, ids.quiet, ids.streamed]) assert.equal(await logsOf(url, id), 200);
    const socket = await openSocket(world, { url, id: ids.quiet, query: '?tail=0' });
    await socket.untilFrames(3);
    socket.terminate();
  }
  const typist = new Typist(world);
  for (const id of [made, ids.quiet]) assert.equal((await typist.type(id, 'hello')).status, 200);
  const response = await fetch(`${world.url}/api/commands/execute`, {
    method: 'POST',
    headers: { authorization: `Bearer ${world.token}` },
    body: JSON.stringify({ command: `instance logs ${ids.quiet} 1` }),
  });
  assert.equal(((await response.json()) as { exitCode: number }).exitCode, 0, 'the operator knows both as well');
  await flows();

  // Without the old one, a pod that has it is out of reach until it is made anew; what is open stays.
  await putKeys({ key: fresh, previous: null });
  await eventually('the old key to count no more', async () => (await logsOf(second.url, ids.quiet)) === 503);
  await flows();
  await world.kubectl(['delete', 'pod', await podOf(world, 'quiet'), '--wait=false']);
  // Between the two pods there is nothing to read, which is no fault.
  await eventually('the new pod to have the new key', () => hasKeyOf('quiet', fresh).catch(() => false));
  await eventually('the new pod to be read', async () => (await logsOf(second.url, ids.quiet)) === 200);
  await flows();
  assert.deepEqual([stream.connects, stream.closes], [1, []]);
  assert.ok(
    numbers.every((number, index) => number === index + 1),
    'each line once and in order',
  );
  assert.deepEqual(
    others.filter(({ type }) => type === 'gap'),
    [],
  );
  await stream.stop();
  await world.kubectl(['delete', 'instances', 'streamed', 'quiet', 'made', '--timeout=60s']);
});
