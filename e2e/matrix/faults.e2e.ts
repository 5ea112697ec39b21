/**
 * The fault matrix (`npm run e2e -- faults`): numbered lines at 500 a second for a minute, eight clients, nine faults, under the runtimes `kubernetes` and
 * `process`. Printed as a table; nothing may be lost, doubled or out of order but what is announced after a pod was deleted.
 *
 * `FAULTS=etcd,Master` takes only the faults whose title has one of the words.
 */
import assert from 'node:assert/strict';
import { mkdtemp, chmod, readdir, readFile, rm, mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { applyInstances, enterWorld, eventually, masters, metricOf } from '../live-harness.ts';
import type { Spec, World } from '../live-harness.ts';
import { programUnder } from '../runtime-harness.ts';
import { MatrixClient, shapes } from './clients.ts';
import { faults } from './faults.ts';
import type { Fault, Subject } from './faults.ts';

const runtimes = ['kubernetes', 'process'] as const;
const linesWritten = 30_000;
const linesPerSecond = 500;
/** Lines flow undisturbed for so long, then some clients fall behind, then the fault comes. */
const calmMs = 6_000;
const beforeFaultMs = 6_000;
const doneTimeoutMs = 120_000;
const endTimeoutMs = 30_000;
/**
 * Lines are so long that what a client does not take for 30 s is more than sockets hold, and more than the ring that all share: it reads on from the source later.
 * On the first node they are shorter: what was rotated away while a client did not read cannot be had again.
 */
const lineBytes = { node1: 100, node2: 400 } as const;
/** Of the line's name and number. */
const headBytes = 43;

/**
 * Writes `LIFE N` with N from 1 at 500 lines a second, makes up for delays, and at the end, or at SIGTERM, `LIFE end N`; then it notes in a file of the node how
 * many lines that were. A later life writes the rest. When that is done it waits until it may leave, so that the log stays for those who are behind, and exits with 0.
 */
const program = (padding: string): string => `
life=$(cat /proc/sys/kernel/random/uuid); i=0; before=0; stop=
trap 'stop=1' TERM
for book in /books/*; do [ ! -e "$book" ] || before=$((before + $(cat "$book"))); done
left=$((${linesWritten} - before))
read -r up rest </proc/uptime; begin=\${up%.*}\${up#*.}
while [ -z "$stop" ] && [ $i -lt $left ]; do
  read -r up rest </proc/uptime
  due=$(((\${up%.*}\${up#*.} - begin) * ${linesPerSecond / 100}))
  [ $due -le $left ] || due=$left
  while [ $i -lt $due ]; do i=$((i+1)); echo "$life $i ${padding}"; done
  sleep 0.02
done
echo "$life end $i"
echo $i >/books/$life
[ -n "$stop" ] || echo $life >/last/life
until [ -n "$stop" ] || [ -e /last/leave ]; do sleep 0.2; done
[ -z "$stop" ]`;

/** One fault under one runtime. */
interface Cell extends Subject {
  readonly fault: Fault;
  /** A folder with a file for each life that has ended. */
  readonly books: string;
  /** A folder with `life`, the name of the life that has written the last line, and `leave` when it may end. */
  readonly last: string;
  readonly clients: MatrixClient[];
}

interface Row {
  readonly written: number;
  readonly received: string;
  readonly lost: number;
  readonly doubled: number;
  readonly 'out of order': number;
  readonly 'gaps announced': number;
  readonly 'longest silence, s': number;
}

/** A metric of each replica counts how often a client fell out of the ring that all share, and read on from the source by itself. */
const fellBehindMetric = 'ringmaster_hub_subscribers_fell_behind_total';

const words = (process.env.FAULTS ?? '').split(',').filter((word) => word !== '');
const chosen = faults.filter(({ title }) => words.length === 0 || words.some((word) => title.includes(word)));
const rounds = Map.groupBy(chosen, ({ round }) => round);
const rows: Record<string, Row> = {};

let world: World;
let booksDir: string;

before(async () => {
  world = await enterWorld('privileged');
  // The nodes share this machine's files.
  booksDir = await mkdtemp(join(tmpdir(), 'ringmaster-books-'));
  await chmod(booksDir, 0o755);
  world.cleanups.push(() => rm(booksDir, { recursive: true, force: true }));
});

after(async () => {
  console.table(rows);
  await world.leave();
});

for (const round of rounds.values()) {
  test(`fault matrix: ${round.map(({ title }) => title).join(' and ')}`, async () => {
    await playRound(round);
  });
}

async function playRound(round: readonly Fault[]): Promise<void> {
  for (const fault of round) await fault.prepare?.(world);
  const before = await fellBehind();
  const cells = await startCells(round);
  await eventually('lines to flow everywhere', () =>
    Promise.resolve(cells.every(({ clients }) => clients.every(({ ledger }) => ledger.received > 0))),
  );
  await sleep(calmMs);
  for (const { clients } of cells) for (const client of clients) client.misbehave();
  await sleep(beforeFaultMs);
  // Whatever comes of it, the table shows how the clients fared.
  const blows = await Promise.allSettled(round.map((fault) => fault.strike(world, of(fault, cells))));
  // One that does not get there shows in the table.
  const deadline = performance.now() + doneTimeoutMs;
  await Promise.all(cells.map((cell) => finish(cell, deadline)));
  const proofs = await Promise.allSettled(round.map(async (fault) => fault.verify?.(world, of(fault, cells))));
  const times = (await fellBehind()) - before;
  // A Master that was killed counts anew.
  if (times >= 0) console.log(`clients that fell out of the ring and read on from the source: ${times} times`);
  for (const cell of cells) rows[`${cell.fault.title}, ${cell.runtime}`] = rowOf(cell, await writtenBy(cell));
  await world.kubectl(['delete', 'instance', ...cells.map(({ name }) => name), '--wait=false']);
  for (const cell of cells) check(cell, await writtenBy(cell));
  const failures = [...blows, ...proofs].flatMap((result): unknown[] =>
    result.status === 'rejected' ? [result.reason] : [],
  );
  if (failures.length > 0) throw new AggregateError(failures, 'The fault was not what it should be');
}

function of(fault: Fault, cells: readonly Cell[]): Cell[] {
  return cells.filter((cell) => cell.fault === fault);
}

/** How often clients of the present processes of the Masters did so far; less than before where one was killed in between. */
async function fellBehind(): Promise<number> {
  const counts = await Promise.all((await masters(world)).map(({ url }) => metricOf(url, fellBehindMetric)));
  return counts.reduce((sum, count) => sum + count, 0);
}

async function startCells(round: readonly Fault[]): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const fault of round) {
    for (const runtime of runtimes) {
      const name = `${runtime}-${faults.indexOf(fault)}`;
      const [books, last] = [join(booksDir, name, 'books'), join(booksDir, name, 'last')];
      for (const folder of [books, last]) {
        await mkdir(folder, { recursive: true });
        await chmod(folder, 0o777);
      }
      cells.push({ fault, runtime, name, books, last, clients: [] });
    }
  }
  const ids = await applyInstances(world, Object.fromEntries(cells.map((cell) => [cell.name, specOf(cell)])));
  const urls = [world.url, ...(await masters(world)).map(({ url }) => url)];
  for (const { name, fault, clients } of cells) {
    for (const shape of shapes({ cutsClients: fault.cutsClients === true })) {
      clients.push(await MatrixClient.start({ world, id: ids[name] ?? '', urls, shape }));
    }
  }
  return cells;
}

