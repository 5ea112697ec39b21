/**
 * Console commands through the operator's loop, beside the same round trip without it, in the same run: `instance list` with 100 Instances, over one
 * session (latency, then throughput) and over 50. Peers: `kubectl create` and `kubectl wait` of an equal ConsoleCommand, and a bare create and
 * watch by the client of ours, with nobody in between: what the API server alone takes, for a ConfigMap and for a custom resource that is equal to a
 * ConsoleCommand but for its name. The goal is set against the cheaper one.
 *
 * Round trips come back to back, where what follows an answer (the record of a command, the deletion of a peer's object) still keeps the API server
 * busy while the next one begins, and apart, as a person types. The peer alone, for comparison, waits for its deletions.
 *
 * Goals: p50 at most 2.5 x the bare round trip, both ways; 50 sessions at least 100 commands per second.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse } from 'yaml';
import WebSocket from 'ws';
import { createSilentLogger } from '../../operator/log.ts';
import type { Client, KubernetesObject, Resource } from '../../operator/runtime/client.ts';
import { connect } from '../../operator/runtime/http.ts';
import type { Bench } from '../bench.ts';
import { waitUntil } from '../cluster/wait.ts';
import { releaseNamespace } from '../release.ts';
import { cpuSecondsOf, processesOf } from './readers/processes.ts';
import type { Percentiles } from './readers/readers.ts';
import { goal, percentiles } from './readers/readers.ts';

const instances = 100;
const warmUps = 50;
const samplesPerRound = 334;
/** Between round trips that are apart: longer than what follows an answer takes. */
const pauseMs = 20;
const kubectlSamples = 30;
const sessions = 50;
const throughputMs = 10_000;
/** Rounds in turn, so that what the machine does meanwhile hits all alike. */
const rounds = 3;
const line = 'instance list';

const configMaps: Resource<KubernetesObject> = {
  apiVersion: 'v1',
  kind: 'ConfigMap',
  plural: 'configmaps',
  namespaced: true,
};

/** With the schema of a ConsoleCommand. Nobody looks at it. */
const equalGroup = 'bench.ringmaster.dev';
const equals: Resource<KubernetesObject> = {
  apiVersion: `${equalGroup}/v1alpha1`,
  kind: 'EqualCommand',
  plural: 'equalcommands',
  namespaced: true,
};

