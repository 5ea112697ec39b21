import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { connect as connectPlain } from 'node:net';
import { execFileSync } from 'node:child_process';
import type { Socket } from 'node:net';
import { connect } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import { test } from 'node:test';
import fc from 'fast-check';
import { headers, limits, tlsOptions } from './protocol.ts';
import { Rig, until, withRig } from './testing/rig.ts';
import type { Reading } from './testing/rig.ts';

async function withProcess(body: (rig: Rig) => Promise<void>, env?: NodeJS.ProcessEnv): Promise<void> {
  await withRig('process', body, env);
}

function connectTls(rig: Rig, key: Buffer, identity: string): TLSSocket {
  return connect({
    ...tlsOptions,
    host: '127.0.0.1',
    port: rig.port,
    pskCallback: () => ({ psk: key, identity }),
    checkServerIdentity: () => undefined,
  });
}

test('server: a wrong key, a wrong identity, another cipher and plain HTTP are refused in the handshake', async () => {
  await withProcess(async (rig) => {
    const outcome = (socket: TLSSocket): Promise<string> =>
      new Promise((resolve) => {
        socket.on('secureConnect', () => {
          resolve('let in');
          socket.destroy();
        });
        socket.on('error', (error: Error) => {
          resolve(error.message);
        });
      });
    assert.equal(await outcome(connectTls(rig, rig.key, rig.uid)), 'let in');
    assert.match(await outcome(connectTls(rig, randomBytes(32), rig.uid)), /bad record mac/);
    assert.match(await outcome(connectTls(rig, rig.key, 'somebody-else')), /unknown psk identity/);
    assert.match(await outcome(connectTls(rig, rig.key, '')), /unknown psk identity|identity/);
    const other = connect({ host: '127.0.0.1', port: rig.port, rejectUnauthorized: false });
    assert.match(await outcome(other), /handshake failure|no shared cipher/);
    const plain = connectPlain(rig.port, '127.0.0.1');
    plain.write('GET /v1/log?offset=0 HTTP/1.1\r\nhost: x\r\n\r\n');
    const received: Buffer[] = [];
    plain.on('data', (data: Buffer) => received.push(data));
    plain.on('error', () => undefined);
    plain.on('end', () => {
      plain.destroy();
    });
    await once(plain, 'close');
    assert.ok(!Buffer.concat(received).includes('HTTP/1.1 2'));
  });
});

test('server: offset, tail and follow give exact bytes, and the headers say which', async () => {
  await withProcess(async (rig) => {
    const content = Array.from({ length: 1000 }, (_, index) => `line ${index}\n`).join('');
    await writeFile(rig.path('log'), content, { flag: 'a' });
    await until(async () => (await rig.status()).log.endOffset === content.length, 'the size');
    const whole = await rig.call('GET', '/v1/log?offset=0');
    assert.equal(whole.body, content);
    assert.equal(whole.headers[headers.startOffset], '0');
    assert.equal(whole.headers[headers.endOffset], String(content.length));
    assert.match(String(whole.headers[headers.epoch]), /^[0-9a-f]{16}$/);
    const tail = await rig.call('GET', '/v1/log?tail=2');
    assert.equal(tail.body, 'line 998\nline 999\n');
    assert.equal(tail.headers[headers.startOffset], String(content.length - 18));
    const beyond = await rig.call('GET', `/v1/log?offset=${content.length + 1}&follow=true`);
    assert.equal(beyond.status, 416);
    assert.equal(beyond.headers[headers.endOffset], String(content.length));
    const reading = await rig.read('tail=1&follow=true');
    await appendFile(rig.path('log'), 'half');
    await until(() => reading.bytes().toString() === 'line 999\nhalf', 'half a line');
    const fresh = await rig.read('tail=0&follow=true');
    await appendFile(rig.path('log'), ' line\nnext\n');
    await until(() => reading.bytes().toString() === 'line 999\nhalf line\nnext\n', 'the rest');
    await until(() => fresh.bytes().toString() === 'half line\nnext\n', 'a start at the start of a line');
    reading.close();
    fresh.close();
  });
});

