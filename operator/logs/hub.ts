/**
 * Fans each instance's log out: one upstream per instance, however many subscriptions.
 *
 *   source --pump--> ring --> subscription --> (owner pulls)
 *                      \____> subscription
 *   source ----own catch-up stream---> subscription that is behind the ring, or came with an older cursor
 *
 * The pump appends to a bounded ring. A subscription is a place in it. While at least one subscription keeps up, the pump goes on and
 * those that do not fall out of the ring; each then reads on by its own stream from the source, at its own pace, and returns to the ring
 * when the line it has just taken is exactly a line of the ring: no gap and no duplicate by construction, whatever the order of cursors.
 * If none keeps up, the pump waits, and the pressure reaches the source.
 *
 * Such a stream is open only while it is read: one that nothing is taken from for a while is closed, and opened again at its position (catchup.ts).
 * So a subscription that does not read is a position and nothing else.
 */
import type { Clock } from '../runtime/clock.ts';
import { Channel } from './channel.ts';
import type { RingLimits } from './ring.ts';
import type { Cursor, LogSource, Start } from './source.ts';
import type { Hub, Subscription } from './subscription.ts';

/** Limits of the hub, for each instance with at least one subscription. */
export const hubLimits = {
  ringBytesMax: 4 * 1024 * 1024,
  ringLinesMax: 20_000,
  /** All rings together have about so much; with many of them each has an equal part, but never less than `ringBytesMin`. */
  ringBytesInAll: 256 * 1024 * 1024,
  ringBytesMin: 256 * 1024,
  /** Lines that stay in a ring when everybody has taken them: for those who join or return. Twice what a client gets that asks for no number. */
  keptLines: 2000,
  /** So many old entries of few lines become one. */
  packEntries: 32,
  /** Not in a burst: each line that is packed costs a microsecond or two, and in a log that is faster it does not stay for long. */
  packLinesPerSecondMax: 20_000,
  /**
   * How long, in each turn of a full ring, the pump waits for subscriptions that would fall out of it. In a burst all are behind for a moment, and
   * each that falls out reads the log once more from the source. One that does not read costs the others this once, and then is out.
   */
  patienceMs: 200,
  /**
   * The same where most of those in the ring have not taken half of it: then the source is faster than the clients are, and each turn has to give them time. With
   * 200 ms for 15,000 lines 100 clients that took less than 7 million lines a second fell out one after the other, and all took an eighth of it.
   */
  patienceForMostMs: 1000,
  /**
   * How long a subscription's own stream stays open that nothing is taken from. After as long a pause the source of `kubernetes` would not trust it
   * any more anyway. A client that takes less than its send buffer in this time has a stream opened for each time that the buffer is empty.
   */
  catchUpIdleMs: 2000,
  /** How long an upstream stays open without a subscription, so that a reconnect is cheap. */
  lingerMs: 2000,
  /** An upstream that had nothing to give for so long has given its backlog. */
  settleMs: 20,
} as const;

export type HubLimits = { readonly [K in keyof typeof hubLimits]: number };

/** Told what happens, for metrics; never asked. */
export interface HubObserver {
  upstreamOpened?(): void;
  upstreamClosed?(): void;
  /** `bytes` of the lines, without line ends. */
  linesReceived?(lines: number, bytes: number): void;
  /** A subscription fell out of the ring and reads from the source. */
  caughtBehind?(): void;
  /** It is back in the ring. */
  caughtUp?(): void;
}

export interface HubOptions {
  readonly sourceFor: (instanceUid: string) => LogSource;
  readonly clock: Pick<Clock, 'elapsed' | 'after'>;
  readonly limits?: Partial<HubLimits>;
  /** Asked once for each upstream. */
  readonly observerFor?: (instanceUid: string) => HubObserver;
}

/** Holds no timers or streams while nobody is subscribed (but for the linger). */
export function createHub(options: HubOptions): Hub {
  const limits = { ...hubLimits, ...options.limits };
  /** Those that later subscriptions may join. */
  const channels = new Map<string, Channel>();
  const open = new Set<Channel>();
  const ringLimits: RingLimits = {
    ringLinesMax: limits.ringLinesMax,
    packEntries: limits.packEntries,
    get ringBytesMax() {
      return Math.min(limits.ringBytesMax, Math.max(limits.ringBytesMin, limits.ringBytesInAll / open.size));
    },
  };
  return {
    subscribe(instanceUid: string, start: Start): Subscription {
      const known = channels.get(instanceUid);
      if (known !== undefined && !known.isClosed) {
        return known.subscribe(start);
      }
      const source = options.sourceFor(instanceUid);
      if ('after' in start) {
        // Refused here, before anything is opened.
        source.compare(start.after, start.after);
      }
      const channel = new Channel({
        source,
        start,
        limits,
        ringLimits,
        clock: options.clock,
        observer: options.observerFor?.(instanceUid) ?? {},
        onDone: () => {
          if (channels.get(instanceUid) === channel) {
            channels.delete(instanceUid);
          }
        },
        onClose: () => {
          open.delete(channel);
        },
      });
      channels.set(instanceUid, channel);
      open.add(channel);
      return channel.subscribe(start);
    },
    newest: (instanceUid: string): Cursor | undefined => channels.get(instanceUid)?.newest,
    close(): void {
      for (const channel of [...open]) {
        channel.close();
      }
    },
  };
}
