/**
 * TLS by the Master itself: a second release that serves only this file's namespace, beside the one of the run, whose operator runs the program. The
 * certificate's authority is the test's; clients trust it and nobody else.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:tls';
import { request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openCertificateShop } from '../operator/testing/certificates.ts';
import type { CertificateShop, TestPair } from '../operator/testing/certificates.ts';
import type { World } from './live-harness.ts';
import { applyInstance, applyKey, enterWorld, eventually, exchange, parseAnswer } from './live-harness.ts';
import { chartDir, createToken } from './release.ts';

const release = 'secure';
const secret = 'certificate';

let world: World;
let shop: CertificateShop;
let token: string;
/** Of the program that this file streams. */
let id: string;
let host: string;

before(async () => {
  world = await enterWorld();
  shop = await openCertificateShop();
  world.cleanups.push(() => shop[Symbol.asyncDispose]());
  const { namespace } = world;
  const kubectl: World['kubectl'] = (args, input) => world.kubectl(args, input);
  // What an operator of the release would make: this one has none.
  const key = { data: { key: randomBytes(32).toString('base64') } };
  await kubectl(['create', '-f', '-'], JSON.stringify({ ...object('Secret', 'master-key'), ...key }));
  await installRelease();
  const service = ['get', 'service', `${release}-ringmaster-master`, '--output=jsonpath={.spec.clusterIP}'];
  host = await kubectl(service);
  await putCertificate(await shop.issue('first', [`IP:${host}`]));
  token = createToken();
  await applyKey(world, 'tls', { token, permission: 'ALL', namespace });
  const script = 'i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.2; done';
  id = await applyInstance(world, 'ticker', {
    ...{ image: 'ringmaster.local/busybox:1', command: ['sh', '-c'], args: [script] },
  });
  await kubectl(['rollout', 'status', `deployment/${release}-ringmaster-master`, '--timeout=90s']);
  await eventually('its Master to know the program', async () => (await get(`/api/instances/${id}`)).status === 200);
});

after(() => world.leave());

function object(kind: string, name: string): Record<string, unknown> {
  return { apiVersion: 'v1', kind, metadata: { name } };
}

/** One Master and no operator, with rights in this namespace alone. Its pod waits for the Secret with the certificate. */
async function installRelease(): Promise<void> {
  const { cluster, namespace, nodeImage } = world;
  const colon = nodeImage.lastIndexOf(':');
  const values = {
    'image.repository': nodeImage.slice(0, colon),
    'image.tag': nodeImage.slice(colon + 1),
    'crds.install': 'false',
    'rbac.aggregate.enabled': 'false',
    watchNamespaces: `{${namespace}}`,
    'operator.replicas': '0',
    'master.replicas': '1',
    'master.drainSeconds': '1',
    'master.preStopSeconds': '0',
    'masterKey.existingSecret': 'master-key',
    'master.tls.secretName': secret,
  };
  const settings = Object.entries(values).flatMap(([name, value]) => [
    name.endsWith('.tag') ? '--set-string' : '--set',
    `${name}=${value}`,
  ]);
  await cluster.helm(['install', release, chartDir, '--namespace', namespace, ...settings]);
  world.cleanups.push(() => cluster.helm(['uninstall', release, '--namespace', namespace]));
}

/** Makes or replaces the Secret. */
async function putCertificate({ cert, key }: TestPair | { cert: string; key: string }): Promise<void> {
  const stringData = { 'tls.crt': cert, 'tls.key': key };
  const manifest = { ...object('Secret', secret), type: 'kubernetes.io/tls', stringData };
  await world.kubectl(['apply', '-f', '-'], JSON.stringify(manifest));
}

/** The kubelet looks at mounted Secrets once a minute, and whenever the pod changes. */
async function nudgeKubelet(round: string): Promise<void> {
  const selector = ['--selector', `app.kubernetes.io/instance=${release},app.kubernetes.io/component=master`];
  await world.kubectl(['annotate', 'pods', ...selector, '--overwrite', `ringmaster.test/round=${round}`]);
}

async function get(path: string): Promise<{ status: number; text: string }> {
  const call = request({
    ...{ host, port: 7000, path, ca: shop.authority.cert, agent: false },
    headers: { authorization: `Bearer ${token}` },
  });
  call.end();
  const [response] = (await once(call, 'response')) as [IncomingMessage];
  let text = '';
  for await (const data of response) text += String(data);
  return { status: response.statusCode ?? 0, text };
}

