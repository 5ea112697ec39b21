import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { WebSocketServer } from 'ws';
import type { WebSocket } from 'ws';
import { createSilentLogger } from '../log.ts';
import { configMaps } from '../testing/kinds.ts';
import { ApiError, isReason, pods } from './client.ts';
import type { Client, WatchEvent } from './client.ts';
import { connect } from './http.ts';

type Handler = (request: IncomingMessage, response: ServerResponse, body: string) => void;

const folder = mkdtempSync(join(tmpdir(), 'ringmaster-http-'));
const escaped: unknown[] = [];
const noteEscaped = (error: unknown): void => {
  escaped.push(error);
};
let server: Server;
let origin = '';
let handler: Handler = () => undefined;
const seen: { method: string; url: string; headers: IncomingMessage['headers']; body: string }[] = [];
let client: Client;
let answers: string[] = [];

function writeKubeconfig(address: string, user: object = { token: 'secret' }, name = 'config'): string {
  const path = join(folder, name);
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'main',
    clusters: [{ name: 'c', cluster: { server: address, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'u', user }],
    contexts: [
      { name: 'main', context: { cluster: 'c', user: 'u', namespace: 'games' } },
      { name: 'bare', context: { cluster: 'c', user: 'u' } },
    ],
  };
  writeFileSync(path, JSON.stringify(config));
  return path;
}

function connectTo(address: string, user?: object): Client {
  const observer = { onAnswer: (verb: string, status: number) => answers.push(`${verb} ${status}`) };
  const kubeconfigPath = writeKubeconfig(address, user);
  return connect({ kubeconfigPath, log: createSilentLogger(), observer }).client;
}

before(async () => {
  // Whatever a stream does, it must not come out here: it would end the process.
  process.on('uncaughtException', noteEscaped);
  process.on('unhandledRejection', noteEscaped);
  server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => (body += text));
    request.on('end', () => {
      seen.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers, body });
      handler(request, response, body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

beforeEach(() => {
  seen.length = 0;
  answers = [];
  client = connectTo(origin);
});

after(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true });
  await new Promise((resolve) => setImmediate(resolve));
  process.off('uncaughtException', noteEscaped);
  process.off('unhandledRejection', noteEscaped);
  assert.deepEqual(escaped, []);
});

function json(status: number, body: unknown, headers: Record<string, string> = {}): Handler {
  return (_request, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  };
}

const ref = { namespace: 'games', name: 'a' };
const stored = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { ...ref, resourceVersion: '5' }, data: { x: '1' } };