test('server: any query is answered, by bytes of the log or by a plain refusal', async () => {
  await withProcess(async (rig) => {
    const content = Buffer.from('0123456789\n'.repeat(500));
    await writeFile(rig.path('log'), content, { flag: 'a' });
    await until(async () => (await rig.status()).log.endOffset === content.length, 'the size');
    const odd = fc.oneof(
      fc.integer({ min: -10, max: 6000 }).map(String),
      fc.constantFrom(
        '1e3',
        '0x1',
        '9007199254740991',
        '9007199254740992',
        '99999999999999999999',
        'NaN',
        '',
        '%201',
        '1;2',
        '%00',
        '..',
      ),
      fc.string({ maxLength: 20 }).map(encodeURIComponent),
    );
    const name = fc.constantFrom('offset', 'tail', 'offset=1&tail', 'x', 'offset=1&offset');
    await fc.assert(
      fc.asyncProperty(name, odd, async (key, value) => {
        const answer = await rig.call('GET', `/v1/log?${key}=${value}`);
        assert.ok([200, 400, 416].includes(answer.status), `${answer.status}`);
        if (answer.status === 200) {
          const start = Number(answer.headers[headers.startOffset]);
          assert.equal(answer.body, content.subarray(start).toString());
        }
      }),
      { numRuns: 150 },
    );
    for (const [method, path, status] of [
      ['POST', '/v1/log?offset=0', 405],
      ['GET', '/v1/stdin', 405],
      ['DELETE', '/v1/status', 405],
      ['GET', '/../../key', 404],
      ['GET', '//', 404],
      ['POST', '/v1/stdin', 400],
      ['GET', '/healthz', 200],
      ['GET', '/metrics', 200],
    ] as const) {
      assert.equal((await rig.call(method, path)).status, status, `${method} ${path}`);
    }
    assert.equal((await rig.call('POST', '/v1/stdin', 'x\n')).status, 409);
    assert.equal((await rig.call('POST', '/v1/stdin', 'x'.repeat(limits.bodyBytesMax + 1))).status, 413);
  });
});

test('server: a reader that takes nothing slows nobody and costs little memory', async () => {
  await withProcess(async (rig) => {
    const line = `${'x'.repeat(99)}\n`;
    await writeFile(rig.path('log'), line.repeat(500_000), { flag: 'a' });
    const slow = await Promise.all(Array.from({ length: 20 }, () => rig.read('offset=0&follow=true')));
    for (const each of slow) {
      each.response.pause();
    }
    const before = performance.now();
    const whole = await rig.call('GET', '/v1/log?offset=0');
    assert.equal(whole.body.length, 50_000_000);
    assert.ok(performance.now() - before < 10_000);
    const metrics = await fetch(`http://127.0.0.1:${rig.healthPort}/metrics`);
    const resident = Number(/resident_memory_bytes (\d+)/.exec(await metrics.text())?.[1]);
    assert.ok(resident < 160_000_000, `${resident} bytes resident`);
    for (const each of slow) {
      each.close();
    }
    await until(async () => (await rig.status()).sidecar.readers === 0, 'all readers gone');
  });
});

