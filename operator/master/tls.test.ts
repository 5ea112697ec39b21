import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { connect } from 'node:tls';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { WebSocket } from 'ws';
import { createSilentLogger } from '../log.ts';
import { createMetrics } from '../metrics.ts';
import { openCertificateShop } from '../testing/certificates.ts';
import type { CertificateShop, TestPair } from '../testing/certificates.ts';
import { openRaw, parseResponse, startMaster, testId, testToken, testUid, upgradeRequest } from '../testing/master.ts';
import type { TestMaster, TestMasterOptions } from '../testing/master.ts';
import { createFakeTimers } from '../testing/timers.ts';
import { openCertificate } from './certificate.ts';
import type { Certificate, CertificateSource } from './certificate.ts';

const livePath = `/api/instances/${testId}/live-log`;

/** A source of certificates that the test changes. */
class Changing implements CertificateSource {
  readonly listeners = new Set<(certificate: Certificate) => void>();
  current: Certificate;

  constructor(first: Certificate) {
    this.current = first;
  }

  onChange(listener: (certificate: Certificate) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  set(next: Certificate): void {
    this.current = next;
    for (const listener of this.listeners) listener(next);
  }
}

async function load({ certFile, keyFile }: TestPair): Promise<Certificate> {
  const parts = { log: createSilentLogger(), metrics: createMetrics(), clock: createFakeTimers() };
  return (await openCertificate({ certFile, keyFile, ...parts })).current;
}

interface Setting extends AsyncDisposable {
  readonly shop: CertificateShop;
  readonly master: TestMaster;
  readonly source: Changing;
  readonly opened: TLSSocket[];
}

async function setUp(options: TestMasterOptions = {}): Promise<Setting> {
  const shop = await openCertificateShop();
  const source = new Changing(await load(await shop.issue('one')));
  const master = await startMaster({ ...options, certificate: source });
  const opened: TLSSocket[] = [];
  return {
    ...{ shop, master, source, opened },
    async [Symbol.asyncDispose]() {
      for (const socket of opened) socket.destroy();
      await master[Symbol.asyncDispose]();
      await shop[Symbol.asyncDispose]();
    },
  };
}

/** A session that trusts the authority and nobody else; closed with the test. */
async function handshake(setting: Setting, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const { shop, master, opened } = setting;
  const socket = connect({ port: master.port, host: '127.0.0.1', ca: shop.authority.cert, ...options });
  opened.push(socket);
  await once(socket, 'secureConnect');
  return socket;
}

async function nameServed(setting: Setting): Promise<string> {
  return String((await handshake(setting)).getPeerCertificate().subject.CN);
}

async function get({ shop, master }: Setting, path: string): Promise<{ status: number; text: string }> {
  const call = request({ port: master.port, host: '127.0.0.1', path, ca: shop.authority.cert, agent: false });
  call.end();
  const [response] = (await once(call, 'response')) as [IncomingMessage];
  let text = '';
  for await (const data of response) text += String(data);
  return { status: response.statusCode ?? 0, text };
}

function openLive({ shop, master }: Setting): WebSocket {
  const headers = { Authorization: `Bearer ${testToken}` };
  return new WebSocket(`wss://127.0.0.1:${master.port}${livePath}`, { headers, ca: shop.authority.cert });
}

async function faultsOf({ master }: Setting, cause: string): Promise<number> {
  const { values } = await master.metrics.handshakesFailed.get();
  return values.find(({ labels }) => labels.cause === cause)?.value ?? 0;
}

test('tls: calls, probes and the live log are served, and a refused upgrade is its HTTP answer', async () => {
  await using setting = await setUp();
  const { master, shop } = setting;
  assert.equal((await get(setting, '/healthz')).status, 200);
  assert.equal((await get(setting, '/readyz')).status, 200);
  assert.match((await get(setting, '/api/ping')).text, /"master":true/);
  assert.equal((await get(setting, '/api/instances')).status, 401);

  master.hub.write(testUid, 'one', 'two');
  const ws = openLive(setting);
  const lines: string[] = [];
  ws.on('message', (data: Buffer) => lines.push(data.toString()));
  await once(ws, 'open');
  master.hub.end(testUid);
  assert.equal(((await once(ws, 'close')) as [number])[0], 1000);
  assert.deepEqual(lines, ['one', 'two']);

  const stranger = new WebSocket(`wss://127.0.0.1:${master.port}${livePath}`, { ca: shop.authority.cert });
  const [error] = (await once(stranger, 'error')) as [Error];
  assert.match(error.message, /401/);
});

test('tls: a new certificate counts for new handshakes, and no open socket notices', async () => {
  await using setting = await setUp();
  const { master, shop, source } = setting;
  const ws = openLive(setting);
  await once(ws, 'open');
  assert.equal(await nameServed(setting), 'one');
  source.set(await load(await shop.issue('two')));
  assert.equal(await nameServed(setting), 'two');
  const line = once(ws, 'message');
  master.hub.write(testUid, 'after');
  assert.equal(String(((await line) as [Buffer])[0]), 'after');
  assert.equal(ws.readyState, WebSocket.OPEN);
  ws.terminate();
});

test('tls: a session that was begun under the old certificate is not resumed under the new one', async () => {
  await using setting = await setUp();
  const { shop, source } = setting;
  const first = await handshake(setting, { maxVersion: 'TLSv1.2' });
  const session = first.getSession();
  assert.ok(session !== undefined);
  source.set(await load(await shop.issue('two')));
  const again = await handshake(setting, { maxVersion: 'TLSv1.2', session });
  assert.equal(again.isSessionReused(), false);
  assert.equal(String(again.getPeerCertificate().subject.CN), 'two');
});

test('tls: 1.2 and 1.3 are spoken, 1.1 is not', async () => {
  await using setting = await setUp();
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const socket = await handshake(setting, { minVersion: version, maxVersion: version });
    assert.equal(socket.getProtocol(), version);
    assert.equal(socket.authorized, true);
  }
  const old = { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
  await assert.rejects(handshake(setting, old), { code: 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION' });
  assert.equal(await faultsOf(setting, 'refused'), 1);
});

test('tls: who speaks plain HTTP is told so, once and in plain HTTP, whatever was asked', async () => {
  await using setting = await setUp();
  const { master } = setting;
  for (const bytes of [
    'GET /api/ping HTTP/1.1\r\nHost: a\r\n\r\n',
    upgradeRequest(livePath),
    'POST / HTTP/1.0\r\n\r\n',
  ]) {
    using connection = await openRaw(master.port);
    connection.send(bytes);
    const response = parseResponse(await connection.ended());
    assert.equal(response.status, 400);
    assert.deepEqual(JSON.parse(response.body), {
      error: 'Plain HTTP on a port that speaks TLS: use https:// or wss://',
    });
  }
  assert.equal(await faultsOf(setting, 'plain-http'), 3);
  assert.equal(master.hub.openCount, 0);
});

test('tls: garbage is cut without an answer in HTTP, and others are served on', async () => {
  await using setting = await setUp();
  using connection = await openRaw(setting.master.port);
  connection.send(Buffer.from([0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
  assert.ok(!(await connection.ended()).includes('HTTP'));
  using other = await openRaw(setting.master.port);
  other.send(Buffer.alloc(64, 0xff));
  assert.ok(!(await other.ended()).includes('HTTP'));
  assert.equal(await faultsOf(setting, 'refused'), 2);
  assert.equal((await get(setting, '/api/ping')).status, 200);
});

test('tls: a connection that says nothing, and one that stops within its handshake, are cut in time', async () => {
  await using setting = await setUp({ limits: { handshakeTimeoutMs: 50 } });
  using silent = await openRaw(setting.master.port);
  using slow = await openRaw(setting.master.port);
  slow.send(Buffer.from([0x16, 3, 1]));
  assert.equal(await silent.ended(), '');
  assert.equal(await slow.ended(), '');
  assert.equal(await faultsOf(setting, 'timeout'), 1);
});

test('tls: a first record in single bytes is a handshake all the same', async () => {
  await using setting = await setUp();
  using raw = await openRaw(setting.master.port);
  raw.socket.setNoDelay(true);
  const hello = await clientHello(setting);
  for (const byte of hello) {
    raw.send(Buffer.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await raw.contains('\x16\x03\x03');
});

/** The bytes that a client begins with. */
async function clientHello({ shop }: Setting): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect({ port: (server.address() as AddressInfo).port, ca: shop.authority.cert });
  client.on('error', () => undefined);
  const [peer] = (await once(server, 'connection')) as [TLSSocket];
  const [hello] = (await once(peer, 'data')) as [Buffer];
  client.destroy();
  peer.destroy();
  server.close();
  return hello;
}

test('tls: a client that does not read is written no more than its buffers hold, and loses nothing', async () => {
  await using setting = await setUp({ limits: { sendBufferBytesMax: 64 * 1024 } });
  const { master } = setting;
  const count = 400;
  const text = 'x'.repeat(64 * 1024);
  for (let number = 0; number < count; number++) master.hub.write(testUid, `${number} ${text}`);
  master.hub.end(testUid);
  const ws = openLive(setting);
  const numbers: number[] = [];
  ws.on('message', (data: Buffer) => numbers.push(Number.parseInt(data.toString('latin1', 0, 8), 10)));
  await once(ws, 'open');
  ws.pause();
  // Round trips of another connection are the clock: when three of them see no more sent, all buffers are full.
  let [sent, same] = [-1, 0];
  while (same < 3) {
    const { text: metrics } = await get(setting, '/api/metrics');
    const now = Number(/^ringmaster_master_sent_bytes_total (\d+)$/m.exec(metrics)?.[1]);
    same = now === sent ? same + 1 : 0;
    sent = now;
  }
  assert.ok(sent > 0 && sent < (count * text.length) / 2, `${sent} bytes were sent to a client that does not read`);
  ws.resume();
  const [code] = (await once(ws, 'close')) as [number];
  assert.equal(code, 1000);
  assert.deepEqual(
    numbers,
    Array.from({ length: count }, (_, index) => index),
  );
});

test('tls: a Master that stops waits for no handshake longer than its grace, and tells its sockets', async () => {
  await using setting = await setUp({ limits: { drainGraceMs: 100 } });
  using hanging = await openRaw(setting.master.port);
  hanging.send(Buffer.from([0x16, 3, 1]));
  const ws = openLive(setting);
  await once(ws, 'open');
  const closed = once(ws, 'close');
  await setting.master.server.drain();
  assert.equal(((await closed) as [number])[0], 1001);
  await hanging.ended();
  assert.equal(setting.source.listeners.size, 0);
});
