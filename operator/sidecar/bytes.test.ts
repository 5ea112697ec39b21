import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { BodyBytes } from './bytes.ts';

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
