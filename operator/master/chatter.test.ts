import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { openRaw, startMaster, testId, testUid, upgradeRequest } from '../testing/master.ts';
import type { RawConnection, TestMaster } from '../testing/master.ts';

const livePath = `/api/instances/${testId}/live-log`;

/** A masked frame; a mask of zeros is a mask. */
function frame(opcode: number, payload: string | Buffer): Buffer {
  const bytes = Buffer.from(payload);
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | bytes.length, 0, 0, 0, 0]), bytes]);
}

const ping = 9;
const text = 1;

async function open(master: TestMaster, path = livePath): Promise<RawConnection> {
  const connection = await openRaw(master.port);
  connection.send(upgradeRequest(path));
  await connection.contains('\r\n\r\n');
  return connection;
}

test('chatter: every ping of a client that reads is answered with its payload, in order', async () => {
  await using master = await startMaster();
  using connection = await open(master);
  const names = Array.from({ length: 200 }, (_, index) => `ping-${index}`);
  connection.send(Buffer.concat(names.map((name) => frame(ping, name))));
  await connection.contains('ping-199');
  const pongs = names.map((name) => `\x8a${String.fromCharCode(name.length)}${name}`).join('');
  assert.ok(connection.received.endsWith(pongs));
});

test('chatter: a client that does not read for a while may ping, is kept, and is answered once when it reads on', async () => {
  await using master = await startMaster({ limits: { sendBufferBytesMax: 64 * 1024 } });
  using connection = await open(master);
  connection.socket.pause();
  // More than the kernel takes for it, whatever its limits.
  const line = Buffer.alloc(64 * 1024, 'x');
  master.hub.write(testUid, ...Array.from({ length: 1_000 }, () => line));
  await stuck(master);
  connection.send(Buffer.concat(Array.from({ length: 500 }, (_, index) => frame(ping, `ping-${index};`))));
  await new Promise((resolve) => setTimeout(resolve, 100));
  connection.socket.resume();
  let end = '';
  const pongs: string[] = [];
  connection.socket.on('data', (data: Buffer) => {
    end = end.slice(-20) + data.toString('latin1');
    pongs.push(...(end.match(/ping-\d+;/g) ?? []));
  });
  master.hub.end(testUid);
  while (!end.includes('instance stopped')) await once(connection.socket, 'data');
  assert.equal(pongs.at(-1), 'ping-499;');
  assert.ok(new Set(pongs).size < 20, `${pongs.length} answers waited`);
});

/** Resolves when nothing more is written to anybody. */
async function stuck(master: TestMaster): Promise<void> {
  for (let last = -1, still = 0; still < 3;) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    const sent = Number(/^ringmaster_master_sent_bytes_total (\d+)$/m.exec(await master.metrics.text())?.[1]);
    still = sent === last && sent > 1_000_000 ? still + 1 : 0;
    last = sent;
  }
}

for (const [title, flood] of [
  ['pings', frame(ping, 'x'.repeat(125))],
  ['pongs', frame(10, '')],
  ['lines that nobody reads', frame(text, 'x')],
] as const) {
  test(`chatter: a flood of ${title} is closed with 1008`, async () => {
    await using master = await startMaster();
    using connection = await open(master);
    connection.send(Buffer.concat(Array.from({ length: 1_500 }, () => flood)));
    assert.match(await connection.ended(), /\x88\x11\x03\xf0too many frames/);
  });
}

test('chatter: commands of a console are no chatter, its pings are', async () => {
  await using master = await startMaster();
  using connection = await open(master, '/api/console');
  connection.send(Buffer.concat(Array.from({ length: 1_500 }, () => frame(text, 'help'))));
  connection.send(frame(ping, 'still here'));
  await connection.contains('still here');
  connection.send(Buffer.concat(Array.from({ length: 1_500 }, () => frame(ping, ''))));
  assert.match(await connection.ended(), /too many frames/);
});
