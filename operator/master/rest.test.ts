import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OperatorError } from '../errors.ts';
import { createFakeTimers } from '../testing/timers.ts';
import {
  instanceInfo,
  openRaw,
  parseResponse,
  publicToken,
  startMaster,
  testId,
  testToken,
} from '../testing/master.ts';
import type { RawResponse, TestMaster } from '../testing/master.ts';
import type { LogTail } from './ports.ts';

const all = `Bearer ${testToken}`;
const tenLines: LogTail = {
  tail: (_uid, lines) =>
    Promise.resolve({ lines: Array.from({ length: Math.min(lines, 10) }, (_, i) => `line ${i}`), nextCursor: 'c' }),
};

async function call(
  master: TestMaster,
  path: string,
  { method = 'GET', authorization = all }: { method?: string; authorization?: string } = {},
): Promise<RawResponse> {
  using connection = await openRaw(master.port);
  const header = authorization === '' ? '' : `Authorization: ${authorization}\r\n`;
  connection.send(`${method} ${path} HTTP/1.1\r\nHost: master\r\nConnection: close\r\n${header}\r\n`);
  return parseResponse(await connection.ended());
}

test('rest: ping and metrics are open', async () => {
  await using master = await startMaster();
  for (const authorization of ['', all, `Bearer ${publicToken}`, 'garbage']) {
    const ping = await call(master, '/api/ping', { authorization });
    assert.equal(ping.body, '{"status":"ok","nodeId":"master-0","clusterName":"test","master":true}');
    const metrics = await call(master, '/api/metrics', { authorization });
    assert.equal(metrics.status, 200);
    assert.match(metrics.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
  }
});

test('rest: metrics are the process, Node and ours, and name no instance or key', async () => {
  await using master = await startMaster();
  await call(master, `/api/instances/${testId}`);
  const { body } = await call(master, '/api/metrics');
  for (const name of ['process_cpu_seconds_total', 'nodejs_eventloop_lag_seconds', 'ringmaster_master_sockets_open']) {
    assert.match(body, new RegExp(`^# TYPE ${name} `, 'm'));
  }
  assert.match(body, /^ringmaster_http_requests_total\{route="instance",status="200"\} 1$/m);
  assert.ok(!body.includes(testId) && !body.includes(testToken));
});

test('rest: instances are a bare array, one is a bare object', async () => {
  await using master = await startMaster();
  const list = await call(master, '/api/instances');
  assert.equal(list.status, 200);
  assert.deepEqual(JSON.parse(list.body), [instanceInfo(testId)]);
  assert.deepEqual(JSON.parse((await call(master, `/api/instances/${testId}`)).body), instanceInfo(testId));
  master.instances.clear();
  assert.equal((await call(master, '/api/instances')).body, '[]');
});

test('rest: logs are the last lines, 100 if nothing is said', async () => {
  const asked: number[] = [];
  const tails: LogTail = {
    tail: (uid, lines, signal) => {
      asked.push(lines);
      return tenLines.tail(uid, lines, signal);
    },
  };
  await using master = await startMaster({ tails });
  const answer = await call(master, `/api/instances/${testId}/logs?lines=2`);
  assert.deepEqual(JSON.parse(answer.body), {
    instanceId: testId,
    lines: ['line 0', 'line 1'],
    totalLines: 2,
    nextCursor: 'c',
  });
  await call(master, `/api/instances/${testId}/logs`);
  await call(master, `/api/instances/${testId}/logs?lines=1000`);
  assert.deepEqual(asked, [2, 100, 1000]);
});

test('rest: no lines yet is 200 with an empty array', async () => {
  await using master = await startMaster();
  const answer = await call(master, `/api/instances/${testId}/logs`);
  assert.equal(answer.status, 200);
  assert.deepEqual(JSON.parse(answer.body), { instanceId: testId, lines: [], totalLines: 0, nextCursor: 'start' });
});

const faults: [title: string, path: string, status: number, error: RegExp][] = [
  ['a malformed id', '/api/instances/A1', 400, /instance id/],
  ['an id that cannot be decoded', '/api/instances/%zz', 400, /Malformed/],
  ['an unknown instance', '/api/instances/zzzzzz', 404, /^Instance not found$/],
  ['logs of a malformed id', '/api/instances/A1/logs', 400, /instance id/],
  ['logs of an unknown instance', '/api/instances/zzzzzz/logs', 404, /^Instance not found$/],
  ['no lines', `/api/instances/${testId}/logs?lines=0`, 400, /"lines".*1 to 1000/],
  ['too many lines', `/api/instances/${testId}/logs?lines=1001`, 400, /"lines"/],
  ['lines that are no number', `/api/instances/${testId}/logs?lines=x`, 400, /"lines"/],
  ['an unknown parameter', `/api/instances/${testId}/logs?tail=1`, 400, /"tail": known are lines/],
  ['an unknown path', '/api/nothing', 404, /^Not found$/],
  ['the root of the API', '/api', 404, /^Not found$/],
  ['a slash too much', '/api/instances/', 404, /^Not found$/],
  ['another case', '/API/instances', 404, /^Not found$/],
  ['the path that express-ws uses inside', `/api/instances/${testId}/live-log/.websocket`, 404, /^Not found$/],
  ['a WebSocket without an upgrade', `/api/instances/${testId}/live-log`, 426, /WebSocket/],
  ['a path outside', '/nothing', 404, /^Not found$/],
];

test('rest: faults are JSON and say what is wrong', async (context) => {
  await using master = await startMaster();
  for (const [title, path, status, error] of faults) {
    await context.test(title, async () => {
      const answer = await call(master, path);
      assert.equal(answer.status, status);
      assert.match((JSON.parse(answer.body) as { error: string }).error, error);
      assert.match(answer.headers.get('content-type') ?? '', /^application\/json/);
    });
  }
});

test('rest: below /api everything but the open calls is the same 401 without an ALL token', async (context) => {
  await using master = await startMaster();
  const paths = [
    '/api/instances',
    `/api/instances/${testId}`,
    '/api/instances/zzzzzz',
    '/api/instances/%zz',
    `/api/instances/${testId}/logs?lines=x`,
    `/api/instances/${testId}/live-log`,
    '/api/nothing',
    '/api',
  ];
  for (const path of paths) {
    await context.test(path, async () => {
      for (const authorization of ['', `Bearer ${publicToken}`, 'Bearer unknown', 'garbage']) {
        for (const method of ['GET', 'POST', 'OPTIONS']) {
          const answer = await call(master, path, { method, authorization });
          assert.equal(answer.statusLine, 'HTTP/1.1 401 Unauthorized');
          assert.equal(answer.body, '{"error":"Unauthorized"}');
          assert.equal(answer.headers.get('www-authenticate'), 'Bearer');
        }
      }
    });
  }
});

test('rest: a wrong method is 405 and names the right ones; HEAD is GET without a body', async () => {
  await using master = await startMaster();
  const allowed: [path: string, methods: string][] = [
    ['/api/ping', 'GET, HEAD'],
    ['/api/openapi.json', 'GET, HEAD'],
    ['/api/instances', 'GET, HEAD, POST'],
    [`/api/instances/${testId}`, 'GET, HEAD, DELETE'],
    [`/api/instances/${testId}/logs`, 'GET, HEAD'],
    ['/healthz', 'GET, HEAD'],
  ];
  for (const [path, allow] of allowed) {
    const methods = ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE'].filter((method) => !allow.includes(method));
    for (const method of methods) {
      const answer = await call(master, path, { method });
      assert.equal(answer.status, 405, `${method} ${path}`);
      assert.equal(answer.headers.get('allow'), allow);
    }
    const head = await call(master, path, { method: 'HEAD' });
    assert.equal(head.status, 200);
    assert.equal(head.body, '');
    assert.ok(Number(head.headers.get('content-length')) > 0);
  }
});

test('rest: every answer says that it is not to be stored or guessed at', async () => {
  await using master = await startMaster();
  for (const path of ['/api/ping', '/api/instances', '/nothing', '/healthz']) {
    const { headers } = await call(master, path);
    assert.equal(headers.get('cache-control'), 'no-store');
    assert.equal(headers.get('x-content-type-options'), 'nosniff');
    assert.equal(headers.has('x-powered-by'), false);
    assert.equal(headers.has('etag'), false);
  }
});

test('rest: a PUBLIC key has 100 calls in 60 s, then 429 with the time to wait; nobody else is held up', async () => {
  const timers = createFakeTimers();
  await using master = await startMaster({ timers });
  const authorization = `Bearer ${publicToken}`;
  for (let count = 0; count < 100; count++) {
    assert.equal((await call(master, '/api/ping', { authorization })).status, 200);
  }
  timers.advance(15_000);
  const answer = await call(master, '/api/instances', { authorization });
  assert.equal(answer.status, 429);
  assert.deepEqual(JSON.parse(answer.body), {
    error: 'Rate limit exceeded. Retry after 45000ms.',
    retryAfterMs: 45_000,
  });
  assert.equal(answer.headers.get('retry-after'), '45');
  assert.equal((await call(master, '/api/ping', { authorization: '' })).status, 200);
  assert.equal((await call(master, '/api/ping')).status, 200);
  timers.advance(45_000);
  assert.equal((await call(master, '/api/ping', { authorization })).status, 200);
});

test('rest: a log that cannot be read is its status; a bug is a 500 without internals', async () => {
  let fault: unknown = new OperatorError('LOG_SOURCE_UNAVAILABLE', 'Cannot read the log: the node does not answer');
  // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what a bug rejects with may be anything
  await using master = await startMaster({ tails: { tail: () => Promise.reject(fault) } });
  const expected = await call(master, `/api/instances/${testId}/logs`);
  assert.equal(expected.status, 503);
  assert.equal(expected.body, '{"error":"Cannot read the log: the node does not answer"}');
  assert.equal(expected.headers.get('retry-after'), '1');
  fault = new Error('secret detail');
  const bug = await call(master, `/api/instances/${testId}/logs`);
  assert.equal(bug.status, 500);
  assert.equal(bug.body, '{"error":"Internal error"}');
});

test('rest: a log that does not answer in time is a 503, and the read is given up', async () => {
  const timers = createFakeTimers();
  const asked = Promise.withResolvers<AbortSignal>();
  const tails: LogTail = {
    tail: (_uid, _lines, signal) => {
      asked.resolve(signal);
      return new Promise<never>(() => undefined);
    },
  };
  await using master = await startMaster({ timers, tails });
  const answer = call(master, `/api/instances/${testId}/logs`);
  const signal = await asked.promise;
  assert.equal(signal.aborted, false);
  timers.advance(10_000);
  assert.equal((await answer).status, 503);
  assert.equal(signal.aborted, true);
});

test('rest: the read of a client that has gone is given up', async () => {
  const asked = Promise.withResolvers<AbortSignal>();
  const tails: LogTail = {
    tail: (_uid, _lines, signal) => {
      asked.resolve(signal);
      return new Promise<never>(() => undefined);
    },
  };
  await using master = await startMaster({ tails });
  using connection = await openRaw(master.port);
  connection.send(`GET /api/instances/${testId}/logs HTTP/1.1\r\nHost: master\r\nAuthorization: ${all}\r\n\r\n`);
  const signal = await asked.promise;
  const aborted = new Promise((resolve) => {
    signal.addEventListener('abort', resolve);
  });
  connection.socket.destroy();
  await aborted;
});

test('rest: ready and healthy are told without a token, each for itself, with what is wrong', async () => {
  await using master = await startMaster();
  const probe = async (path: string): Promise<{ status: number; body: unknown }> => {
    const { status, body } = await call(master, path, { authorization: '' });
    return { status, body: JSON.parse(body) as unknown };
  };
  const ok = { status: 200, body: { status: 'ok' } };
  assert.deepEqual([await probe('/healthz'), await probe('/readyz')], [ok, ok]);
  master.readinessFault = 'no news';
  assert.deepEqual(
    [await probe('/healthz'), await probe('/readyz')],
    [ok, { status: 503, body: { error: 'no news' } }],
  );
  master.readinessFault = undefined;
  master.livenessFault = 'stuck';
  assert.deepEqual([await probe('/healthz'), await probe('/readyz')], [{ status: 503, body: { error: 'stuck' } }, ok]);
});
