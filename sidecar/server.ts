/**
 * The sidecar's two HTTP servers. The first speaks TLS with a pre-shared key and serves everything; a peer without the key does not get
 * past the handshake. The second is plain and answers health and metrics alone. Both are bounded: connections, header bytes, time.
 */
import { createServer as createPlainServer, ServerResponse } from 'node:http';
import type { IncomingMessage, Server } from 'node:http';
import { createServer } from 'node:https';
import type { Server as TlsServer } from 'node:https';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { agreeOnVersion, hasMethod, readBody, sendError, sendJson, sendReadiness, sendText } from './answers.ts';
import { AnswerBody, FrameBody } from './body.ts';
import type { LogBody } from './body.ts';
import type { LogFile } from './log.ts';
import { formatMetrics } from './metrics.ts';
import type { Counters } from './metrics.ts';
import { frameProtocol, headers, limits, paths, tlsServerOptions } from './protocol.ts';
import type { SidecarStatus } from './protocol.ts';
import { parseLogQuery } from './query.ts';
import type { LogQuery } from './query.ts';
import type { ReadyGate } from './ready.ts';
import type { Starts } from './starts.ts';
import { parseLines, StdinError } from './stdin.ts';
import type { StdinPipe } from './stdin.ts';
import { sendLog } from './stream.ts';

export interface ServerOptions {
  readonly log: LogFile;
  readonly starts: Starts;
  /** Undefined where no pattern was given. */
  readonly ready: Pick<ReadyGate, 'reason'> | undefined;
  readonly pipe: StdinPipe;
  readonly identity: string;
  readonly key: Buffer;
  readonly counters: Counters;
  readonly readStatus: () => Promise<Omit<SidecarStatus, 'sidecar'>>;
  readonly onFault: (error: unknown) => void;
}

interface Range {
  readonly start: number;
  readonly endOffset: number | undefined;
  readonly boundary: () => number;
}

