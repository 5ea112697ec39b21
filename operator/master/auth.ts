/**
 * From what a client presents to what it may do. Pure: no I/O, no clock, no state. Nothing is remembered about tokens that are not keys, so
 * strangers can make nothing grow here.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { Permission } from '../api/v1alpha1/apikey.ts';

/** A longer token is malformed. Those of Kubernetes have one to two thousand bytes; as a subprotocol it grows by a third, and still fits the header. */
export const tokenBytesMax = 8_192;

/** How browsers, which cannot set headers, present a token; the same convention as the Kubernetes API server's. */
export const tokenProtocolPrefix = 'base64url.bearer.authorization.k8s.io.';

export type Presented = { readonly token: string } | { readonly fault: 'absent' | 'malformed' };

/** Values of the two headers that may carry a token. */
export interface Credentials {
  /** One entry for each `Authorization` header that came. */
  readonly authorization: readonly string[] | undefined;
  /** The offered subprotocols; only for upgrades. */
  readonly protocols?: readonly string[];
}

export interface Key {
  readonly name: string;
  readonly uid: string;
  readonly tokenSHA256: string;
  readonly permission: Permission;
  /** Milliseconds since 1970; undefined: never. */
  readonly expiresAtMs: number | undefined;
}

export interface KeyLookup {
  /** The key whose token has this fingerprint; the most permissive unexpired one if several share it. */
  find(fingerprint: string): Key | undefined;
}

export type Decision =
  | { readonly granted: true; readonly key: Key }
  | { readonly granted: false; readonly reason: 'unknown' | 'expired' | 'permission' };

/** RFC 6750: scheme (in any case), spaces, one token68. The token's length is checked apart, so that this expression stays linear. */
const bearerPattern = /^bearer +([A-Za-z0-9\-._~+/]+=*)$/i;
const token68Pattern = /^[A-Za-z0-9\-._~+/]+=*$/;
const base64urlPattern = /^[A-Za-z0-9_-]+$/;

/** The token that a client presents. An `Authorization` header decides alone; only without one are the subprotocols looked at. */
export function readToken(credentials: Credentials): Presented {
  const { authorization, protocols = [] } = credentials;
  if (authorization !== undefined && authorization.length > 0) return fromAuthorization(authorization);
  return fromProtocols(protocols);
}

/** The offered subprotocols without those that carry a token: what a server may answer with. */
export function realProtocols(protocols: readonly string[]): string[] {
  return protocols.filter((name) => !name.startsWith(tokenProtocolPrefix));
}

/** SHA-256 of a token, 64 lower-case hexadecimal digits: all that is ever stored of it. */
export function fingerprintOf(token: string): string {
  return createHash('sha256').update(token, 'utf8').digest('hex');
}

/** Whether the token belongs to a key that is valid now and may do what `need` says; `ALL` includes `PUBLIC`. */
export function decide(keys: KeyLookup, token: string, { nowMs, need }: { nowMs: number; need: Permission }): Decision {
  const fingerprint = fingerprintOf(token);
  const key = keys.find(fingerprint);
  if (key === undefined || !sameFingerprint(key.tokenSHA256, fingerprint)) return { granted: false, reason: 'unknown' };
  if (isExpired(key, nowMs)) return { granted: false, reason: 'expired' };
  if (!permits(key, need)) return { granted: false, reason: 'permission' };
  return { granted: true, key };
}

export function isExpired(key: Key, nowMs: number): boolean {
  return key.expiresAtMs !== undefined && key.expiresAtMs <= nowMs;
}

export function permits(key: Key, need: Permission): boolean {
  return key.permission === 'ALL' || need === 'PUBLIC';
}

function fromAuthorization(values: readonly string[]): Presented {
  const [value, ...others] = values;
  // Two headers: which one a proxy in front has checked cannot be known, so neither counts.
  if (value === undefined || others.length > 0) return { fault: 'malformed' };
  if (value.length > tokenBytesMax + 'Bearer '.length) return { fault: 'malformed' };
  const token = bearerPattern.exec(value)?.[1];
  return token === undefined ? { fault: 'malformed' } : { token };
}

function fromProtocols(protocols: readonly string[]): Presented {
  const carriers = protocols.filter((name) => name.startsWith(tokenProtocolPrefix));
  const [carrier, ...others] = carriers;
  if (carrier === undefined) return { fault: 'absent' };
  // A browser fails the connection if nothing that it offered comes back, and the token must not come back: another one has to be there.
  if (others.length > 0 || carriers.length === protocols.length) return { fault: 'malformed' };
  return decodeCarrier(carrier.slice(tokenProtocolPrefix.length));
}

function decodeCarrier(encoded: string): Presented {
  if (encoded.length > Math.ceil((tokenBytesMax * 4) / 3) || !base64urlPattern.test(encoded)) {
    return { fault: 'malformed' };
  }
  const bytes = Buffer.from(encoded, 'base64url');
  // One token has one spelling: what does not encode back to itself (stray bits at the end) is refused.
  if (bytes.toString('base64url') !== encoded) return { fault: 'malformed' };
  const token = bytes.toString('latin1');
  return token.length <= tokenBytesMax && token68Pattern.test(token) ? { token } : { fault: 'malformed' };
}

/**
 * The look-up by hash has already found the key: an attacker cannot steer a SHA-256 towards a stored one byte by byte. The comparison in
 * constant time keeps this true whatever a `KeyLookup` does to find its answer.
 */
function sameFingerprint(a: string, b: string): boolean {
  const left = Buffer.from(a, 'latin1');
  const right = Buffer.from(b, 'latin1');
  return left.length === right.length && timingSafeEqual(left, right);
}
