/** A WebSocket with Kubernetes' channels in it, as attach speaks them. */
import type { IncomingMessage } from 'node:http';
import { WebSocket, type ClientOptions } from 'ws';
import { readApiError } from './status.ts';
import type { ChannelSocket } from './transport.ts';

/** v5 can end a channel; v4 is what older servers know. */
const protocols = ['v5.channel.k8s.io', 'v4.channel.k8s.io'];
const handshakeTimeoutMs = 10_000;
/** Status objects are small; nothing else is expected. */
const payloadBytesMax = 1024 * 1024;
const statusChannel = 3;

/** Rejects with an `ApiError` when the server answers anything but 101. */
export async function openChannels(url: string, options: ClientOptions, signal: AbortSignal): Promise<ChannelSocket> {
  const socket = new WebSocket(url, protocols, {
    ...options,
    handshakeTimeout: handshakeTimeoutMs,
    maxPayload: payloadBytesMax,
    perMessageDeflate: false,
    followRedirects: false,
  });
  const channels = toChannelSocket(socket);
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  const signalOnAbort = (): void => {
    reject(signal.reason as Error);
    socket.terminate();
  };
  socket.once('open', () => {
    resolve(undefined);
  });
  // Stays on for good: an error without a listener would end the process, and `closed` tells of it.
  socket.on('error', reject);
  socket.once('unexpected-response', (_request: unknown, response: IncomingMessage) => {
    readRefusal(response).then(reject, reject);
  });
  signal.addEventListener('abort', signalOnAbort, { once: true });
  try {
    await promise;
  } catch (error) {
    socket.terminate();
    throw error;
  } finally {
    signal.removeEventListener('abort', signalOnAbort);
  }
  return channels;
}

async function readRefusal(response: IncomingMessage): Promise<Error> {
  return await readApiError({
    status: response.statusCode ?? 500,
    retryAfter: response.headers['retry-after'],
    body: response,
  });
}

function toChannelSocket(socket: WebSocket): ChannelSocket {
  const ended = Promise.withResolvers<object | undefined>();
  const closed = Promise.withResolvers<number>();
  socket.on('message', (data) => {
    const status = readStatus(Buffer.isBuffer(data) ? data : Buffer.alloc(0));
    if (status !== undefined) ended.resolve(status);
  });
  socket.once('close', (code) => {
    ended.resolve(undefined);
    closed.resolve(code);
  });
  return {
    get hasClose() {
      return socket.protocol === protocols[0];
    },
    send: (channel, bytes) => sendFrame(socket, Buffer.concat([Uint8Array.of(channel), bytes])),
    ended: ended.promise,
    closed: closed.promise,
    close: () => {
      socket.close(1000);
    },
    terminate: () => {
      socket.terminate();
    },
  };
}

async function sendFrame(socket: WebSocket, frame: Buffer): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  socket.send(frame, { binary: true }, (error) => {
    if (error) reject(error);
    else resolve(undefined);
  });
  await promise;
}

function readStatus(frame: Buffer): object | undefined {
  // The server opens each channel with an empty frame, this one too.
  if (frame[0] !== statusChannel || frame.length === 1) return undefined;
  try {
    const value: unknown = JSON.parse(frame.toString('utf8', 1));
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    // Old servers send an error as plain text.
    return { status: 'Failure', message: frame.toString('utf8', 1) };
  }
}
