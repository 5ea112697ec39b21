import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { openRaw, parseResponse, startMaster, testId, upgradeRequest } from '../testing/master.ts';
import type { RawConnection, TestMaster } from '../testing/master.ts';

const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: master\r\n\r\n`;

async function cuts(master: TestMaster): Promise<string[]> {
  const lines = (await master.metrics.text()).split('\n');
  return lines.filter((line) => line.startsWith('ringmaster_master_connections_cut_total{'));
}

test('connections: where there are too many, the oldest goes that is no WebSocket and is not being answered', async () => {
  const tails = { tail: () => new Promise<never>(() => undefined) };
  await using master = await startMaster({ tails, limits: { connectionsMax: 8, socketsMax: 4 } });
  using socket = await openRaw(master.port);
  socket.send(upgradeRequest(`/api/instances/${testId}/live-log`));
  await socket.contains(' 101 ');
  using busy = await openRaw(master.port);
  busy.send(
    `GET /api/instances/${testId}/logs HTTP/1.1\r\nHost: master\r\nAuthorization: Bearer all-token\r\n\r\n` +
      get('/api/ping'),
  );
  await nextAnswer(master);
  const strangers: RawConnection[] = [];
  for (let count = 0; count < 4; count++) strangers.push(await openRaw(master.port));
  assert.equal(await strangers[0]?.ended(), '', 'the oldest of the others');
  assert.deepEqual(
    strangers.map(({ socket: { destroyed } }) => destroyed),
    [true, false, false, false],
  );
  await nextAnswer(master);
  assert.deepEqual([socket.socket.destroyed, busy.socket.destroyed], [false, false]);
  assert.deepEqual(await cuts(master), ['ringmaster_master_connections_cut_total{cause="crowded"} 2']);
  for (const stranger of strangers) stranger.socket.destroy();
});

/** Somebody who comes now is served. */
async function nextAnswer(master: TestMaster): Promise<void> {
  using connection = await openRaw(master.port);
  connection.send(get('/api/ping'));
  await connection.contains('"status":"ok"');
}

test('connections: 100 requests on one that are not answered yet are served, and one more ends it', async () => {
  const tails = { tail: () => new Promise<never>(() => undefined) };
  await using master = await startMaster({ tails });
  const slow = `GET /api/instances/${testId}/logs HTTP/1.1\r\nHost: master\r\nAuthorization: Bearer all-token\r\n\r\n`;
  using many = await openRaw(master.port);
  many.send(slow + get('/api/ping').repeat(99));
  using tooMany = await openRaw(master.port);
  tooMany.send(slow + get('/api/ping').repeat(100));
  assert.equal(await tooMany.ended(), '');
  assert.equal(many.socket.destroyed, false);
  assert.deepEqual(await cuts(master), ['ringmaster_master_connections_cut_total{cause="pipelined"} 1']);
});

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** What is in use, and not what is still to be collected: when that happens is V8's business. */
function heldBytes(): number {
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

test('connections: thousands of requests whose answers nobody reads cost next to nothing', async (context) => {
  for (const path of ['/api/openapi.json', '/api/metrics', '/api/ping']) {
    await context.test(path, async () => {
      await using master = await startMaster();
      using warm = await openRaw(master.port);
      warm.send(get(path).repeat(50));
      await warm.contains('HTTP/1.1 200');
      const before = heldBytes();
      const connections: RawConnection[] = [];
      for (let count = 0; count < 60; count++) {
        const connection = await openRaw(master.port);
        connection.socket.pause();
        // Every other one asks for more than it may, and is cut.
        connection.send(get(path).repeat(count % 2 === 0 ? 95 : 1_300));
        connections.push(connection);
      }
      await nextAnswer(master);
      await nextAnswer(master);
      const growthMb = (heldBytes() - before) / 1e6;
      for (const connection of connections) connection.socket.destroy();
      assert.ok(growthMb < 50, `${growthMb.toFixed(0)} MB more`);
    });
  }
});

test('connections: an answer that is not read is given up after a while, one that is awaited is not', async () => {
  let finish = (): void => undefined;
  const tails = {
    tail: async () => {
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      return { lines: ['late'], nextCursor: 'c' };
    },
  };
  await using master = await startMaster({ tails, limits: { answerTimeoutMs: 300 } });
  using unread = await openRaw(master.port);
  unread.socket.pause();
  // More than the kernels on the way take.
  for (let count = 0; count < 40; count++) {
    unread.send(get('/api/openapi.json').repeat(100));
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  using waiting = await openRaw(master.port);
  waiting.send(`GET /api/instances/${testId}/logs HTTP/1.1\r\nHost: master\r\nAuthorization: Bearer all-token\r\n\r\n`);
  while ((await cuts(master)).length === 0) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(await cuts(master), ['ringmaster_master_connections_cut_total{cause="unread"} 1']);
  finish();
  await waiting.contains('"late"');
  assert.equal(parseResponse(waiting.received).status, 200);
});
