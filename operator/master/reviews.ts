/** What the Kubernetes API says of a token and of a user: TokenReview and SubjectAccessReview, one request each, nothing remembered. */
import type { Client, KubernetesObject, Resource } from '../runtime/client.ts';
import { group } from '../names.ts';

/** Whom a token belongs to, as a SubjectAccessReview wants to be told. */
export interface ReviewedUser {
  readonly username: string;
  readonly uid: string;
  readonly groups: readonly string[];
  readonly extra: Readonly<Record<string, readonly string[]>>;
}

/** What somebody wants to do, as RBAC spells it: a verb on `instances` or on one of its subresources, or on another resource. */
export interface Right {
  readonly verb: 'get' | 'list' | 'create' | 'update' | 'patch' | 'delete';
  /** `instances` if absent. */
  readonly resource?: keyof typeof groupOf;
  readonly subresource?: 'live-log' | 'execute';
  /** Absent: all of them in all namespaces. Without a name: all in the namespace; without a namespace: what has none. */
  readonly target?: { readonly namespace?: string | undefined; readonly name?: string | undefined } | undefined;
}

/** The API group of each resource that rights are about. */
const groupOf = {
  instances: group,
  instanceconfigurations: group,
  consolecommands: group,
  configmaps: '',
  nodes: '',
} as const;

export interface Reviews {
  /** Undefined: the token is nobody's, or not for this audience. Rejects when there is no answer. */
  token(token: string, signal: AbortSignal): Promise<ReviewedUser | undefined>;
  /** Rejects when there is no answer. */
  access(user: ReviewedUser, right: Right, signal: AbortSignal): Promise<boolean>;
}

interface TokenReview extends KubernetesObject {
  spec: { token: string; audiences: string[] };
  status?: {
    authenticated?: boolean;
    audiences?: string[];
    error?: string;
    user?: { username?: string; uid?: string; groups?: string[]; extra?: Record<string, string[]> };
  };
}

interface SubjectAccessReview extends KubernetesObject {
  spec: {
    user: string;
    uid: string;
    groups: readonly string[];
    extra: Readonly<Record<string, readonly string[]>>;
    resourceAttributes: Record<string, string>;
  };
  status?: { allowed?: boolean; denied?: boolean };
}

export const tokenReviews: Resource<TokenReview> = {
  apiVersion: 'authentication.k8s.io/v1',
  kind: 'TokenReview',
  plural: 'tokenreviews',
  namespaced: false,
};

export const subjectAccessReviews: Resource<SubjectAccessReview> = {
  apiVersion: 'authorization.k8s.io/v1',
  kind: 'SubjectAccessReview',
  plural: 'subjectaccessreviews',
  namespaced: false,
};

export function createReviews(client: Pick<Client, 'create'>, audience: string): Reviews {
  return {
    async token(token, signal) {
      const review: TokenReview = { metadata: { name: '' }, spec: { token, audiences: [audience] } };
      return userOf((await client.create(tokenReviews, review, signal)).status, audience);
    },
    async access(user, right, signal) {
      const { username, uid, groups, extra } = user;
      const spec = { user: username, uid, groups, extra, resourceAttributes: attributesOf(right) };
      const review: SubjectAccessReview = { metadata: { name: '' }, spec };
      const { status } = await client.create(subjectAccessReviews, review, signal);
      return status?.allowed === true && status.denied !== true;
    },
  };
}

/** A server that does not look at audiences names none in its answer; its yes is then no yes for us. */
function userOf(status: TokenReview['status'], audience: string): ReviewedUser | undefined {
  if (status?.authenticated !== true || (status.error ?? '') !== '') return undefined;
  if (status.audiences?.includes(audience) !== true) return undefined;
  const { username = '', uid = '', groups = [], extra = {} } = status.user ?? {};
  return username === '' ? undefined : { username, uid, groups, extra };
}

function attributesOf({ verb, resource = 'instances', subresource, target }: Right): Record<string, string> {
  return {
    ...{ group: groupOf[resource], resource, verb },
    ...(subresource === undefined ? {} : { subresource }),
    ...(target?.namespace === undefined ? {} : { namespace: target.namespace }),
    ...(target?.name === undefined ? {} : { name: target.name }),
  };
}
