/**
 * The keys that count now. Whoever watches ApiKeys calls `set` and `remove`; the table tells its listeners when a key that was valid may no
 * longer be, a passing `expiresAt` included, and they look again. It holds hashes only.
 */
import type { Permission } from '../api/v1alpha1/apikey.ts';
import type { Key, KeyLookup } from './auth.ts';
import { isExpired, permits } from './auth.ts';
import type { Timers } from './ports.ts';

export interface KeySpec {
  readonly uid: string;
  readonly tokenSHA256: string;
  readonly permission: Permission;
  /** RFC 3339. One that cannot be read counts as passed: a typing error must not make a key eternal. */
  readonly expiresAt?: string | undefined;
}

export interface KeyTable extends KeyLookup {
  /** Adds or replaces the key of this name. */
  set(name: string, spec: KeySpec): void;
  remove(name: string): void;
  /** Whether a key that was granted before still is the same (uid and hash), unexpired and permitted. */
  holds(granted: Key, need: Permission): boolean;
  /** Calls back with the name of every key that was set, removed or has expired. Returns a function that ends it. */
  onChange(listener: (name: string) => void): () => void;
  /** Stops the expiry timer. */
  close(): void;
}

/** Longest delay that a timer takes (2^31 - 1 ms); a later expiry is waited for in several steps. */
const timerDelayMsMax = 2_147_483_647;

export function createKeyTable(clock: Timers): KeyTable {
  const byName = new Map<string, Key>();
  const byFingerprint = new Map<string, Set<Key>>();
  const listeners = new Set<(name: string) => void>();
  /** Keys whose expiry was announced or was already past when they came. */
  const announced = new WeakSet<Key>();
  let cancelTimer: (() => void) | undefined;

  const notify = (name: string): void => {
    for (const listener of listeners) listener(name);
  };
  const unlink = (name: string): boolean => {
    const key = byName.get(name);
    if (key === undefined) return false;
    byName.delete(name);
    const sharers = byFingerprint.get(key.tokenSHA256);
    sharers?.delete(key);
    if (sharers?.size === 0) byFingerprint.delete(key.tokenSHA256);
    return true;
  };
  const armTimer = (): void => {
    cancelTimer?.();
    cancelTimer = undefined;
    const next = nextExpiryMs(byName.values(), announced);
    if (next === undefined) return;
    const delayMs = Math.min(Math.max(next - clock.nowMs(), 0), timerDelayMsMax);
    cancelTimer = clock.after(delayMs, announceExpired);
  };
  const announceExpired = (): void => {
    const nowMs = clock.nowMs();
    const expired = [...byName.values()].filter((key) => !announced.has(key) && isExpired(key, nowMs));
    for (const key of expired) announced.add(key);
    armTimer();
    for (const key of expired) notify(key.name);
  };

  return {
    set(name, spec) {
      const key = toKey(name, spec);
      if (sameKey(byName.get(name), key)) return;
      unlink(name);
      byName.set(name, key);
      const sharers = byFingerprint.get(key.tokenSHA256) ?? new Set();
      byFingerprint.set(key.tokenSHA256, sharers.add(key));
      armTimer();
      notify(name);
    },
    remove(name) {
      if (!unlink(name)) return;
      armTimer();
      notify(name);
    },
    find: (fingerprint) => best(byFingerprint.get(fingerprint), clock.nowMs()),
    holds(granted, need) {
      const key = byName.get(granted.name);
      if (key?.uid !== granted.uid || key.tokenSHA256 !== granted.tokenSHA256) return false;
      return !isExpired(key, clock.nowMs()) && permits(key, need);
    },
    onChange(listener) {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
    close() {
      cancelTimer?.();
      cancelTimer = undefined;
    },
  };
}

function toKey(name: string, spec: KeySpec): Key {
  const { uid, tokenSHA256, permission, expiresAt } = spec;
  return { name, uid, tokenSHA256: tokenSHA256.toLowerCase(), permission, expiresAtMs: toExpiryMs(expiresAt) };
}

function toExpiryMs(expiresAt: string | undefined): number | undefined {
  if (expiresAt === undefined) return undefined;
  const ms = Date.parse(expiresAt);
  return Number.isNaN(ms) ? 0 : ms;
}

function sameKey(a: Key | undefined, b: Key): boolean {
  return (
    a?.uid === b.uid &&
    a.tokenSHA256 === b.tokenSHA256 &&
    a.permission === b.permission &&
    a.expiresAtMs === b.expiresAtMs
  );
}

/** Two ApiKeys may hold the same hash; the token may then do what the better of them allows. */
function best(keys: Iterable<Key> | undefined, nowMs: number): Key | undefined {
  let found: Key | undefined;
  for (const key of keys ?? []) {
    if (found === undefined || rank(key, nowMs) > rank(found, nowMs)) found = key;
  }
  return found;
}

function rank(key: Key, nowMs: number): number {
  if (isExpired(key, nowMs)) return 0;
  return key.permission === 'ALL' ? 2 : 1;
}

function nextExpiryMs(keys: Iterable<Key>, announced: WeakSet<Key>): number | undefined {
  let next: number | undefined;
  for (const key of keys) {
    if (key.expiresAtMs === undefined || announced.has(key)) continue;
    if (next === undefined || key.expiresAtMs < next) next = key.expiresAtMs;
  }
  return next;
}
