/**
 * `npm run soak`: fifty Instances over all runtimes, made, restarted and deleted while clients come and go and one fault after the other is put in.
 * Says whether any line was lost or doubled, and whether the operator and the Masters hold more and more; the exit code is 1 if so.
 * `-- --minutes N` (10 if absent) and `-- --seed N`, which repeats the same choices. Its cluster is its own and is taken down; `--keep` does not.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { CommandError } from './cluster/command.ts';
import { enterWorld, eventually, jsonProtocol, masters, openSocket } from './live-harness.ts';
import type { MasterPod, World } from './live-harness.ts';
import { pidsInPod } from './pids.ts';
import { createProgress } from './progress.ts';
import { releaseName, releaseNamespace } from './release.ts';
import { runtimes } from './runtime-harness.ts';
import type { Runtime } from './runtime-harness.ts';
import { downTestCluster, installForTests } from './setup-cluster.ts';
import { faultsOf } from './soak/faults.ts';
import { Fleet, shares } from './soak/fleet.ts';
import { measures, sampleOf, servedBy, survivorIn, verdictOn, watchesOpen } from './soak/samples.ts';
import type { Sample, Survivor } from './soak/samples.ts';
import { seededRandom, trendOf } from './soak/trend.ts';

const visitorsAtOnce = 10;
const churnEveryMs = 4000;
const faultEveryMs = 12_000;
const askEveryMs = 2000;
const sampleEveryMs = 1000;
const watchesEveryMs = 8000;
/** Until memory is expected to be level: a share of the time, but long enough for a young heap, as far as a minute is left to look at. */
const warmUpShare = 0.3;
const warmUpMsMin = 150_000;
const lookMsMin = 60_000;
/** What may be held at rest beyond what was held before the first client came. */
const restSlack = 8;
const restMs = 90_000;
const watchesSlack = 6;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 32)) },
    keep: { type: 'boolean' },
  },
});
const durationMs = Number(values.minutes) * 60_000;
const seed = Number(values.seed);
if (!(durationMs >= 120_000) || !Number.isSafeInteger(seed)) {
  process.stderr.write('Usage: npm run soak [-- --minutes N] [--seed N] [--keep]   (two minutes at least)\n');
  process.exitCode = 2;
} else {
  await main();
}

async function main(): Promise<void> {
  const progress = createProgress('soak');
  progress.say(`${durationMs / 60_000} minutes; to repeat: npm run soak -- --minutes ${values.minutes} --seed ${seed}`);
  const cleanups: (() => Promise<void>)[] = [];
  try {
    const installation = await installForTests(progress);
    cleanups.push(() => installation.close());
    Object.assign(process.env, installation.env);
    const world = await enterWorld('privileged');
    cleanups.push(() => world.leave());
    const failures = await soak(world, (line) => {
      progress.say(line);
    });
    for (const failure of failures) process.stdout.write(`FAILED: ${failure}\n`);
    process.stdout.write(failures.length === 0 ? 'soak: passed\n' : `soak: ${failures.length} failed\n`);
    process.exitCode = failures.length === 0 ? 0 : 1;
  } finally {
    for (const cleanUp of cleanups.reverse()) await cleanUp();
    if (values.keep !== true) await downTestCluster();
  }
}

interface Scene {
  readonly world: World;
  readonly fleet: Fleet;
  readonly survivors: readonly Survivor[];
  readonly victims: { readonly masterUid: string; readonly operatorUid: string };
  /** Address of the Master that survives. */
  readonly url: string;
  readonly failures: string[];
  readonly done: Record<string, number>;
  readonly until: number;
}