function specOf({ runtime, books, last, fault }: Cell): Spec {
  const folders = Object.entries({ books, last });
  const volumeMounts = folders.map(([name]) => ({ name, mountPath: `/${name}` }));
  const podTemplate = {
    spec: {
      nodeSelector: { 'kubernetes.io/hostname': fault.node },
      volumes: folders.map(([name, path]) => ({ name, hostPath: { path } })),
      containers: [{ name: 'instance', volumeMounts }],
    },
  };
  const padding = 'x'.repeat(lineBytes[fault.node] - headBytes);
  return programUnder(runtime, program(padding), { restartPolicy: 'OnFailure', podTemplate });
}

/** Lets the program leave when all have its last line, and waits until they are told so. */
async function finish(cell: Cell, deadline: number): Promise<void> {
  const isTold = async (): Promise<boolean> => {
    const life = (await readFile(join(cell.last, 'life'), 'utf8').catch(() => '')).trim();
    return cell.clients.every(({ ledger }) => ledger.hasEndOf(life));
  };
  while (!(await isTold()) && performance.now() < deadline) await sleep(200);
  await writeFile(join(cell.last, 'leave'), '');
  await Promise.race([
    Promise.all(cell.clients.map((client) => client.done())),
    sleep(Math.max(deadline - performance.now(), endTimeoutMs), undefined, { ref: false }),
  ]);
}

/** Numbered lines that the programs say they wrote. */
async function writtenBy({ books }: Cell): Promise<number> {
  const counts = await Promise.all(
    (await readdir(books)).map(async (file) => Number(await readFile(join(books, file), 'utf8'))),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Numbered lines that a client received. */
function receivedBy({ ledger }: MatrixClient): number {
  return ledger.received - ledger.ends;
}

function rowOf({ clients }: Cell, written: number): Row {
  const sum = (of: (client: MatrixClient) => number): number => clients.reduce((all, client) => all + of(client), 0);
  const received = clients.map(receivedBy);
  const [least, most] = [Math.min(...received), Math.max(...received)];
  // Those that fall behind on purpose say nothing about it.
  const quick = clients.filter(({ shape: { kind } }) => kind !== 'slow' && kind !== 'stopped');
  const silenceMs = Math.max(...quick.map(({ ledger }) => ledger.longestSilenceMs));
  return {
    written,
    received: least === most ? String(least) : `${least} to ${most}`,
    lost: sum(({ ledger }) => ledger.lost),
    doubled: sum(({ ledger }) => ledger.doubled),
    'out of order': sum(({ ledger }) => ledger.disordered),
    'gaps announced': sum(({ ledger }) => ledger.gaps),
    'longest silence, s': Number((silenceMs / 1000).toFixed(1)),
  };
}

function check({ fault, runtime, clients }: Cell, written: number): void {
  assert.equal(written, linesWritten, `${fault.title}, ${runtime}: the program wrote all`);
  clients.forEach((client, index) => {
    const { ledger, shape, connects } = client;
    const who = `${fault.title}, ${runtime}, client ${index + 1} (${client.title})`;
    assert.ok(client.hasEnded, `${who}: the end was told`);
    ledger.check(who);
    if (fault.mayAnnounce !== true) assert.equal(ledger.gaps, 0, `${who}: gaps announced`);
    if (ledger.gaps === 0) assert.equal(receivedBy(client), written, `${who}: lines received`);
    if (fault.cutsClients === true || shape.kind === 'leaving') assert.ok(connects > 1, `${who}: it was cut`);
  });
}
