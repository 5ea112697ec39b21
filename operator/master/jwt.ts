/** What can be seen of a JSON Web Token without a key. Nothing here proves anything: it only spares questions that have one answer. Pure. */

/** Three parts in base64url; the signature may not be empty, an unsigned token is nobody's. */
const shape = /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+$/;

export interface Jwt {
  /** Milliseconds since 1970; undefined: it says none. */
  readonly expiresAtMs: number | undefined;
}

/** Undefined for what is no signed JWT. */
export function readJwt(token: string): Jwt | undefined {
  const [, head = '', payload = ''] = shape.exec(token) ?? [];
  const header = parseObject(head);
  const claims = parseObject(payload);
  if (typeof header?.['alg'] !== 'string' || header['alg'] === 'none' || claims === undefined) return undefined;
  const { exp } = claims;
  if (exp === undefined) return { expiresAtMs: undefined };
  return typeof exp === 'number' && Number.isFinite(exp) ? { expiresAtMs: exp * 1_000 } : undefined;
}

function parseObject(encoded: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(encoded, 'base64url').toString('utf8'));
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    // Not JSON: no JWT.
    return undefined;
  }
}
