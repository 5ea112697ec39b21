/**
 * Kubernetes users: whom a token belongs to and what they may do, asked of the API server and remembered for seconds.
 *
 *   token -> shape -> remembered? -> already being asked? -> gate -> API server
 *
 * Everything that is remembered is bounded in number and in time, by fingerprint: a token itself is kept only by a request under way and by an open
 * socket. Strangers and users have a gate each, so that a flood of tokens that nobody knows neither floods the API server nor
 * keeps those out who are known. Whatever cannot be answered is no.
 */
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { ApiError } from '../runtime/client.ts';
import { fingerprintOf } from './auth.ts';
import type { Gate, GateLimits } from './gate.ts';
import { createGate } from './gate.ts';
import { readJwt } from './jwt.ts';
import type { Timers } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { unauthorized, unavailable } from './refusal.ts';
import type { ReviewedUser, Reviews, Right } from './reviews.ts';

/** Somebody whose token the API server knows. */
export interface User {
  /** For the log, and what sockets are counted by: `user:NAME`, which no ApiKey can be called. */
  readonly name: string;
  readonly fingerprint: string;
  /** Milliseconds since 1970; undefined: the token says none. */
  readonly expiresAtMs: number | undefined;
}

/** What the API server said; undefined: it did not answer. */
export type Answer = boolean | undefined;

export interface UsersOptions {
  readonly reviews: Reviews;
  readonly clock: Timers;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Those that are absent are `userLimits`. */
  readonly limits?: Partial<UserLimits>;
}

export interface UserLimits {
  /** How long a yes counts. */
  readonly yesMs: number;
  /** How long a no counts. */
  readonly noMs: number;
  readonly usersMax: number;
  readonly strangersMax: number;
  /** Of each user. */
  readonly rightsMax: number;
  readonly reviewTimeoutMs: number;
  /** For tokens that are not known. */
  readonly strangerGate: GateLimits;
  /** For those that are, and for their rights. */
  readonly userGate: GateLimits;
}

export const userLimits: UserLimits = {
  yesMs: 10_000,
  noMs: 3_000,
  usersMax: 1_024,
  strangersMax: 1_024,
  rightsMax: 128,
  reviewTimeoutMs: 5_000,
  strangerGate: { perSecond: 50, burst: 100, inFlightMax: 50 },
  userGate: { perSecond: 200, burst: 1_000, inFlightMax: 100 },
};

interface Known {
  readonly user: User;
  reviewed: ReviewedUser;
  checkedAtMs: number;
  readonly rights: Map<string, { readonly isAllowed: boolean; readonly untilMs: number }>;
}

/** Says when to ask again: the token may well be good. */
const cannotCheck = unavailable('The token cannot be checked now', 1);

export class Users {
  readonly #options: UsersOptions;
  readonly #limits: UserLimits;
  readonly #known = new Map<string, Known>();
  /** Fingerprints of tokens that are nobody's, and until when that counts. */
  readonly #strangers = new Map<string, number>();
  readonly #asking = new Map<string, Promise<Answer>>();
  readonly #strangerGate: Gate;
  readonly #userGate: Gate;
  readonly #stop = new AbortController();

  constructor(options: UsersOptions) {
    this.#options = options;
    this.#limits = { ...userLimits, ...options.limits };
    this.#strangerGate = createGate(this.#limits.strangerGate, options.clock);
    this.#userGate = createGate(this.#limits.userGate, options.clock);
  }

