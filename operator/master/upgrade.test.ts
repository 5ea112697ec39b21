import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import {
  openRaw,
  parseResponse,
  publicToken,
  startMaster,
  testId,
  testToken,
  testUid,
  upgradeRequest,
} from '../testing/master.ts';
import type { RawResponse, TestMaster, TestMasterOptions } from '../testing/master.ts';
import { tokenProtocolPrefix } from './auth.ts';

const livePath = `/api/instances/${testId}/live-log`;
const withoutToken = { Authorization: undefined };
const carrier = (token: string): string => tokenProtocolPrefix + Buffer.from(token).toString('base64url');
const acceptOf = (key: string): string =>
  createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');

/** Sends bytes, waits for the end, checks what holds for every refusal and gives it back. */
async function refused(master: TestMaster, bytes: string | Buffer): Promise<RawResponse> {
  using connection = await openRaw(master.port);
  connection.send(bytes);
  const text = await connection.ended();
  assert.ok(!/ 101 |switching/i.test(text), 'no 101 was ever sent');
  assert.equal(text.split('HTTP/1.1').length, 2, 'one response');
  const response = parseResponse(text);
  assert.equal(Number(response.headers.get('content-length')), Buffer.byteLength(response.body, 'latin1'));
  assert.equal(response.headers.get('connection'), 'close');
  assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
  assert.equal(typeof (JSON.parse(response.body) as { error: unknown }).error, 'string');
  return response;
}

function assertUnauthorized(response: RawResponse): void {
  assert.equal(response.statusLine, 'HTTP/1.1 401 Unauthorized');
  assert.equal(response.body, '{"error":"Unauthorized"}');
  assert.equal(response.headers.get('www-authenticate'), 'Bearer');
}

const strangers: Record<string, string> = {
  'no token': upgradeRequest(livePath, withoutToken),
  'an unknown token': upgradeRequest(livePath, { Authorization: 'Bearer unknown' }),
  'a PUBLIC token': upgradeRequest(livePath, { Authorization: `Bearer ${publicToken}` }),
  'another scheme': upgradeRequest(livePath, { Authorization: `Basic ${testToken}` }),
  'an empty Authorization': upgradeRequest(livePath, { Authorization: '' }),
  'a right token twice': upgradeRequest(livePath, { authorization: `Bearer ${testToken}` }),
  'a right token beside a wrong one': upgradeRequest(livePath, { authorization: 'Bearer unknown' }),
  'a token that is too long': upgradeRequest(livePath, { Authorization: `Bearer ${'a'.repeat(8193)}` }),
  'a token in the query': upgradeRequest(`${livePath}?token=${testToken}`, withoutToken),
  'access_token in the query': upgradeRequest(`${livePath}?access_token=${testToken}`, withoutToken),
  'an unknown path': upgradeRequest('/nothing', withoutToken),
  'an unknown instance': upgradeRequest('/api/instances/zzzzzz/live-log', withoutToken),
  'a malformed id': upgradeRequest('/api/instances/%zz/live-log', withoutToken),
  'a malformed query': upgradeRequest(`${livePath}?tail=x`, withoutToken),
  'the open call': upgradeRequest('/api/ping', withoutToken),
  'another method': upgradeRequest(livePath, withoutToken, 'POST'),
  'a malformed key': upgradeRequest(livePath, { ...withoutToken, 'Sec-WebSocket-Key': 'short' }),
  'no key': upgradeRequest(livePath, { ...withoutToken, 'Sec-WebSocket-Key': undefined }),
  'a wrong version': upgradeRequest(livePath, { ...withoutToken, 'Sec-WebSocket-Version': '7' }),
  'malformed subprotocols': upgradeRequest(livePath, { ...withoutToken, 'Sec-WebSocket-Protocol': 'a,,b' }),
  'an Expect header': upgradeRequest(livePath, { ...withoutToken, Expect: '100-continue' }),
  'a token alone among the subprotocols': upgradeRequest(livePath, {
    ...withoutToken,
    'Sec-WebSocket-Protocol': carrier(testToken),
  }),
  'a wrong token among the subprotocols': upgradeRequest(livePath, {
    ...withoutToken,
    'Sec-WebSocket-Protocol': `${carrier('unknown')}, a`,
  }),
  'two tokens among the subprotocols': upgradeRequest(livePath, {
    ...withoutToken,
    'Sec-WebSocket-Protocol': `${carrier(testToken)}, ${carrier('b')}, a`,
  }),
};

