/**
 * A rolling upgrade from the release before this one, and back, with streams open. `test.ts` runs this file before all others, on an installation of
 * that release, and the others on what it leaves: an installation that was upgraded.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import WebSocket from 'ws';
import type { Image } from './images/oci.ts';
import { condition, instancesPath, isOnline, Watch } from './harness.ts';
import type { Condition, InstanceObject, KubeObject, PodObject } from './harness.ts';
import { applyInstance, applyInstances, enterWorld, eventually, masters, openSocket, podOf } from './live-harness.ts';
import type { LiveSocket, ResumingClient, World } from './live-harness.ts';
import { judge } from './gitops/judge.ts';
import { installRelease, releaseName, releaseNamespace } from './release.ts';
import {
  countingScriptWith,
  flowing,
  follow,
  programUnder,
  runtimes,
  sidecarRuntimes,
  Typist,
  underEach,
} from './runtime-harness.ts';
import type { Ledger, Runtime } from './runtime-harness.ts';
import { testValues } from './setup-cluster.ts';

/** Two hundred lines a second. */
const script = countingScriptWith(0.05);
const crdFolder = join(import.meta.dirname, '../crds');

let world: World;
let typist: Typist;
let ids: Record<Runtime, string>;
let pods: Watch<PodObject>;
let instances: Watch<InstanceObject>;
const ledgers = {} as Record<Runtime, Ledger>;
const clients = {} as Record<Runtime, ResumingClient>;
const plainClients: PlainClient[] = [];
let operatorConsole: Console;

before(async () => {
  world = await enterWorld('privileged');
  typist = new Typist(world);
  pods = new Watch(world.cluster, `/api/v1/namespaces/${world.namespace}/pods`);
  instances = new Watch(world.cluster, `${instancesPath}/namespaces/${world.namespace}/instances`);
  await world.kubectl(['apply', '-f', '-'], JSON.stringify(fleet()));
  ids = await applyInstances(world, underEach(script));
  for (const runtime of runtimes) await instances.until(runtime, isOnline);
  for (const runtime of runtimes) {
    const { client, ledger } = follow(world, ids[runtime]);
    ledgers[runtime] = ledger;
    clients[runtime] = client;
  }
  plainClients.push(new PlainClient(ids.kubernetes), new PlainClient(ids.screen));
  plainClients.forEach((client) => {
    client.start();
  });
  operatorConsole = await Console.open();
  await flowing(ledgers, 400);
});

after(async () => {
  pods.stop();
  instances.stop();
  await world.leave();
});

/** A configuration whose Instances must not be made anew either. */
function fleet(): KubeObject {
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'InstanceConfiguration',
    metadata: { name: 'fleet' },
    spec: { minimumServiceCount: 2, template: { spec: programUnder('process', 'echo up; exec sleep 1000') } },
  };
}

/** A client without cursors: after a close it asks for the last lines again, and goes on behind those that it has. */
class PlainClient {
  readonly closes: string[] = [];
  readonly faults: string[] = [];
  received = 0;
  readonly #id: string;
  #last = 0;
  #isGoingOn = false;
  #isStopped = false;
  #socket: LiveSocket | undefined;

  constructor(id: string) {
    this.#id = id;
  }

  start(): void {
    const running = this.#run();
    world.cleanups.push(async () => {
      this.#isStopped = true;
      this.#socket?.terminate();
      await running;
    });
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      this.#isGoingOn = false;
      try {
        this.#socket = await this.#open();
      } catch {
        // The replica that was asked is stopping: the next one is asked.
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      const { code, reason } = await this.#socket.closed(300_000);
      this.closes.push(`${code} ${reason}`);
    }
  }

  async #open(): Promise<LiveSocket> {
    const socket = await openSocket(world, {
      id: this.#id,
      query: '?tail=10000',
      onFrame: (text) => {
        this.#note(text);
      },
    });
    if (this.#isStopped) socket.terminate();
    return socket;
  }

  #note(text: string): void {
    const number = Number(/^[0-9a-f-]{36} (\d+)$/.exec(text)?.[1]);
    if (!this.#isGoingOn && number <= this.#last) return;
    this.#isGoingOn = true;
    if (number !== this.#last + 1) this.faults.push(`${JSON.stringify(text)} after ${this.#last}`);
    this.#last = number;
    this.received += 1;
  }
}

/** A session of the console. */
class Console {
  readonly frames: string[] = [];
  readonly ws: WebSocket;
  close: string | undefined;

