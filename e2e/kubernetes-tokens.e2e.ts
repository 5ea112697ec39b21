/** Tokens of Kubernetes on a real cluster: PROTOCOL.md section 1. What a ServiceAccount may do is what RBAC says, and ends when RBAC says so. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { applyInstance, call, enterWorld, eventually, masters, openSocket, shellProgram } from './live-harness.ts';
import type { LiveSocket, MasterPod, World } from './live-harness.ts';
import { releaseNamespace } from './release.ts';

const audience = 'ringmaster';
/** From the removal of a right, and of a token, to the close: PROTOCOL.md. */
const rightGoneMs = 15_000;
const tokenGoneMs = 25_000;

let world: World;
let id: string;
let pods: [MasterPod, MasterPod];

before(async () => {
  world = await enterWorld();
  const script = '(while :; do echo tick; sleep 0.2; done) & while read -r line; do echo "read $line"; done; wait';
  id = await applyInstance(world, 'ticker', shellProgram(script));
  pods = await masters(world);
});

after(() => world.leave());

interface Rule {
  readonly verbs: string[];
  readonly resources: string[];
  readonly resourceNames?: string[];
}

const liveLog: Rule = { verbs: ['get'], resources: ['instances/live-log'] };

/** A ServiceAccount that may do this in its namespace, or everywhere. */
async function account(name: string, rules: readonly Rule[] = [], isClusterWide = false): Promise<void> {
  const prefix = isClusterWide ? 'Cluster' : '';
  // What has no namespace needs a name that is nobody else's.
  const roleName = isClusterWide ? `${world.namespace}-${name}` : name;
  const rbac = 'rbac.authorization.k8s.io';
  const subjects = [{ kind: 'ServiceAccount', name, namespace: world.namespace }];
  const items: object[] = [{ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name } }];
  if (rules.length > 0) {
    items.push(
      {
        ...{ apiVersion: `${rbac}/v1`, kind: `${prefix}Role`, metadata: { name: roleName } },
        rules: rules.map((rule) => ({ apiGroups: ['ringmaster.dev'], ...rule })),
      },
      {
        ...{ apiVersion: `${rbac}/v1`, kind: `${prefix}RoleBinding`, metadata: { name: roleName }, subjects },
        roleRef: { apiGroup: rbac, kind: `${prefix}Role`, name: roleName },
      },
    );
  }
  await world.kubectl(['apply', '-f', '-'], JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  if (isClusterWide) {
    world.cleanups.push(() => world.kubectl(['delete', 'clusterrole,clusterrolebinding', roleName]));
  }
}

async function tokenOf(name: string, forAudience?: string): Promise<string> {
  const chosen = forAudience === undefined ? [] : [`--audience=${forAudience}`];
  return (await world.kubectl(['create', 'token', name, ...chosen])).trim();
}

/** How the live log is refused. */
async function refusalOf(token: string, instanceId = id): Promise<string> {
  try {
    (await openSocket(world, { id: instanceId, token })).terminate();
    return 'opened';
  } catch (error) {
    assert.ok(error instanceof Error);
    return error.message;
  }
}

const unauthorized = 'HTTP 401 {"error":"Unauthorized"}';

test('kubernetes-tokens: a pod opens a live log with the token of its ServiceAccount, and nothing else', async () => {
  await account('dashboard', [liveLog]);
  const script = `
    const token = require('node:fs').readFileSync('/var/run/ringmaster/token', 'utf8');
    const carrier = 'base64url.bearer.authorization.k8s.io.' + Buffer.from(token).toString('base64url');
    const ws = new WebSocket(process.env.MASTER + '/api/instances/${id}/live-log', [carrier, 'ringmaster.live-log.v1']);
    ws.onmessage = ({ data }) => { console.log(ws.protocol, data); process.exit(0); };
    ws.onerror = () => { console.log('refused'); process.exit(1); };`;
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'dashboard' },
    spec: {
      serviceAccountName: 'dashboard',
      automountServiceAccountToken: false,
      restartPolicy: 'Never',
      securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: 'RuntimeDefault' } },
      containers: [
        {
          name: 'dashboard',
          image: world.nodeImage,
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
          command: ['node', '-e', script],
          env: [{ name: 'MASTER', value: world.url.replace(/^http/, 'ws') }],
          volumeMounts: [{ name: 'token', mountPath: '/var/run/ringmaster', readOnly: true }],
        },
      ],
      volumes: [{ name: 'token', projected: { sources: [{ serviceAccountToken: { audience, path: 'token' } }] } }],
    },
  };
  await world.kubectl(['apply', '-f', '-'], JSON.stringify(pod));
  await eventually('the pod to have ended', async () => {
    const phase = await world.kubectl(['get', 'pod', 'dashboard', '-o', 'jsonpath={.status.phase}']);
    return ['Succeeded', 'Failed'].includes(phase);
  });
  assert.equal(await world.kubectl(['logs', 'dashboard']), 'ringmaster.live-log.v1 tick\n');
});

