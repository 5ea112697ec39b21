import assert from 'node:assert/strict';
import { test } from 'node:test';
import { callMaster } from '../../testing/call.ts';
import { createFakeCache } from '../../testing/cached.ts';
import type { FakeEnd } from '../../testing/dispatcher.ts';
import { createFakeDispatcher, splitLine } from '../../testing/dispatcher.ts';
import { publicToken, startMaster } from '../../testing/master.ts';
import { configurationOf } from '../../testing/masterworld.ts';
import { createFakeReviews, jwtOf } from '../../testing/reviews.ts';
import { createFakeTimers } from '../../testing/timers.ts';

const spec = { template: { spec: { image: "it's", env: [{ name: 'A', value: '$HOME \\ "b" `c`\n\u2028' }] } } };

function threeConfigurations(): ReturnType<typeof createFakeCache<ReturnType<typeof configurationOf>>> {
  return createFakeCache({
    lobby: configurationOf('lobby'),
    arena: configurationOf('arena', { namespace: 'games' }),
    hub: configurationOf('hub', { deletionTimestamp: '2026-01-01T00:00:00Z' }),
  });
}

test('configurations: reads are the name, the namespace and the spec; one that goes is no more', async () => {
  await using master = await startMaster({ configurations: threeConfigurations() });
  const [arena, lobby] = [configurationOf('arena').spec, configurationOf('lobby').spec];
  const first = { name: 'arena', namespace: 'games', ...arena };
  const second = { name: 'lobby', namespace: 'ringmaster-system', ...lobby };
  const list = await callMaster(master, '/api/configurations');
  assert.deepEqual([list.status, list.json], [200, [first, second]]);
  assert.deepEqual((await callMaster(master, '/api/configurations/arena')).json, first);
  assert.deepEqual((await callMaster(master, '/api/configurations/lobby?namespace=ringmaster-system')).json, second);
  for (const path of ['hub', 'nothing', 'lobby?namespace=games']) {
    const answer = await callMaster(master, `/api/configurations/${path}`);
    assert.deepEqual([answer.status, answer.json], [404, { error: 'Configuration not found' }], path);
  }
});

test('configurations: a name that several have is a 409 until the namespace is said', async () => {
  const configurations = threeConfigurations();
  configurations.put('other', configurationOf('lobby', { namespace: 'games' }));
  await using master = await startMaster({ configurations, dispatcher: createFakeDispatcher() });
  for (const method of ['GET', 'PUT', 'DELETE']) {
    const body = method === 'PUT' ? spec : undefined;
    const answer = await callMaster(master, '/api/configurations/lobby', { method, body });
    assert.equal(answer.status, 409);
    assert.match(answer.text, /\?namespace=, one of games, ringmaster-system/);
  }
  const { json } = await callMaster(master, '/api/configurations/lobby?namespace=games');
  assert.equal((json as { namespace: string }).namespace, 'games');
});

test('configurations: PUT gives the spec to the operator exactly, and the next read shows it', async () => {
  const configurations = threeConfigurations();
  const dispatcher = createFakeDispatcher((line) => {
    const [, , name = ''] = splitLine(line);
    setImmediate(() => {
      configurations.put(name, configurationOf(name.split('/').at(-1) ?? '', { generation: 2 }));
    });
    return { result: { generation: 2 } };
  });
  await using master = await startMaster({ configurations, dispatcher });
  const body = { name: 'lobby', namespace: 'ringmaster-system', ...spec };
  const replaced = await callMaster(master, '/api/configurations/lobby', { method: 'PUT', body });
  assert.deepEqual([replaced.status, replaced.text], [204, '']);
  const made = await callMaster(master, '/api/configurations/new', { method: 'PUT', body: spec });
  assert.equal(made.status, 204);
  assert.equal((await callMaster(master, '/api/configurations/new')).status, 200);
  await callMaster(master, '/api/configurations/arena', { method: 'PUT', body: spec });
  const words = dispatcher.requests.map(({ line }) => splitLine(line));
  const json = JSON.stringify(spec);
  assert.deepEqual(words, [
    ['config', 'apply', 'lobby', json],
    ['config', 'apply', 'new', json],
    ['config', 'apply', 'games/arena', json],
  ]);
  assert.ok(dispatcher.requests.every(({ line }) => !/[\r\n]/.test(line)));
});

test('configurations: a write that another manager may undo is warned of in a header', async () => {
  const notes = ['the spec is also set by flux, which may set it back'];
  const dispatcher = createFakeDispatcher(() => ({ result: { notes } }));
  const configurations = threeConfigurations();
  await using master = await startMaster({ configurations, dispatcher });
  const warning = `299 ringmaster "${notes[0] ?? ''}"`;
  const changed = await callMaster(master, '/api/configurations/lobby', { method: 'PUT', body: spec });
  assert.deepEqual([changed.status, changed.headers.get('warning')], [204, warning]);
  const removing = callMaster(master, '/api/configurations/lobby', { method: 'DELETE' });
  while (dispatcher.requests.length < 2) await new Promise((resolve) => setImmediate(resolve));
  configurations.remove('lobby');
  const removed = await removing;
  assert.deepEqual([removed.status, removed.headers.get('warning')], [204, warning]);
});