async function soak(world: World, say: (line: string) => void): Promise<string[]> {
  const failures: string[] = [];
  const [survivor, victim] = await masters(world);
  const operators = await electSurvivor(world);
  const survivors = [
    await survivorIn({ name: 'operator', podUid: operators.survivor, word: 'operator/main' }),
    await survivorIn({ name: 'Master', podUid: survivor.uid, word: 'operator/master', url: survivor.url }),
  ];
  await sleep(5000);
  const before = await Promise.all(survivors.map(sampleOf));
  const fleet = new Fleet(world, durationMs + 600_000);
  say('Starting 50 Instances');
  for (const batch of batches()) await fleet.add(batch);
  say('All have lines: soaking');
  const scene: Scene = {
    world,
    fleet,
    survivors,
    victims: { masterUid: victim.uid, operatorUid: operators.victim },
    url: survivor.url,
    failures,
    done: {},
    until: Date.now() + durationMs,
  };
  const samples = await play(scene, say);
  say('Faults are over: all Instances must go on');
  await Promise.all(
    fleet.members.map(async (member) => {
      await fleet.untilMore(member, 120_000).catch((error: unknown) => failures.push(reasonOf(error)));
    }),
  );
  await fleet.leave();
  judgeLines(fleet, failures);
  judgeSamples(samples, failures);
  await judgeRest(scene, survivor, before);
  console.table([scene.done]);
  return failures;
}

/** The leader is killed: the other one leads from then on, and nothing is done to it. */
async function electSurvivor(world: World): Promise<{ survivor: string; victim: string }> {
  const holderPath = ['lease', `${releaseName}-operator`, '-o', 'jsonpath={.spec.holderIdentity}'];
  const holder = (): Promise<string> => world.cluster.kubectl(['get', '-n', releaseNamespace, ...holderPath]);
  const selector = 'app.kubernetes.io/component=operator';
  const out = await world.cluster.kubectl(['get', 'pods', '-n', releaseNamespace, '-l', selector, '-o', 'json']);
  const pods = (JSON.parse(out) as { items: { metadata: { name: string; uid: string } }[] }).items;
  const first = await holder();
  const victim = pods.find(({ metadata }) => first.startsWith(metadata.name));
  const survivor = pods.find((pod) => pod !== victim);
  if (victim === undefined || survivor === undefined) throw new Error(`no two operators, or none leads: "${first}"`);
  for (const pid of await pidsInPod(victim.metadata.uid, 'operator/main')) process.kill(pid, 'SIGKILL');
  await eventually('the other operator to lead', async () => (await holder()).startsWith(survivor.metadata.name));
  return { survivor: survivor.metadata.uid, victim: victim.metadata.uid };
}

/** All runtimes mixed, ten at a time. */
function batches(): Runtime[][] {
  const all = runtimes.flatMap((runtime) => Array.from({ length: shares[runtime] }, () => runtime));
  return Array.from({ length: 5 }, (_, index) => all.filter((__, place) => place % 5 === index));
}

interface Samples {
  readonly survivors: Map<Survivor, Sample[]>;
  readonly watches: number[];
}

/** Everything at once, until the time is over. */
async function play(scene: Scene, say: (line: string) => void): Promise<Samples> {
  const samples: Samples = { survivors: new Map(scene.survivors.map((each) => [each, []])), watches: [] };
  const warmUpMs = Math.max(warmUpShare * durationMs, Math.min(warmUpMsMin, durationMs - lookMsMin));
  const warmUntil = scene.until - durationMs + warmUpMs;
  const visitors = Array.from({ length: visitorsAtOnce }, (_, index) => visit(scene, seededRandom(seed + 100 + index)));
  await Promise.all([
    ...visitors,
    churn(scene, seededRandom(seed + 1)),
    fault(scene, seededRandom(seed + 2), say),
    repeat(scene, askEveryMs, () => ask(scene)),
    repeat(scene, sampleEveryMs, async () => {
      for (const [survivor, kept] of samples.survivors) {
        const sample = await sampleOf(survivor);
        if (Date.now() >= warmUntil) kept.push(sample);
      }
    }),
    repeat(scene, watchesEveryMs, async () => {
      const count = await watchesOpen(scene.world);
      if (Date.now() >= warmUntil) samples.watches.push(count);
    }),
  ]);
  return samples;
}