/** Whose certificate a new connection is shown. */
async function nameServed(): Promise<string> {
  const socket = connect({ host, port: 7000, ca: shop.authority.cert });
  await once(socket, 'secureConnect');
  const { subject } = socket.getPeerCertificate();
  socket.destroy();
  return String(subject.CN);
}

async function metric(name: string): Promise<number> {
  const { text } = await get('/api/metrics');
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `)) ?? '';
  return Number(line.slice(name.length));
}

/** The real wscat, as the README shows it. */
class Wscat {
  stdout = '';
  stderr = '';
  readonly child: ChildProcess;

  constructor(args: readonly string[] = []) {
    const program = join(import.meta.dirname, '../node_modules/.bin/wscat');
    const target = ['--connect', `wss://${host}:7000/api/instances/${id}/live-log?tail=0`];
    const all = [program, '--header', `Authorization: Bearer ${token}`, ...target, ...args];
    // Its input stays open: at the end of it, it would leave.
    this.child = spawn(process.execPath, all, { stdio: ['pipe', 'pipe', 'pipe'] });
    world.cleanups.push(() => this.child.kill('SIGKILL'));
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
  }

  get ticks(): number[] {
    return [...this.stdout.matchAll(/^(?:< )?tick (\d+)$/gm)].map(([, number]) => Number(number));
  }

  /** Waits for so many more lines. */
  async more(count: number): Promise<void> {
    const wanted = this.ticks.length + count;
    await eventually(`${wanted} lines of wscat; it wrote: ${this.stderr}`, () =>
      Promise.resolve(this.ticks.length >= wanted),
    );
  }
}

test('tls: calls are served, the kubelet probes by HTTPS, and the Service says what its port speaks', async () => {
  assert.equal((await get('/api/ping')).status, 200);
  assert.equal((await get(`/api/instances/${id}`)).status, 200);
  const port = await world.kubectl([
    ...['get', 'service', `${release}-ringmaster-master`],
    '--output=jsonpath={.spec.ports[0].name} {.spec.ports[0].appProtocol}',
  ]);
  assert.equal(port, 'https https');
});

test('tls: whoever speaks plain HTTP is told so', async () => {
  const answer = parseAnswer(await exchange(`http://${host}:7000`, 'GET /api/ping HTTP/1.1\r\nHost: master\r\n\r\n'));
  assert.equal(answer.status, 400);
  assert.match(answer.body, /speaks TLS: use https:\/\/ or wss:\/\//);
});

test('tls: the real wscat streams over wss with the authority, and not without it', async () => {
  const wscat = new Wscat(['--ca', shop.authority.certFile]);
  await wscat.more(3);
  wscat.child.kill('SIGTERM');
  const stranger = new Wscat();
  await once(stranger.child, 'close');
  assert.match(stranger.stderr, /error: .*certificate/);
  assert.deepEqual(stranger.ticks, []);
});

test('tls: a changed Secret counts for new connections, a broken one does not, and the open socket misses no line', async () => {
  const wscat = new Wscat(['--ca', shop.authority.certFile]);
  await wscat.more(2);
  assert.equal(await nameServed(), 'first');

  const second = await shop.issue('second', [`IP:${host}`]);
  await putCertificate(second);
  await nudgeKubelet('second');
  await eventually('the second certificate', async () => (await nameServed()) === 'second');
  assert.equal(await metric('ringmaster_tls_certificate_is_stale'), 0);

  const third = await shop.issue('third', [`IP:${host}`]);
  await putCertificate({ cert: third.cert, key: second.key });
  await nudgeKubelet('broken');
  await eventually(
    'the broken pair to be seen',
    async () => (await metric('ringmaster_tls_certificate_is_stale')) === 1,
  );
  assert.equal(await nameServed(), 'second');

  await putCertificate(third);
  await nudgeKubelet('third');
  await eventually('the third certificate', async () => (await nameServed()) === 'third');
  assert.equal(await metric('ringmaster_tls_certificate_is_stale'), 0);

  await wscat.more(2);
  assert.equal(wscat.child.exitCode, null);
  const [first = 0] = wscat.ticks;
  assert.deepEqual(
    wscat.ticks,
    wscat.ticks.map((_, index) => first + index),
  );
});

test('tls: helm test of such a release passes', async () => {
  const output = await world.cluster.helm(['test', release, '--namespace', world.namespace, '--timeout', '60s']);
  assert.match(output, /Phase:\s+Succeeded/);
});
