/** The eight clients that follow each log of the fault matrix, and the books on what each received. */
import { ResumingClient } from '../live-harness.ts';
import type { LiveSocket, Message, World } from '../live-harness.ts';
import { Ledger } from '../runtime-harness.ts';
import { Relay } from './relay.ts';

/**
 * `plain` and `json` read all at once; `leaving` goes away every five seconds and comes back by cursor at another replica; `slow` takes 1 KB/s for 20 s,
 * and `stopped` nothing for 30 s, and then all.
 */
export type ClientKind = 'plain' | 'json' | 'leaving' | 'slow' | 'stopped';

export interface ClientShape {
  readonly kind: ClientKind;
  /** By the JSON protocol, and so by cursor after a cut; a plain one asks for the last 10,000 lines and skips what it has had. */
  readonly isJson: boolean;
}

const slowBytesPerSecond = 1024;
export const slowMs = 20_000;
export const stoppedMs = 30_000;
const leaveEveryMs = 5_000;
/** Not until the end: of a program with a sidecar that has ended while a client was away it cannot be told any more whether it wrote more. */
const leavingMs = 35_000;
const gapFrame = /^\[ringmaster\] (?:(\d+)|some) lines were no longer available$/;

/**
 * The eight. Plain ones that are far behind cannot come back after their connection was cut (30 s are more than the 10,000 lines that can be asked for), so
 * where a fault cuts clients off all that fall behind have cursors.
 */
export function shapes({ cutsClients }: { readonly cutsClients: boolean }): ClientShape[] {
  const behind = (kind: ClientKind): ClientShape[] => [
    { kind, isJson: cutsClients },
    { kind, isJson: true },
  ];
  return [
    { kind: 'plain', isJson: false },
    { kind: 'plain', isJson: false },
    { kind: 'json', isJson: true },
    { kind: 'leaving', isJson: true },
    ...behind('slow'),
    ...behind('stopped'),
  ];
}

export interface MatrixClientOptions {
  readonly world: World;
  readonly id: string;
  /** Of the Service, and of the replicas. */
  readonly urls: readonly string[];
  readonly shape: ClientShape;
}

/** One client, from before the first line to the close with 1000. */
export class MatrixClient {
  readonly shape: ClientShape;
  readonly ledger = new Ledger();
  readonly #client: ResumingClient;
  readonly #relay: Relay | undefined;
  readonly #overlap = new Overlap();
  readonly #timers: NodeJS.Timeout[] = [];
  #socket: LiveSocket | undefined;
  #isStopped = false;

  private constructor({ world, id, urls, shape }: MatrixClientOptions, relay: Relay | undefined) {
    this.shape = shape;
    this.#relay = relay;
    this.#client = new ResumingClient({
      world,
      id,
      urls: relay === undefined ? urls : [relay.url],
      isPlain: !shape.isJson,
      onMessage: (message) => {
        this.#note(message);
      },
      onOpen: (socket) => {
        this.#socket = socket;
        this.#overlap.begin();
        if (this.#isStopped) socket.ws.pause();
      },
    });
    world.cleanups.push(() => {
      for (const timer of this.#timers) clearTimeout(timer);
      relay?.close();
    });
  }

  /** Begins to connect. */
  static async start(options: MatrixClientOptions): Promise<MatrixClient> {
    const [service = ''] = options.urls;
    const relay = options.shape.kind === 'slow' ? await Relay.start(service) : undefined;
    const client = new MatrixClient(options, relay);
    client.#client.start();
    return client;
  }

  get connects(): number {
    return this.#client.connects;
  }

  /** The log has ended with 1000. */
  get hasEnded(): boolean {
    return this.#client.closes.at(-1)?.code === 1000;
  }

  /** In words, for messages. */
  get title(): string {
    const { kind, isJson } = this.shape;
    const codes = this.#client.closes.map(({ code }) => code).join(' ');
    return `${kind} ${isJson ? 'JSON' : 'plain'}, connected ${this.connects} times, closed with ${codes}`;
  }

  /** Begins to do what its kind does: called when lines flow. */
  misbehave(): void {
    const { kind } = this.shape;
    if (kind === 'leaving') {
      const leave = (): void => {
        this.#client.cut();
      };
      for (let ms = leaveEveryMs; ms <= leavingMs; ms += leaveEveryMs) this.#later(ms, leave);
    }
    if (kind === 'slow' && this.#relay !== undefined) {
      const relay = this.#relay;
      relay.bytesPerSecond = slowBytesPerSecond;
      this.#later(slowMs, () => (relay.bytesPerSecond = undefined));
    }
    if (kind === 'stopped') {
      this.#isStopped = true;
      this.#socket?.ws.pause();
      this.#later(stoppedMs, () => {
        this.#isStopped = false;
        this.#socket?.ws.resume();
      });
    }
  }

  /** Resolves when the log has ended with 1000. */
  async done(): Promise<void> {
    await this.#client.done();
    for (const timer of this.#timers) clearTimeout(timer);
  }

  #later(ms: number, what: () => void): void {
    this.#timers.push(setTimeout(what, ms));
  }

  #note(message: Message): void {
    const told = this.shape.isJson ? message : plainMessage(message.line ?? '');
    if (!this.shape.isJson && this.#overlap.hasHad(told)) return;
    this.ledger.note(told);
  }
}

function plainMessage(line: string): Message {
  const gap = gapFrame.exec(line);
  return gap === null ? { type: 'line', line } : { type: 'gap', lines: gap[1] === undefined ? null : Number(gap[1]) };
}

/** What a plain client that comes again gets once more: everything up to the first line that it has not had. */
class Overlap {
  readonly #had = new Set<string>();
  #isOpen = false;

  begin(): void {
    this.#isOpen = true;
  }

  hasHad({ line }: Message): boolean {
    if (line === undefined) return false;
    const isKnown = this.#isOpen && this.#had.has(line);
    this.#isOpen = isKnown;
    this.#had.add(line);
    return isKnown;
  }
}
