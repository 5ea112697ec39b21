/** A Kubernetes that knows tokens and rights as a test sets them, and notes what it is asked. */
import { keyOfRight } from '../master/users.ts';
import type { ReviewedUser, Reviews, Right } from '../master/reviews.ts';

export interface FakeReviews extends Reviews {
  /** Usernames by token. */
  readonly tokens: Map<string, string>;
  /** `USERNAME VERB SUBRESOURCE NAMESPACE NAME RESOURCE`, without the last two where it is about `instances`. */
  readonly rights: Set<string>;
  /** `token TOKEN` and `access USERNAME …`, in order. */
  readonly asked: string[];
  /** Rejects every question while it is set. */
  fault: Error | undefined;
  /** Holds answers back until it resolves. */
  gate: Promise<void> | undefined;
}

export function createFakeReviews(): FakeReviews {
  const fake: FakeReviews = {
    tokens: new Map(),
    rights: new Set(),
    asked: [],
    fault: undefined,
    gate: undefined,
    async token(token, signal) {
      fake.asked.push(`token ${token}`);
      await answer(fake, signal);
      const username = fake.tokens.get(token);
      return username === undefined ? undefined : userOf(username);
    },
    async access({ username }, right, signal) {
      const what = `${username} ${keyOfRight(right)}`;
      fake.asked.push(`access ${what}`);
      await answer(fake, signal);
      return fake.rights.has(what);
    },
  };
  return fake;
}

export const userRight: Right = { verb: 'get', subresource: 'live-log', target: { namespace: 'games', name: 'lobby' } };

/** A token of the right shape; the number tells two apart. */
export function jwtOf(number: number, claims: object = {}): string {
  const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${encode({ alg: 'RS256' })}.${encode({ sub: number, ...claims })}.c2ln`;
}

async function answer({ gate, fault }: FakeReviews, signal: AbortSignal): Promise<void> {
  if (gate !== undefined) {
    const { promise, reject } = Promise.withResolvers<never>();
    signal.addEventListener('abort', () => {
      reject(signal.reason as Error);
    });
    await Promise.race([gate, promise]);
  }
  if (fault !== undefined) throw fault;
}

function userOf(username: string): ReviewedUser {
  return { username, uid: '', groups: [], extra: {} };
}