function watch(
  extra: { signal?: AbortSignal; idleTimeoutMs?: number; onOpen?: () => void } = {},
): AsyncIterable<WatchEvent<typeof stored>> {
  const { signal = new AbortController().signal, idleTimeoutMs = 10_000, ...more } = extra;
  const resource = { ...configMaps } as { apiVersion: string; kind: string; plural: string; namespaced: boolean };
  const options = { resourceVersion: '5', timeoutSeconds: 300, idleTimeoutMs, signal, ...more };
  return client.watch<typeof stored>(resource, options);
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

async function log(signal: AbortSignal, extra: object = {}): Promise<AsyncIterable<Uint8Array>> {
  return await client.log(ref, { container: 'main', follow: true, timestamps: true, signal, ...extra });
}

function gate(): { promise: Promise<void>; open: () => void } {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  return {
    promise: promise.then(() => undefined),
    open: () => {
      resolve(undefined);
    },
  };
}

test('connect: names server and namespace, takes another context, and refuses one that is not there', () => {
  const kubeconfigPath = writeKubeconfig(origin);
  const options = { kubeconfigPath, log: createSilentLogger() };
  const { namespace, server: address } = connect(options);
  assert.deepEqual([namespace, address], ['games', origin]);
  assert.equal(connect({ ...options, context: 'bare' }).namespace, undefined);
  assert.throws(() => connect({ ...options, context: 'nope' }), /no context "nope"/);
});

test('Client: each verb is the request that Kubernetes knows, with the token', async () => {
  handler = json(200, stored);
  await client.get(configMaps, ref);
  await client.create(configMaps, { metadata: ref, data: { x: '1' } });
  await client.update(configMaps, stored);
  await client.apply(configMaps, { metadata: ref }, { fieldManager: 'me', force: true, dryRun: 'All' });
  await client.applyStatus(configMaps, { metadata: ref }, { fieldManager: 'me' });
  await client.mergePatch(configMaps, ref, { data: null });
  await client.remove(configMaps, ref, { uid: 'u', gracePeriodSeconds: 1 });
  await client.updateStatus(configMaps, stored);
  await client.mergePatchStatus(configMaps, ref, { status: null });
  const lease = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', plural: 'leases', namespaced: true };
  await client.get(lease, { namespace: 'a b', name: 'x/y' });
  const path = '/api/v1/namespaces/games/configmaps';
  assert.deepEqual(
    seen.map(({ method, url, headers }) => `${method} ${url} ${headers['content-type'] ?? ''}`.trim()),
    [
      `GET ${path}/a`,
      `POST ${path} application/json`,
      `PUT ${path}/a application/json`,
      `PATCH ${path}/a?fieldManager=me&force=true&dryRun=All application/apply-patch+yaml`,
      `PATCH ${path}/a/status?fieldManager=me application/apply-patch+yaml`,
      `PATCH ${path}/a application/merge-patch+json`,
      `DELETE ${path}/a application/json`,
      `PUT ${path}/a/status application/json`,
      `PATCH ${path}/a/status application/merge-patch+json`,
      'GET /apis/coordination.k8s.io/v1/namespaces/a%20b/leases/x%2Fy',
    ],
  );
  assert.ok(seen.every(({ headers }) => headers.authorization === 'Bearer secret'));
  assert.deepEqual(JSON.parse(seen[1]?.body ?? ''), {
    metadata: ref,
    data: { x: '1' },
    apiVersion: 'v1',
    kind: 'ConfigMap',
  });
  assert.deepEqual((JSON.parse(seen[6]?.body ?? '') as { preconditions: object }).preconditions, { uid: 'u' });
  assert.deepEqual(answers.slice(0, 2), ['get 200', 'create 200']);
});

test('Client: a name or namespace that is missing never becomes a request for something else', async () => {
  await assert.rejects(client.remove(configMaps, { namespace: 'games', name: '' }), TypeError);
  await assert.rejects(client.get(configMaps, { name: 'a' }), TypeError);
  assert.equal(seen.length, 0);
});

test('Client: a list names its selection and gives its items their kind', async () => {
  handler = json(200, { metadata: { resourceVersion: '9', continue: 'next' }, items: [{ metadata: ref }] });
  const options = { namespace: 'games', labelSelector: 'a=b,c', limit: 5, continue: 'token', resourceVersion: '0' };
  const list = await client.list(configMaps, options);
  assert.equal(
    seen[0]?.url,
    '/api/v1/namespaces/games/configmaps?labelSelector=a%3Db%2Cc&limit=5&continue=token&resourceVersion=0',
  );
  assert.deepEqual(list.items[0], { apiVersion: 'v1', kind: 'ConfigMap', metadata: ref });
  assert.equal(list.metadata.continue, 'next');
  await client.list(pods, {});
  assert.equal(seen[1]?.url, '/api/v1/pods');
});

const errorBodies: [string, Handler, Partial<ApiError>][] = [
  [
    'a Status',
    json(422, { kind: 'Status', status: 'Failure', code: 422, reason: 'Invalid', message: 'spec.x: no' }),
    { code: 422, reason: 'Invalid', message: 'spec.x: no', retryAfterMs: undefined },
  ],
  [
    'a Status with details.retryAfterSeconds',
    json(429, { code: 429, reason: 'TooManyRequests', message: 'slow', details: { retryAfterSeconds: 3 } }),
    { code: 429, retryAfterMs: 3_000 },
  ],
  [
    'a Retry-After header, which counts more',
    json(429, { reason: 'TooManyRequests', message: 'x', details: { retryAfterSeconds: 3 } }, { 'retry-after': '7' }),
    { code: 429, retryAfterMs: 7_000 },
  ],
  ['a Status without a reason', json(403, { reason: '', message: 'no' }), { code: 403, reason: 'Forbidden' }],
  [
    'plain text',
    (_request, response) => response.writeHead(400).end('container "x" is waiting to start\n'),
    { code: 400, reason: 'BadRequest', message: 'container "x" is waiting to start' },
  ],
  [
    'a page of a proxy',
    (_request, response) => response.writeHead(503).end('<html>unavailable</html>'),
    { code: 503, reason: 'ServiceUnavailable', message: '<html>unavailable</html>' },
  ],
  [
    'nothing',
    (_request, response) => response.writeHead(500).end(),
    { code: 500, reason: 'InternalError', message: 'The API server answered with status 500' },
  ],
  ['a redirect', (_request, response) => response.writeHead(302, { location: '/x' }).end(), { code: 302 }],
  [
    'a body that breaks off',
    (_request, response) => {
      response.writeHead(500, { 'content-length': '100' });
      response.write('half', () => response.destroy());
    },
    { code: 500, reason: 'InternalError' },
  ],
];

for (const [name, answer, expected] of errorBodies) {
  test(`Client: an error answer that is ${name} becomes an ApiError, for a call and for a stream`, async () => {
    handler = answer;
    const matches = (error: unknown): boolean => {
      assert.ok(error instanceof ApiError);
      for (const [field, value] of Object.entries(expected)) assert.equal(error[field as 'message'], value);
      return true;
    };
    await assert.rejects(client.update(configMaps, stored), matches);
    await assert.rejects(log(new AbortController().signal), matches);
    await assert.rejects(collect(watch()), matches);
  });
}

test('Client: 404 is undefined for get and success for remove, and an error for the rest', async () => {
  handler = json(404, { code: 404, reason: 'NotFound', message: 'gone' });
  assert.equal(await client.get(configMaps, ref), undefined);
  await client.remove(configMaps, ref);
  await assert.rejects(client.update(configMaps, stored), (error) => isReason(error, 'NotFound'));
});

test('Client: an answer that is no JSON, or half of one, is an error that shows its start', async () => {
  handler = (_request, response) => response.end('<html>');
  await assert.rejects(client.get(configMaps, ref), /not JSON: "<html>"/);
  handler = (_request, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('{"a":', () => response.destroy());
  };
  await assert.rejects(client.get(configMaps, ref));
});

test('Client: a call is aborted before it is sent, while it waits, and within its body', async () => {
  const reason = new Error('enough');
  await assert.rejects(client.get(configMaps, ref, AbortSignal.abort(reason)), reason);
  assert.equal(seen.length, 0);
  for (const isStarted of [false, true]) {
    const stop = new AbortController();
    handler = (_request, response) => {
      if (isStarted) response.write('{');
      setImmediate(() => {
        stop.abort(reason);
      });
    };
    await assert.rejects(client.get(configMaps, ref, stop.signal), reason);
  }
});

test('Client: a server that refuses connections is a plain error, counted as no answer', async () => {
  const closed = createTcpServer();
  await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve));
  const { port } = closed.address() as AddressInfo;
  await new Promise((resolve) => closed.close(resolve));
  await assert.rejects(connectTo(`http://127.0.0.1:${port}`).get(configMaps, ref), /ECONNREFUSED/);
  assert.deepEqual(answers, ['get 0']);
});

