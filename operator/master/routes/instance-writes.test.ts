import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OperatorError } from '../../errors.ts';
import { callMaster } from '../../testing/call.ts';
import type { FakeEnd } from '../../testing/dispatcher.ts';
import { createFakeCache } from '../../testing/cached.ts';
import { createFakeDispatcher } from '../../testing/dispatcher.ts';
import { instanceInfo, publicToken, startMaster, testId } from '../../testing/master.ts';
import { configurationOf } from '../../testing/masterworld.ts';
import { createFakeReviews, jwtOf } from '../../testing/reviews.ts';
import { createFakeTimers } from '../../testing/timers.ts';

const lobby = { configurationName: 'lobby' };
const made: FakeEnd = {
  output: ['Created nnnnn1 lobby'],
  result: { instances: [{ name: 'lobby-nnnnn1', namespace: 'games', uid: 'uid-nnnnn1' }] },
};

test('instances: POST gives the command, waits for the id and answers 201 with state CREATING', async () => {
  const given = Promise.withResolvers<undefined>();
  const dispatcher = createFakeDispatcher(() => {
    given.resolve(undefined);
    return made;
  });
  await using master = await startMaster({ dispatcher });
  const answer = callMaster(master, '/api/instances', { method: 'POST', body: lobby });
  await given.promise;
  master.add(instanceInfo('nnnnn2'));
  master.add({ ...instanceInfo('nnnnn1'), configurationName: 'lobby' });
  const { status, json } = await answer;
  assert.equal(status, 201);
  assert.deepEqual(json, { ...instanceInfo('nnnnn1'), configurationName: 'lobby', state: 'CREATING' });
  assert.deepEqual(
    dispatcher.requests.map(({ line, issuedBy }) => ({ line, issuedBy })),
    [{ line: 'instance create lobby', issuedBy: { kind: 'ApiKey', name: 'all' } }],
  );
});

test('instances: POST of an Instance that gets no id in time is a 504 that names it', async () => {
  const timers = createFakeTimers();
  await using master = await startMaster({ timers, dispatcher: createFakeDispatcher(() => made) });
  const answer = callMaster(master, '/api/instances', { method: 'POST', body: lobby });
  while (timers.pendingCount === 0) await new Promise((resolve) => setImmediate(resolve));
  timers.advance(10_000);
  const { status, json } = await answer;
  assert.equal(status, 504);
  assert.match((json as { error: string }).error, /^Instance "games\/lobby-nnnnn1" was made, but it has no id yet/);
});

