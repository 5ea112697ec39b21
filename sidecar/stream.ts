import type { ServerResponse } from 'node:http';
import { ReclaimedError } from './log.ts';
import type { LogFile } from './log.ts';
import { limits } from './protocol.ts';
import type { EndReason } from './protocol.ts';

/** A backlog is read and sent in pieces of this size; each reader owns one such buffer while it is behind. */
const backlogChunkBytes = 131_072;
/** Below this distance to the end a small buffer does. */
const liveChunkBytes = 16_384;

export interface LogStream {
  readonly log: LogFile;
  readonly response: ServerResponse;
  readonly offset: number;
  /** Where to stop; undefined follows. */
  readonly endOffset: number | undefined;
  /** Where the body must end because the workload was started anew there; Infinity while it was not. */
  readonly boundary: () => number;
  readonly onSent: (bytes: number) => void;
  /** Called when everything that is there was sent. */
  readonly onCaughtUp: () => void;
}

/**
 * Sends the log from an offset on, at the pace of its reader: the next piece is read when the last one has gone to the kernel. Returns why
 * it ended; undefined if the reader went away.
 */
export async function sendLog(stream: LogStream, signal: AbortSignal): Promise<EndReason | undefined> {
  const { log } = stream;
  const epoch = log.epoch;
  let offset = stream.offset;
  while (!signal.aborted) {
    if (log.epoch !== epoch) {
      return 'replaced';
    }
    // The end first: whoever wrote below it had noted its start before.
    const limit = stream.endOffset ?? log.end;
    const boundary = stream.boundary();
    const end = Math.min(limit, boundary);
    if (offset < end) {
      const sent = await sendPieces(stream, { from: offset, to: end }, signal);
      if (sent === 'reclaimed') {
        return sent;
      }
      offset = sent;
      continue;
    }
    if (offset >= limit) {
      stream.onCaughtUp();
    }
    if (offset >= boundary) {
      return 'restarted';
    }
    if (stream.endOffset !== undefined) {
      return 'complete';
    }
    if (log.isEnded) {
      return 'stopping';
    }
    await log.changed(signal);
  }
  return undefined;
}

async function sendPieces(
  stream: LogStream,
  range: { from: number; to: number },
  signal: AbortSignal,
): Promise<number | 'reclaimed'> {
  const size = range.to - range.from;
  const buffer = Buffer.allocUnsafeSlow(size > liveChunkBytes ? backlogChunkBytes : size);
  const epoch = stream.log.epoch;
  let at = range.from;
  while (at < range.to && !signal.aborted) {
    const piece = await readPiece(stream.log, buffer.subarray(0, Math.min(buffer.length, range.to - at)), at);
    if (piece === 'reclaimed') {
      return piece;
    }
    // Truncated under us: what was read is not what was asked for.
    if (piece === 0 || stream.log.epoch !== epoch) {
      return at;
    }
    await writePiece(stream.response, buffer.subarray(0, piece), signal);
    at += piece;
    stream.onSent(piece);
  }
  return at;
}

async function readPiece(log: LogFile, buffer: Buffer, at: number): Promise<number | 'reclaimed'> {
  try {
    return await log.read(buffer, at);
  } catch (error) {
    if (error instanceof ReclaimedError) {
      return 'reclaimed';
    }
    throw error;
  }
}

/** Resolves when the kernel has the bytes, so that the buffer may be used again. A reader that takes nothing for long is cut off. */
async function writePiece(response: ServerResponse, bytes: Buffer, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const done = (): void => {
    resolve(undefined);
  };
  const timer = setTimeout(() => {
    response.destroy();
  }, limits.stallTimeoutMs);
  signal.addEventListener('abort', done);
  response.write(bytes, done);
  await promise;
  clearTimeout(timer);
  signal.removeEventListener('abort', done);
}
