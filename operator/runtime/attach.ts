/**
 * Standard input by attach. Frames are a channel number and bytes (0 stdin, 3 the server's last word, 255 "finished with channel n").
 *
 * A server that knows v5 is told that stdin is finished and then ends the connection itself, after the container has taken all bytes. Older
 * ones know no such word: there the socket is closed after the last byte, and the server may drop what it has not passed on yet.
 */
import { unlessAborted } from './abort.ts';
import { ApiError } from './client.ts';
import type { Status } from './client.ts';
import { toStatus } from './status.ts';
import type { ChannelSocket } from './transport.ts';

const channels = { stdin: 0, close: 255 } as const;
const chunkBytesMax = 32 * 1024;
/** For the whole: connect, write, detach. */
const attachTimeoutMs = 10_000;
/** How long a server may take to end the connection after the last byte. */
const detachTimeoutMs = 2_000;

type Open = (signal: AbortSignal) => Promise<ChannelSocket>;

/** Rejects with an `ApiError` when the server refuses or reports a failure, with a plain error when the connection breaks or 10 s are over. */
export async function writeStdin(open: Open, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
  const limit = AbortSignal.timeout(attachTimeoutMs);
  const either = signal === undefined ? limit : AbortSignal.any([signal, limit]);
  const socket = await open(either);
  try {
    await unlessAborted(writeAndDetach(socket, bytes), either);
  } finally {
    socket.terminate();
  }
}

async function writeAndDetach(socket: ChannelSocket, bytes: Uint8Array): Promise<void> {
  const broken = socket.closed.then((code) => {
    throw new Error(`Cannot write to standard input: connection closed with code ${code}`);
  });
  // It is only listened to while bytes are on their way.
  broken.catch(() => undefined);
  await Promise.race([send(socket, bytes), broken]);
  if (!socket.hasClose) socket.close();
  throwIfFailed(await within(detachTimeoutMs, socket.ended));
  socket.close();
  await within(detachTimeoutMs, socket.closed);
}

async function send(socket: ChannelSocket, bytes: Uint8Array): Promise<void> {
  for (let start = 0; start < bytes.length; start += chunkBytesMax) {
    await socket.send(channels.stdin, bytes.subarray(start, start + chunkBytesMax));
  }
  if (socket.hasClose) await socket.send(channels.close, Uint8Array.of(channels.stdin));
}

function throwIfFailed(status: (Partial<Status> & { status?: string }) | undefined): void {
  if (status?.status === 'Failure') throw new ApiError(toStatus(status.code ?? 500, status));
}

async function within<T>(timeoutMs: number, promise: Promise<T>): Promise<T | undefined> {
  const { promise: late, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => {
    resolve(undefined);
  }, timeoutMs);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