  private constructor(ws: WebSocket) {
    this.ws = ws;
    world.cleanups.push(() => {
      ws.terminate();
    });
    ws.on('message', (data: Buffer) => this.frames.push(data.toString('utf8')));
    ws.on('close', (code, reason) => {
      this.close = `${code} ${reason.toString('utf8')}`;
    });
  }

  static async open(): Promise<Console> {
    const headers = { authorization: `Bearer ${world.token}` };
    const session = new Console(new WebSocket(`${world.url.replace(/^http/, 'ws')}/api/console`, { headers }));
    await once(session.ws, 'open');
    return session;
  }

  /** Has the cluster list its Instances. */
  async list(): Promise<void> {
    this.ws.send('instance list');
    const wanted = `${ids.process} process ONLINE`;
    await eventually(`the console to list "${wanted}"; it has ${JSON.stringify([this.close, ...this.frames])}`, () =>
      Promise.resolve(this.frames.some((frame) => frame.includes(wanted))),
    );
  }
}

async function exact(what: string): Promise<void> {
  await flowing(ledgers, 400);
  for (const runtime of runtimes) {
    ledgers[runtime].check(`${runtime}, ${what}`);
    assert.equal(ledgers[runtime].gaps, 0, `${runtime}, ${what}: gaps announced`);
  }
}

function needed(name: string): string {
  const value = process.env[name];
  assert.ok(value !== undefined, `${name} is not set: run this test by e2e/test.ts, which installs the release before`);
  return value;
}

function imageOf(variable: string): Image {
  const name = needed(variable);
  const colon = name.lastIndexOf(':');
  return { repository: name.slice(0, colon), tag: name.slice(colon + 1), name, tar: '', digest: '' };
}

async function upgrade(): Promise<void> {
  const images = { ringmaster: imageOf('RINGMASTER_IMAGE'), sidecar: imageOf('RINGMASTER_SIDECAR_IMAGE') };
  await installRelease(world.cluster, images, testValues({ socketPath: needed('RINGMASTER_DOCKER_SOCKET') }));
}

async function releaseImagesNow(): Promise<string[]> {
  const path = 'jsonpath={range .items[*]}{.spec.template.spec.containers[0].image}{"\\n"}{end}';
  const out = await world.cluster.kubectl(['get', 'deployments', '-n', releaseNamespace, '-o', path]);
  return out.trim().split('\n');
}

/** The image of the sidecar in the pod of an Instance. */
async function sidecarOf(name: string): Promise<string> {
  return world.kubectl(['get', 'pod', await podOf(world, name), '-o', 'jsonpath={.spec.initContainers[0].image}']);
}

interface Life {
  readonly pod: string;
  readonly uid: string;
  readonly restarts: string;
}

/** Every pod of the namespace, and how often each of its containers was started. */
async function lives(): Promise<Life[]> {
  const { items } = JSON.parse(await world.kubectl(['get', 'pods', '-o', 'json'])) as { items: PodObject[] };
  return items
    .map(({ metadata, status }) => {
      const { initContainerStatuses = [] } = status as { initContainerStatuses?: { restartCount: number }[] };
      const all = [...initContainerStatuses, ...(status.containerStatuses ?? [])];
      return {
        pod: metadata.name,
        uid: metadata.uid ?? '',
        restarts: all.map(({ restartCount }) => restartCount).join(' '),
      };
    })
    .sort((a, b) => (a.pod < b.pod ? -1 : 1));
}

/** What happened to Instances and pods while `body` ran, that should not have. */
async function untouched(body: () => Promise<void>): Promise<void> {
  const before = await lives();
  const marks = { pods: pods.history.length, instances: instances.history.length };
  await body();
  assert.deepEqual(await lives(), before, 'the same pods, none of their containers started anew');
  for (const { type, object } of pods.history.slice(marks.pods)) {
    assert.equal(type, 'MODIFIED', `pod ${object.metadata.name} was ${type}`);
    assert.equal(object.metadata.deletionTimestamp, undefined, `pod ${object.metadata.name} is deleted`);
  }
  for (const { type, object } of instances.history.slice(marks.instances)) {
    const name = `instance ${object.metadata.name}`;
    assert.equal(type, 'MODIFIED', name);
    assert.equal(object.status?.state, 'ONLINE', name);
    assert.equal(condition(object, 'Ready')?.status, 'True', name);
  }
}

async function conditionsAreRight(): Promise<void> {
  const kinds = await world.kubectl(['get', 'instances,instanceconfigurations', '-o', 'json']);
  const keys = await world.cluster.kubectl(['get', 'apikeys', '-n', releaseNamespace, '-o', 'json']);
  const objects = [kinds, keys].flatMap(
    (text) => (JSON.parse(text) as { items: (KubeObject & { status?: { conditions?: Condition[] } })[] }).items,
  );
  assert.ok(objects.length >= runtimes.length + 3, `${objects.length} objects`);
  for (const object of objects) {
    const who = `${object.kind ?? ''} ${object.metadata.name}`;
    const ready = condition(object, 'Ready');
    assert.equal(ready?.status, 'True', `${who}: ${JSON.stringify(object.status)}`);
    assert.equal(ready.observedGeneration, object.metadata.generation, who);
    for (const type of ['Reconciling', 'Stalled', 'SidecarUnsupported'])
      assert.notEqual(condition(object, type)?.status, 'True', who);
  }
}

/** A file of `crds/` changes nothing in the cluster: a change of a spec raises the generation, also in a dry run. */
async function crdsAreOfThisTree(): Promise<void> {
  for (const file of await readdir(crdFolder)) {
    const args = ['--server-side', '--force-conflicts', '--field-manager=e2e-upgrade', '--dry-run=server'];
    const path = join(crdFolder, file);
    const applied = await world.cluster.kubectl([
      'apply',
      ...args,
      '-f',
      path,
      '-o',
      'jsonpath={.metadata.generation}',
    ]);
    const present = await world.cluster.kubectl(['get', '-f', path, '-o', 'jsonpath={.metadata.generation}']);
    assert.equal(applied, present, `${file} is what the cluster has`);
  }
}

test('upgrade: the chart of this tree replaces the release before: no Instance restarts, no line is lost', async () => {
  const previous = needed('RINGMASTER_PREVIOUS_IMAGE');
  const present = needed('RINGMASTER_IMAGE');
  assert.notEqual(previous, present);
  assert.deepEqual(new Set(await releaseImagesNow()), new Set([previous]), 'the release before is installed');
  await operatorConsole.list();
  const connects = runtimes.map((runtime) => clients[runtime].connects);
  await untouched(async () => {
    await upgrade();
    assert.deepEqual(new Set(await releaseImagesNow()), new Set([present]));
    await masters(world);
    await exact('upgrade');
  });
  runtimes.forEach((runtime, index) => {
    assert.ok(clients[runtime].connects > (connects[index] ?? 0), `${runtime} was connected anew`);
    for (const { code, reason } of clients[runtime].closes) assert.deepEqual([code, reason], [1001, 'draining']);
  });
  for (const { faults, closes } of plainClients) {
    assert.deepEqual(faults, []);
    assert.ok(closes.length > 0);
    assert.deepEqual(new Set(closes), new Set(['1001 draining']));
  }
});

test('upgrade: CRDs are those of this tree, and all conditions are right', async () => {
  await crdsAreOfThisTree();
  await conditionsAreRight();
});

test('upgrade: a console was told to come again, and the next session sees the same Instances', async () => {
  assert.equal(operatorConsole.close, '1001 draining');
  operatorConsole = await Console.open();
  await operatorConsole.list();
});

test('upgrade: pods keep the sidecar of the release before; they are typed into and restart in place', async () => {
  const previous = needed('RINGMASTER_PREVIOUS_SIDECAR_IMAGE');
  assert.notEqual(previous, needed('RINGMASTER_SIDECAR_IMAGE'));
  for (const runtime of sidecarRuntimes) assert.equal(await sidecarOf(runtime), previous, runtime);
  for (const runtime of sidecarRuntimes) await typist.typeAll(ids[runtime], ['crash']);
  await eventually('all to live again', () =>
    Promise.resolve(sidecarRuntimes.every((runtime) => ledgers[runtime].lives === 2)),
  );
  await exact('crash under the sidecar of the release before');
  for (const runtime of sidecarRuntimes) assert.equal(await sidecarOf(runtime), previous, runtime);
});

test('upgrade: Instances that are new or restarted have the sidecar of this tree', async () => {
  const present = needed('RINGMASTER_SIDECAR_IMAGE');
  const id = await applyInstance(world, 'new', programUnder('tmux', script));
  const socket = await openSocket(world, { id, query: '?tail=10' });
  await socket.untilFrames(20);
  socket.terminate();
  assert.equal(await sidecarOf('new'), present);
  for (const runtime of ['process', 'docker'] as const) {
    const livesBefore = ledgers[runtime].lives;
    await world.kubectl(['annotate', 'instance', runtime, 'ringmaster.dev/restarted-at=upgrade']);
    await eventually(`${runtime} to live again`, () => Promise.resolve(ledgers[runtime].lives === livesBefore + 1));
    await instances.until(runtime, isOnline);
    assert.equal(await sidecarOf(runtime), present, runtime);
  }
  await exact('restart into the sidecar of this tree');
});

test('upgrade: a pod whose sidecar is of a protocol that nobody speaks any more: its Instance says so and stays what it is, until it is restarted', async () => {
  const isRefused = (object: InstanceObject): boolean => condition(object, 'SidecarUnsupported')?.status === 'True';
  const pod = await podOf(world, 'tmux');
  await untouched(async () => {
    // As a pod looks that a release made whose protocol has been dropped since.
    await world.kubectl(['label', 'pod', pod, 'ringmaster.dev/sidecar-protocol=0', '--overwrite']);
    const said = condition(await instances.until('tmux', isRefused), 'SidecarUnsupported');
    assert.equal(said?.reason, 'SidecarTooOld');
    assert.match(said.message, /its sidecar speaks protocol 0, this Ringmaster 1 to 2\. Restart the Instance\.$/);
  });
  const object = JSON.parse(await world.kubectl(['get', 'instance', 'tmux', '-o', 'json'])) as InstanceObject;
  const [verdict] = await judge(world.cluster, [{ object }]);
  assert.deepEqual([verdict?.kstatus.status, verdict?.health.status], ['Current', 'Healthy']);
  assert.match(await world.kubectl(['get', 'instances', '-o', 'wide']), /^tmux\b.* SidecarTooOld *$/m);
  const selector = 'involvedObject.name=tmux,reason=SidecarTooOld';
  const events = await world.kubectl(['get', 'events', `--field-selector=${selector}`, '-o', 'name']);
  assert.equal(events.trim().split('\n').length, 1, events);
  const livesBefore = ledgers.tmux.lives;
  await world.kubectl(['annotate', 'instance', 'tmux', 'ringmaster.dev/restarted-at=protocol']);
  await eventually('tmux to live again', () => Promise.resolve(ledgers.tmux.lives === livesBefore + 1));
  await instances.until('tmux', (seen) => isOnline(seen) && !isRefused(seen));
  await exact('restart of what was refused');
});

test('upgrade: rolled back, the release before serves pods with newer sidecars; then upgraded again', async () => {
  await untouched(async () => {
    await world.cluster.helm(['rollback', releaseName, '-n', releaseNamespace, '--wait', '--timeout', '180s']);
    assert.deepEqual(new Set(await releaseImagesNow()), new Set([needed('RINGMASTER_PREVIOUS_IMAGE')]));
    await exact('rollback');
  });
  await conditionsAreRight();
  assert.equal(await sidecarOf('process'), needed('RINGMASTER_SIDECAR_IMAGE'));
  const livesBefore = ledgers.process.lives;
  await typist.typeAll(ids.process, ['crash']);
  await eventually('process to live again', () => Promise.resolve(ledgers.process.lives === livesBefore + 1));
  await untouched(async () => {
    await upgrade();
    await exact('second upgrade');
  });
  await conditionsAreRight();
  console.table(
    Object.fromEntries(
      runtimes.map((runtime) => {
        const { received, lost, doubled, disordered, gaps, longestSilenceMs } = ledgers[runtime];
        const silence = Math.round(longestSilenceMs);
        const { connects } = clients[runtime];
        return [
          runtime,
          { received, lost, doubled, 'out of order': disordered, gaps, connects, 'longest silence, ms': silence },
        ];
      }),
    ),
  );
});
