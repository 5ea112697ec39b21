/**
 * Asks again and again whether those who have a socket open by a Kubernetes token still may: the API server tells nobody when a token or a right
 * goes. One round at a time, a pause between two; every token once a round, and each of its rights once.
 *
 * A no counts at once, and so does the token's own expiry. Where there is no answer, a socket may stay open for a minute since its last yes.
 */
import type { Timers } from './ports.ts';
import type { Right } from './reviews.ts';
import type { Answer, User, Users } from './users.ts';
import { isPast, keyOfRight } from './users.ts';

export interface RecheckLimits {
  /** From the end of a round to the next one. */
  readonly pauseMs: number;
  /** How long a yes keeps a socket open without another answer. */
  readonly unansweredMs: number;
  /** Tokens that are asked about at the same time. */
  readonly parallelMax: number;
}

export const recheckLimits: RecheckLimits = { pauseMs: 10_000, unansweredMs: 60_000, parallelMax: 8 };

/** An open socket's claim. */
export interface Claim {
  readonly name: string;
  isLost: boolean;
}

interface Watch {
  readonly claim: Claim;
  readonly user: User;
  readonly token: string;
  readonly right: Right;
  checkedAtMs: number;
  cancelExpiry: () => void;
}

/** Longest delay that a timer takes; an expiry beyond it is seen by a round. */
const timerDelayMsMax = 2_147_483_647;

export class Recheck {
  readonly #users: Pick<Users, 'recheckToken' | 'recheckRight'>;
  readonly #clock: Timers;
  readonly #limits: RecheckLimits;
  /** Told the name of a claim that was lost. */
  readonly #onLost: (name: string) => void;
  readonly #watches = new Set<Watch>();
  #cancelRound: (() => void) | undefined;
  #isRunning = false;
  #isClosed = false;

  constructor(options: {
    users: Pick<Users, 'recheckToken' | 'recheckRight'>;
    clock: Timers;
    onLost: (name: string) => void;
    limits?: RecheckLimits;
  }) {
    this.#users = options.users;
    this.#clock = options.clock;
    this.#onLost = options.onLost;
    this.#limits = options.limits ?? recheckLimits;
  }

  /** From now on, until `end` is called. The right was checked just before. */
  watch(user: User, token: string, right: Right): { readonly claim: Claim; readonly end: () => void } {
    const nowMs = this.#clock.nowMs();
    const claim: Claim = { name: user.name, isLost: isPast(user.expiresAtMs, nowMs) };
    const watch: Watch = { claim, user, token, right, checkedAtMs: nowMs, cancelExpiry: () => undefined };
    if (user.expiresAtMs !== undefined) {
      const delayMs = Math.min(Math.max(user.expiresAtMs - nowMs, 0), timerDelayMsMax);
      watch.cancelExpiry = this.#clock.after(delayMs, () => {
        if (isPast(user.expiresAtMs, this.#clock.nowMs())) this.#lose(watch);
      });
    }
    this.#watches.add(watch);
    this.#arm();
    return {
      claim,
      end: () => {
        this.#forget(watch);
      },
    };
  }

  close(): void {
    this.#isClosed = true;
    for (const watch of this.#watches) this.#forget(watch);
  }

  #forget(watch: Watch): void {
    watch.cancelExpiry();
    this.#watches.delete(watch);
    if (this.#watches.size > 0) return;
    this.#cancelRound?.();
    this.#cancelRound = undefined;
  }

  #arm(): void {
    if (this.#cancelRound !== undefined || this.#isRunning || this.#isClosed || this.#watches.size === 0) return;
    this.#cancelRound = this.#clock.after(this.#limits.pauseMs, () => {
      this.#cancelRound = undefined;
      this.#isRunning = true;
      void this.#round().finally(() => {
        this.#isRunning = false;
        this.#arm();
      });
    });
  }

  async #round(): Promise<void> {
    const byToken = Map.groupBy(this.#watches, ({ token }) => token).values();
    // All take from one iterator.
    const work = async (): Promise<void> => {
      for (const watches of byToken) await this.#recheck(watches);
    };
    await Promise.all(Array.from({ length: this.#limits.parallelMax }, work));
  }

  async #recheck(watches: readonly Watch[]): Promise<void> {
    const [first] = watches;
    if (first === undefined) return;
    const isKnown = await this.#users.recheckToken(first.token);
    if (isKnown !== true) {
      this.#judge(watches, isKnown);
      return;
    }
    for (const sharing of Map.groupBy(watches, ({ right }) => keyOfRight(right)).values()) {
      const [{ user, right } = first] = sharing;
      this.#judge(sharing, await this.#users.recheckRight(user, right));
    }
  }

  #judge(watches: readonly Watch[], answer: Answer): void {
    const nowMs = this.#clock.nowMs();
    for (const watch of watches) {
      if (answer === true) watch.checkedAtMs = nowMs;
      const isStale = answer === undefined && nowMs - watch.checkedAtMs > this.#limits.unansweredMs;
      if (answer === false || isStale || isPast(watch.user.expiresAtMs, nowMs)) this.#lose(watch);
    }
  }

  #lose(watch: Watch): void {
    if (!this.#watches.has(watch)) return;
    this.#forget(watch);
    watch.claim.isLost = true;
    this.#onLost(watch.claim.name);
  }
}
