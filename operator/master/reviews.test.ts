import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Client } from '../runtime/client.ts';
import type { Right } from './reviews.ts';
import { createReviews } from './reviews.ts';

/** Answers every `create` with this status. */
function clientThat(status: unknown): { client: Pick<Client, 'create'>; sent: object[] } {
  const sent: object[] = [];
  const create = (_resource: unknown, object: object): Promise<never> => {
    sent.push(object);
    return Promise.resolve({ ...object, status } as never);
  };
  return { client: { create }, sent };
}

const { signal } = new AbortController();
const user = { username: 'ada', uid: 'u', groups: ['g'], extra: { scope: ['a'] } };
const yes = { authenticated: true, audiences: ['ringmaster'], user };

const tokenCases: [title: string, status: unknown, expected: object | undefined][] = [
  ['a yes for our audience', yes, user],
  [
    'a yes with a name alone',
    { ...yes, user: { username: 'ada' } },
    { username: 'ada', uid: '', groups: [], extra: {} },
  ],
  ['a yes for another audience', { ...yes, audiences: ['vault'] }, undefined],
  ['a yes of a server that does not look at audiences', { authenticated: true, user }, undefined],
  ['a yes with an error', { ...yes, error: 'odd' }, undefined],
  ['a yes without a name', { ...yes, user: {} }, undefined],
  ['a no', { authenticated: false }, undefined],
  ['a no with a user', { ...yes, authenticated: false }, undefined],
  ['nothing', undefined, undefined],
];
for (const [title, status, expected] of tokenCases) {
  test(`reviews: of a token ${title} is ${expected === undefined ? 'nobody' : 'somebody'}`, async () => {
    const { client, sent } = clientThat(status);
    assert.deepEqual(await createReviews(client, 'ringmaster').token('t', signal), expected);
    assert.deepEqual(sent, [{ metadata: { name: '' }, spec: { token: 't', audiences: ['ringmaster'] } }]);
  });
}

test('reviews: a right is asked for with all that is known of the user, and only an undisputed yes counts', async () => {
  const target = { namespace: 'games', name: 'lobby', other: 'field' };
  for (const [status, expected] of [
    [{ allowed: true }, true],
    [{ allowed: true, denied: true }, false],
    [{ allowed: false }, false],
    [undefined, false],
  ] as const) {
    const { client, sent } = clientThat(status);
    const reviews = createReviews(client, 'ringmaster');
    assert.equal(await reviews.access(user, { verb: 'get', subresource: 'live-log', target }, signal), expected);
    const resourceAttributes = {
      ...{ group: 'ringmaster.dev', resource: 'instances', subresource: 'live-log', verb: 'get' },
      ...{ namespace: 'games', name: 'lobby' },
    };
    const spec = { user: 'ada', uid: 'u', groups: ['g'], extra: { scope: ['a'] }, resourceAttributes };
    assert.deepEqual(sent, [{ metadata: { name: '' }, spec }]);
  }
});

test('reviews: a right to another resource is asked for in its group, and with what is known of the target', async () => {
  const cases: [right: Right, attributes: object][] = [
    [
      { verb: 'update', resource: 'instanceconfigurations', target: { namespace: 'games', name: 'lobby' } },
      {
        group: 'ringmaster.dev',
        resource: 'instanceconfigurations',
        verb: 'update',
        namespace: 'games',
        name: 'lobby',
      },
    ],
    [
      { verb: 'list', resource: 'configmaps', target: { namespace: 'games' } },
      { group: '', resource: 'configmaps', verb: 'list', namespace: 'games' },
    ],
    [
      { verb: 'get', resource: 'nodes', target: { name: 'node-1' } },
      { group: '', resource: 'nodes', verb: 'get', name: 'node-1' },
    ],
    [{ verb: 'create' }, { group: 'ringmaster.dev', resource: 'instances', verb: 'create' }],
  ];
  for (const [right, attributes] of cases) {
    const { client, sent } = clientThat({ allowed: true });
    assert.equal(await createReviews(client, 'ringmaster').access(user, right, signal), true);
    const [{ spec }] = sent as [{ spec: { resourceAttributes: object } }];
    assert.deepEqual(spec.resourceAttributes, attributes);
  }
});
