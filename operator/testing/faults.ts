/** A `Client` around another one that goes wrong on request: the tables of fault tests are lists of these rules. */
import { unlessAborted } from '../runtime/abort.ts';
import type { Client, WatchEvent } from '../runtime/client.ts';
import type { Clock } from '../runtime/clock.ts';

export type FaultVerb = keyof Client;

export interface Fault {
  readonly verb: FaultVerb;
  /** Plural; default: any. */
  readonly resource?: string;
  /** From this call on (1 is the first that matches verb and resource). Default 1. */
  readonly from?: number;
  /** So many calls. Default 1; `Infinity` for all. */
  readonly times?: number;
  /**
   * `fail`: the request does not arrive. `lose`: it is carried out, and the answer is lost. `hang`: no answer until the caller's signal aborts.
   * `delay`: it arrives late. `break`: a watch gives `events` events and then throws.
   */
  readonly action:
    | { readonly fail: Error }
    | { readonly lose: Error }
    | { readonly hang: true }
    | { readonly delayMs: number }
    | { readonly break: Error; readonly events: number };
}

export interface Call {
  readonly verb: FaultVerb;
  readonly resource: string;
}

export interface FaultyClient extends Client {
  /** Every call in order, those that failed included. */
  readonly calls: readonly Call[];
  /** Adds a rule; its calls are counted from now on. Returns how to end it. */
  add(fault: Fault): () => void;
}

interface Rule {
  readonly fault: Fault;
  seen: number;
}

/** Rules are looked at in the order of addition; the first that applies to a call decides. */
export function withFaults(client: Client, clock: Clock, faults: readonly Fault[] = []): FaultyClient {
  const injector = new Injector(clock);
  for (const fault of faults) injector.add(fault);
  return {
    calls: injector.calls,
    add: (fault) => injector.add(fault),
    ...faultyReads(client, injector),
    ...faultyWrites(client, injector),
  };
}

type Reads = Pick<Client, 'get' | 'list' | 'watch' | 'log'>;

function faultyReads(client: Client, injector: Injector): Reads {
  return {
    get: (resource, ref, signal) =>
      injector.run({ verb: 'get', resource: resource.plural, signal }, () => client.get(resource, ref, signal)),
    list: (resource, options) =>
      injector.run({ verb: 'list', resource: resource.plural, signal: options.signal }, () =>
        client.list(resource, options),
      ),
    watch: (resource, options) => injector.watch(resource.plural, client.watch(resource, options), options.signal),
    log: (ref, options) =>
      injector.run({ verb: 'log', resource: 'pods', signal: options.signal }, () => client.log(ref, options)),
  };
}

function faultyWrites(client: Client, injector: Injector): Omit<Client, keyof Reads> {
  return {
    create: (resource, object, signal) =>
      injector.run({ verb: 'create', resource: resource.plural, signal }, () =>
        client.create(resource, object, signal),
      ),
    update: (resource, object, signal) =>
      injector.run({ verb: 'update', resource: resource.plural, signal }, () =>
        client.update(resource, object, signal),
      ),
    updateStatus: (resource, object, signal) =>
      injector.run({ verb: 'updateStatus', resource: resource.plural, signal }, () =>
        client.updateStatus(resource, object, signal),
      ),
    mergePatch: (resource, ref, patch, signal) =>
      injector.run({ verb: 'mergePatch', resource: resource.plural, signal }, () =>
        client.mergePatch(resource, ref, patch, signal),
      ),
    mergePatchStatus: (resource, ref, patch, signal) =>
      injector.run({ verb: 'mergePatchStatus', resource: resource.plural, signal }, () =>
        client.mergePatchStatus(resource, ref, patch, signal),
      ),
    apply: (resource, object, options) =>
      injector.run({ verb: 'apply', resource: resource.plural, signal: options.signal }, () =>
        client.apply(resource, object, options),
      ),
    applyStatus: (resource, object, options) =>
      injector.run({ verb: 'applyStatus', resource: resource.plural, signal: options.signal }, () =>
        client.applyStatus(resource, object, options),
      ),
    remove: (resource, ref, options) =>
      injector.run({ verb: 'remove', resource: resource.plural, signal: options?.signal }, () =>
        client.remove(resource, ref, options),
      ),
    attachStdin: (ref, container, bytes, signal) =>
      injector.run({ verb: 'attachStdin', resource: 'pods', signal }, () =>
        client.attachStdin(ref, container, bytes, signal),
      ),
  };
}

class Injector {
  readonly calls: Call[] = [];
  readonly #rules = new Set<Rule>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(fault: Fault): () => void {
    const rule = { fault, seen: 0 };
    this.#rules.add(rule);
    return () => {
      this.#rules.delete(rule);
    };
  }

  async run<T>(call: Call & { signal: AbortSignal | undefined }, work: () => Promise<T>): Promise<T> {
    const action = this.#match(call.verb, call.resource);
    await suffer(action, this.#clock, call.signal);
    const result = await work();
    if (action !== undefined && 'lose' in action) throw action.lose;
    return result;
  }

  async *watch<T>(
    resource: string,
    events: AsyncIterable<WatchEvent<T>>,
    signal: AbortSignal,
  ): AsyncGenerator<WatchEvent<T>> {
    const action = this.#match('watch', resource);
    try {
      await suffer(action, this.#clock, signal);
    } catch (error) {
      // As the port says: an aborted watch ends.
      if (signal.aborted) return;
      throw error;
    }
    const fault = action !== undefined && 'break' in action ? action : undefined;
    if (fault?.events === 0) throw fault.break;
    let given = 0;
    for await (const event of events) {
      yield event;
      given += 1;
      if (fault?.events === given) throw fault.break;
    }
  }

  #match(verb: FaultVerb, resource: string): Fault['action'] | undefined {
    this.calls.push({ verb, resource });
    let action: Fault['action'] | undefined;
    for (const rule of this.#rules) {
      const { verb: ruleVerb, resource: ruleResource = resource, from = 1, times = 1 } = rule.fault;
      if (ruleVerb !== verb || ruleResource !== resource) continue;
      rule.seen += 1;
      if (rule.seen >= from && rule.seen < from + times) action ??= rule.fault.action;
    }
    return action;
  }
}

async function suffer(action: Fault['action'] | undefined, clock: Clock, signal?: AbortSignal): Promise<void> {
  if (action === undefined) return;
  if ('fail' in action) throw action.fail;
  if ('delayMs' in action) await clock.after(action.delayMs, signal);
  if ('hang' in action) {
    const never = new Promise<void>(() => undefined);
    await (signal === undefined ? never : unlessAborted(never, signal));
  }
}
