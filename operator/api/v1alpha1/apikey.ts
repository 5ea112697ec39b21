/** `ApiKey`: a bearer token of the Master API, known to the cluster by its hash alone, so that a key can be kept in Git. */
import { z } from 'zod';
import { apiVersion } from '../../names.ts';
import type { Metadata } from './meta.ts';
import { conditions, int64, matching } from './meta.ts';

export const permissions = ['ALL', 'PUBLIC'] as const;
export type Permission = (typeof permissions)[number];

export const apiKeySpec = z
  .object({
    permission: z
      .enum(permissions)
      .describe(
        'ALL: everything, the live log and the console included. PUBLIC: read-only status pages, at most 100 calls in 60 s.',
      ),
    tokenSHA256: matching(
      /^[0-9a-f]{64}$/,
      'write the SHA-256 of the token as 64 lower-case hexadecimal digits: printf %s "$TOKEN" | sha256sum',
    )
      .max(256)
      .describe(
        'SHA-256 of the token, 64 lower-case hexadecimal digits: printf %s "$TOKEN" | sha256sum. The token itself is stored nowhere.',
      ),
    expiresAt: z.iso
      .datetime()
      .optional()
      .describe(
        'The key counts until this time (RFC 3339, in UTC). Absent: it does not expire. Open sockets are closed when it passes.',
      ),
    description: z.string().max(256).optional().describe('Who or what uses this key; for people.'),
  })
  .describe('The key.');
export type ApiKeySpec = z.infer<typeof apiKeySpec>;

export const apiKeyStatus = z
  .object({
    observedGeneration: int64.optional().describe('The generation of the spec that this status speaks of.'),
    conditions: conditions.optional(),
  })
  .describe('What the operator says of the key.');
export type ApiKeyStatus = z.infer<typeof apiKeyStatus>;

export interface ApiKey {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
  spec: ApiKeySpec;
  status?: ApiKeyStatus;
}

export const apiKeys: { apiVersion: string; kind: string; plural: string; namespaced: boolean; object?: ApiKey } = {
  apiVersion,
  kind: 'ApiKey',
  plural: 'apikeys',
  namespaced: true,
};