  /** Whose token it is, or why nobody is let in: 401, or 503 where that is not known now. Never rejects. */
  async identify(token: string): Promise<User | Refusal> {
    const jwt = readJwt(token);
    if (jwt === undefined || isPast(jwt.expiresAtMs, this.#nowMs)) return unauthorized;
    const fingerprint = fingerprintOf(token);
    if ((this.#strangers.get(fingerprint) ?? 0) > this.#nowMs) return unauthorized;
    const known = this.#known.get(fingerprint);
    if (known !== undefined && known.checkedAtMs + this.#limits.yesMs > this.#nowMs) return known.user;
    const gate = known === undefined ? this.#strangerGate : this.#userGate;
    const answer = await this.#once(fingerprint, () => this.#askToken({ token, fingerprint, gate }));
    if (answer === undefined) return cannotCheck;
    return answer ? (this.#known.get(fingerprint)?.user ?? cannotCheck) : unauthorized;
  }

  /** Undefined: the user may. Otherwise 401, or 503 where that is not known now. Never rejects. */
  async check(user: User, right: Right): Promise<Refusal | undefined> {
    const known = this.#known.get(user.fingerprint);
    if (known === undefined) return cannotCheck;
    const key = keyOfRight(right);
    const remembered = known.rights.get(key);
    if (remembered !== undefined && remembered.untilMs > this.#nowMs) {
      return remembered.isAllowed ? undefined : unauthorized;
    }
    const answer = await this.#once(`${user.fingerprint} ${key}`, () =>
      this.#askRight(known, { right, gate: this.#userGate }),
    );
    if (answer === undefined) return cannotCheck;
    return answer ? undefined : unauthorized;
  }

  /** Asks again, whatever is remembered and however many ask: for whoever keeps a socket open, at a pace of its own. */
  async recheckToken(token: string): Promise<Answer> {
    return this.#askToken({ token, fingerprint: fingerprintOf(token), gate: undefined });
  }

  /** After a `recheckToken` that said yes. */
  async recheckRight(user: User, right: Right): Promise<Answer> {
    const known = this.#known.get(user.fingerprint);
    return known === undefined ? undefined : this.#askRight(known, { right, gate: undefined });
  }

  /** Gives up what is being asked. */
  close(): void {
    this.#stop.abort(new Error('Stopped'));
  }

  get #nowMs(): number {
    return this.#options.clock.nowMs();
  }

  async #askToken(question: { token: string; fingerprint: string; gate: Gate | undefined }): Promise<Answer> {
    const { token, fingerprint, gate } = question;
    const reviewed = await this.#ask('token', gate, (signal) => this.#options.reviews.token(token, signal));
    if (reviewed === 'unanswered') return undefined;
    if (reviewed === undefined) {
      this.#known.delete(fingerprint);
      remember(
        this.#strangers,
        { key: fingerprint, value: this.#nowMs + this.#limits.noMs },
        this.#limits.strangersMax,
      );
      return false;
    }
    this.#strangers.delete(fingerprint);
    this.#know(token, fingerprint, reviewed);
    return true;
  }

  #know(token: string, fingerprint: string, reviewed: ReviewedUser): void {
    const known = this.#known.get(fingerprint);
    // Other groups may mean other rights.
    const isSame = known !== undefined && JSON.stringify(known.reviewed) === JSON.stringify(reviewed);
    const user = { name: `user:${reviewed.username}`, fingerprint, expiresAtMs: readJwt(token)?.expiresAtMs };
    const value: Known = isSame ? known : { user, reviewed, checkedAtMs: 0, rights: new Map() };
    value.checkedAtMs = this.#nowMs;
    remember(this.#known, { key: fingerprint, value }, this.#limits.usersMax);
  }

  async #askRight(known: Known, { right, gate }: { right: Right; gate: Gate | undefined }): Promise<Answer> {
    const { reviewed, rights } = known;
    const isAllowed = await this.#ask('access', gate, (signal) =>
      this.#options.reviews.access(reviewed, right, signal),
    );
    if (isAllowed === 'unanswered') return undefined;
    const untilMs = this.#nowMs + (isAllowed ? this.#limits.yesMs : this.#limits.noMs);
    remember(rights, { key: keyOfRight(right), value: { isAllowed, untilMs } }, this.#limits.rightsMax);
    return isAllowed;
  }

  /** One request, if the gate lets it out. Whatever keeps the answer away is counted and logged without its text, which may hold the token. */
  async #ask<T>(
    kind: 'token' | 'access',
    gate: Gate | undefined,
    request: (signal: AbortSignal) => Promise<T>,
  ): Promise<T | 'unanswered'> {
    const { clock, log, metrics } = this.#options;
    if (gate?.enter() === false) {
      metrics.kubernetesReviews.inc({ kind, result: 'limited' });
      return 'unanswered';
    }
    const timeout = new AbortController();
    const cancel = clock.after(this.#limits.reviewTimeoutMs, () => {
      timeout.abort(new Error('No answer in time'));
    });
    try {
      const answer = await request(AbortSignal.any([timeout.signal, this.#stop.signal]));
      const isYes = answer !== undefined && answer !== false;
      metrics.kubernetesReviews.inc({ kind, result: isYes ? 'yes' : 'no' });
      return answer;
    } catch (error) {
      metrics.kubernetesReviews.inc({ kind, result: 'error' });
      if (!this.#stop.signal.aborted) log.warn({ kind, ...describe(error) }, 'Cannot review a Kubernetes token');
      return 'unanswered';
    } finally {
      cancel();
      gate?.leave();
    }
  }

  async #once(key: string, ask: () => Promise<Answer>): Promise<Answer> {
    const asking = this.#asking.get(key) ?? ask().finally(() => this.#asking.delete(key));
    this.#asking.set(key, asking);
    return asking;
  }
}

export function isPast(expiresAtMs: number | undefined, nowMs: number): boolean {
  return expiresAtMs !== undefined && expiresAtMs <= nowMs;
}

/** No part can hold a space, and no resource is called like a subresource. */
export function keyOfRight({ verb, resource, subresource, target }: Right): string {
  return [verb, resource ?? subresource, target?.namespace, target?.name].join(' ');
}

/** As the newest; the oldest goes where there are too many. */
function remember<V>(map: Map<string, V>, entry: { key: string; value: V }, max: number): void {
  map.delete(entry.key);
  map.set(entry.key, entry.value);
  const oldest = map.keys().next();
  if (map.size > max && oldest.done !== true) map.delete(oldest.value);
}

function describe(error: unknown): { status?: number; reason?: string } {
  if (error instanceof ApiError) return { status: error.code, reason: error.reason };
  return error instanceof Error ? { reason: error.name } : {};
}
