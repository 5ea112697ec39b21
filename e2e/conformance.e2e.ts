/**
 * RFC 6455 against the Master, by a suite that others wrote: the cases of Autobahn, run by kosoku. It speaks to the console, whose commands an operator in memory
 * answers with themselves, because the suite wants an echo. What it sends that can be no command line is answered as PROTOCOL.md section 11 says.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { test } from 'node:test';
import { startMaster, testToken } from '../operator/testing/master.ts';
import { runSuite } from './kosoku.ts';
import type { CaseReport } from './kosoku.ts';

/** The suite has some 250 cases besides those that are left out. */
const casesMin = 240;
const fine = ['OK', 'NON-STRICT', 'INFORMATIONAL'];

test('conformance: the cases of Autobahn, as far as a console can say what they say', async (context) => {
  await using master = await startMaster({
    dispatcher: {
      run: (request) => {
        request.onOutput([request.line]);
        return Promise.resolve({ exitCode: 0, isTruncated: false });
      },
    },
  });
  const door = createServer((client) => {
    lead(client, master.port);
  }).listen(0, '127.0.0.1');
  await once(door, 'listening');
  try {
    const address = `127.0.0.1:${(door.address() as AddressInfo).port}`;
    const reports = await runSuite(address, (line) => {
      context.diagnostic(line);
    });
    const failures = reports.filter((report) => !hasPassed(report) && !isNoCommand(report));
    assert.deepEqual(failures.map(shown), []);
    assert.ok(reports.length >= casesMin, `${reports.length} cases`);
    const passed = reports.filter(hasPassed).length;
    context.diagnostic(`${passed} cases passed, ${reports.length - passed} were no command lines and told so`);
    assert.ok(passed >= 200, 'nearly all can be told apart');
  } finally {
    door.close();
  }
});

/** Where the suite knocks: its path becomes the console's, and it gets the token that it cannot bring. Every byte after that goes as it is. */
function lead(client: Socket, port: number): void {
  const upstream = connect(port, '127.0.0.1');
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    from.on('error', () => to.destroy());
    from.on('close', () => {
      to.destroySoon();
    });
  }
  let head = '';
  const begin = (data: Buffer): void => {
    head += data.toString('latin1');
    if (!head.startsWith('GET / HTTP/1.1\r\n')) return;
    client.off('data', begin);
    upstream.write(
      head.replace('GET / HTTP/1.1\r\n', `GET /api/console HTTP/1.1\r\nAuthorization: Bearer ${testToken}\r\n`),
      'latin1',
    );
    client.pipe(upstream);
  };
  client.on('data', begin);
  upstream.pipe(client);
}

function hasPassed({ behavior, behaviorClose }: CaseReport): boolean {
  return fine.includes(behavior) && fine.includes(behaviorClose);
}

/** It sent what is no command line, and was told so as it is documented. */
function isNoCommand({ expected, received, remoteCloseCode }: CaseReport): boolean {
  const [wanted, ...others] = expected['OK'] ?? [];
  if (wanted?.[0] !== 'message' || others.length > 0) return false;
  const [, data = '', isBinary = false] = wanted;
  if (isBinary) return remoteCloseCode === 1003 && received.length === 0;
  // A blank line is none.
  if (data === '') return received.length === 0;
  const [answer] = received;
  return (
    /^(?!.*\t).*\p{Cc}/u.test(data) &&
    answer?.[1]?.startsWith('Malformed command: it has the control character') === true
  );
}

function shown({ id, description, behavior, behaviorClose, expected, received }: CaseReport): string {
  return `${id} ${behavior} ${behaviorClose}: ${description} Expected ${JSON.stringify(expected)}, got ${JSON.stringify(received)}`.slice(
    0,
    600,
  );
}