test('Client: after 401 the token is read again, so that a rotated one is used in the next call', async () => {
  const tokenFile = join(folder, 'token');
  writeFileSync(tokenFile, 'old\n');
  client = connectTo(origin, { 'auth-provider': { name: 'tokenFile', config: { tokenFile } } });
  handler = (request, response) => {
    const isNew = request.headers.authorization === 'Bearer new';
    json(isNew ? 200 : 401, isNew ? stored : { reason: 'Unauthorized', message: 'expired' })(request, response, '');
  };
  await assert.rejects(client.get(configMaps, ref), (error) => isReason(error, 'Unauthorized'));
  writeFileSync(tokenFile, 'new\n');
  assert.equal((await client.get(configMaps, ref))?.metadata.name, 'a');
});

test('watch: asks for bookmarks, passes every type on, and ends when the server ends it', async () => {
  const events = [
    { type: 'ADDED', object: stored },
    { type: 'BOOKMARK', object: { metadata: { resourceVersion: '8' } } },
    { type: 'ERROR', object: { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' } },
  ];
  handler = (_request, response) => response.end(events.map((event) => `${JSON.stringify(event)}\n`).join(''));
  const got = await collect(watch());
  assert.deepEqual(
    got.map((event) => event.type),
    ['ADDED', 'BOOKMARK', 'ERROR'],
  );
  assert.deepEqual(got[2]?.object, { code: 410, reason: 'Expired', message: 'too old' });
  assert.equal(
    seen[0]?.url,
    '/api/v1/configmaps?watch=true&allowWatchBookmarks=true&resourceVersion=5&timeoutSeconds=300',
  );
});

test('watch: says that it is open when the server has taken it, before there is an event, and not when it is refused', async () => {
  const stop = new AbortController();
  handler = (_request, response) => {
    response.flushHeaders();
  };
  // Nobody but the opening ends it.
  const onOpen = (): void => {
    stop.abort(new Error('open'));
  };
  assert.deepEqual(await collect(watch({ signal: stop.signal, onOpen })), []);
  handler = json(429, { code: 429, reason: 'TooManyRequests', message: 'slow down' });
  let opened = 0;
  await assert.rejects(collect(watch({ onOpen: () => (opened += 1) })), /slow down/);
  assert.equal(opened, 0);
});

test('watch: lines are put together from any chunks, across characters and megabytes', async () => {
  const text = 'ä€😀'.repeat(400_000);
  const line = Buffer.from(`${JSON.stringify({ type: 'ADDED', object: { ...stored, data: { x: text } } })}\n`);
  handler = (_request, response) => {
    const all = Buffer.concat([line, line]);
    let start = 0;
    const next = (): void => {
      if (start >= all.length) response.end();
      else response.write(all.subarray(start, (start += 99_991)), next);
    };
    next();
  };
  const got = await collect(watch());
  assert.deepEqual(
    got.map((event) => (event.type === 'ADDED' ? event.object.data.x === text : false)),
    [true, true],
  );
});

const breaks: [string, Handler, RegExp][] = [
  [
    'a reset in the middle of a line',
    (_request, response) => {
      response.write('{"type":', () => response.socket?.resetAndDestroy());
    },
    /./,
  ],
  ['an end in the middle of a line', (_request, response) => response.end('{"type":"ADDED"'), /ended inside a line/],
  ['garbage', (_request, response) => response.end('garbage\n'), /not JSON: "garbage"/],
  ['410', json(410, { code: 410, reason: 'Expired', message: 'too old' }), /too old/],
  ['429', json(429, { code: 429, reason: 'TooManyRequests', message: 'slow down' }, { 'retry-after': '1' }), /slow/],
];

for (const [name, answer, message] of breaks) {
  test(`watch: throws on ${name}`, async () => {
    handler = answer;
    await assert.rejects(collect(watch()), message);
  });
}

test('watch: a connection that went silent is given up, and a slow reader is not mistaken for it', async () => {
  const bookmark = `${JSON.stringify({ type: 'BOOKMARK', object: { metadata: { resourceVersion: '8' } } })}\n`;
  handler = (_request, response) => void response.write(bookmark.repeat(2));
  const got: string[] = [];
  await assert.rejects(async () => {
    for await (const event of watch({ idleTimeoutMs: 100 })) {
      got.push(event.type);
      if (got.length === 1) await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }, /silent for 100 ms/);
  assert.deepEqual(got, ['BOOKMARK', 'BOOKMARK']);
});

test('watch: abort ends it quietly at each stage', async () => {
  assert.deepEqual(await collect(watch({ signal: AbortSignal.abort() })), []);
  assert.equal(seen.length, 0);
  for (const stage of ['before the answer', 'after the header', 'within a line'] as const) {
    const stop = new AbortController();
    handler = (_request, response) => {
      if (stage !== 'before the answer') response.flushHeaders();
      if (stage === 'within a line') response.write('{"type"');
      setTimeout(() => {
        stop.abort(new Error('enough'));
      }, 20);
    };
    assert.deepEqual(await collect(watch({ signal: stop.signal })), [], stage);
  }
});

test('watch: a reader that leaves closes the connection', async () => {
  const closed = gate();
  handler = (_request, response) => {
    response.on('close', closed.open);
    response.write(`${JSON.stringify({ type: 'ADDED', object: stored })}\n`);
  };
  for await (const event of watch()) {
    assert.equal(event.type, 'ADDED');
    break;
  }
  await closed.promise;
});

test('log: raw bytes as they come, tailLines 0 honoured, a clean end ends it', async () => {
  handler = (_request, response) => {
    response.write(Buffer.from([0xff, 0x0a]), () => response.end('x'));
  };
  const chunks = await collect(
    await log(new AbortController().signal, { tailLines: 0, sinceTime: '2026-01-01T00:00:00Z' }),
  );
  assert.deepEqual(Buffer.concat(chunks), Buffer.from([0xff, 0x0a, 0x78]));
  assert.equal(
    seen[0]?.url,
    '/api/v1/namespaces/games/pods/a/log?container=main&follow=true&timestamps=true&tailLines=0&sinceTime=2026-01-01T00%3A00%3A00Z',
  );
});

test('log: a reset is thrown to the reader, also when it begins to read later', async () => {
  const broken = gate();
  handler = (_request, response) => {
    response.write('line\n', () => {
      setTimeout(() => {
        response.socket?.resetAndDestroy();
        broken.open();
      }, 20);
    });
  };
  await assert.rejects(async () => collect(await log(new AbortController().signal)));
  const late = await log(new AbortController().signal);
  await broken.promise;
  await new Promise((resolve) => setTimeout(resolve, 50));
  await assert.rejects(collect(late));
});

test('log: abort ends the iteration and nothing else, at each stage', async () => {
  handler = (_request, response) => void response.write('line\n');
  await assert.rejects(log(AbortSignal.abort(new Error('enough'))), /enough/);
  const unread = new AbortController();
  await log(unread.signal);
  unread.abort();
  const waiting = new AbortController();
  const chunks: string[] = [];
  for await (const chunk of await log(waiting.signal)) {
    chunks.push(Buffer.from(chunk).toString());
    setTimeout(() => {
      waiting.abort();
    }, 10);
  }
  assert.deepEqual(chunks, ['line\n']);
  handler = () => undefined;
  const pending = new AbortController();
  setTimeout(() => {
    pending.abort(new Error('enough'));
  }, 20);
  await assert.rejects(log(pending.signal), /enough/);
});

test('log: a reader that stops reading stops the server', async () => {
  let sentBytes = 0;
  handler = (_request, response) => {
    const chunk = Buffer.alloc(64 * 1024);
    const pump = (): void => {
      while (response.write(chunk)) sentBytes += chunk.length;
      response.once('drain', pump);
    };
    pump();
  };
  const stop = new AbortController();
  const iterator = (await log(stop.signal))[Symbol.asyncIterator]();
  await iterator.next();
  let before = -1;
  while (before !== sentBytes) {
    before = sentBytes;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assert.ok(sentBytes < 64 * 1024 * 1024, `${sentBytes} bytes were taken from a server that nobody reads`);
  stop.abort();
  assert.equal((await iterator.next()).done, true);
});

test('log: many at the same time each have a connection', async () => {
  handler = (_request, response) => void response.write('line\n');
  const stop = new AbortController();
  const streams = await Promise.all(Array.from({ length: 100 }, () => log(stop.signal)));
  const iterators = streams.map((stream) => stream[Symbol.asyncIterator]());
  await Promise.all(iterators.map((iterator) => iterator.next()));
  stop.abort();
  const ends = await Promise.all(iterators.map((iterator) => iterator.next()));
  assert.ok(ends.every((end) => end.done === true));
});

type Attached = (socket: WebSocket, frames: Buffer[]) => void;

async function attachTo(
  protocol: string,
  behave: Attached,
): Promise<{ attach: Client; stop: () => void; frames: Buffer[]; urls: string[] }> {
  const frames: Buffer[] = [];
  const urls: string[] = [];
  const http = createServer();
  const sockets = new WebSocketServer({
    server: http,
    handleProtocols: (offered) => (offered.has(protocol) ? protocol : false),
  });
  sockets.on('connection', (socket, request) => {
    urls.push(request.url ?? '');
    socket.on('message', (data) => {
      frames.push(data as Buffer);
      behave(socket, frames);
    });
    behave(socket, frames);
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const stop = (): void => {
    for (const socket of sockets.clients) socket.terminate();
    http.close();
  };
  return { attach: connectTo(`http://127.0.0.1:${(http.address() as AddressInfo).port}`), stop, frames, urls };
}

function success(socket: WebSocket, status: object = { status: 'Success' }): void {
  socket.send(Buffer.concat([Uint8Array.of(3), Buffer.from(JSON.stringify(status))]));
  socket.close(1000);
}

const isClose = (frame: Buffer | undefined): boolean => frame !== undefined && frame.equals(Uint8Array.of(255, 0));

test('attachStdin: sends exactly the bytes, in order, then closes its channel where the server has v5', async () => {
  const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 256));
  const { attach, stop, frames, urls } = await attachTo('v5.channel.k8s.io', (socket, all) => {
    if (isClose(all.at(-1))) success(socket);
  });
  await attach.attachStdin(ref, 'main', bytes);
  stop();
  assert.ok(isClose(frames.at(-1)));
  assert.ok(frames.slice(0, -1).every((frame) => frame[0] === 0));
  assert.deepEqual(Buffer.concat(frames.slice(0, -1).map((frame) => frame.subarray(1))), bytes);
  assert.equal(
    urls[0],
    '/api/v1/namespaces/games/pods/a/attach?container=main&stdin=true&stdout=false&stderr=false&tty=false',
  );
});

test('attachStdin: a server that only knows v4 gets the bytes and a clean close', async () => {
  const closed = Promise.withResolvers<number>();
  const { attach, stop, frames } = await attachTo('v4.channel.k8s.io', (socket) => {
    socket.once('close', closed.resolve);
  });
  await attach.attachStdin(ref, 'main', Buffer.from('stop\n'));
  assert.equal(await closed.promise, 1000);
  assert.deepEqual(frames, [Buffer.from('\0stop\n')]);
  stop();
});

test('attachStdin: a container that is gone is an ApiError: at the handshake, and in the last word', async () => {
  handler = () => undefined;
  server.once('upgrade', (_request, socket: Socket) => {
    const body = JSON.stringify({ code: 404, reason: 'NotFound', message: 'pods "a" not found' });
    socket.end(`HTTP/1.1 404 Not Found\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`);
  });
  await assert.rejects(client.attachStdin(ref, 'main', Buffer.from('x')), (error) => isReason(error, 'NotFound'));
  const { attach, stop } = await attachTo('v5.channel.k8s.io', (socket, frames) => {
    const failure = { status: 'Failure', code: 500, reason: 'InternalError', message: 'container main not found' };
    if (isClose(frames.at(-1))) success(socket, failure);
  });
  await assert.rejects(attach.attachStdin(ref, 'main', Buffer.from('x')), /container main not found/);
  stop();
});

test('attachStdin: does not hang when the server never ends it, and ends with its signal', async () => {
  const { attach, stop } = await attachTo('v5.channel.k8s.io', () => undefined);
  await attach.attachStdin(ref, 'main', Buffer.from('x'));
  const abort = new AbortController();
  const writing = attach.attachStdin(ref, 'main', Buffer.from('x'), abort.signal);
  setTimeout(() => {
    abort.abort(new Error('enough'));
  }, 50);
  await assert.rejects(writing, /enough/);
  stop();
});

test('attachStdin: a connection that breaks, or is never answered, is an error', async () => {
  const { attach, stop } = await attachTo('v5.channel.k8s.io', (socket) => {
    socket.terminate();
  });
  await assert.rejects(attach.attachStdin(ref, 'main', Buffer.alloc(10_000_000)));
  stop();
  const silent = createTcpServer(() => undefined);
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const { port } = silent.address() as AddressInfo;
  const abort = new AbortController();
  const writing = connectTo(`http://127.0.0.1:${port}`).attachStdin(ref, 'main', Buffer.from('x'), abort.signal);
  setTimeout(() => {
    abort.abort(new Error('enough'));
  }, 50);
  await assert.rejects(writing, /enough/);
  silent.close();
});

test('Client: a server that dies and comes back on the same port is reached again', async () => {
  let upstream: Server | undefined;
  const open = async (port: number): Promise<number> => {
    upstream = createServer((_request, response) => response.end(JSON.stringify(stored)));
    await new Promise<void>((resolve) => upstream?.listen(port, '127.0.0.1', resolve));
    return (upstream.address() as AddressInfo).port;
  };
  const close = async (): Promise<void> => {
    upstream?.closeAllConnections();
    await new Promise((resolve) => upstream?.close(resolve));
  };
  const port = await open(0);
  const again = connectTo(`http://127.0.0.1:${port}`);
  assert.ok((await again.get(configMaps, ref)) !== undefined);
  await close();
  await assert.rejects(again.get(configMaps, ref));
  await open(port);
  assert.ok((await again.get(configMaps, ref)) !== undefined);
  await close();
});
