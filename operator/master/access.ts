/**
 * Who may: an ApiKey, by the key table and at once, or a Kubernetes user, by the API server. A token that is a key's is never asked about.
 * For what is open, `holds` and `onChange` say when it no longer may be.
 */
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Permission } from '../api/v1alpha1/apikey.ts';
import type { Key } from './auth.ts';
import { decide } from './auth.ts';
import type { KeyTable } from './keys.ts';
import type { Timers } from './ports.ts';
import type { Claim } from './recheck.ts';
import { Recheck } from './recheck.ts';
import type { Refusal } from './refusal.ts';
import { unauthorized } from './refusal.ts';
import type { Reviews, Right } from './reviews.ts';
import type { User } from './users.ts';
import { Users } from './users.ts';

/** What an open socket has: its key, or its claim to a right. The name is for the log, and sockets are counted by it. */
export type Grant = Key | Claim;

/** What is open looks at this. */
export interface Grants {
  /** Whether it may still be open. */
  holds(grant: Grant, need: 'ALL'): boolean;
  /** Calls back with the name of each grant that may have been lost. Returns a function that ends it. */
  onChange(listener: (name: string) => void): () => void;
}

/** Somebody who presented a token that counts. */
export interface Client {
  readonly name: string;
  /** Undefined: may do it. Otherwise 401, or 503 where that is not known now. Never rejects. */
  refusalFor(right: Right): Promise<Refusal | undefined>;
  /** For a socket, after `refusalFor` said nothing. `end` when it has closed. */
  hold(right: Right): { readonly grant: Grant; readonly end: () => void };
}

export interface Access extends Grants {
  /**
   * Who presents this token, or why nobody is let in: 401, or 503 where that is not known now. `need` is what an ApiKey must have at least, `ALL` if
   * absent. Never rejects.
   */
  identify(token: string, need?: Permission): Promise<Client | Refusal>;
  close(): void;
}

export interface AccessOptions {
  readonly keys: KeyTable;
  readonly clock: Timers;
  /** Absent: only ApiKeys count. */
  readonly reviews?: Reviews | undefined;
  readonly metrics: Metrics;
  readonly log: Logger;
}

export function createAccess({ keys, clock, reviews, metrics, log }: AccessOptions): Access {
  const listeners = new Set<(name: string) => void>();
  const notify = (name: string): void => {
    for (const listener of listeners) listener(name);
  };
  const stopKeys = keys.onChange(notify);
  const users = reviews === undefined ? undefined : new Users({ reviews, clock, metrics, log });
  const recheck = users === undefined ? undefined : new Recheck({ users, clock, onLost: notify });
  return {
    async identify(token, need = 'ALL') {
      const decision = decide(keys, token, { nowMs: clock.nowMs(), need });
      if (decision.granted) return keyClient(decision.key);
      if (decision.reason !== 'unknown' || users === undefined || recheck === undefined) return unauthorized;
      const user = await users.identify(token);
      return 'status' in user ? user : userClient({ users, recheck, user, token });
    },
    holds: (grant, need) => ('isLost' in grant ? !grant.isLost : keys.holds(grant, need)),
    onChange(listener) {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
    close() {
      stopKeys();
      recheck?.close();
      users?.close();
    },
  };
}

function keyClient(key: Key): Client {
  return {
    name: key.name,
    refusalFor: () => Promise.resolve(undefined),
    hold: () => ({ grant: key, end: () => undefined }),
  };
}

function userClient(parts: { users: Users; recheck: Recheck; user: User; token: string }): Client {
  const { users, recheck, user, token } = parts;
  return {
    name: user.name,
    refusalFor: (right) => users.check(user, right),
    hold(right) {
      const { claim, end } = recheck.watch(user, token, right);
      return { grant: claim, end };
    },
  };
}
