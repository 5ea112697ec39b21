import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocketServer } from 'ws';
import { waitUntil } from './cluster/wait.ts';
import { ResumingClient } from './live-harness.ts';
import type { World } from './live-harness.ts';

test('resuming client: stopped while it is being connected, it ends all the same', async () => {
  const sockets = new WebSocketServer({ noServer: true });
  const server = createServer();
  const asked = once(server, 'upgrade');
  server.on('upgrade', (request, socket, head) => {
    void sleep(100).then(() => {
      sockets.handleUpgrade(request, socket, head, () => undefined);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const world: Pick<World, 'url' | 'token' | 'cleanups'> = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    token: 'any',
    cleanups: [],
  };
  const options = { world: world as World, id: 'abc123', urls: [world.url], onMessage: () => undefined };
  const client = new ResumingClient(options);
  client.start();
  await asked;
  const outcome = await Promise.race([client.stop().then(() => 'ended'), sleep(5000, 'still there')]);
  sockets.clients.forEach((socket) => {
    socket.terminate();
  });
  server.close();
  server.closeAllConnections();
  assert.equal(outcome, 'ended');
});

test('resuming client: that it cannot be opened any more is told once, to who waits for its end or stops it', async () => {
  const world: Pick<World, 'url' | 'token' | 'cleanups'> = { url: 'http://127.0.0.1:1', token: 'any', cleanups: [] };
  const start = (): ResumingClient => {
    const urls = [world.url];
    const client = new ResumingClient({
      world: world as World,
      id: 'a',
      urls,
      failuresMax: 1,
      onMessage: () => undefined,
    });
    client.start();
    return client;
  };
  const [waitedFor, left] = [start(), start()];
  await assert.rejects(waitedFor.done(), /ECONNREFUSED/);
  await waitedFor.stop();
  await waitUntil({ what: 'the other one to fail', timeoutMs: 10_000, check: () => left.isOver });
  await assert.rejects(left.stop(), /ECONNREFUSED/);
});