test('upgrade: whatever is asked without a right token, the answer is the same 401 and never 101', async (context) => {
  await using master = await startMaster();
  for (const [title, bytes] of Object.entries(strangers)) {
    await context.test(title, async () => {
      assertUnauthorized(await refused(master, bytes));
    });
  }
  assert.equal(master.hub.openCount, 0);
});

test('upgrade: an expired, removed or downgraded key is a stranger', async () => {
  await using master = await startMaster();
  const { keys } = master;
  const request = upgradeRequest(livePath);
  const spec = { uid: 'u', tokenSHA256: keys.find(createHash('sha256').update(testToken).digest('hex'))!.tokenSHA256 };
  keys.set('all', { ...spec, permission: 'ALL', expiresAt: new Date(Date.now() - 1_000).toISOString() });
  assertUnauthorized(await refused(master, request));
  keys.set('all', { ...spec, permission: 'PUBLIC' });
  assertUnauthorized(await refused(master, request));
  keys.remove('all');
  assertUnauthorized(await refused(master, request));
});

const faults: [title: string, bytes: string, status: number, error: RegExp][] = [
  ['an unknown path', upgradeRequest('/api/nothing'), 404, /Not found/],
  ['a path outside', upgradeRequest('/'), 404, /Not found/],
  ['a call that is no WebSocket', upgradeRequest('/api/ping'), 404, /Not found/],
  ['a slash too much', upgradeRequest(`${livePath}/`), 404, /Not found/],
  ['the path that express-ws uses inside', upgradeRequest(`${livePath}/.websocket`), 404, /Not found/],
  ['a doubled slash', upgradeRequest(`/api//instances/${testId}/live-log`), 404, /Not found/],
  ['an encoded slash', upgradeRequest(`/api/instances%2f${testId}/live-log`), 404, /Not found/],
  ['another case', upgradeRequest(`/API/instances/${testId}/live-log`), 404, /Not found/],
  ['the absolute form', upgradeRequest(`http://master${livePath}`), 404, /Not found/],
  ['an unknown path and a malformed key', upgradeRequest('/x', { 'Sec-WebSocket-Key': 'short' }), 404, /Not found/],
  ['an unknown instance', upgradeRequest('/api/instances/zzzzzz/live-log'), 404, /^Instance not found$/],
  ['an id that is too short', upgradeRequest('/api/instances/a1b2c/live-log'), 400, /instance id/],
  ['an id in upper case', upgradeRequest('/api/instances/A1B2C3/live-log'), 400, /instance id/],
  ['an id that cannot be decoded', upgradeRequest('/api/instances/%zz/live-log'), 400, /instance id/],
  ['a tail that is no number', upgradeRequest(`${livePath}?tail=x`), 400, /"tail".*0 to 10000/],
  ['a negative tail', upgradeRequest(`${livePath}?tail=-1`), 400, /"tail"/],
  ['a fractional tail', upgradeRequest(`${livePath}?tail=1.5`), 400, /"tail"/],
  ['an empty tail', upgradeRequest(`${livePath}?tail=`), 400, /"tail"/],
  ['a tail that is too large', upgradeRequest(`${livePath}?tail=10001`), 400, /"tail"/],
  ['a tail twice', upgradeRequest(`${livePath}?tail=1&tail=2`), 400, /Repeated.*"tail"/],
  ['an unknown ansi', upgradeRequest(`${livePath}?ansi=keep`), 400, /"ansi".*strip/],
  ['an unknown parameter', upgradeRequest(`${livePath}?token=x`), 400, /"token": known are tail, cursor, ansi/],
  ['an empty cursor', upgradeRequest(`${livePath}?cursor=`), 400, /"cursor"/],
  ['a cursor and a tail', upgradeRequest(`${livePath}?cursor=a&tail=1`), 400, /Conflicting/],
  ['a cursor of another instance', upgradeRequest(`${livePath}?cursor=uid-other:1`), 400, /Cannot resume/],
  ['another method', upgradeRequest(livePath, {}, 'POST'), 405, /Method not allowed/],
  ['no key', upgradeRequest(livePath, { 'Sec-WebSocket-Key': undefined }), 400, /Sec-WebSocket-Key/],
  ['a malformed key', upgradeRequest(livePath, { 'Sec-WebSocket-Key': 'short' }), 400, /Sec-WebSocket-Key/],
  ['two keys', upgradeRequest(livePath, { 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' }), 400, /Key/],
  ['a wrong version', upgradeRequest(livePath, { 'Sec-WebSocket-Version': '7' }), 426, /Sec-WebSocket-Version/],
  ['an old version', upgradeRequest(livePath, { 'Sec-WebSocket-Version': '8' }), 426, /Sec-WebSocket-Version/],
  ['no version', upgradeRequest(livePath, { 'Sec-WebSocket-Version': undefined }), 426, /Sec-WebSocket-Version/],
  ['malformed subprotocols', upgradeRequest(livePath, { 'Sec-WebSocket-Protocol': 'a,,b' }), 400, /Protocol/],
  ['doubled subprotocols', upgradeRequest(livePath, { 'Sec-WebSocket-Protocol': 'a, a' }), 400, /Protocol/],
  ['an Expect header', upgradeRequest(livePath, { Expect: '100-continue' }), 417, /Expect/],
  ['no Host', upgradeRequest(livePath, { Host: undefined }), 400, /Host/],
  ['a body', upgradeRequest(livePath, { 'Content-Length': '5' }), 400, /body/],
  ['a chunked body', upgradeRequest(livePath, { 'Transfer-Encoding': 'chunked' }), 400, /body/],
];

test('upgrade: with a right token each fault has its status and says what is wrong, and never 101', async (context) => {
  await using master = await startMaster();
  for (const [title, bytes, status, error] of faults) {
    await context.test(title, async () => {
      const response = await refused(master, bytes);
      assert.equal(response.status, status);
      assert.match((JSON.parse(response.body) as { error: string }).error, error);
      if (status === 405) assert.equal(response.headers.get('allow'), 'GET');
      if (status === 426) assert.equal(response.headers.get('sec-websocket-version'), '13');
    });
  }
  assert.equal(master.hub.openCount, 0);
});

const noUpgrades: [title: string, bytes: string, status: number][] = [
  ['no Upgrade header', upgradeRequest(livePath, { Upgrade: undefined }), 426],
  ['no Connection: Upgrade', upgradeRequest(livePath, { Connection: 'close' }), 426],
  ['another protocol', upgradeRequest(livePath, { Upgrade: 'h2c', Connection: 'Upgrade, close' }), 426],
  ['HTTP/1.0', upgradeRequest(livePath).replace('HTTP/1.1', 'HTTP/1.0'), 426],
  [
    'another protocol without a token',
    upgradeRequest(livePath, { ...withoutToken, Upgrade: 'h2c', Connection: 'Upgrade, close' }),
    401,
  ],
];

test('upgrade: what does not ask for a WebSocket is answered as a plain request', async (context) => {
  await using master = await startMaster();
  for (const [title, bytes, status] of noUpgrades) {
    await context.test(title, async () => {
      using connection = await openRaw(master.port);
      connection.send(bytes);
      await connection.contains('"error"');
      const response = parseResponse(connection.received);
      assert.equal(response.status, status);
      assert.ok(!connection.received.includes(' 101 '));
    });
  }
});

test('upgrade: CONNECT ends the connection without an answer', async () => {
  await using master = await startMaster();
  using connection = await openRaw(master.port);
  connection.send(`CONNECT master:443 HTTP/1.1\r\nHost: master\r\nAuthorization: Bearer ${testToken}\r\n\r\n`);
  assert.equal(await connection.ended(), '');
});

test('upgrade: garbage and early frames behind a refused request change nothing', async () => {
  await using master = await startMaster();
  const garbage = Buffer.alloc(32 * 1024, 0x81);
  assertUnauthorized(
    await refused(master, Buffer.concat([Buffer.from(upgradeRequest(livePath, withoutToken)), garbage])),
  );
  assertUnauthorized(await refused(master, upgradeRequest(livePath, withoutToken) + upgradeRequest(livePath)));
});

test('upgrade: garbage instead of HTTP is a 400', async () => {
  await using master = await startMaster();
  assert.equal((await refused(master, '\x16\x03\x01\x02\x00\x01\x00\r\n\r\n')).status, 400);
  assert.equal((await refused(master, 'GET / HTTP/1.1\r\nbad header\r\n\r\n')).status, 400);
});

test('upgrade: headers above 16 KiB are a 431', async () => {
  await using master = await startMaster();
  const response = await refused(master, upgradeRequest(livePath, { 'X-Large': 'x'.repeat(17 * 1024) }));
  assert.equal(response.statusLine, 'HTTP/1.1 431 Request Header Fields Too Large');
});

test('upgrade: headers that do not come to an end in time are a 408', async () => {
  await using master = await startMaster({ limits: { headersTimeoutMs: 500, requestTimeoutMs: 500 } });
  const response = await refused(master, `GET ${livePath} HTTP/1.1\r\nHost: master\r\n`);
  assert.equal(response.status, 408);
});

test('upgrade: headers that trickle in are a 408 all the same', async () => {
  await using master = await startMaster({ limits: { headersTimeoutMs: 500, requestTimeoutMs: 500 } });
  using connection = await openRaw(master.port);
  connection.send(`GET ${livePath} HTTP/1.1\r\nHost: master\r\n`);
  const trickle = setInterval(() => {
    connection.send('X-More: x\r\n');
  }, 50);
  const text = await connection.ended();
  clearInterval(trickle);
  assert.equal(parseResponse(text).status, 408);
});

test('upgrade: a connection that never sends a byte is ended in time', async () => {
  await using master = await startMaster({ limits: { headersTimeoutMs: 500, requestTimeoutMs: 500 } });
  using connection = await openRaw(master.port);
  assert.ok(!(await connection.ended()).includes(' 101 '));
});

test('upgrade: connections above the bound are closed', async () => {
  await using master = await startMaster({ limits: { connectionsMax: 1 } });
  using first = await openRaw(master.port);
  using second = await openRaw(master.port);
  assert.equal(await second.ended(), '');
  first.send(upgradeRequest(livePath, withoutToken));
  assertUnauthorized(parseResponse(await first.ended()));
});

test('upgrade: a client that goes away while it is refused harms nobody', async () => {
  await using master = await startMaster();
  for (let round = 0; round < 20; round++) {
    using connection = await openRaw(master.port);
    connection.send(upgradeRequest(livePath, withoutToken));
    connection.socket.resetAndDestroy();
    await connection.ended();
  }
  assertUnauthorized(await refused(master, upgradeRequest(livePath, withoutToken)));
});

test('upgrade: ten thousand wrong tokens leave nothing behind', async () => {
  await using master = await startMaster();
  const ask = async (token: string): Promise<void> => {
    using connection = await openRaw(master.port);
    connection.send(upgradeRequest(livePath, { Authorization: `Bearer ${token}` }));
    const text = await connection.ended();
    assert.ok(text.startsWith('HTTP/1.1 401 '));
  };
  for (let round = 0; round < 500; round++) {
    await Promise.all(Array.from({ length: 20 }, (_, index) => ask(`wrong-${round}-${index}`)));
  }
  assert.equal(await openConnections(master), 0);
  assert.equal(master.hub.openCount, 0);
  const series = (await master.metrics.text()).split('\n').filter((line) => line.includes('_upgrades_refused_'));
  assert.deepEqual(
    series.filter((line) => !line.startsWith('#')),
    ['ringmaster_master_upgrades_refused_total{status="401"} 10000'],
    'one time series, not one for each token',
  );
});

/** Connections that the server still has, after those that are going have gone. */
async function openConnections(master: TestMaster): Promise<number> {
  const text = await master.metrics.text();
  return Number(/^ringmaster_master_sockets_open\{.*\} (\d+)$/m.exec(text)?.[1] ?? 0);
}

async function accepted(master: TestMaster, request: string): Promise<RawResponse> {
  using connection = await openRaw(master.port);
  connection.send(request);
  await connection.contains('\r\n\r\n');
  return parseResponse(connection.received);
}

test('upgrade: a right one is a 101 with the right answer to its key', async () => {
  await using master = await startMaster();
  const response = await accepted(master, upgradeRequest(livePath));
  assert.equal(response.statusLine, 'HTTP/1.1 101 Switching Protocols');
  assert.equal(response.headers.get('sec-websocket-accept'), acceptOf('dGhlIHNhbXBsZSBub25jZQ=='));
  assert.equal(response.headers.has('sec-websocket-protocol'), false);
  assert.equal(response.headers.has('sec-websocket-extensions'), false);
});

test('upgrade: every query that is right is accepted', async () => {
  await using master = await startMaster();
  master.hub.write(testUid, 'one', 'two');
  for (const query of ['?tail=0', '?tail=10000', '?ansi=strip', `?cursor=${testUid}:0`, '?tail=1&ansi=strip', '?']) {
    assert.equal((await accepted(master, upgradeRequest(livePath + query))).status, 101, query);
  }
});

const offers: [title: string, offered: string, chosen: string | undefined][] = [
  ['the JSON protocol', 'ringmaster.live-log.v1+json', 'ringmaster.live-log.v1+json'],
  ['the plain protocol', 'ringmaster.live-log.v1', 'ringmaster.live-log.v1'],
  ['the first known one', 'x, ringmaster.live-log.v1, ringmaster.live-log.v1+json', 'ringmaster.live-log.v1'],
  ['none of unknown ones', 'x, y', undefined],
  ['none of the inherited names', 'constructor, toString', undefined],
];

for (const [title, offered, chosen] of offers) {
  test(`upgrade: of the offered subprotocols ${title} is answered`, async () => {
    await using master = await startMaster();
    const plain = await accepted(master, upgradeRequest(livePath, { 'Sec-WebSocket-Protocol': offered }));
    assert.equal(plain.status, 101);
    assert.equal(plain.headers.get('sec-websocket-protocol'), chosen);
    const header = `${carrier(testToken)}, ${offered}`;
    const bearing = upgradeRequest(livePath, { ...withoutToken, 'Sec-WebSocket-Protocol': header });
    const response = await accepted(master, bearing);
    assert.equal(response.status, 101);
    assert.equal(response.headers.get('sec-websocket-protocol'), chosen);
  });
}

test('upgrade: a client that has gone before 101 gives its slot and subscription back', async () => {
  await using master = await startMaster();
  for (let round = 0; round < 20; round++) {
    using connection = await openRaw(master.port);
    connection.send(upgradeRequest(livePath));
    connection.socket.end();
    await connection.ended();
  }
  await settled(master);
});

/** Waits until the server has noticed that its clients have gone. */
async function settled(master: TestMaster): Promise<void> {
  while (master.hub.openCount > 0 || (await openConnections(master)) > 0) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function fullMaster(limits: TestMasterOptions['limits']): Promise<TestMaster> {
  return startMaster({ limits: { ...limits } });
}

for (const limit of ['socketsMax', 'socketsPerKeyMax', 'socketsPerInstanceMax'] as const) {
  test(`upgrade: above ${limit} it is a 503 with Retry-After, and there is room again when a socket has gone`, async () => {
    await using master = await fullMaster({ [limit]: 1 });
    using first = await openRaw(master.port);
    first.send(upgradeRequest(livePath));
    await first.contains(' 101 ');
    const response = await refused(master, upgradeRequest(livePath));
    assert.equal(response.status, 503);
    assert.match(response.body, /Too many sockets/);
    assert.ok(Number(response.headers.get('retry-after')) > 0);
    first.socket.destroy();
    await settled(master);
    assert.equal((await accepted(master, upgradeRequest(livePath))).status, 101);
  });
}

test('upgrade: behind a request that is still being answered it ends the connection', async () => {
  const { promise: reached, resolve: reach } = Promise.withResolvers<undefined>();
  const tails = {
    tail: () => {
      reach(undefined);
      return new Promise<never>(() => undefined);
    },
  };
  await using master = await startMaster({ tails });
  using connection = await openRaw(master.port);
  connection.send(
    `GET /api/instances/${testId}/logs HTTP/1.1\r\nHost: master\r\nAuthorization: Bearer ${testToken}\r\n\r\n`,
  );
  await reached;
  connection.send(upgradeRequest(livePath));
  assert.equal(await connection.ended(), '');
});

test('upgrade: frames sent together with the request are read', async () => {
  await using master = await startMaster();
  using connection = await openRaw(master.port);
  // A masked close frame with code 1000 and an all-zero mask.
  const closeFrame = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
  connection.send(Buffer.concat([Buffer.from(upgradeRequest(livePath)), closeFrame]));
  const text = await connection.ended();
  assert.ok(text.startsWith('HTTP/1.1 101 '));
  assert.ok(text.endsWith('\x88\x02\x03\xe8'));
});
