import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openRaw, parseResponse, startMaster, testId, testUid, upgradeRequest } from '../testing/master.ts';
import type { RawResponse, TestMaster } from '../testing/master.ts';
import { createFakeReviews, jwtOf } from '../testing/reviews.ts';
import type { FakeReviews } from '../testing/reviews.ts';
import { createFakeTimers } from '../testing/timers.ts';
import type { Typist } from './typist.ts';

const bearer = (token: string): string => `Bearer ${token}`;
const lobby = `games lobby-${testId}`;

/** `ada` reads this instance's log, `eve` every log, `bob` nothing. */
function kubernetes(): FakeReviews {
  const reviews = createFakeReviews();
  ['ada', 'eve', 'bob'].forEach((name, index) => reviews.tokens.set(jwtOf(index), name));
  reviews.rights.add(`ada get live-log ${lobby}`).add('eve get live-log  ').add(`eve get live-log ${lobby}`);
  return reviews;
}
const [ada, eve, bob] = [jwtOf(0), jwtOf(1), jwtOf(2)];

async function refused(master: TestMaster, path: string, token: string): Promise<RawResponse> {
  using connection = await openRaw(master.port);
  connection.send(upgradeRequest(path, { Authorization: bearer(token) }));
  const text = await connection.ended();
  assert.ok(!text.includes(' 101 '), text);
  return parseResponse(text);
}

async function call(master: TestMaster, line: string, token: string, body = ''): Promise<RawResponse> {
  using connection = await openRaw(master.port);
  const headers = `Host: m\r\nConnection: close\r\nAuthorization: ${bearer(token)}\r\nContent-Length: ${body.length}`;
  connection.send(`${line} HTTP/1.1\r\n${headers}\r\n\r\n${body}`);
  return parseResponse(await connection.ended());
}

const livePath = (id: string): string => `/api/instances/${id}/live-log`;

test('access: a user with the right opens the live log; the socket is counted and given back', async () => {
  await using master = await startMaster({ reviews: kubernetes() });
  using connection = await openRaw(master.port);
  connection.send(upgradeRequest(livePath(testId), { Authorization: bearer(ada) }));
  await connection.contains(' 101 Switching Protocols');
  assert.equal(master.hub.openCount, 1);
  assert.match(await master.metrics.text(), /^ringmaster_master_sockets_open\{kind="live-log"\} 1$/m);
});

test('access: without the right an instance that exists and one that does not are the same 401', async () => {
  await using master = await startMaster({ reviews: kubernetes() });
  const [known, unknown] = [
    await refused(master, livePath(testId), bob),
    await refused(master, livePath('zzzzzz'), bob),
  ];
  for (const response of [known, unknown]) {
    assert.equal(response.status, 401);
    assert.equal(response.headers.get('www-authenticate'), 'Bearer');
  }
  const seen = [known, unknown].map(({ headers, ...rest }) => ({ ...rest, headers: new Map(headers).set('date', '') }));
  assert.deepEqual(seen[0], seen[1]);
  assert.equal((await refused(master, livePath('zzzzzz'), ada)).status, 401);
  assert.equal((await refused(master, livePath('zzzzzz'), eve)).status, 404);
  assert.equal(master.hub.openCount, 0);
});

test('access: the token comes first, then path, handshake, id and query, and then the right', async () => {
  await using master = await startMaster({ reviews: kubernetes() });
  assert.equal((await refused(master, '/api/nothing', jwtOf(9))).status, 401);
  assert.equal((await refused(master, '/api/nothing', bob)).status, 404);
  assert.equal((await refused(master, livePath('no'), bob)).status, 400);
  assert.equal((await refused(master, `${livePath(testId)}?tail=x`, bob)).status, 400);
});