test('kubernetes-tokens: a token for another audience, and one without a right to this log, are 401', async () => {
  await Promise.all([
    account('reader', [liveLog]),
    account('powerless'),
    account('other', [{ ...liveLog, resourceNames: ['another'] }]),
    account('viewer', [{ verbs: ['get', 'list', 'watch'], resources: ['instances'] }]),
  ]);
  const forged = (await tokenOf('reader', audience)).replace(/[^.]+$/, (signature) =>
    signature.split('').reverse().join(''),
  );
  const cases: Record<string, string> = {
    'for the API server': await tokenOf('reader'),
    'for somebody else': await tokenOf('reader', 'vault'),
    'of an account without rights': await tokenOf('powerless', audience),
    'of an account with a right to another instance': await tokenOf('other', audience),
    'of an account that may only see instances': await tokenOf('viewer', audience),
    'with another signature': forged,
  };
  for (const [what, token] of Object.entries(cases)) assert.equal(await refusalOf(token), unauthorized, what);
  assert.equal(await refusalOf(await tokenOf('reader', audience)), 'opened');
});

test('kubernetes-tokens: ids cannot be probed: only who may read every log is told that there is no such instance', async () => {
  await account('everywhere', [liveLog], true);
  assert.equal(await refusalOf(await tokenOf('reader', audience), '000000'), unauthorized);
  const token = await tokenOf('everywhere', audience);
  assert.equal(await refusalOf(token, '000000'), 'HTTP 404 {"error":"Instance not found"}');
  assert.equal(await refusalOf(token), 'opened');
});

test('kubernetes-tokens: every call asks for its own right', async () => {
  await account('typist', [{ verbs: ['create'], resources: ['instances/execute'] }]);
  await account('lister', [{ verbs: ['list'], resources: ['instances'] }], true);
  const tokens = Object.fromEntries(
    await Promise.all(
      ['reader', 'viewer', 'typist', 'lister'].map(async (name) => [name, await tokenOf(name, audience)] as const),
    ),
  );
  const body = JSON.stringify({ command: 'hello' });
  const calls: [string, string, Record<string, number>][] = [
    ['GET', '/api/instances', { reader: 401, viewer: 401, typist: 401, lister: 200 }],
    ['GET', `/api/instances/${id}`, { reader: 401, viewer: 200, typist: 401, lister: 401 }],
    ['GET', `/api/instances/${id}/logs`, { reader: 200, viewer: 401, typist: 401, lister: 401 }],
    ['POST', `/api/instances/${id}/execute`, { reader: 401, viewer: 401, typist: 200, lister: 401 }],
    ['GET', '/api/nothing', { reader: 404, viewer: 404, typist: 404, lister: 404 }],
  ];
  for (const [method, path, expected] of calls) {
    const seen: Record<string, number> = {};
    for (const name of Object.keys(expected)) {
      const headers = { authorization: `Bearer ${tokens[name] ?? ''}` };
      const response = await fetch(world.url + path, { method, headers, ...(method === 'POST' ? { body } : {}) });
      await response.text();
      seen[name] = response.status;
    }
    assert.deepEqual(seen, expected, `${method} ${path}`);
  }
});

test('kubernetes-tokens: removing a right, or the account, closes its open sockets with 1008 on every replica, and no others', async () => {
  await Promise.all([account('unbound', [liveLog]), account('deleted', [liveLog])]);
  const open = async (name: string): Promise<LiveSocket[]> => {
    const token = await tokenOf(name, audience);
    return Promise.all(pods.map(({ url }) => openSocket(world, { url, token, id, query: '?tail=0' })));
  };
  const [unbound, deleted, bystanders] = [await open('unbound'), await open('deleted'), await open('reader')];
  await world.kubectl(['delete', 'rolebinding', 'unbound']);
  await world.kubectl(['delete', 'serviceaccount', 'deleted']);
  const removedAt = performance.now();
  const closed = async (sockets: LiveSocket[], withinMs: number): Promise<void> => {
    for (const socket of sockets) {
      const { code, reason, atMs } = await socket.closed();
      assert.deepEqual({ code, reason }, { code: 1008, reason: 'token revoked' });
      assert.ok(atMs - removedAt < withinMs, `closed after ${(atMs - removedAt).toFixed(0)} ms`);
    }
  };
  await Promise.all([closed(unbound, rightGoneMs), closed(deleted, tokenGoneMs)]);
  await Promise.all(bystanders.map((socket) => socket.untilFrames(socket.frames.length + 3)));
  for (const socket of bystanders) socket.terminate();
});

test('kubernetes-tokens: no token is in a log of the Masters, and each question was counted', async () => {
  for (const { name, url } of pods) {
    const log = await world.cluster.kubectl(['logs', name, '-n', releaseNamespace]);
    assert.doesNotMatch(log, /eyJ[A-Za-z0-9_-]{8}/);
    const { text } = await call(url, '/api/metrics');
    assert.match(text, /^ringmaster_master_kubernetes_reviews_total\{kind="token",result="yes"\} [1-9]/m);
    assert.match(text, /^ringmaster_master_kubernetes_reviews_total\{kind="access",result="yes"\} [1-9]/m);
  }
});
