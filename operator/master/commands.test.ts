import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OperatorError } from '../errors.ts';
import { openRaw, publicToken, startMaster, testNamespace, testToken } from '../testing/master.ts';
import type { TestMaster } from '../testing/master.ts';
import { createFakeReviews, jwtOf } from '../testing/reviews.ts';
import { fingerprintOf } from './auth.ts';
import { commandName } from './commandline.ts';
import type { CommandEnd, CommandRequest, Dispatcher } from './dispatch.ts';

async function post(
  master: TestMaster,
  body: string | Buffer,
  options: { token?: string; method?: string } = {},
): Promise<{ status: number; json: unknown; headers: Headers }> {
  const response = await fetch(`http://127.0.0.1:${master.port}/api/commands/execute`, {
    method: options.method ?? 'POST',
    headers: { authorization: `Bearer ${options.token ?? testToken}` },
    ...(options.method === 'GET' ? {} : { body }),
  });
  return { status: response.status, json: await response.json(), headers: response.headers };
}

const commandOf = (command: unknown): string => JSON.stringify({ command });

/** Prints and ends as it is told, at once. */
function answering(
  output: string[],
  end: Partial<CommandEnd> | Error = {},
): { dispatcher: Dispatcher; requests: CommandRequest[] } {
  const requests: CommandRequest[] = [];
  const dispatcher: Dispatcher = {
    run(request) {
      requests.push(request);
      for (const line of output) request.onOutput([line]);
      return end instanceof Error ? Promise.reject(end) : Promise.resolve({ exitCode: 0, isTruncated: false, ...end });
    },
  };
  return { dispatcher, requests };
}

test('commands: a command is run, and its output and exit code are the answer', async () => {
  const { dispatcher, requests } = answering(['Instances (1):', 'a1b2c3 lobby ONLINE node-1 25565']);
  await using master = await startMaster({ dispatcher });
  const answer = await post(master, commandOf('instance list'));
  assert.equal(answer.status, 200);
  assert.deepEqual(answer.json, {
    command: 'instance list',
    output: 'Instances (1):\na1b2c3 lobby ONLINE node-1 25565',
    exitCode: 0,
  });
  assert.equal(requests[0]?.line, 'instance list');
  assert.deepEqual(requests[0].issuedBy, { kind: 'ApiKey', name: 'all' });
});

test('commands: what fails or is not understood is an answer too', async () => {
  for (const end of [{ exitCode: 1 }, { exitCode: 2 }]) {
    await using master = await startMaster(answering(['said'], end));
    assert.deepEqual((await post(master, commandOf('x'))).json, { command: 'x', output: 'said', ...end });
  }
  await using master = await startMaster(answering([], { exitCode: 1, reason: 'Interrupted' }));
  const { status, json } = await post(master, commandOf('x'));
  assert.equal(status, 200);
  assert.deepEqual(json, {
    command: 'x',
    output: 'Interrupted: the operator that ran this command was lost. It may have run in part; it is not run again.',
    exitCode: 1,
    reason: 'Interrupted',
  });
});

test('commands: 503 where no operator answers or the cluster does not take the command, 400 where it refuses it', async () => {
  const cases: [Partial<CommandEnd> | Error, number, RegExp][] = [
    [{ exitCode: 1, reason: 'Unavailable' }, 503, /It was withdrawn and did not run/],
    [new OperatorError('COMMAND_UNAVAILABLE', 'Cannot run the command: why'), 503, /why/],
    [new OperatorError('COMMAND_REFUSED', 'Cannot run the command: too long'), 400, /too long/],
    [new TypeError('secret'), 500, /^Internal error$/],
  ];
  for (const [end, status, error] of cases) {
    await using master = await startMaster(answering([], end));
    const answer = await post(master, commandOf('x'));
    assert.equal(answer.status, status);
    assert.match((answer.json as { error: string }).error, error);
    assert.equal(answer.headers.has('retry-after'), status === 503);
  }
});