const bodies: [title: string, body: unknown, status: number, error: RegExp][] = [
  ['no body', undefined, 400, /JSON object, \{"configurationName"/],
  ['no name', {}, 400, /"configurationName".*string/],
  ['a name that cannot be one', { configurationName: 'Lobby' }, 400, /"configurationName".*lower-case/],
  ['an option', { configurationName: '--all' }, 400, /lower-case/],
  ['two words', { configurationName: 'lobby 1000' }, 400, /lower-case/],
  ['a long name', { configurationName: 'x'.repeat(254) }, 400, /more than 253/],
  ['another field', { ...lobby, amount: 3 }, 400, /Unknown field "amount".*configurationName/],
  ['a large body', `{"configurationName":"${'x'.repeat(5_000)}"}`, 413, /at most 4096 bytes/],
  ['an array', [], 400, /JSON object/],
];

test('instances: what is wrong with the body of a POST is said, and nothing is done', async (context) => {
  const dispatcher = createFakeDispatcher();
  await using master = await startMaster({ dispatcher });
  for (const [title, body, status, error] of bodies) {
    await context.test(title, async () => {
      const answer = await callMaster(master, '/api/instances', { method: 'POST', body });
      assert.equal(answer.status, status);
      assert.match((answer.json as { error: string }).error, error);
    });
  }
  assert.deepEqual(dispatcher.requests, []);
});

const ends: [title: string, end: FakeEnd, post: number, remove: number, error: string][] = [
  [
    'not found',
    { exitCode: 1, output: ['Unknown configuration: x'], result: { code: 404 } },
    400,
    404,
    'Unknown configuration: x',
  ],
  ['a conflict', { exitCode: 1, output: ['a', 'It is there'], result: { code: 409 } }, 409, 409, 'It is there'],
  ['refused', { exitCode: 1, output: ['It is invalid'], result: { code: 400 } }, 400, 400, 'It is invalid'],
  ['failed', { exitCode: 1, output: ['first', 'last', ''] }, 500, 500, 'last'],
  ['a code that is ours', { exitCode: 1, output: ['Forbidden'], result: { code: 403 } }, 500, 500, 'Forbidden'],
  ['silent', { exitCode: 1 }, 500, 500, 'The command failed'],
  ['not understood', { exitCode: 2, output: ['Too many words', 'Usage: …'] }, 400, 400, 'Too many words'],
  [
    'unavailable',
    { exitCode: 1, reason: 'Unavailable' },
    503,
    503,
    'No operator takes commands now: nothing was changed',
  ],
  [
    'interrupted',
    { exitCode: 1, reason: 'Interrupted', output: ['Created'] },
    ...([500, 500] as const),
    'The operator was lost while it ran the command: it may or may not have been done. Look before you repeat it',
  ],
  [
    'deleted',
    { exitCode: 1, reason: 'Deleted' },
    ...([500, 500] as const),
    'The command was deleted before its end was seen: it may or may not have been done. Look before you repeat it',
  ],
  [
    'unknown',
    { exitCode: 1, reason: 'Unknown' },
    ...([500, 500] as const),
    'The cluster does not answer: it may or may not have been done. Look before you repeat it',
  ],
];

test('instances: each end of a command has its status and sentence', async (context) => {
  let end: FakeEnd = {};
  await using master = await startMaster({ dispatcher: createFakeDispatcher(() => end) });
  for (const [title, given, post, remove, error] of ends) {
    await context.test(title, async () => {
      end = given;
      const posted = await callMaster(master, '/api/instances', { method: 'POST', body: lobby });
      const removed = await callMaster(master, `/api/instances/${testId}`, { method: 'DELETE' });
      assert.deepEqual([posted.status, posted.json], [post, { error }]);
      assert.deepEqual([removed.status, removed.json], [remove, { error }]);
      assert.equal(removed.headers.get('retry-after'), remove === 503 ? '1' : null);
    });
  }
  end = { result: {} };
  assert.equal((await callMaster(master, '/api/instances', { method: 'POST', body: lobby })).status, 500);
});

test('instances: a command that cannot be given to the cluster is the status of its fault', async () => {
  const fault = new OperatorError('STDIN_UNAVAILABLE', 'Cannot give the command: the API server does not answer');
  await using master = await startMaster({ dispatcher: createFakeDispatcher(() => Promise.reject(fault)) });
  const answer = await callMaster(master, `/api/instances/${testId}`, { method: 'DELETE' });
  assert.deepEqual([answer.status, answer.json], [503, { error: fault.message }]);
});

test('instances: a lifecycle change or a deletion that another manager may undo is warned of in a header', async () => {
  const notes = ['spec.desiredState is also set by "flux" in Zürich', 1];
  const dispatcher = createFakeDispatcher(() => ({ output: ['Stopping'], result: { notes } }));
  await using master = await startMaster({ dispatcher });
  const path = `/api/instances/${testId}/lifecycle?target=stop`;
  const { status, headers } = await callMaster(master, path, { method: 'PATCH' });
  const warning = String.raw`299 ringmaster "spec.desiredState is also set by \"flux\" in Z?rich"`;
  assert.deepEqual([status, headers.get('warning')], [200, warning.replaceAll('\\\\', '\\')]);
  const removed = await callMaster(master, `/api/instances/${testId}`, { method: 'DELETE' });
  assert.deepEqual([removed.status, removed.headers.get('warning')], [200, headers.get('warning')]);
});

test('instances: DELETE, lifecycle and state are their commands and answers', async () => {
  const dispatcher = createFakeDispatcher();
  const timers = createFakeTimers();
  await using master = await startMaster({ dispatcher, timers });
  const path = `/api/instances/${testId}`;
  const removed = await callMaster(master, path, { method: 'DELETE' });
  assert.deepEqual([removed.status, removed.json], [200, { message: 'Instance stopped', instanceId: testId }]);
  for (const target of ['start', 'stop', 'restart']) {
    const changed = await callMaster(master, `${path}/lifecycle?target=${target}`, { method: 'PATCH' });
    const json = { message: 'Lifecycle change dispatched', instanceId: testId, target };
    assert.deepEqual([changed.status, changed.json], [200, json]);
  }
  const state = { state: 'OFFLINE', lastHeartbeat: 1_700_000_000_001 };
  const put = await callMaster(master, `${path}/state`, { method: 'PUT', body: state });
  assert.deepEqual([put.status, put.json], [200, { ...instanceInfo(testId), ...state }]);
  await callMaster(master, `${path}/state`, { method: 'PUT', body: { state: 'ONLINE' } });
  assert.deepEqual(
    dispatcher.requests.map(({ line }) => line),
    [
      `instance delete ${testId}`,
      `instance start ${testId}`,
      `instance stop ${testId}`,
      `instance restart ${testId}`,
      `instance state ${testId} OFFLINE 1700000000001`,
      `instance state ${testId} ONLINE ${timers.nowMs()}`,
    ],
  );
});

const faults: [method: string, path: string, body: unknown, status: number, error: RegExp][] = [
  ['DELETE', '/api/instances/A1', undefined, 400, /instance id/],
  ['DELETE', '/api/instances/zzzzzz', undefined, 404, /^Instance not found$/],
  ['PATCH', '/api/instances/A1/lifecycle?target=stop', undefined, 400, /instance id/],
  ['PATCH', '/api/instances/zzzzzz/lifecycle?target=stop', undefined, 404, /^Instance not found$/],
  ['PATCH', `/api/instances/${testId}/lifecycle`, undefined, 400, /"target": it is one of start, stop, restart/],
  ['PATCH', `/api/instances/${testId}/lifecycle?target=kill`, undefined, 400, /"target"/],
  ['PATCH', `/api/instances/${testId}/lifecycle?target=stop&target=start`, undefined, 400, /Repeated/],
  [
    'PATCH',
    `/api/instances/${testId}/lifecycle?target=stop&force=1`,
    undefined,
    400,
    /Unknown query parameter "force"/,
  ],
  ['PUT', '/api/instances/zzzzzz/state', { state: 'ONLINE' }, 404, /^Instance not found$/],
  ['PUT', `/api/instances/${testId}/state`, {}, 400, /"state".*CREATING, ONLINE, OFFLINE, STOPPED/],
  ['PUT', `/api/instances/${testId}/state`, { state: 'online' }, 400, /"state"/],
  [
    'PUT',
    `/api/instances/${testId}/state`,
    { state: 'ONLINE', lastHeartbeat: -1 },
    400,
    /"lastHeartbeat".*milliseconds/,
  ],
  [
    'PUT',
    `/api/instances/${testId}/state`,
    { state: 'ONLINE', lastHeartbeat: 1.5 },
    400,
    /"lastHeartbeat".*milliseconds/,
  ],
  [
    'PUT',
    `/api/instances/${testId}/state`,
    { state: 'ONLINE', id: 'x' },
    400,
    /Unknown field "id".*state, lastHeartbeat/,
  ],
];

test('instances: faults of writes say what is wrong, and nothing is done', async (context) => {
  const dispatcher = createFakeDispatcher();
  await using master = await startMaster({ dispatcher });
  for (const [method, path, body, status, error] of faults) {
    await context.test(`${method} ${path} ${JSON.stringify(body)}`, async () => {
      const answer = await callMaster(master, path, { method, body });
      assert.equal(answer.status, status);
      assert.match((answer.json as { error: string }).error, error);
    });
  }
  for (const token of [publicToken, 'nobody', '']) {
    const answer = await callMaster(master, '/api/instances', { method: 'POST', body: lobby, token });
    assert.equal(answer.status, 401);
  }
  assert.deepEqual(dispatcher.requests, []);
});

test('instances: a client that goes takes its command back', async () => {
  const given = Promise.withResolvers<AbortSignal>();
  const dispatcher = createFakeDispatcher((_line, signal) => {
    given.resolve(signal);
    return new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        reject(signal.reason as Error);
      });
    });
  });
  await using master = await startMaster({ dispatcher });
  const leave = new AbortController();
  const answer = callMaster(master, `/api/instances/${testId}`, { method: 'DELETE', signal: leave.signal });
  const signal = await given.promise;
  const aborted = new Promise((resolve) => {
    signal.addEventListener('abort', resolve);
  });
  leave.abort();
  await assert.rejects(answer);
  await aborted;
});