test('server: two thousand strangers and half-open connections do not keep the Master out', async (t) => {
  await withProcess(async (rig) => {
    const sockets: Socket[] = [];
    t.after(() => {
      for (const socket of sockets) {
        socket.destroy();
      }
    });
    for (let count = 0; count < 2000; count += 1) {
      const socket = connectPlain(rig.port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.resume();
      if (count % 3 === 0) {
        socket.write(Buffer.from([0x16, 3, 1, 2, 0]));
      } else if (count % 3 === 1) {
        socket.write(randomBytes(64));
      }
      sockets.push(socket);
    }
    const answer = await rig.call('GET', '/v1/status');
    assert.equal(answer.status, 200);
    await until(
      () => sockets.filter((socket) => !socket.destroyed).length <= limits.handshakesMax,
      'strangers put out',
    );
    await until(() => sockets.every((socket) => socket.destroyed), 'the rest after the time for a handshake', 15_000);
    assert.equal((await rig.call('GET', '/healthz')).status, 200);
  });
});

test('server: readers beyond the limit are refused, and the others stay', async () => {
  await withProcess(async (rig) => {
    const readings: Reading[] = [];
    while (readings.length < limits.connectionsMax - 4) {
      // Not more at once than may be in the handshake.
      readings.push(...(await Promise.all(Array.from({ length: 63 }, () => rig.read('offset=0&follow=true')))));
    }
    const extra = await Promise.allSettled(Array.from({ length: 20 }, () => rig.read('offset=0&follow=true')));
    assert.ok(extra.filter((each) => each.status === 'rejected').length >= 16);
    await appendFile(rig.path('log'), 'to everybody\n');
    await until(() => readings.every((each) => each.bytes().toString() === 'to everybody\n'), 'the line everywhere');
    for (const each of readings) {
      each.close();
    }
  });
});

test('server: a client that dribbles its request is cut off in time', async () => {
  await withProcess(async (rig) => {
    const socket = connectTls(rig, rig.key, rig.uid);
    await once(socket, 'secureConnect');
    socket.on('error', () => undefined);
    socket.write('GET /v1/status HTTP/1.1\r\nhost: x\r\n');
    const before = Date.now();
    socket.resume();
    await once(socket, 'close');
    assert.ok(Date.now() - before < limits.headersTimeoutMs + 7000);
  });
});

test('server: retention is announced to a resuming reader, in bytes and lines', async () => {
  await withProcess(
    async (rig) => {
      const line = `${'y'.repeat(99)}\n`;
      for (let round = 0; round < 10; round += 1) {
        await appendFile(rig.path('log'), line.repeat(10_000));
      }
      await until(async () => (await rig.status()).log.firstOffset > 8_000_000, 'space given back');
      const answer = await rig.call('GET', '/v1/log?offset=0');
      const start = Number(answer.headers[headers.startOffset]);
      assert.equal(answer.headers[headers.gapBytes], String(start));
      assert.equal(answer.headers[headers.gapLines], String(start / 100));
      assert.equal(answer.body.length, 10_000_000 - start);
      assert.equal((await rig.status()).log.retention, 'holes');
      // The boundary is moved first, the hole is made behind it.
      await until(async () => (await rig.status()).log.diskBytes < 1_500_000, 'the disk space of the hole');
    },
    { RINGMASTER_RETAIN_BYTES: '1000000' },
  );
});

test('server: a sidecar killed under a reader that resumes by offset loses and repeats nothing', async () => {
  await withProcess(async (rig) => {
    const command =
      'n=0; while [ $n -lt 4000 ]; do n=$((n+1)); echo "numbered line $n"; [ $((n % 20)) -ne 0 ] || sleep 0.01; done';
    const child = rig.launch(['dash'], ['dash', '-c', command]);
    const ended = once(child, 'close');
    let received = Buffer.alloc(0);
    for (let kill = 0; kill < 3; kill += 1) {
      const reading = await rig.read(`offset=${received.length}&follow=true`);
      await until(() => reading.bytes().length > 10_000, 'some lines');
      await rig.endSidecar('SIGKILL');
      assert.equal(await reading.ended, undefined);
      received = Buffer.concat([received, reading.bytes()]);
      await rig.startSidecar();
    }
    await ended;
    const rest = await rig.read(`offset=${received.length}`);
    assert.equal(await rest.ended, 'complete');
    const expected = Array.from({ length: 4000 }, (_, index) => `numbered line ${index + 1}\n`).join('');
    assert.equal(Buffer.concat([received, rest.bytes()]).toString(), expected);
  });
});

test('server: under tmux a sidecar killed in a burst takes the rest over exactly once', async () => {
  const rig = await Rig.create('tmux');
  try {
    const command = 'awk "BEGIN { for (n = 1; n <= 150000; n++) print \\"numbered line of the burst \\" n }"';
    const child = rig.launch(['dash'], ['dash', '-c', command]);
    const ended = once(child, 'close');
    for (let kill = 0; kill < 3; kill += 1) {
      const size = (await rig.logFile()).length;
      await until(async () => (await rig.logFile()).length > size, 'some lines');
      await rig.endSidecar('SIGKILL');
      await rig.startSidecar();
    }
    await ended;
    const expected = Array.from({ length: 150_000 }, (_, index) => `numbered line of the burst ${index + 1}\n`).join(
      '',
    );
    await until(async () => (await rig.logFile()).length >= expected.length, 'all lines');
    const hash = (text: string | Buffer): string => createHash('sha256').update(text).digest('hex');
    assert.equal(hash(await rig.logFile()), hash(expected));
  } finally {
    await rig.close();
  }
});

test('server: told to stop, the sidecar sends the last bytes, says so, and ends', async () => {
  await withProcess(async (rig) => {
    const reading = await rig.read('offset=0&follow=true');
    await appendFile(rig.path('log'), 'z'.repeat(5_000_000));
    await appendFile(rig.path('log'), 'the very last\n');
    const code = rig.endSidecar('SIGTERM');
    assert.equal(await reading.ended, 'stopping');
    assert.equal(reading.bytes().length, 5_000_014);
    assert.equal(await code, 0);
  });
});

test('server: told to stop while one reader has everything and another takes nothing, it waits until both have the end, and why it is one', async () => {
  await withProcess(async (rig) => {
    const reading = await rig.read('offset=0&follow=true');
    reading.response.pause();
    const quick = await rig.read('offset=0&follow=true');
    const sentBytes = async (): Promise<number> =>
      Number(/^\S*log_sent_bytes_total (\d+)$/m.exec((await rig.call('GET', '/metrics')).body)?.[1]);
    let written = 0;
    // Small pieces, until the last of them are in the sidecar's own hands: the kernels take no more.
    for (let isStuck = false; !isStuck; isStuck = (await sentBytes()) < 2 * written) {
      await appendFile(rig.path('log'), 'z'.repeat(8192));
      written += 8192;
      await until(async () => (await rig.status()).log.endOffset === written, 'the look at the file');
    }
    await until(() => quick.bytes().length === written, 'all of it at the quick reader');
    const code = rig.endSidecar('SIGTERM');
    assert.equal(await quick.ended, 'stopping');
    await new Promise((resolve) => setTimeout(resolve, 500));
    reading.response.resume();
    assert.equal(await reading.ended, 'stopping');
    assert.equal(reading.bytes().length, written);
    assert.equal(await code, 0);
  });
});

test('server: the plain port says whether the workload runs: not before it does, and not after it has ended', async () => {
  await withProcess(async (rig) => {
    const ask = async (): Promise<number> => (await fetch(`http://127.0.0.1:${rig.healthPort}/startedz`)).status;
    assert.equal(await ask(), 503);
    const child = rig.launch(['dash'], ['sleep', '60']);
    await until(async () => (await ask()) === 200, 'a workload that runs');
    child.kill('SIGTERM');
    await until(async () => (await ask()) === 503, 'a workload that has ended');
  });
});

test('server: a full pipe is a timely refusal, and what was taken is counted', async () => {
  await withProcess(async (rig) => {
    rig.launch(['dash'], ['sleep', '60']);
    await until(async () => (await rig.status()).workload.state === 'running', 'the program');
    const line = `${'c'.repeat(1023)}\n`;
    const before = Date.now();
    const answer = await rig.call('POST', '/v1/stdin', line.repeat(200));
    assert.equal(answer.status, 504);
    assert.ok(Date.now() - before < limits.stdinTimeoutMs + 2000);
    const { linesWritten } = JSON.parse(answer.body) as { linesWritten: number };
    assert.ok(linesWritten >= 32 && linesWritten <= 64, `${linesWritten} lines`);
  });
});

test('server: idle it takes no processor time that can be measured, and little memory', async () => {
  await withProcess(async (rig) => {
    const reading = await rig.read('tail=0&follow=true');
    const ticks = async (): Promise<number> => {
      const stat = await readFile(`/proc/${rig.sidecar?.pid ?? 0}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return Number(fields[11]) + Number(fields[12]);
    };
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const before = await ticks();
    await new Promise((resolve) => setTimeout(resolve, 5000));
    const used = (await ticks()) - before;
    const perSecond = Number(execFileSync('getconf', ['CLK_TCK']).toString());
    assert.ok(used / perSecond / 5 < 0.01, `${used} ticks in five seconds`);
    reading.close();
  });
});

/** Asks for frames, in the words of HTTP. Everything that came, as latin1, once the connection has ended. */
function askForFrames(
  rig: Rig,
  line: string,
  more = '',
): { socket: TLSSocket; text: () => string; ended: Promise<void> } {
  const socket = connectTls(rig, rig.key, rig.uid);
  let text = '';
  socket.setEncoding('latin1').on('data', (data: string) => (text += data));
  socket.on('error', () => undefined);
  socket.write(`${line} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: ringmaster-log\r\n${more}\r\n`);
  const ended = new Promise<void>((resolve) => {
    socket.on('close', () => {
      resolve();
    });
  });
  return { socket, text: () => text, ended };
}

test('server: a followed log comes in frames if that is asked for, to its end', async () => {
  await withProcess(async (rig) => {
    await appendFile(rig.path('log'), 'one\ntwo\n');
    const { text, ended } = askForFrames(rig, 'GET /v1/log?offset=4&follow=true');
    const backlog = '\0\0\0\x04two\n';
    await until(() => text().endsWith(`\r\n\r\n${backlog}`), 'the backlog');
    assert.match(text(), /^HTTP\/1\.1 101 /);
    assert.match(text(), /\r\nupgrade: ringmaster-log\r\n/i);
    assert.match(text(), new RegExp(`\r\n${headers.startOffset}: 4\r\n`, 'i'));
    assert.equal((await rig.status()).sidecar.readers, 1);
    await appendFile(rig.path('log'), 'a line\n');
    await until(() => text().endsWith('\0\0\0\x07a line\n'), 'the line');
    const code = rig.endSidecar('SIGTERM');
    await ended;
    assert.ok(text().endsWith('a line\n\0\0\0\0\x08stopping'));
    assert.equal(await code, 0);
  });
});

test('server: a reader of frames that leaves, in any way, is none any more; one that takes nothing slows nobody', async () => {
  await withProcess(async (rig) => {
    const readers = [1, 2, 3].map(() => askForFrames(rig, 'GET /v1/log?offset=0&follow=true'));
    await until(() => readers.every(({ text }) => text().includes('101')), 'their answers');
    const [gone, ended, stuck] = readers.map(({ socket }) => socket);
    gone?.destroy();
    ended?.end();
    stuck?.pause();
    await until(async () => (await rig.status()).sidecar.readers === 1, 'the two to be gone');
    const reading = await rig.read('offset=0&follow=true');
    await appendFile(rig.path('log'), 'z'.repeat(20_000_000));
    await until(() => reading.bytes().length === 20_000_000, 'all of it at another reader');
    stuck?.resume();
    // Each head is 4 bytes for 128 KiB.
    await until(
      () => (readers[2]?.text().match(/z/g) ?? []).length === 20_000_000,
      'all of it at the one that was stuck',
    );
    stuck?.destroy();
    await until(async () => (await rig.status()).sidecar.connections === 2, 'its connection to be gone');
  });
});

test('server: asked for frames, it answers everything but a followed log as ever, and ends the connection', async () => {
  await withProcess(async (rig) => {
    await appendFile(rig.path('log'), 'one\n');
    for (const [line, expected] of [
      ['GET /v1/log?offset=0', /^HTTP\/1\.1 200 [^]*one\n[^]*complete/],
      ['GET /v1/log?offset=9&follow=true', /^HTTP\/1\.1 416 [^]*OFFSET_BEYOND_END/],
      ['GET /v1/log?offset=x&follow=true', /^HTTP\/1\.1 400 [^]*BAD_REQUEST/],
      ['GET /v1/status', /^HTTP\/1\.1 200 [^]*"endOffset":4/],
      ['GET /elsewhere', /^HTTP\/1\.1 404 [^]*NOT_FOUND/],
    ] as const) {
      const { text, ended } = askForFrames(rig, line);
      await ended;
      assert.match(text(), expected, line);
    }
    const typed = askForFrames(rig, 'POST /v1/stdin', 'content-length: 2\r\n');
    typed.socket.write('x\n');
    await until(() => typed.text().includes('NOT_RUNNING'), 'an answer as without the word');
    typed.socket.destroy();
    assert.equal(rig.sidecar?.exitCode, null);
  });
});
