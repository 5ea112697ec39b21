import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { Rig, until } from '../../sidecar/testing/rig.ts';
import { createSidecarClient, SidecarError, SidecarUnreachableError } from './client.ts';
import type { SidecarAddress, SidecarClient } from './client.ts';

interface Lab {
  readonly rig: Rig;
  readonly client: SidecarClient;
  readonly at: SidecarAddress;
}

function clientWith(keys: Buffer | readonly Buffer[], timeouts = {}): SidecarClient {
  const read = (): Promise<readonly Buffer[]> => Promise.resolve([keys].flat());
  return createSidecarClient({ masterKey: { read }, timeouts });
}

async function withSidecar(body: (lab: Lab) => Promise<void>): Promise<void> {
  const rig = await Rig.create('process');
  const client = clientWith(Buffer.alloc(32, 7));
  try {
    await body({ rig, client, at: { host: '127.0.0.1', port: rig.port, instanceUid: rig.uid } });
  } finally {
    client.close();
    await rig.close();
  }
}

async function textOf(chunks: AsyncIterable<Buffer>): Promise<string> {
  const all: Buffer[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return Buffer.concat(all).toString();
}

test('sidecar client: lines are typed over one kept connection and read back, with where and why', async () => {
  await withSidecar(async ({ rig, client, at }) => {
    rig.launch(['sh'], ['cat']);
    await until(async () => (await client.status(at)).workload.state === 'running', 'a workload');
    let connectionsMade = 0;
    const count = (): void => {
      connectionsMade += 1;
    };
    subscribe('net.client.socket', count);
    for (let number = 0; number < 50; number += 1) {
      await client.writeStdin(at, Buffer.from(`line ${number}\n`));
    }
    unsubscribe('net.client.socket', count);
    assert.ok(connectionsMade <= 1, `${connectionsMade} connections were made`);
    await until(async () => (await rig.logFile()).toString().endsWith('line 49\n'), 'the lines');
    const status = await client.status(at);
    assert.equal(status.sidecar.connections, 1);
    const log = await client.openLog(at, { offset: 7, follow: false }, new AbortController().signal);
    assert.equal(log.startOffset, 7);
    assert.equal(log.run, 1);
    assert.equal(log.epoch, status.log.epoch);
    assert.match(await textOf(log.bytes), /^line 1\nline 2\n/);
    assert.equal(log.endReason, 'complete');
  });
});

test('sidecar client: refusals have their codes, and say what was taken and where the log ends', async () => {
  await withSidecar(async ({ client, at }) => {
    await assert.rejects(client.writeStdin(at, Buffer.from('x\n')), (error: SidecarError) => {
      return error instanceof SidecarError && error.code === 'NOT_RUNNING' && error.linesWritten === 0;
    });
    const { signal } = new AbortController();
    await assert.rejects(client.openLog(at, { offset: 99, follow: true }, signal), (error: SidecarError) => {
      return error.code === 'OFFSET_BEYOND_END' && error.endOffset === 0 && /^[0-9a-f]{16}$/.test(error.epoch ?? '');
    });
  });
});

test('sidecar client: another key, and nobody there, are unreachable: nothing was sent', async () => {
  await withSidecar(async ({ at }) => {
    const stranger = clientWith(Buffer.alloc(32, 8));
    await assert.rejects(stranger.writeStdin(at, Buffer.from('x\n')), SidecarUnreachableError);
    stranger.close();
    const { client, address, close } = await silentPeer();
    await assert.rejects(client.status(address), (error: SidecarUnreachableError) => {
      return error instanceof SidecarUnreachableError && error.code === 'ETIMEDOUT';
    });
    close();
    await assert.rejects(client.status(address), (error: SidecarUnreachableError) => error.code === 'ECONNREFUSED');
    client.close();
  });
});

test('sidecar client: while the master key is replaced, a pod that has the old one is read and typed into once', async () => {
  await withSidecar(async ({ rig, at }) => {
    rig.launch(['sh'], ['cat']);
    const client = clientWith([8, 7, 9].map((byte) => Buffer.alloc(32, byte)));
    await until(async () => (await client.status(at)).workload.state === 'running', 'a workload');
    await client.writeStdin(at, Buffer.from('once\n'));
    await until(async () => (await rig.logFile()).toString() === 'once\n', 'the line');
    const log = await client.openLog(at, { offset: 0, follow: false }, new AbortController().signal);
    assert.equal(await textOf(log.bytes), 'once\n');
    client.close();
    const strangers = clientWith([8, 9].map((byte) => Buffer.alloc(32, byte)));
    await assert.rejects(strangers.status(at), SidecarUnreachableError);
    strangers.close();
  });
});

/** Accepts connections and says nothing. */
async function silentPeer(): Promise<{ client: SidecarClient; address: SidecarAddress; close: () => void }> {
  const server = createServer((socket) => socket.on('error', () => undefined));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const client = clientWith(Buffer.alloc(32, 7), { connectMs: 100 });
  return { client, address: { host: '127.0.0.1', port, instanceUid: 'uid' }, close: () => server.close() };
}

test('sidecar client: the signal ends a call and a stream at once; a stream that was cut has no reason', async () => {
  await withSidecar(async ({ rig, client, at }) => {
    const abort = new AbortController();
    const log = await client.openLog(at, { tail: 1, follow: true }, abort.signal);
    const ended = assert.rejects(textOf(log.bytes));
    abort.abort(new Error('enough'));
    await ended;
    const cut = await client.openLog(at, { tail: 1, follow: true }, new AbortController().signal);
    const broken = assert.rejects(textOf(cut.bytes));
    await rig.endSidecar('SIGKILL');
    await broken;
    assert.equal(cut.endReason, undefined);
    await assert.rejects(client.status(at, AbortSignal.abort(new Error('enough'))), /enough/);
  });
});