const malformed: [title: string, body: string | Buffer, error: RegExp][] = [
  ['no body', '', /JSON object/],
  ['an array', '["x"]', /JSON object/],
  ['bytes that are not UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), /JSON object/],
  ['another field', '{"command":"x","more":1}', /Unknown field "more"/],
  ['no command', '{}', /is a string/],
  ['a number', '{"command":1}', /is a string/],
  ['an empty one', commandOf(''), /it is empty/],
  ['a blank one', commandOf('  \t'), /it is empty/],
  ['two lines', commandOf('a\nb'), /line break/],
  ['a control character', commandOf('a\u001b'), /U\+001B/],
  ['half of a character', '{"command":"\\ud800"}', /Unicode/],
  ['exit', commandOf(' exit '), /console sessions/],
  ['too long a line', commandOf('x'.repeat(65_537)), /65537 bytes/],
];

for (const [title, body, error] of malformed) {
  test(`commands: ${title} is 400 and nothing is run`, async () => {
    const { dispatcher, requests } = answering([]);
    await using master = await startMaster({ dispatcher });
    const answer = await post(master, body);
    assert.equal(answer.status, 400);
    assert.match((answer.json as { error: string }).error, error);
    assert.deepEqual(requests, []);
  });
}

test('commands: a body that is too large is 413, another method 405, a PUBLIC key or none 401', async () => {
  const { dispatcher, requests } = answering([]);
  await using master = await startMaster({ dispatcher });
  assert.equal((await post(master, commandOf('x'.repeat(500_000)))).status, 413);
  const wrong = await post(master, '', { method: 'GET' });
  assert.deepEqual([wrong.status, wrong.headers.get('allow')], [405, 'POST']);
  for (const token of [publicToken, 'nobody']) {
    assert.equal((await post(master, commandOf('help'), { token })).status, 401);
  }
  assert.deepEqual(requests, []);
});

test('commands: a Kubernetes user needs create on consolecommands in the release namespace', async () => {
  const { dispatcher, requests } = answering([]);
  const reviews = createFakeReviews();
  await using master = await startMaster({ dispatcher, reviews });
  reviews.tokens.set(jwtOf(1), 'alice').set(jwtOf(2), 'bob');
  reviews.rights.add(`alice create  ${testNamespace}  consolecommands`);
  assert.equal((await post(master, commandOf('help'), { token: jwtOf(1) })).status, 200);
  assert.deepEqual(requests[0]?.issuedBy, { kind: 'User', name: 'alice' });
  assert.equal((await post(master, commandOf('help'), { token: jwtOf(2) })).status, 401);
  assert.equal(requests.length, 1);
});

test('commands: a client that closes its connection gives its command up', async () => {
  const asked = Promise.withResolvers<undefined>();
  const gaveUp = Promise.withResolvers<undefined>();
  const dispatcher: Dispatcher = {
    run: (_request, signal) => {
      asked.resolve(undefined);
      const { promise, reject } = Promise.withResolvers<CommandEnd>();
      signal.addEventListener('abort', () => {
        gaveUp.resolve(undefined);
        reject(signal.reason as Error);
      });
      return promise;
    },
  };
  await using master = await startMaster({ dispatcher });
  const body = commandOf('instance list');
  using connection = await openRaw(master.port);
  connection.send(
    `POST /api/commands/execute HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer ${testToken}\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  await asked.promise;
  connection.socket.destroy();
  await gaveUp.promise;
});

test('commands: key create gives the token in the answer and only its hash to the cluster', async () => {
  const { dispatcher, requests } = answering(['Created key dash']);
  await using master = await startMaster({ dispatcher });
  const { json } = await post(master, commandOf('key create dash ALL'));
  const { output, command } = json as { output: string; command: string };
  const token = /\nToken \(shown only now, stored nowhere\): (rm_[\w-]{43})$/.exec(output)?.[1] ?? '';
  assert.equal(requests[0]?.line, `key create dash ALL --token-sha256=${fingerprintOf(token)}`);
  assert.equal(command, 'key create dash ALL');
});

test('commands: the log names a command by its first two words, and not by what may be a secret', () => {
  assert.equal(commandName('key create dash ALL --token-sha256=00'), 'key create');
  assert.equal(commandName('  instance   execute a1b2c3 login hunter2'), 'instance execute');
  assert.equal(commandName('hunter2!'), '?');
  assert.equal(commandName('key rm_0123'), 'key ?');
});
