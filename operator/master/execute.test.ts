import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OperatorError } from '../errors.ts';
import { openRaw, parseResponse, publicToken, startMaster, testId, testToken, testUid } from '../testing/master.ts';
import type { RawResponse, TestMaster } from '../testing/master.ts';
import type { Typist } from './typist.ts';

const path = `/api/instances/${testId}/execute`;

interface Call {
  readonly path?: string;
  readonly token?: string;
  readonly method?: string;
}

function requestOf(body: string | Buffer, call: Call = {}, connection = 'close'): Buffer {
  const bytes = Buffer.from(body);
  const head = [
    `${call.method ?? 'POST'} ${call.path ?? path} HTTP/1.1`,
    'Host: master',
    `Connection: ${connection}`,
    `Authorization: Bearer ${call.token ?? testToken}`,
    'Content-Type: application/json',
    `Content-Length: ${bytes.length}`,
  ];
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), bytes]);
}

async function post(master: TestMaster, body: string | Buffer, call: Call = {}): Promise<RawResponse> {
  using connection = await openRaw(master.port);
  connection.send(requestOf(body, call));
  const { body: answer, ...rest } = parseResponse(await connection.ended());
  return { ...rest, body: Buffer.from(answer, 'latin1').toString('utf8') };
}

function recorder(): { typist: Typist; typed: string[] } {
  const typed: string[] = [];
  return {
    typed,
    typist: {
      type: (uid, line) => {
        typed.push(`${uid} ${line}`);
        return Promise.resolve();
      },
    },
  };
}

test('execute: a command is typed as it is and answered', async () => {
  const { typist, typed } = recorder();
  await using master = await startMaster({ typist });
  const command = 'say "$HOME" ^C C-c; \\ -x ünï 🚀\ttab ';
  const answer = await post(master, JSON.stringify({ command }));
  assert.equal(answer.status, 200);
  assert.deepEqual(JSON.parse(answer.body), { message: 'Command dispatched', instanceId: testId, command });
  assert.deepEqual(typed, [`${testUid} ${command}`]);
  const longest = '🚀'.repeat(1024);
  const escaped = '\\ud83d\\ude80'.repeat(1024);
  assert.equal((await post(master, `{"command":"${escaped}"}`)).status, 200);
  assert.equal(typed.at(-1), `${testUid} ${longest}`);
  assert.match(await master.metrics.text(), /commands_typed_total\{runtime="kubernetes",result="ok"\} 2/);
});

const malformed: [title: string, body: string | Buffer, error: RegExp][] = [
  ['no body', '', /JSON object/],
  ['no JSON', 'command=x', /JSON object/],
  ['an array', '["x"]', /JSON object/],
  ['null', 'null', /JSON object/],
  [
    'bytes that are not UTF-8',
    Buffer.from([...Buffer.from('{"command":"'), 0xff, ...Buffer.from('"}')]),
    /JSON object/,
  ],
  ['no command', '{}', /"command".*string/],
  ['a number', '{"command":1}', /"command".*string/],
  ['another field', '{"command":"x","lines":1}', /Unknown field "lines"/],
  ['an empty command', '{"command":""}', /empty/],
  ['a line break', '{"command":"a\\nb"}', /line break/],
  ['a carriage return', '{"command":"a\\r"}', /line break/],
  ['an escape character', '{"command":"\\u001b[31m"}', /control character U\+001B/],
  ['DEL', '{"command":"\\u007f"}', /U\+007F/],
  ['a C1 control', '{"command":"\\u009b"}', /U\+009B/],
  ['NUL', '{"command":"\\u0000"}', /U\+0000/],
  ['half a surrogate pair', '{"command":"\\ud83d"}', /not valid Unicode/],
  ['a byte too many', JSON.stringify({ command: 'ä'.repeat(2048) + 'x' }), /4097 bytes, more than 4096/],
];

test('execute: what is wrong with a body is said, and nothing is typed', async (context) => {
  const { typist, typed } = recorder();
  await using master = await startMaster({ typist });
  for (const [title, body, error] of malformed) {
    await context.test(title, async () => {
      const answer = await post(master, body);
      assert.equal(answer.status, 400);
      assert.match((JSON.parse(answer.body) as { error: string }).error, error);
    });
  }
  assert.equal((await post(master, `{"command":"${'x'.repeat(100_000)}"}`)).status, 413);
  assert.deepEqual(typed, []);
});

test('execute: unknown instances, methods and callers are refused', async () => {
  const { typist, typed } = recorder();
  await using master = await startMaster({ typist });
  const body = '{"command":"x"}';
  assert.equal((await post(master, body, { path: '/api/instances/zzzzzz/execute' })).status, 404);
  assert.equal((await post(master, body, { path: '/api/instances/A1/execute' })).status, 400);
  assert.equal((await post(master, body, { token: publicToken })).status, 401);
  assert.equal((await post(master, body, { token: 'nobody' })).status, 401);
  const wrong = await post(master, body, { method: 'PUT' });
  assert.equal(wrong.status, 405);
  assert.equal(wrong.headers.get('allow'), 'POST');
  assert.deepEqual(typed, []);
});

test('execute: a fault of the way to the program is its status', async (context) => {
  let fault: Error = new Error('a bug');
  await using master = await startMaster({ typist: { type: () => Promise.reject(fault) } });
  const cases = [
    ['NOT_RUNNING', 409],
    ['STDIN_UNCERTAIN', 502],
    ['STDIN_OVERLOADED', 503],
    ['STDIN_UNAVAILABLE', 503],
    ['STDIN_FULL', 504],
  ] as const;
  for (const [code, status] of cases) {
    await context.test(code, async () => {
      fault = new OperatorError(code, `Cannot type: ${code}`);
      const answer = await post(master, '{"command":"x"}');
      assert.equal(answer.status, status);
      assert.equal(answer.body, `{"error":"Cannot type: ${code}"}`);
    });
  }
  fault = new Error('secret detail');
  assert.equal((await post(master, '{"command":"x"}')).body, '{"error":"Internal error"}');
});

test('execute: pipelined commands are typed in order, also when a body comes in pieces', async () => {
  const { typist, typed } = recorder();
  await using master = await startMaster({ typist });
  using connection = await openRaw(master.port);
  const lines = Array.from({ length: 200 }, (_, index) => `command ${index}`);
  const all = Buffer.concat(
    lines.map((command, index) =>
      requestOf(JSON.stringify({ command }), {}, index === lines.length - 1 ? 'close' : 'keep-alive'),
    ),
  );
  for (let at = 0; at < all.length; at += 777) {
    connection.send(all.subarray(at, at + 777));
    await new Promise((resolve) => setImmediate(resolve));
  }
  const answers = await connection.ended();
  assert.equal(answers.split('HTTP/1.1 200 OK').length - 1, lines.length);
  assert.deepEqual(
    typed,
    lines.map((line) => `${testUid} ${line}`),
  );
});

test('execute: a client that goes while its command waits takes it back', async () => {
  const waiting = Promise.withResolvers<AbortSignal>();
  const typist: Typist = {
    type: (_uid, _line, signal) => {
      assert.ok(signal !== undefined);
      waiting.resolve(signal);
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          reject(signal.reason as Error);
        });
      });
    },
  };
  await using master = await startMaster({ typist });
  using connection = await openRaw(master.port);
  connection.send(requestOf('{"command":"x"}'));
  const signal = await waiting.promise;
  const aborted = new Promise((resolve) => {
    signal.addEventListener('abort', resolve);
  });
  connection.socket.destroy();
  await aborted;
});