/** Again and again until the time is over. What throws is a failure of the soak, and does not end it. */
async function repeat({ until, failures }: Scene, everyMs: number, act: () => Promise<void>): Promise<void> {
  while (Date.now() < until) {
    const next = Date.now() + everyMs;
    await act().catch((error: unknown) => failures.push(reasonOf(error)));
    await sleep(Math.max(0, Math.min(next, until) - Date.now()));
  }
}

async function churn(scene: Scene, random: () => number): Promise<void> {
  const { fleet, world } = scene;
  await repeat(scene, churnEveryMs, async () => {
    const member = fleet.members[Math.floor(random() * fleet.members.length)];
    const choice = random();
    if (member === undefined) return;
    if (choice < 0.4) {
      await world.kubectl([
        'annotate',
        'instance',
        member.name,
        '--overwrite',
        `ringmaster.dev/restarted-at=${random()}`,
      ]);
      note(scene, 'restarts');
    } else if (choice < 0.7) {
      await request(scene, 'POST', `/api/instances/${member.id}/execute`, { command: 'crash' });
      note(scene, 'crashes');
    } else {
      await fleet.remove(member);
      await fleet.add([member.runtime]);
      note(scene, 'deleted and made');
    }
  });
}

async function fault(scene: Scene, random: () => number, say: (line: string) => void): Promise<void> {
  const { world, victims, fleet } = scene;
  const faults = Object.entries(faultsOf({ world, victims, random, members: () => fleet.members }));
  let bag: typeof faults = [];
  await repeat(scene, faultEveryMs, async () => {
    // Each once, in an order of its own, before any comes again.
    if (bag.length === 0) bag = [...faults];
    const [[name, act] = []] = bag.splice(Math.floor(random() * bag.length), 1);
    if (name === undefined || act === undefined) return;
    try {
      const what = await act();
      say(`${name}: ${what ?? 'not possible now'}`);
      if (what !== undefined) note(scene, name);
    } catch (error) {
      // Its Instance was deleted, or its pod replaced, while the fault was on its way.
      if (!(error instanceof CommandError && /not ?found/i.test(error.output))) throw error;
    }
  });
}

/** One client after the other: some read, some do not, some leave without a word. */
async function visit(scene: Scene, random: () => number): Promise<void> {
  const { world, fleet } = scene;
  while (Date.now() < scene.until) {
    const member = fleet.members[Math.floor(random() * fleet.members.length)];
    const stayMs = 500 + random() * 15_000;
    try {
      const socket = await openSocket(world, {
        id: member?.id ?? '',
        query: `?tail=${Math.floor(random() * 500)}`,
        ...(random() < 0.5 ? { protocols: [jsonProtocol] } : {}),
        onFrame: () => undefined,
      });
      note(scene, 'visits');
      if (random() < 0.3) socket.ws.pause();
      await sleep(Math.max(0, Math.min(stayMs, scene.until - Date.now())));
      if (random() < 0.5) socket.ws.close();
      socket.terminate();
    } catch {
      // The Master that was asked has just been killed, or the Instance deleted.
      note(scene, 'visits refused');
      await sleep(500);
    }
  }
}

/** Calls and a command of the console, as a dashboard makes them, to the Master that survives. */
async function ask(scene: Scene): Promise<void> {
  await request(scene, 'GET', '/api/instances');
  await request(scene, 'POST', '/api/commands/execute', { command: 'instance list' });
  note(scene, 'commands');
}

async function request({ url, world }: Scene, method: string, path: string, body?: object): Promise<void> {
  const response = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${world.token}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(30_000),
  });
  const text = await response.text();
  // Typing into a program that is being restarted, or behind a network that is cut, is refused, and says so.
  if (!response.ok && !path.endsWith('/execute')) throw new Error(`${method} ${path}: ${response.status} ${text}`);
}

function note({ done }: Scene, what: string): void {
  done[what] = (done[what] ?? 0) + 1;
}

