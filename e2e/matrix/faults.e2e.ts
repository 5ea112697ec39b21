/**
 * The fault matrix (`npm run e2e -- faults`): numbered lines at 500 a second for a minute, eight clients, nine faults, under the runtimes `kubernetes` and
 * `process`. Printed as a table; nothing may be lost, doubled or out of order but what is announced after a pod was deleted.
 *
 * `FAULTS=etcd,Master` takes only the faults whose title has one of the words.
 */
import assert from 'node:assert/strict';
import { mkdtemp, chmod, readdir, readFile, rm, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { applyInstances, enterWorld, eventually, masters } from '../live-harness.ts';
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
const doneTimeoutMs = 240_000;

/**
 * Writes `LIFE N` with N from 1 at 500 lines a second, makes up for delays, and at the end, or at SIGTERM, `LIFE end N`; then it notes in a file of the node how
 * many lines that were. A later life writes the rest. The operator is told that it is done by exit code 0.
 */
const program = `
life=$(cat /proc/sys/kernel/random/uuid); i=0; code=0; before=0; stop=
trap 'stop=1' TERM
for book in /books/*; do [ ! -e "$book" ] || before=$((before + $(cat "$book"))); done
left=$((${linesWritten} - before))
read -r up rest </proc/uptime; begin=\${up%.*}\${up#*.}
while [ -z "$stop" ] && [ $i -lt $left ]; do
  read -r up rest </proc/uptime
  due=$(((\${up%.*}\${up#*.} - begin) * ${linesPerSecond / 100}))
  [ $due -le $left ] || due=$left
  while [ $i -lt $due ]; do i=$((i+1)); echo "$life $i"; done
  sleep 0.02
done
echo "$life end $i"
echo $i >/books/$life
[ -z "$stop" ]`;

/** One fault under one runtime. */
interface Cell extends Subject {
  readonly fault: Fault;
  readonly books: string;
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

const words = (process.env.FAULTS ?? '').split(',').filter((word) => word !== '');
const chosen = faults.filter(({ title }) => words.length === 0 || words.some((word) => title.includes(word)));
const rounds = Map.groupBy(chosen, ({ round }) => round);
const rows: Record<string, Row> = {};

let world: World;
let booksDir: string;

before(async () => {
  world = await enterWorld();
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
  const cells = await startCells(round);
  await eventually('lines to flow everywhere', () =>
    Promise.resolve(cells.every(({ clients }) => clients.every(({ ledger }) => ledger.received > 0))),
  );
  await sleep(calmMs);
  for (const { clients } of cells) for (const client of clients) client.misbehave();
  await sleep(beforeFaultMs);
  await Promise.all(
    round.map((fault) =>
      fault.strike(
        world,
        cells.filter((cell) => cell.fault === fault),
      ),
    ),
  );
  // One that does not end shows in the table.
  await Promise.race([
    Promise.all(cells.flatMap(({ clients }) => clients.map((client) => client.done()))),
    sleep(doneTimeoutMs, undefined, { ref: false }),
  ]);
  for (const fault of round)
    await fault.verify?.(
      world,
      cells.filter((cell) => cell.fault === fault),
    );
  for (const cell of cells) rows[`${cell.fault.title}, ${cell.runtime}`] = rowOf(cell, await writtenBy(cell));
  await world.kubectl(['delete', 'instance', ...cells.map(({ name }) => name), '--wait=false']);
  for (const cell of cells) check(cell, await writtenBy(cell));
}

async function startCells(round: readonly Fault[]): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const fault of round) {
    for (const runtime of runtimes) {
      const name = `${runtime}-${faults.indexOf(fault)}`;
      const books = join(booksDir, name);
      await mkdir(books);
      await chmod(books, 0o777);
      cells.push({ fault, runtime, name, books, clients: [] });
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

function specOf({ runtime, books, fault }: Cell): Spec {
  const container = { name: 'instance', volumeMounts: [{ name: 'books', mountPath: '/books' }] };
  const podTemplate = {
    spec: {
      nodeSelector: { 'kubernetes.io/hostname': fault.node },
      volumes: [{ name: 'books', hostPath: { path: books } }],
      containers: [container],
    },
  };
  return programUnder(runtime, program, { restartPolicy: 'OnFailure', podTemplate });
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
    const who = `${fault.title}, ${runtime}, client ${index + 1} (${shape.kind}, ${shape.isJson ? 'JSON' : 'plain'}, connected ${connects} times)`;
    assert.ok(client.hasEnded, `${who}: the end was told`);
    ledger.check(who);
    if (fault.mayAnnounce !== true) assert.equal(ledger.gaps, 0, `${who}: gaps announced`);
    if (ledger.gaps === 0) assert.equal(receivedBy(client), written, `${who}: lines received`);
    if (fault.cutsClients === true || shape.kind === 'leaving') assert.ok(connects > 1, `${who}: it was cut`);
  });
}