export class SidecarServer {
  readonly tls: TlsServer;
  readonly plain: Server;
  /** Log streams that are open. */
  readers = 0;
  /** The end of what some reader has got: what an orderly stop waits for. */
  deliveredOffset = 0;
  /** When a reader was last there. */
  lastReaderAtMs = 0;
  readonly #options: ServerOptions;
  readonly #startedAtMs = Date.now();
  /** Connections that have not shown the key yet, the oldest first. */
  readonly #handshakes = new Set<Socket>();
  /** Connections to the plain port, the oldest first. */
  readonly #strangers = new Set<Socket>();
  /** Connections that carry frames: HTTP knows nothing of them any more. */
  readonly #framed = new Set<Socket>();
  #connections = 0;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.tls = this.#createTls();
    this.plain = createPlainServer({ maxHeaderSize: limits.headerBytesMax, connectionsCheckingInterval: 5000 });
    setTimeouts(this.plain);
    this.plain.on('connection', (socket: Socket) => {
      this.#admit(socket, this.#strangers, limits.healthConnectionsMax);
    });
    this.plain.on('request', (request, response) => {
      this.#handle(request, response, () => this.#routePlain(request, response));
    });
  }

  /** Stops listening and cuts every connection. */
  close(): void {
    for (const socket of [...this.#handshakes, ...this.#framed]) {
      socket.destroy();
    }
    this.tls.close();
    this.tls.closeAllConnections();
    this.plain.close();
    this.plain.closeAllConnections();
  }

  #createTls(): TlsServer {
    const { identity, key } = this.#options;
    const server = createServer({
      ...tlsServerOptions,
      pskCallback: (_socket, name) => (name === identity ? key : null),
      handshakeTimeout: limits.handshakeTimeoutMs,
      maxHeaderSize: limits.headerBytesMax,
      connectionsCheckingInterval: 5000,
      keepAliveInitialDelay: limits.tcpKeepAliveMs,
      shouldUpgradeCallback: ({ method, headers: sent }) => method === 'GET' && sent.upgrade === frameProtocol,
    });
    setTimeouts(server);
    server.on('connection', (socket: Socket) => {
      // Whoever has the key is through in milliseconds: the oldest of these is not one of them.
      this.#admit(socket, this.#handshakes, limits.handshakesMax);
    });
    server.on('secureConnection', (socket) => {
      this.#onSecureConnection(socket);
    });
    server.on('tlsClientError', () => {
      this.#options.counters.failedHandshakes += 1;
    });
    server.on('request', (request, response) => {
      this.#serve(request, response);
    });
    server.on('upgrade', (request, socket) => {
      this.#onUpgrade(request, socket);
    });
    return server;
  }

  #serve(request: IncomingMessage, response: ServerResponse, upgraded?: Socket): void {
    this.#options.counters.requests += 1;
    this.#handle(request, response, async () => {
      if (agreeOnVersion(request, response)) {
        await this.#route(request, response, upgraded);
      }
    });
  }

  /** Whoever asks for frames gets them with a followed log, and any other answer as if he had not asked; then the connection ends. */
  #onUpgrade(request: IncomingMessage, socket: Duplex): void {
    if (!(socket instanceof Socket)) {
      socket.destroy();
      return;
    }
    this.#framed.add(socket);
    socket.once('close', () => {
      this.#framed.delete(socket);
    });
    socket.on('error', () => undefined);
    // Nothing more is expected from there but the end.
    socket.once('end', () => socket.destroy());
    socket.resume();
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket);
    response.once('finish', () => socket.end());
    this.#serve(request, response, socket);
  }

  /** Takes a connection in; where there are too many, the oldest is cut. */
  #admit(socket: Socket, among: Set<Socket>, max: number): void {
    if (among.size >= max) {
      const [oldest] = among;
      this.#options.counters.refusedConnections += 1;
      oldest?.destroy();
      // Its event comes later than the next connection may.
      among.delete(oldest ?? socket);
    }
    among.add(socket);
    socket.on('close', () => {
      among.delete(socket);
    });
  }

  #onSecureConnection(socket: Socket & { _parent?: Socket }): void {
    for (const raw of this.#handshakes) {
      if (raw.remotePort === socket.remotePort && raw.remoteAddress === socket.remoteAddress) {
        this.#handshakes.delete(raw);
      }
    }
    if (this.#connections >= limits.connectionsMax) {
      this.#options.counters.refusedConnections += 1;
      socket.destroy();
      return;
    }
    this.#connections += 1;
    socket.on('close', () => {
      this.#connections -= 1;
    });
  }

  #handle(request: IncomingMessage, response: ServerResponse, route: () => Promise<void>): void {
    // A peer that goes away is no fault; the loops look at `response.destroyed`.
    response.on('error', () => undefined);
    request.on('error', () => undefined);
    route().catch((error: unknown) => {
      if (error instanceof StdinError) {
        sendError(response, error.code, error.message, { linesWritten: error.linesWritten });
        return;
      }
      this.#options.onFault(error);
      try {
        sendError(response, 'INTERNAL', 'Cannot answer: an internal fault, see the log of the sidecar');
      } catch {
        // What the fault left of the answer may be beyond saying anything; that must not end the process.
        response.destroy();
      }
    });
  }

  async #route(request: IncomingMessage, response: ServerResponse, upgraded?: Socket): Promise<void> {
    const url = URL.parse(request.url ?? '/', 'http://sidecar');
    if (url === null) {
      sendError(response, 'NOT_FOUND', 'Cannot answer: there is no such path');
    } else if (url.pathname === paths.log && hasMethod(request, response, 'GET')) {
      const query = parseLogQuery(url.searchParams);
      if (query.fault !== undefined) {
        sendError(response, 'BAD_REQUEST', query.fault);
        return;
      }
      await this.#sendLog(query.query, response, upgraded);
    } else if (url.pathname === paths.stdin && hasMethod(request, response, 'POST')) {
      await this.#writeStdin(request, response);
    } else if (url.pathname === paths.status && hasMethod(request, response, 'GET')) {
      sendJson(response, 200, await this.#status());
    } else if (!response.headersSent) {
      await this.#routePlain(request, response);
    }
  }

  async #routePlain(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? '/').split('?')[0];
    if (path === paths.health && hasMethod(request, response, 'GET')) {
      sendText(response, 'ok\n');
    } else if (path === paths.metrics && hasMethod(request, response, 'GET')) {
      sendText(response, formatMetrics(await this.#status(), this.#options.counters, process.memoryUsage.rss()));
    } else if (path === paths.ready && this.#options.ready !== undefined && hasMethod(request, response, 'GET')) {
      sendReadiness(response, this.#options.ready.reason);
    } else if (path === paths.started && hasMethod(request, response, 'GET')) {
      sendReadiness(response, (await this.#options.pipe.isOpen()) ? undefined : 'The workload does not run');
    } else if (!response.headersSent) {
      sendError(response, 'NOT_FOUND', 'Cannot answer: there is no such path');
    }
  }

  async #status(): Promise<SidecarStatus> {
    const sidecar = { startedAtMs: this.#startedAtMs, connections: this.#connections, readers: this.readers };
    return { ...(await this.#options.readStatus()), sidecar };
  }

  async #writeStdin(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readBody(request);
    if (body === undefined) {
      response.setHeader('connection', 'close');
      sendError(response, 'TOO_LARGE', `Cannot write to standard input: more than ${limits.bodyBytesMax} bytes`);
      return;
    }
    const lines = parseLines(body);
    await this.#options.pipe.write(lines);
    this.#options.counters.stdinLines += lines.length;
    sendJson(response, 200, { lines: lines.length });
  }

  async #sendLog(query: LogQuery, response: ServerResponse, upgraded: Socket | undefined): Promise<void> {
    const { log, starts } = this.#options;
    if (!response.useChunkedEncodingByDefault) {
      sendError(response, 'BAD_REQUEST', 'Cannot read the log over HTTP/1.0, which has no trailers: use HTTP/1.1');
      return;
    }
    const end = log.end;
    const asked = query.offset ?? (await log.tailOffset(query.tail ?? 0));
    const start = Math.max(asked, log.first);
    response.setHeader(headers.epoch, log.epoch);
    response.setHeader(headers.firstOffset, log.first);
    response.setHeader(headers.endOffset, end);
    if (asked > end) {
      sendError(response, 'OFFSET_BEYOND_END', `Cannot read at ${asked}: the log ends at ${end}`);
      return;
    }
    response.setHeader(headers.startOffset, start);
    response.setHeader(headers.gapBytes, start - asked);
    response.setHeader(headers.gapLines, log.linesReclaimedSince(asked));
    starts.refresh();
    const run = starts.numberAt(start);
    response.setHeader(headers.workloadStarts, run);
    const body = upgraded === undefined || !query.follow ? beginAnswer(response) : beginFrames(response, upgraded);
    // The last lines are for people to look at: they may be those of several runs.
    const isLook = query.tail !== undefined && !query.follow;
    await this.#stream(body, {
      start,
      endOffset: query.follow ? undefined : Math.max(start, end),
      boundary: isLook ? () => Infinity : () => starts.boundaryAfter(run),
    });
  }

  async #stream(body: LogBody, range: Range): Promise<void> {
    const abort = new AbortController();
    body.onClose(() => {
      abort.abort();
    });
    const { log, counters } = this.#options;
    this.readers += 1;
    try {
      const reason = await sendLog(
        {
          log,
          body,
          offset: range.start,
          endOffset: range.endOffset,
          boundary: range.boundary,
          onSent: (bytes) => {
            counters.sentBytes += bytes;
          },
          onCaughtUp: () => {
            this.deliveredOffset = log.end;
          },
        },
        abort.signal,
      );
      if (reason !== undefined) {
        await body.end(reason);
      }
    } catch (error) {
      body.destroy();
      throw error;
    } finally {
      this.readers -= 1;
      this.lastReaderAtMs = Date.now();
    }
  }
}

function beginAnswer(response: ServerResponse): LogBody {
  response.setHeader('content-type', 'application/octet-stream');
  response.setHeader('trailer', headers.endReason);
  response.writeHead(200);
  response.flushHeaders();
  return new AnswerBody(response);
}

function beginFrames(response: ServerResponse, socket: Socket): LogBody {
  response.writeHead(101, { connection: 'Upgrade', upgrade: frameProtocol });
  response.flushHeaders();
  response.detachSocket(socket);
  return new FrameBody(socket);
}

function setTimeouts(server: Server | TlsServer): void {
  server.headersTimeout = limits.headersTimeoutMs;
  server.requestTimeout = limits.requestTimeoutMs;
  server.keepAliveTimeout = limits.keepAliveTimeoutMs;
  server.maxHeadersCount = 32;
}
