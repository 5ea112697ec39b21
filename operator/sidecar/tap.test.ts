import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { frameHeadBytes } from '../../sidecar/protocol.ts';
import { FrameBytes } from './bytes.ts';
import { Tap } from './tap.ts';

/** A connection that is tapped, and the other side of it. */
async function tapped(run: (tap: Tap, socket: Socket, peer: Socket) => Promise<void>): Promise<void> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const tap = new Tap();
  const socket = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', onread: tap.onread });
  tap.attach(socket);
  const [peer] = (await once(server, 'connection')) as [Socket];
  for (const end of [socket, peer]) end.on('error', () => undefined);
  try {
    await run(tap, socket, peer);
  } finally {
    socket.destroy();
    peer.destroy();
    server.close();
  }
}

test('Tap: two connections that read into the same buffer get their own bytes, those before it was opened too', async () => {
  await tapped(async (tapA, socketA, peerA) => {
    await tapped(async (tapB, socketB, peerB) => {
      peerA.write('head of A|');
      const [head] = (await once(socketA, 'data')) as [Buffer];
      assert.equal(head.toString(), 'head of A|');
      socketA.pause();
      const taken: Record<'A' | 'B', Buffer[]> = { A: [], B: [] };
      peerA.write('early A|');
      peerB.write('early B|');
      await once(socketB, 'readable');
      tapA.open((bytes) => taken.A.push(bytes));
      tapB.open((bytes) => taken.B.push(bytes));
      for (let index = 0; index < 100; index += 1) {
        peerA.write(`A${index}|`);
        peerB.write(`B${index}|`);
        if (index % 10 === 0) await sleep(1);
      }
      peerA.end();
      peerB.end();
      await Promise.all([once(socketA, 'end'), once(socketB, 'end')]);
      for (const name of ['A', 'B'] as const) {
        const lines = Array.from({ length: 100 }, (_, index) => `${name}${index}|`);
        assert.equal(Buffer.concat(taken[name]).toString(), [`early ${name}|`, ...lines].join(''));
      }
    });
  });
});

test('Tap: frames that nobody takes stop the other side, and all of them come when somebody does', async () => {
  await tapped(async (tap, socket, peer) => {
    const payload = Buffer.alloc(32_768, 'abcdefghijklmnopqrstuvwxyz0123456789\n');
    const head = Buffer.alloc(frameHeadBytes);
    head.writeUInt32BE(payload.length);
    const frame = Buffer.concat([head, payload]);
    const count = 1000;
    let written = 0;
    const fill = (): void => {
      while (written < count) {
        written += 1;
        if (!peer.write(frame)) return;
      }
    };
    peer.on('drain', fill);
    fill();
    const frames = new FrameBytes(socket, Buffer.alloc(0), tap);
    let bytes = (await frames.next()).value?.length ?? 0;
    // What the kernel takes for the other side takes its time on a busy machine.
    let stoppedAt = 0;
    while (stoppedAt !== written) {
      stoppedAt = written;
      await sleep(300);
    }
    assert.ok(stoppedAt < count / 2, `${stoppedAt} of ${count} frames were written to nobody`);
    await sleep(100);
    assert.equal(written, stoppedAt);
    while (bytes < count * payload.length) {
      const { value } = await frames.next();
      assert.ok(value !== undefined && payload.includes(value.subarray(0, 20)));
      bytes += value.length;
    }
    assert.equal(bytes, count * payload.length);
  });
});
