/**
 * One leader among replicas, by a Lease.
 *
 * Safety rests on durations alone, never on comparing clocks of two machines. A follower takes a lease over only after it has itself watched it
 * unchanged for the lease's whole duration (15 s). The leader counts from before it sent its last successful renewal and gives up after the
 * renew deadline (10 s), so it has stopped 5 s before anybody may follow it. Each write is a compare-and-swap by resourceVersion.
 *
 * Followers watch the lease: one that is released is taken within a round trip, and waiting costs one event per renewal.
 */
import { messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import { link, withDeadline } from './abort.ts';
import { isReason, leases } from './client.ts';
import type { Client, Lease } from './client.ts';
import { toMicroTime } from './clock.ts';
import type { Clock } from './clock.ts';
import type { Leading } from './fence.ts';

const defaults = { leaseDurationMs: 15_000, renewDeadlineMs: 10_000, retryPeriodMs: 2_000, stopTimeoutMs: 5_000 };
const watchSeconds = 600;
/** A released lease costs its successor no time: this bounds how long a stopping process tries. */
const releaseTimeoutMs = 1_000;

export interface LeaderOptions {
  readonly client: Client;
  readonly namespace: string;
  readonly name: string;
  /** Unique to this process, not only to its pod: a restarted container is another candidate. */
  readonly identity: string;
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  readonly leaseDurationMs?: number;
  readonly renewDeadlineMs?: number;
  readonly retryPeriodMs?: number;
  /** How long `lead` may take to return after `stopping`, before the leadership ends without waiting for it. */
  readonly stopTimeoutMs?: number;
  /** For the metric; called with true and false in turn. */
  readonly onLeading?: (isLeading: boolean) => void;
}

export interface Leadership extends Leading {
  /** Aborts when work should be wound up: the process was told to stop (writes still work, until `signal`), or the leadership was lost. */
  readonly stopping: AbortSignal;
}

/** The work of the leader. Should return soon after `stopping` aborts; the lease is released when it returns. */
export type Lead = (leadership: Leadership) => Promise<void>;

export class LeaderElector {
  readonly #options: LeaderOptions & typeof defaults;
  /** The lease as last seen, and when we first saw it so. */
  #seen: { spec: string; atMs: number } | undefined;
  #held: Lease | undefined;
  #renewedAtMs = -Infinity;

  constructor(options: LeaderOptions) {
    this.#options = { ...defaults, ...options };
    const { leaseDurationMs, renewDeadlineMs, retryPeriodMs } = this.#options;
    if (leaseDurationMs <= renewDeadlineMs || renewDeadlineMs <= retryPeriodMs) {
      throw new RangeError('Cannot elect: the lease must outlast the renew deadline, and that the retry period');
    }
  }

  /**
   * Waits for the lease, then runs `lead`. Resolves with `stopped` when `signal` aborted (the lease is released then), `finished` when `lead`
   * returned by itself, `lost` when the leadership ended otherwise: the caller ends the process or calls again. Rejects with what `lead` threw.
   */
  async run(signal: AbortSignal, lead: Lead): Promise<'stopped' | 'finished' | 'lost'> {
    const isAcquired = await this.#acquire(signal);
    if (!isAcquired) return 'stopped';
    const { identity, log, onLeading } = this.#options;
    const over = new AbortController();
    const renewing = Promise.all([this.#renew(over), this.#watchDeadline(over)]);
    log.info({ identity }, 'Leading');
    onLeading?.(true);
    try {
      await this.#lead(signal, over, lead);
      if (isLost(over)) return 'lost';
      return signal.aborted ? 'stopped' : 'finished';
    } finally {
      const wasLost = isLost(over);
      over.abort(new Error('Leadership is over: this process stops leading'));
      onLeading?.(false);
      await renewing;
      if (!wasLost) await this.#release();
    }
  }

  async #lead(signal: AbortSignal, over: AbortController, lead: Lead): Promise<void> {
    const { clock, renewDeadlineMs, stopTimeoutMs } = this.#options;
    const stopping = new AbortController();
    const unlink = [link(signal, stopping), link(over.signal, stopping)];
    const finished = new AbortController();
    const overdue = Promise.withResolvers<undefined>();
    const stoppingOnAbort = (): void => {
      clock.after(stopTimeoutMs, finished.signal).then(
        () => {
          overdue.resolve(undefined);
        },
        () => undefined,
      );
    };
    stopping.signal.addEventListener('abort', stoppingOnAbort, { once: true });
    if (stopping.signal.aborted) stoppingOnAbort();
    const leadership: Leadership = {
      signal: over.signal,
      stopping: stopping.signal,
      // By the clock too: a process that was suspended finds its timers late.
      isLeading: () => !over.signal.aborted && clock.elapsed() < this.#renewedAtMs + renewDeadlineMs,
    };
    const leading = lead(leadership);
    leading.catch(() => undefined);
    try {
      await Promise.race([leading, overdue.promise]);
    } finally {
      finished.abort();
      for (const undo of unlink) undo();
    }
  }

  /** False when `signal` aborted first. */
  async #acquire(signal: AbortSignal): Promise<boolean> {
    const { clock, log, random, retryPeriodMs } = this.#options;
    while (!signal.aborted) {
      try {
        if (await this.#tryAcquire(signal)) return true;
        if (await this.#waitForChange(signal)) continue;
      } catch (error) {
        if (isReason(error, 'Conflict', 'AlreadyExists')) log.debug('Another candidate was faster');
        else if (error !== signal.reason) log.warn({ error: messageOf(error) }, 'Cannot take the lease: trying again');
      }
      await clock.after(retryPeriodMs * (0.8 + 0.4 * random()), signal).catch(() => undefined);
    }
    return false;
  }

  async #tryAcquire(signal: AbortSignal): Promise<boolean> {
    const startedMs = this.#options.clock.elapsed();
    const lease = await this.#request('read the lease', signal, (limit) => this.#read(limit));
    if (lease !== undefined) this.#observe(lease);
    if (lease !== undefined && !this.#isFree(lease)) {
      this.#held = lease;
      return false;
    }
    this.#held = await this.#request('take the lease', signal, (limit) => this.#write(lease, limit));
    this.#renewedAtMs = startedMs;
    return true;
  }

  /** Watches the lease that another holds. True when it may be free now; false when the watch merely ended. */
  async #waitForChange(signal: AbortSignal): Promise<boolean> {
    const { client, leaseDurationMs, name, namespace } = this.#options;
    const watching = new AbortController();
    const unlink = link(signal, watching);
    const expiry = this.#whenExpired(watching.signal).then((isExpired) => {
      watching.abort();
      return isExpired;
    });
    const options = {
      namespace,
      fieldSelector: `metadata.name=${name}`,
      resourceVersion: this.#held?.metadata.resourceVersion ?? '',
      timeoutSeconds: watchSeconds,
      idleTimeoutMs: leaseDurationMs,
      signal: watching.signal,
    };
    try {
      for await (const event of client.watch(leases, options)) {
        if (event.type === 'ERROR') break;
        if (event.type === 'DELETED') return true;
        if (event.type === 'BOOKMARK') continue;
        this.#held = event.object;
        this.#observe(event.object);
        if (this.#isFree(event.object)) return true;
      }
    } finally {
      unlink();
      watching.abort();
    }
    return await expiry;
  }

  /** True when the lease has not changed for its duration; false when `signal` aborted. */
  async #whenExpired(signal: AbortSignal): Promise<boolean> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      const leftMs = this.#expiresAtMs() - clock.elapsed();
      if (leftMs <= 0) return true;
      await clock.after(leftMs, signal).catch(() => undefined);
    }
    return false;
  }

  #expiresAtMs(): number {
    const seconds = this.#held?.spec?.leaseDurationSeconds;
    const durationMs = seconds === undefined ? this.#options.leaseDurationMs : seconds * 1000;
    return (this.#seen?.atMs ?? -Infinity) + durationMs;
  }

  #observe(lease: Lease): void {
    const spec = JSON.stringify(lease.spec ?? {});
    if (this.#seen?.spec !== spec) this.#seen = { spec, atMs: this.#options.clock.elapsed() };
  }

  #isFree(lease: Lease): boolean {
    const holder = lease.spec?.holderIdentity ?? '';
    if (holder === '' || holder === this.#options.identity) return true;
    this.#held = lease;
    return this.#options.clock.elapsed() >= this.#expiresAtMs();
  }

  /** Renews until `over` aborts; aborts it when another holds the lease. */
  async #renew(over: AbortController): Promise<void> {
    const { clock, log, retryPeriodMs } = this.#options;
    while (!over.signal.aborted) {
      try {
        await clock.after(retryPeriodMs, over.signal);
        await this.#renewOnce(over);
      } catch (error) {
        if (error !== over.signal.reason) log.warn({ error: messageOf(error) }, 'Cannot renew the lease: trying again');
      }
    }
  }

  async #renewOnce(over: AbortController): Promise<void> {
    const startedMs = this.#options.clock.elapsed();
    try {
      this.#held = await this.#request('renew the lease', over.signal, (limit) => this.#write(this.#held, limit));
    } catch (error) {
      if (!isReason(error, 'Conflict', 'NotFound', 'AlreadyExists')) throw error;
      await this.#resolveConflict(over);
      return;
    }
    this.#renewedAtMs = startedMs;
  }

  /** Somebody wrote the lease: an earlier renewal of ours whose answer was lost, a person, or our successor. */
  async #resolveConflict(over: AbortController): Promise<void> {
    const startedMs = this.#options.clock.elapsed();
    const lease = await this.#request('read the lease', over.signal, (limit) => this.#read(limit));
    if (lease !== undefined && lease.spec?.holderIdentity !== this.#options.identity) {
      over.abort(new LeadershipLost(`the lease is held by "${lease.spec?.holderIdentity ?? ''}"`));
      return;
    }
    this.#held = await this.#request('renew the lease', over.signal, (limit) => this.#write(lease, limit));
    this.#renewedAtMs = startedMs;
  }

  /** Ends the leadership in time, whatever the renewals do. */
  async #watchDeadline(over: AbortController): Promise<void> {
    const { clock, renewDeadlineMs } = this.#options;
    while (!over.signal.aborted) {
      const leftMs = this.#renewedAtMs + renewDeadlineMs - clock.elapsed();
      if (leftMs <= 0) over.abort(new LeadershipLost(`not renewed for ${renewDeadlineMs} ms`));
      else await clock.after(leftMs, over.signal).catch(() => undefined);
    }
  }

  async #release(): Promise<void> {
    const { clock, log } = this.#options;
    const held = this.#held;
    if (held === undefined) return;
    const spec = { ...held.spec, holderIdentity: '', leaseDurationSeconds: 1, renewTime: toMicroTime(clock.now()) };
    try {
      await withDeadline({ clock, timeoutMs: releaseTimeoutMs, what: 'release the lease' }, (signal) =>
        this.#options.client.update(leases, { ...held, spec }, signal),
      );
    } catch (error) {
      log.warn({ error: messageOf(error) }, 'The lease was not released: the next leader waits until it expires');
    }
  }

  async #read(signal: AbortSignal): Promise<Lease | undefined> {
    const { client, name, namespace } = this.#options;
    return await client.get(leases, { namespace, name }, signal);
  }

  /** Makes the lease ours, or renews it, if it is still as `base`. */
  async #write(base: Lease | undefined, signal: AbortSignal): Promise<Lease> {
    const { client, clock, identity, leaseDurationMs, name, namespace } = this.#options;
    const now = toMicroTime(clock.now());
    const isOurs = base?.spec?.holderIdentity === identity;
    const spec = {
      ...base?.spec,
      holderIdentity: identity,
      leaseDurationSeconds: Math.ceil(leaseDurationMs / 1000),
      acquireTime: isOurs ? (base.spec?.acquireTime ?? now) : now,
      renewTime: now,
      leaseTransitions: (base?.spec?.leaseTransitions ?? 0) + (isOurs || base === undefined ? 0 : 1),
    };
    if (base === undefined) return await client.create(leases, { metadata: { name, namespace }, spec }, signal);
    return await client.update(leases, { ...base, spec }, signal);
  }

  /** Half the deadline for each request, so that one that hangs leaves time for another. */
  async #request<T>(what: string, signal: AbortSignal, work: (limit: AbortSignal) => Promise<T>): Promise<T> {
    const { clock, renewDeadlineMs } = this.#options;
    return await withDeadline({ clock, timeoutMs: renewDeadlineMs / 2, signal, what }, work);
  }
}

class LeadershipLost extends Error {
  constructor(why: string) {
    super(`Leadership is lost: ${why}`);
    this.name = 'LeadershipLost';
  }
}

function isLost(over: AbortController): boolean {
  return over.signal.reason instanceof LeadershipLost;
}
