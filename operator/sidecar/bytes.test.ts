import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { PassThrough } from 'node:stream';
import fc from 'fast-check';
import { frameHeadBytes } from '../../sidecar/protocol.ts';
import { BodyBytes, FrameBytes } from './bytes.ts';

async function withBody(
  answer: (response: ServerResponse) => void,
  body: (response: IncomingMessage) => Promise<void>,
): Promise<void> {
  const server = createServer((_request, response) => {
    response.on('error', () => undefined);
    answer(response);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const call = request({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' }).end();
  call.on('error', () => undefined);
  try {
    const [response] = (await once(call, 'response')) as [IncomingMessage];
    await body(response);
  } finally {
    call.destroy();
    server.closeAllConnections();
    server.close();
  }
}

test('BodyBytes: every byte once and in order, also when they come faster than they are taken', async () => {
  const sent = Buffer.alloc(5_000_000, 'abcdefghijklmnopqrstuvwxyz0123456789\n');
  await withBody(
    (response) => response.end(sent),
    async (response) => {
      const taken: Buffer[] = [];
      for await (const chunk of new BodyBytes(response)) {
        taken.push(chunk);
        if (taken.length % 8 === 0) await new Promise(setImmediate);
      }
      assert.ok(Buffer.concat(taken).equals(sent));
    },
  );
});

test('BodyBytes: nobody who reads stops the other side', async () => {
  let accepted = 0;
  await withBody(
    (response) => {
      const piece = Buffer.alloc(65_536);
      const fill = (): void => {
        while (accepted < 200_000_000) {
          accepted += piece.length;
          if (!response.write(piece)) return;
        }
      };
      response.on('drain', fill);
      fill();
    },
    async (response) => {
      const bytes = new BodyBytes(response);
      await bytes.next();
      let before = -1;
      while (before !== accepted) {
        before = accepted;
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      // What two kernels and both processes hold, and no more.
      assert.ok(accepted > 65_536, 'it was sent at all');
      assert.ok(accepted < 40_000_000, `${accepted} bytes were sent`);
      let taken = 0;
      while (taken < 60_000_000) taken += (await bytes.next()).value?.length ?? 0;
      await bytes.return();
    },
  );
});

test('BodyBytes: a body that is cut gives what came, and then throws, once', async () => {
  await withBody(
    (response) => {
      response.write('one\n', () => setTimeout(() => response.destroy(), 50));
    },
    async (response) => {
      const bytes = new BodyBytes(response);
      assert.equal((await bytes.next()).value?.toString(), 'one\n');
      await assert.rejects(bytes.next());
      assert.equal((await bytes.next()).done, true);
    },
  );
});

test('BodyBytes: a reader that leaves ends the connection, and a wait for more', async () => {
  let closed: Promise<unknown> | undefined;
  await withBody(
    (response) => {
      closed = once(response, 'close');
      response.write('one\n');
    },
    async (response) => {
      const bytes = new BodyBytes(response);
      await bytes.next();
      const waiting = assert.rejects(bytes.next());
      await bytes.return();
      await waiting;
      await closed;
    },
  );
});

function framed(pieces: readonly Buffer[], reason?: string): Buffer {
  const frame = (bytes: Buffer): Buffer => {
    const head = Buffer.alloc(frameHeadBytes);
    head.writeUInt32BE(bytes.length);
    return Buffer.concat([head, bytes]);
  };
  const end = reason === undefined ? [] : [Buffer.from([0, 0, 0, 0, reason.length]), Buffer.from(reason)];
  return Buffer.concat([...pieces.map(frame), ...end]);
}

/** Everything, and how it ended: the reason, or the fault. */
async function readAll(bytes: FrameBytes): Promise<{ taken: Buffer; end: string | undefined }> {
  const taken: Buffer[] = [];
  try {
    for await (const chunk of bytes) taken.push(chunk);
    return { taken: Buffer.concat(taken), end: bytes.reason };
  } catch {
    return { taken: Buffer.concat(taken), end: 'cut' };
  }
}

test('FrameBytes: however frames are cut on their way, each byte comes once; an end that did not come as a whole is a cut', async () => {
  const piece = fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => Buffer.from(bytes));
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        pieces: fc.array(piece, { maxLength: 8 }),
        reason: fc.option(fc.constantFrom('stopping', 'restarted'), { nil: undefined }),
        cuts: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 30 }),
        headBytes: fc.nat({ max: 20 }),
        missing: fc.nat({ max: 12 }),
        isDirect: fc.boolean(),
      }),
      async ({ pieces, reason, cuts, headBytes, missing, isDirect }) => {
        const sent = framed(pieces, reason);
        const whole = sent.subarray(0, sent.length - (reason === undefined ? 0 : missing));
        const connection = new PassThrough();
        const bytes = new FrameBytes(connection, whole.subarray(0, headBytes));
        const direct: Buffer[] = [];
        if (isDirect) {
          bytes.onPiece = (chunk) => {
            direct.push(Buffer.from(chunk));
            return true;
          };
        }
        const read = readAll(bytes);
        let at = Math.min(headBytes, whole.length);
        for (let turn = 0; at < whole.length; turn += 1) {
          const to = Math.min(at + (cuts[turn % cuts.length] ?? 1), whole.length);
          connection.write(whole.subarray(at, to));
          if (turn % 3 === 0) await new Promise(setImmediate);
          at = to;
        }
        connection.end();
        const { taken, end } = await read;
        const all = Buffer.concat(pieces);
        const got = isDirect ? Buffer.concat([...direct, taken]) : taken;
        if (reason === undefined || missing > 0) {
          assert.equal(end, 'cut');
          assert.ok(all.subarray(0, got.length).equals(got));
        } else {
          assert.equal(end, reason);
          assert.ok(got.equals(all));
        }
      },
    ),
  );
});

test('FrameBytes: what comes behind the end counts for nothing, and a connection that breaks is a cut', async () => {
  const connection = new PassThrough();
  const bytes = new FrameBytes(connection, framed([Buffer.from('one')], 'stopping'));
  const read = readAll(bytes);
  connection.write(framed([Buffer.from('two')]));
  assert.deepEqual(await read, { taken: Buffer.from('one'), end: 'stopping' });
  connection.destroy();
  const other = new PassThrough();
  const cut = readAll(new FrameBytes(other, framed([Buffer.from('one')])));
  setImmediate(() => other.destroy(new Error('reset')));
  assert.deepEqual(await cut, { taken: Buffer.from('one'), end: 'cut' });
});
