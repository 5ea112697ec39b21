/**
 * Writes Events (events.k8s.io/v1) beside the work: `record` only queues. What repeats within six minutes becomes one Event with a series.
 *
 * Events are a courtesy. They are dropped, and counted, when an object has too many, when the queue is full, or when the server refuses.
 */
import { randomBytes } from 'node:crypto';
import { messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import { withDeadline } from './abort.ts';
import { ApiError, events, isReason } from './client.ts';
import type { Client, Event, KubernetesObject } from './client.ts';
import { toMicroTime } from './clock.ts';
import type { Clock } from './clock.ts';

const noteBytesMax = 1024;
/** A name is at most 253 characters; the suffix needs 17. */
const namePrefixCharsMax = 230;
const reportingCharsMax = 128;
/** A repeat after a longer pause is news. */
const seriesWindowMs = 360_000;
/** Between two updates of one series. */
const seriesIntervalMs = 10_000;
const queuedMax = 1_000;
const rememberedMax = 4_000;
/** Per object: this many at once, then one more each minute. Repeats are free. */
const burst = 25;
const refillMs = 60_000;
const requestTimeoutMs = 10_000;
const attemptsMax = 3;
const retryDelayMs = 1_000;
const flushTimeoutMs = 2_000;

export interface EventText {
  readonly type: 'Normal' | 'Warning';
  /** One CamelCase word, why. */
  readonly reason: string;
  /** One CamelCase word, what was done. */
  readonly action: string;
  /** A sentence for people. */
  readonly note: string;
}

export type DropCause = 'rate' | 'queue' | 'refused';

export interface EventRecorderOptions {
  readonly client: Client;
  readonly clock: Clock;
  readonly log: Logger;
  /** A qualified name: `example.com/operator`. */
  readonly reportingController: string;
  /** This replica. */
  readonly reportingInstance: string;
  readonly observer?: { onDropped?(cause: DropCause): void };
}

interface Series {
  readonly event: Event;
  /** Occurrences so far. */
  count: number;
  lastAtMs: number;
  /** When it was last sent; undefined: never. */
  sentAtMs: number | undefined;
  /** Occurrences that the server knows of, or that were given up. */
  sentCount: number;
  isQueued: boolean;
  /** A timer will queue it. */
  isPlanned: boolean;
}

export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #series = new Map<string, Series>();
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();
  readonly #queue: Series[] = [];
  readonly #closing = new AbortController();
  #wake: (() => void) | undefined;

  constructor(options: EventRecorderOptions) {
    this.#options = options;
  }

  /** Queues an Event about `regarding`, which must have come from the server. Never throws. */
  record(regarding: KubernetesObject, text: EventText): void {
    try {
      this.#record(regarding, text);
    } catch (error) {
      this.#options.log.warn({ error: messageOf(error) }, 'Event could not be recorded');
    }
  }

  /** Writes what is recorded until `signal` aborts, then what is left (at most 2 s). Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      const next = this.#queue.shift();
      if (next === undefined) await this.#untilWoken(signal);
      else await this.#write(next, signal);
    }
    this.#closing.abort();
    for (const series of this.#series.values()) if (isUnsent(series)) this.#enqueue(series);
    const flush = { clock, timeoutMs: flushTimeoutMs, what: 'write the last events' };
    await withDeadline(flush, (limit) => this.#flush(limit)).catch((error: unknown) => {
      this.#options.log.debug({ error: messageOf(error) }, 'Events were lost at the end');
    });
  }

  #record(regarding: KubernetesObject, text: EventText): void {
    const { clock } = this.#options;
    const object = regarding.metadata.uid ?? `${regarding.metadata.namespace ?? ''}/${regarding.metadata.name}`;
    const key = JSON.stringify([object, text.type, text.reason, text.action, text.note]);
    const known = this.#series.get(key);
    if (known !== undefined && clock.now() - known.lastAtMs < seriesWindowMs) {
      known.count += 1;
      known.lastAtMs = clock.now();
      refresh(this.#series, key, known);
      this.#enqueueRepeat(known);
      return;
    }
    if (!this.#takeToken(object)) {
      this.#drop('rate');
      return;
    }
    const event = this.#build(regarding, text);
    const sent = { sentAtMs: undefined, sentCount: 0 };
    const series: Series = { event, count: 1, lastAtMs: clock.now(), ...sent, isQueued: false, isPlanned: false };
    refresh(this.#series, key, series);
    this.#enqueue(series);
  }

  #build(regarding: KubernetesObject, text: EventText): Event {
    const { clock, reportingController, reportingInstance } = this.#options;
    const { name, namespace, uid, resourceVersion } = regarding.metadata;
    const suffix = randomBytes(8).toString('hex');
    return {
      apiVersion: events.apiVersion,
      kind: events.kind,
      // Events about objects without a namespace live in "default", as everywhere in Kubernetes.
      metadata: { name: `${name.slice(0, namePrefixCharsMax)}.${suffix}`, namespace: namespace ?? 'default' },
      eventTime: toMicroTime(clock.now()),
      type: text.type,
      reason: text.reason,
      action: text.action,
      note: truncate(text.note, noteBytesMax),
      reportingController,
      reportingInstance: reportingInstance.slice(0, reportingCharsMax),
      regarding: definedOnly({
        apiVersion: regarding.apiVersion,
        kind: regarding.kind,
        name,
        namespace,
        uid,
        resourceVersion,
      }),
    };
  }

  #takeToken(object: string): boolean {
    const nowMs = this.#options.clock.elapsed();
    const bucket = this.#buckets.get(object) ?? { tokens: burst, atMs: nowMs };
    const tokens = Math.min(bucket.tokens + (nowMs - bucket.atMs) / refillMs, burst);
    refresh(this.#buckets, object, { tokens: tokens >= 1 ? tokens - 1 : tokens, atMs: nowMs });
    return tokens >= 1;
  }

  #enqueueRepeat(series: Series): void {
    if (series.isQueued || series.isPlanned) return;
    const { clock } = this.#options;
    const sinceSentMs = clock.now() - (series.sentAtMs ?? -Infinity);
    if (sinceSentMs >= seriesIntervalMs) {
      this.#enqueue(series);
      return;
    }
    series.isPlanned = true;
    clock.after(seriesIntervalMs - sinceSentMs, this.#closing.signal).then(
      () => {
        series.isPlanned = false;
        this.#enqueue(series);
      },
      // Closing: what is planned is written then.
      () => undefined,
    );
  }

  #enqueue(series: Series): void {
    if (series.isQueued) return;
    if (this.#queue.length >= queuedMax) {
      this.#drop('queue');
      return;
    }
    series.isQueued = true;
    this.#queue.push(series);
    this.#wake?.();
  }

  async #untilWoken(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const wake = (): void => {
      resolve(undefined);
    };
    this.#wake = wake;
    signal.addEventListener('abort', wake, { once: true });
    await promise;
    this.#wake = undefined;
    signal.removeEventListener('abort', wake);
  }

  async #flush(signal: AbortSignal): Promise<void> {
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift())
      await this.#write(next, signal);
  }

  /** Tries a few times; then the Event is dropped. Never rejects. */
  async #write(series: Series, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    series.isQueued = false;
    for (let attempt = 1; attempt <= attemptsMax; attempt += 1) {
      try {
        await withDeadline({ clock, timeoutMs: requestTimeoutMs, signal, what: 'write an event' }, (limit) =>
          this.#send(series, limit),
        );
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (attempt === attemptsMax || isHopeless(error)) {
          series.sentCount = series.count;
          this.#drop('refused');
          log.debug({ event: series.event.metadata.name, error: messageOf(error) }, 'Event was not written');
          return;
        }
        const delayMs = (error instanceof ApiError ? error.retryAfterMs : undefined) ?? retryDelayMs * 2 ** attempt;
        await clock.after(Math.min(delayMs, requestTimeoutMs), signal).catch(() => undefined);
      }
    }
  }

  async #send(series: Series, signal: AbortSignal): Promise<void> {
    const { client, clock } = this.#options;
    const { count, lastAtMs, event } = series;
    const repeats = count > 1 ? { series: { count, lastObservedTime: toMicroTime(lastAtMs) } } : {};
    if (series.sentAtMs !== undefined) await this.#patch(series, repeats, signal);
    else {
      await client.create(events, { ...event, ...repeats }, signal).catch((error: unknown) => {
        // An earlier try arrived although its answer did not.
        if (!isReason(error, 'AlreadyExists')) throw error;
      });
    }
    series.sentAtMs = clock.now();
    series.sentCount = count;
    if (series.count > count) this.#enqueueRepeat(series);
  }

  async #patch(series: Series, repeats: object, signal: AbortSignal): Promise<void> {
    const { client } = this.#options;
    const { name, namespace = 'default' } = series.event.metadata;
    try {
      await client.mergePatch(events, { name, namespace }, repeats, signal);
    } catch (error) {
      if (!isReason(error, 'NotFound')) throw error;
      // Events live for an hour by default; a long series outlives its first one.
      await client.create(events, { ...series.event, ...repeats }, signal);
    }
  }

  #drop(cause: DropCause): void {
    this.#options.observer?.onDropped?.(cause);
  }
}

function isUnsent(series: Series): boolean {
  return !series.isQueued && series.count > series.sentCount;
}

/** A namespace that is being deleted, a missing permission, a field the server does not like: trying again changes nothing. */
function isHopeless(error: unknown): boolean {
  return error instanceof ApiError && error.code >= 400 && error.code < 500 && error.code !== 429;
}

/** Puts the entry last and drops the longest unused ones. */
function refresh<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  for (const oldest of map.keys()) {
    if (map.size <= rememberedMax) return;
    map.delete(oldest);
  }
}

/** Cut at a character boundary, with an ellipsis. */
function truncate(text: string, bytesMax: number): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= bytesMax) return text;
  let end = bytesMax - 3;
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return `${bytes.toString('utf8', 0, end)}…`;
}

function definedOnly<T extends object>(object: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;
}