test('access: where the API server does not answer it is 503 for Kubernetes tokens, and keys are not concerned', async () => {
  const reviews = kubernetes();
  reviews.fault = new Error('connect ECONNREFUSED');
  await using master = await startMaster({ reviews });
  const response = await refused(master, livePath(testId), ada);
  assert.deepEqual([response.status, response.headers.get('retry-after')], [503, '1']);
  assert.equal(response.body, '{"error":"The token cannot be checked now"}');
  using connection = await openRaw(master.port);
  connection.send(upgradeRequest(livePath(testId)));
  await connection.contains(' 101 Switching Protocols');
});

test('access: without Kubernetes tokens they are strangers, and an ApiKey is never asked about', async () => {
  await using without = await startMaster();
  assert.equal((await refused(without, livePath(testId), ada)).status, 401);
  const reviews = kubernetes();
  await using master = await startMaster({ reviews });
  for (const token of ['all-token', 'public-token', 'unknown']) await call(master, 'GET /api/instances', token);
  assert.deepEqual(reviews.asked, []);
});

test('access: a client that goes while it is asked about leaves nothing behind', async () => {
  const reviews = kubernetes();
  const { promise, resolve } = Promise.withResolvers<undefined>();
  reviews.gate = promise;
  await using master = await startMaster({ reviews });
  {
    using connection = await openRaw(master.port);
    connection.send(upgradeRequest(livePath(testId), { Authorization: bearer(ada) }));
    while (reviews.asked.length === 0) await new Promise((done) => setImmediate(done));
    connection.socket.resetAndDestroy();
  }
  resolve(undefined);
  while (reviews.asked.length < 2) await new Promise((done) => setImmediate(done));
  while (master.hub.openCount > 0) await new Promise((done) => setImmediate(done));
});

test('access: an open socket is closed with 1008 once the right is gone, and others of the same user stay', async () => {
  const [reviews, timers] = [kubernetes(), createFakeTimers()];
  await using master = await startMaster({ reviews, timers });
  using gone = await openRaw(master.port);
  gone.send(upgradeRequest(livePath(testId), { Authorization: bearer(ada) }));
  await gone.contains(' 101 ');
  master.instances.set('zzzzzz', { ...master.instances.get(testId)!, id: 'zzzzzz', name: 'other' });
  reviews.rights.add('ada get live-log games other');
  using stays = await openRaw(master.port);
  stays.send(upgradeRequest(livePath('zzzzzz'), { Authorization: bearer(ada) }));
  await stays.contains(' 101 ');
  reviews.rights.delete(`ada get live-log ${lobby}`);
  timers.advance(10_000);
  await gone.contains('\x03\xf0token revoked');
  assert.ok(!stays.received.includes('token revoked'));
});

test('access: every call asks for its own right on its own instance', async () => {
  const reviews = kubernetes();
  const typed: string[] = [];
  const typist: Typist = {
    type(uid, line) {
      typed.push(`${uid} ${line}`);
      return Promise.resolve();
    },
  };
  await using master = await startMaster({ reviews, typist });
  const calls: [line: string, right: string][] = [
    ['GET /api/instances', 'list   '],
    [`GET /api/instances/${testId}`, `get  ${lobby}`],
    [`GET /api/instances/${testId}/logs`, `get live-log ${lobby}`],
    [`POST /api/instances/${testId}/execute`, `create execute ${lobby}`],
  ];
  for (const [index, [line, right]] of calls.entries()) {
    const token = jwtOf(100 + index);
    reviews.tokens.set(token, `user${index}`);
    for (const [, others] of calls) if (others !== right) reviews.rights.add(`user${index} ${others}`);
    assert.equal((await call(master, line, token, '{"command":"x"}')).status, 401, line);
    const allowed = jwtOf(200 + index);
    reviews.tokens.set(allowed, `only${index}`);
    reviews.rights.add(`only${index} ${right}`);
    assert.equal((await call(master, line, allowed, '{"command":"x"}')).status, 200, line);
  }
  assert.deepEqual(typed, [`${testUid} x`]);
});