export async function run(bench: Bench): Promise<void> {
  await bench.progress.step(`Making ${instances} Instances`, () => makeInstances(bench));
  await makeEqualKind(bench);
  const { client } = connect({ kubeconfigPath: bench.cluster.kubeconfig, log: createSilentLogger() });
  const processes = await processesOf(bench);
  const cpu = new Map<string, number>();
  const close: Trips = { own: [], bare: [], equal: [] };
  const apart: Trips = { own: [], bare: [], equal: [] };
  const alone: number[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    await bench.progress.step(`Round trips of the peer alone, round ${round} of ${rounds}`, async () => {
      alone.push(...(await bareTrips(client, configMaps, { restMs: 0, isAlone: true })));
    });
    for (const [trips, restMs] of [
      [close, 0],
      [apart, pauseMs],
    ] as const) {
      const how = restMs === 0 ? 'back to back' : `${restMs} ms apart`;
      await bench.progress.step(`Round trips ${how}, round ${round} of ${rounds}`, async () => {
        trips.bare.push(...(await bareTrips(client, configMaps, { restMs })));
        trips.equal.push(...(await bareTrips(client, equals, { restMs, content: { spec: { line } } })));
        const spent = await cpuSecondsOf(processes, async () => {
          trips.own.push(...(await consoleTrips(bench, restMs)));
        });
        if (restMs > 0) return;
        for (const [name, seconds] of spent) cpu.set(name, (cpu.get(name) ?? 0) + seconds);
      });
    }
  }
  const kubectl = await bench.progress.step('kubectl create and wait', () => kubectlTrips(bench));
  const one = await bench.progress.step('Commands per second over 1 session', () => rateOf(bench, 1));
  const many = await bench.progress.step(`Commands per second over ${sessions} sessions`, () =>
    rateOf(bench, sessions),
  );
  const tool = percentiles(kubectl);
  const lines = [
    `\nconsole: "${line}" with ${instances} Instances; command to end in ms`,
    ...tripRows('back to back', close),
    ...tripRows(`${pauseMs} ms apart`, apart),
    ' for comparison:',
    row('bare, back to back, alone', percentiles(alone)),
    `  ratio of the console, back to back, to that: p50 ${(percentiles(close.own).p50 / percentiles(alone).p50).toFixed(2)}`,
    row('kubectl create + wait', tool),
    `  ratio of kubectl to the console: p50 ${(tool.p50 / percentiles(apart.own).p50).toFixed(2)}`,
    `  CPU ms a command, back to back: ${cpuPerCommand(cpu)}`,
    `commands per second: 1 session ${one.toFixed(0)}, ${sessions} sessions ${many.toFixed(0)} (ratio ${(many / one).toFixed(2)})`,
    goal('p50 back to back, ratio to the bare create + watch', ratioOf(close), { most: 2.5, unit: 'x' }),
    goal(`p50 ${pauseMs} ms apart, ratio to the bare create + watch`, ratioOf(apart), { most: 2.5, unit: 'x' }),
    goal(`commands per second over ${sessions} sessions`, many, { least: 100, unit: '/s' }),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

/** Milliseconds of each. */
interface Trips {
  readonly own: number[];
  readonly bare: number[];
  readonly equal: number[];
}

function tripRows(how: string, trips: Trips): string[] {
  const [own, bare, equal] = [percentiles(trips.own), percentiles(trips.bare), percentiles(trips.equal)];
  const ratios = ({ p50, p99 }: Percentiles): string =>
    `p50 ${(own.p50 / p50).toFixed(2)}, p99 ${(own.p99 / p99).toFixed(2)}`;
  return [
    ` ${how}:`,
    row('console session', own),
    row('bare create + watch', bare),
    row('the same, equal kind', equal),
    `  ratio to the bare round trip: ${ratios(bare)}; to that of an equal kind: ${ratios(equal)}`,
  ];
}

function ratioOf({ own, bare }: Trips): number {
  return percentiles(own).p50 / percentiles(bare).p50;
}

async function makeEqualKind({ cluster }: Bench): Promise<void> {
  const crd = parse(await readFile(join(import.meta.dirname, '../../crds/consolecommands.yaml'), 'utf8')) as {
    metadata: object;
    spec: { group: string; names: object };
  };
  const { kind, plural } = equals;
  crd.metadata = { name: `${plural}.${equalGroup}` };
  // Without the short names, which would be the same.
  crd.spec = { ...crd.spec, group: equalGroup, names: { kind, plural } };
  await cluster.kubectl(['apply', '-f', '-'], { input: JSON.stringify(crd) });
  await cluster.kubectl(['wait', `crd/${plural}.${equalGroup}`, '--for=condition=Established', '--timeout=30s']);
  // Established is not all: its storage is made when it is first asked for.
  await waitUntil({
    what: 'the storage of a new kind',
    timeoutMs: 30_000,
    check: () =>
      cluster.kubectl(['get', `${plural}.${equalGroup}`]).then(
        () => true,
        () => false,
      ),
  });
}

/** What takes most first. */
function cpuPerCommand(cpu: ReadonlyMap<string, number>): string {
  const commands = rounds * (warmUps + samplesPerRound);
  const rows = [...cpu].sort(([, a], [, b]) => b - a);
  return rows.map(([name, seconds]) => `${name} ${((1_000 * seconds) / commands).toFixed(1)}`).join(', ');
}

function row(name: string, { p50, p90, p99, max }: Percentiles): string {
  return `  ${name.padEnd(26)}p50 ${p50.toFixed(2)}   p90 ${p90.toFixed(2)}   p99 ${p99.toFixed(2)}   max ${max.toFixed(2)}`;
}

/** Stopped ones: a hundred rows for the list, and no pods that take the machine from what is measured. */
async function makeInstances(bench: Bench): Promise<void> {
  const items = Array.from({ length: instances }, (_, index) => ({
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'Instance',
    metadata: { name: `listed-${index}`, namespace: 'default' },
    spec: { image: bench.nodeImage, desiredState: 'Stopped' },
  }));
  await bench.cluster.kubectl(['apply', '-f', '-'], {
    input: JSON.stringify({ apiVersion: 'v1', kind: 'List', items }),
  });
  for (;;) {
    const ids = await bench.cluster.kubectl(['get', 'instances', '-o', 'jsonpath={.items[*].status.id}']);
    if (ids.split(' ').filter((id) => id !== '').length >= instances) return;
    await sleep(200);
  }
}

/** A session of the JSON protocol, which says when a command has ended. */
class Session {
  readonly #ws: WebSocket;
  #count = 0;
  #lines = 0;
  #onDone: ((exitCode: number) => void) | undefined;

  constructor({ token, url }: Bench) {
    this.#ws = new WebSocket(`${url.replace('http', 'ws')}/api/console`, ['ringmaster.console.v1+json'], {
      headers: { authorization: `Bearer ${token}` },
    });
    this.#ws.on('message', (data: Buffer) => {
      const { type, exitCode } = JSON.parse(data.toString('utf8')) as { type: string; exitCode?: number };
      if (type === 'output') this.#lines += 1;
      else this.#onDone?.(exitCode ?? -1);
    });
  }

  async open(): Promise<this> {
    await new Promise((resolve, reject) => {
      this.#ws.once('open', resolve);
      this.#ws.once('error', reject);
    });
    return this;
  }

  /** Resolves when the command has ended; rejects unless it gave the whole list. */
  async command(): Promise<void> {
    this.#count += 1;
    this.#lines = 0;
    const exitCode = await new Promise<number>((resolve) => {
      this.#onDone = resolve;
      this.#ws.send(JSON.stringify({ id: String(this.#count), line }));
    });
    if (exitCode !== 0 || this.#lines !== instances + 1) {
      throw new Error(`"${line}" ended with ${exitCode} after ${this.#lines} lines`);
    }
  }

  close(): void {
    this.#ws.terminate();
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAtMs = performance.now();
  await work();
  return performance.now() - startedAtMs;
}

