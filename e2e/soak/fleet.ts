/** The Instances of a soak, and one witness for each that keeps the books on every line. */
import { setTimeout as sleep } from 'node:timers/promises';
import { ResumingClient } from '../live-harness.ts';
import type { World } from '../live-harness.ts';
import { countingScriptWith, Ledger, programUnder } from '../runtime-harness.ts';
import type { Runtime } from '../runtime-harness.ts';

/** Fifty in all. Few under docker: one Engine serves both nodes. */
export const shares: Readonly<Record<Runtime, number>> = { kubernetes: 20, process: 14, screen: 6, tmux: 6, docker: 4 };

/** Ten lines, then two seconds of nothing. */
const script = countingScriptWith(2);
const goneMs = 60_000;

export interface Member {
  readonly name: string;
  readonly runtime: Runtime;
  readonly id: string;
  readonly ledger: Ledger;
  readonly witness: ResumingClient;
}

export class Fleet {
  readonly members: Member[] = [];
  /** Every member that there ever was, by runtime. */
  readonly everyone: Member[] = [];
  /** Members whose end no Master could tell: they were gone before their witness was connected again. */
  endsUnseen = 0;
  /** Lines that could not be had any more, as clients were told. */
  readonly gaps: string[] = [];
  readonly #world: World;
  readonly #longestMs: number;
  #made = 0;

  /** A witness may stay connected for so long. */
  constructor(world: World, longestMs: number) {
    this.#world = world;
    this.#longestMs = longestMs;
  }

  /** Makes Instances, one for each runtime given, and waits until their witnesses have lines. */
  async add(runtimes: readonly Runtime[]): Promise<void> {
    const named = runtimes.map((runtime) => ({ runtime, name: `soak-${String(++this.#made).padStart(3, '0')}` }));
    const manifests = named.map(({ runtime, name }) =>
      JSON.stringify({
        apiVersion: 'ringmaster.dev/v1alpha1',
        kind: 'Instance',
        metadata: { name },
        spec: programUnder(runtime, script, {
          stop: { gracePeriodSeconds: 10 },
          resources: { requests: { cpu: '1m', memory: '4Mi' } },
        }),
      }),
    );
    await this.#world.kubectl(['apply', '-f', '-'], manifests.join('\n---\n'));
    const added: Member[] = [];
    for (const { runtime, name } of named) {
      await this.#world.kubectl(['wait', '--for=jsonpath={.status.id}', `instance/${name}`, '--timeout=60s']);
      const id = await this.#world.kubectl(['get', 'instance', name, '-o', 'jsonpath={.status.id}']);
      added.push(this.#follow(name, runtime, id));
    }
    await Promise.all(added.map((member) => this.untilMore(member, 180_000)));
  }

  /** Deletes an Instance; its log must end with its last line. */
  async remove(member: Member): Promise<void> {
    this.members.splice(this.members.indexOf(member), 1);
    await this.#world.kubectl(['delete', 'instance', member.name, '--timeout=90s']);
    const outcome = await Promise.race([
      member.witness.done().then(
        () => 'ended',
        () => 'unseen',
      ),
      sleep(goneMs, 'late', { ref: false }),
    ]);
    if (outcome === 'late') throw new Error(`the log of ${member.name} did not end after its Instance was deleted`);
    if (outcome === 'unseen') this.endsUnseen += 1;
  }

  /** Waits for lines that its witness has not had. */
  async untilMore({ name, ledger }: Member, timeoutMs: number): Promise<void> {
    const before = ledger.received;
    const deadline = Date.now() + timeoutMs;
    while (ledger.received === before) {
      if (Date.now() > deadline) throw new Error(`${name} has had no line for ${timeoutMs / 1000} s`);
      await sleep(100);
    }
  }

  async leave(): Promise<void> {
    await Promise.all(this.members.map(({ witness }) => witness.stop().catch(() => undefined)));
  }

  #follow(name: string, runtime: Runtime, id: string): Member {
    const ledger = new Ledger();
    const witness = new ResumingClient({
      world: this.#world,
      id,
      urls: [this.#world.url],
      longestMs: this.#longestMs,
      failuresMax: 60,
      onMessage: (message) => {
        ledger.note(message);
        if (message.type !== 'gap') return;
        const { cause = '', lines } = message;
        this.gaps.push(`${new Date().toISOString()} ${name} (${runtime}): ${cause}, lines: ${lines ?? 'not known'}`);
      },
    });
    witness.start();
    // Looked at when the member leaves; until then it must not end the process.
    witness.done().catch(() => undefined);
    const member = { name, runtime, id, ledger, witness };
    this.members.push(member);
    this.everyone.push(member);
    return member;
  }
}