test('configurations: a write that this replica does not see in time is answered all the same', async () => {
  const timers = createFakeTimers();
  const dispatcher = createFakeDispatcher(() => ({ result: { generation: 2 } }));
  await using master = await startMaster({ timers, dispatcher, configurations: threeConfigurations() });
  const answer = callMaster(master, '/api/configurations/lobby', { method: 'PUT', body: spec });
  while (timers.pendingCount === 0) await new Promise((resolve) => setImmediate(resolve));
  timers.advance(2_000);
  assert.equal((await answer).status, 204);
});

test('configurations: DELETE is its command, and the next read finds nothing', async () => {
  const configurations = threeConfigurations();
  const dispatcher = createFakeDispatcher(() => {
    setImmediate(() => {
      configurations.remove('arena');
    });
    return {};
  });
  await using master = await startMaster({ configurations, dispatcher });
  const removed = await callMaster(master, '/api/configurations/arena', { method: 'DELETE' });
  assert.deepEqual([removed.status, removed.text], [204, '']);
  assert.equal((await callMaster(master, '/api/configurations/arena')).status, 404);
  assert.equal((await callMaster(master, '/api/configurations/arena', { method: 'DELETE' })).status, 404);
  assert.deepEqual(
    dispatcher.requests.map(({ line }) => line),
    ['config delete games/arena'],
  );
});

const faults: [title: string, path: string, body: unknown, status: number, error: RegExp][] = [
  ['a name that cannot be one', 'Lobby', spec, 400, /Malformed configuration name/],
  ['a name that looks like an option', '--all', spec, 400, /Malformed configuration name/],
  ['a name with a line break', 'a%0Ab', spec, 400, /Malformed configuration name/],
  ['another name', 'lobby', { ...spec, name: 'arena' }, 400, /"name".*that of the path/],
  ['another namespace', 'lobby', { ...spec, namespace: 'games' }, 400, /"namespace".*"ringmaster-system"/],
  ['a malformed namespace', 'lobby?namespace=A', spec, 400, /"namespace": it is a namespace/],
  ['an unknown parameter', 'lobby?force=1', spec, 400, /Unknown query parameter "force"/],
  ['no JSON', 'lobby', 'image: x', 400, /JSON object/],
  ['an array', 'lobby', [], 400, /JSON object/],
  ['a line that is too long', 'lobby', { a: 'x'.repeat(65_536) }, 413, /65536 bytes/],
  ['a body that is too large', 'lobby', { a: 'x'.repeat(300_000) }, 413, /at most 262144 bytes/],
];

test('configurations: faults say what is wrong, and nothing is done', async (context) => {
  const dispatcher = createFakeDispatcher();
  await using master = await startMaster({ dispatcher, configurations: threeConfigurations() });
  for (const [title, path, body, status, error] of faults) {
    await context.test(title, async () => {
      const answer = await callMaster(master, `/api/configurations/${path}`, { method: 'PUT', body });
      assert.equal(answer.status, status);
      assert.match((answer.json as { error: string }).error, error);
    });
  }
  for (const token of [publicToken, '']) {
    assert.equal((await callMaster(master, '/api/configurations', { token })).status, 401);
  }
  assert.deepEqual(dispatcher.requests, []);
});

test("configurations: the API server's sentence is the answer; a body that looks like our own refusals is a body", async () => {
  const sentence = 'InstanceConfiguration "lobby" is invalid: spec.template.spec.image: Required value';
  const end: FakeEnd = { exitCode: 1, output: [sentence], result: { code: 400 } };
  await using master = await startMaster({
    dispatcher: createFakeDispatcher(() => end),
    configurations: threeConfigurations(),
  });
  const body = { status: 200, error: 'mine' };
  const answer = await callMaster(master, '/api/configurations/lobby', { method: 'PUT', body });
  assert.deepEqual([answer.status, answer.json], [400, { error: sentence }]);
});

test('configurations: 503 before they are known', async () => {
  const configurations = threeConfigurations();
  await using master = await startMaster({ configurations });
  configurations.hasSynced = false;
  for (const path of ['/api/configurations', '/api/configurations/lobby']) {
    const answer = await callMaster(master, path);
    assert.deepEqual([answer.status, answer.json], [503, { error: 'The configurations are not known here yet' }]);
    assert.equal(answer.headers.get('retry-after'), '1');
  }
});

test('configurations: a Kubernetes user needs the verb on the configuration in its namespace', async () => {
  const reviews = createFakeReviews();
  reviews.tokens.set(jwtOf(1), 'alice');
  const rights = [
    'alice list    instanceconfigurations',
    'alice get  games arena instanceconfigurations',
    'alice update  games arena instanceconfigurations',
    'alice delete  games arena instanceconfigurations',
  ];
  const dispatcher = createFakeDispatcher(() => ({ exitCode: 1, result: { code: 409 } }));
  await using master = await startMaster({ reviews, dispatcher, configurations: threeConfigurations() });
  const ask = async (path: string, method = 'GET'): Promise<number> => {
    const body = method === 'PUT' ? spec : undefined;
    return (await callMaster(master, `/api/configurations${path}`, { method, body, token: jwtOf(1) })).status;
  };
  for (const right of rights) reviews.rights.add(right);
  assert.deepEqual(
    [await ask(''), await ask('/arena'), await ask('/arena', 'PUT'), await ask('/arena', 'DELETE')],
    [200, 200, 409, 409],
  );
  assert.deepEqual([await ask('/lobby'), await ask('/lobby', 'PUT'), await ask('/nothing')], [401, 401, 401]);
});