async function consoleTrips(bench: Bench, restMs: number): Promise<number[]> {
  const session = await new Session(bench).open();
  const times: number[] = [];
  for (let index = 0; index < warmUps + samplesPerRound; index += 1) {
    times.push(await timed(() => session.command()));
    if (restMs > 0) await sleep(restMs);
  }
  session.close();
  return times.slice(warmUps);
}

/**
 * Creates an object and waits until a watch shows it. It is deleted while the next one begins, as the record of a command is written then; `isAlone`: it
 * is gone before the next one begins, so that the API server has nothing else to do.
 */
async function bareTrips(
  client: Client,
  resource: Resource<KubernetesObject>,
  { restMs, content = {}, isAlone = false }: { restMs: number; content?: object; isAlone?: boolean },
): Promise<number[]> {
  const stop = new AbortController();
  const labels = { bench: 'console' };
  const arrivals = new Map<string, () => void>();
  const scope = { namespace: 'default', labelSelector: 'bench=console' };
  const { metadata } = await client.list(resource, scope);
  const watch = { ...scope, resourceVersion: metadata.resourceVersion, timeoutSeconds: 600, idleTimeoutMs: 600_000 };
  const watching = (async () => {
    for await (const event of client.watch(resource, { ...watch, signal: stop.signal })) {
      if (event.type === 'ADDED') arrivals.get(event.object.metadata.name)?.();
    }
  })();
  const times: number[] = [];
  let removed = Promise.resolve();
  for (let index = 0; index < warmUps + samplesPerRound; index += 1) {
    const name = `bench-${Date.now().toString(36)}-${index}`;
    const ref = { name, namespace: 'default' };
    times.push(
      await timed(async () => {
        const arrived = new Promise<void>((resolve) => arrivals.set(name, resolve));
        await client.create(resource, { ...content, metadata: { ...ref, labels } });
        await arrived;
      }),
    );
    arrivals.delete(name);
    await removed;
    removed = client.remove(resource, ref);
    if (isAlone) await removed;
    if (restMs > 0) await sleep(restMs);
  }
  await removed;
  stop.abort();
  await watching;
  return times.slice(warmUps);
}

/** As a script would do it without the Master. */
async function kubectlTrips({ cluster }: Bench): Promise<number[]> {
  const times: number[] = [];
  for (let index = 0; index < kubectlSamples; index += 1) {
    const name = `bench-${index}`;
    const manifest = {
      apiVersion: 'ringmaster.dev/v1alpha1',
      kind: 'ConsoleCommand',
      metadata: { name, namespace: releaseNamespace },
      spec: { line },
    };
    times.push(
      await timed(async () => {
        await cluster.kubectl(['create', '-f', '-'], { input: JSON.stringify(manifest) });
        const wait = ['--for=jsonpath={.status.phase}=Succeeded', '--timeout=30s'];
        await cluster.kubectl(['wait', `consolecommand/${name}`, '-n', releaseNamespace, ...wait]);
      }),
    );
  }
  return times;
}

/** Each session gives its next command when the one before has ended. */
async function rateOf(bench: Bench, count: number): Promise<number> {
  const open = await Promise.all(Array.from({ length: count }, () => new Session(bench).open()));
  await Promise.all(open.map((session) => session.command()));
  let done = 0;
  const startedAtMs = performance.now();
  await Promise.all(
    open.map(async (session) => {
      while (performance.now() - startedAtMs < throughputMs) {
        await session.command();
        done += 1;
      }
    }),
  );
  const seconds = (performance.now() - startedAtMs) / 1_000;
  for (const session of open) session.close();
  return done / seconds;
}