test('instances: a Kubernetes user needs the verb on the Instance, and is named in the command', async () => {
  const reviews = createFakeReviews();
  const token = jwtOf(1);
  reviews.tokens.set(token, 'alice');
  const dispatcher = createFakeDispatcher(() => ({ exitCode: 1, result: { code: 409 } }));
  const configurations = createFakeCache({ lobby: configurationOf('lobby', { namespace: 'games' }) });
  await using master = await startMaster({ reviews, dispatcher, configurations });
  const path = `/api/instances/${testId}`;
  const calls: [right: string, method: string, path: string, body?: unknown][] = [
    ['create  games ', 'POST', '/api/instances', lobby],
    [`delete  games lobby-${testId}`, 'DELETE', path],
    [`patch  games lobby-${testId}`, 'PATCH', `${path}/lifecycle?target=stop`],
    [`patch  games lobby-${testId}`, 'PUT', `${path}/state`, { state: 'ONLINE' }],
  ];
  for (const [, method, where, body] of calls) {
    assert.equal((await callMaster(master, where, { method, body, token })).status, 401);
  }
  assert.equal(dispatcher.requests.length, 0);
  assert.deepEqual(
    [...new Set(reviews.asked.filter((text) => text.startsWith('access')))],
    [...new Set(calls.map(([right]) => `access alice ${right}`))],
  );
  reviews.rights.add(`bob delete  games lobby-${testId}`);
  reviews.tokens.set(jwtOf(2), 'bob');
  assert.equal((await callMaster(master, path, { method: 'DELETE', token: jwtOf(2) })).status, 409);
  const issuers = dispatcher.requests.map(({ issuedBy }) => issuedBy);
  assert.deepEqual(issuers, [{ kind: 'User', name: 'bob' }]);
});