function judgeLines(fleet: Fleet, failures: string[]): void {
  const rows = runtimes.map((runtime) => {
    const ledgers = fleet.everyone.filter((member) => member.runtime === runtime).map(({ ledger }) => ledger);
    const sum = (count: (ledger: (typeof ledgers)[number]) => number): number =>
      ledgers.reduce((total, ledger) => total + count(ledger), 0);
    const row = {
      instances: ledgers.length,
      lives: sum(({ lives }) => lives),
      received: sum(({ received }) => received),
      lost: sum(({ lost }) => lost),
      doubled: sum(({ doubled }) => doubled),
      'out of order': sum(({ disordered }) => disordered),
      'gaps announced': sum(({ gaps }) => gaps),
    };
    return [runtime, row] as const;
  });
  console.table(Object.fromEntries(rows));
  for (const { name, runtime, ledger } of fleet.everyone) {
    const { lost, doubled, disordered, faults } = ledger;
    if (lost + doubled + disordered + faults.length > 0)
      failures.push(`${name} (${runtime}): ${JSON.stringify({ lost, doubled, disordered, faults })}`);
  }
  for (const gap of fleet.gaps) process.stdout.write(`Gap announced: ${gap}\n`);
  process.stdout.write(`Ends that nobody saw, because a Master was killed meanwhile: ${fleet.endsUnseen}\n`);
}

function judgeSamples({ survivors, watches }: Samples, failures: string[]): void {
  const rows: Record<string, Record<string, number | boolean>> = {};
  for (const [{ name }, kept] of survivors) {
    for (const measure of measures) {
      const verdict = verdictOn(
        measure,
        kept.map((sample) => sample[measure]),
      );
      const what = `${name}: ${measure === 'memory' ? 'memory, MB' : measure}`;
      rows[what] = rounded(verdict);
      if (!verdict.isFlat) failures.push(`${what} is not flat: ${JSON.stringify(verdict)}`);
    }
  }
  const { first, last, growth } = trendOf(watches);
  rows['API server: watches'] = rounded({ first, last, growth, limit: watchesSlack, isFlat: growth <= watchesSlack });
  if (growth > watchesSlack) failures.push(`watches are not flat: ${JSON.stringify({ first, last, growth })}`);
  console.table(rows);
}

function rounded(verdict: object): Record<string, number | boolean> {
  return Object.fromEntries(
    Object.entries(verdict).map(([name, value]: [string, number | boolean]) => [
      name,
      typeof value === 'number' ? Math.round(value * 10) / 10 : value,
    ]),
  );
}

/** When all clients have left, what they took is given back. */
async function judgeRest(scene: Scene, master: MasterPod, before: readonly Sample[]): Promise<void> {
  let rest = await lookAtRest(scene, master, before);
  const deadline = Date.now() + restMs;
  while (rest.faults.length > 0 && Date.now() < deadline) {
    await sleep(1000);
    rest = await lookAtRest(scene, master, before);
  }
  console.table(rest.rows);
  scene.failures.push(...rest.faults);
}

async function lookAtRest(
  { survivors }: Scene,
  master: MasterPod,
  before: readonly Sample[],
): Promise<{ rows: Record<string, Record<string, number>>; faults: string[] }> {
  const served = await servedBy(master.url);
  const faults: string[] = [];
  const rows: Record<string, Record<string, number>> = {};
  if (served.sockets + served.upstreams > 0) faults.push(`the Master still serves ${JSON.stringify(served)} at rest`);
  for (const [index, survivor] of survivors.entries()) {
    const sample = await sampleOf(survivor);
    for (const measure of ['files', 'sockets'] as const) {
      const [was = 0, is] = [before[index]?.[measure], sample[measure]];
      rows[`${survivor.name}: ${measure} at rest`] = { before: was, after: is };
      if (is > was + restSlack) faults.push(`${survivor.name} holds ${is} ${measure} at rest, ${was} before`);
    }
  }
  return { rows, faults };
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
