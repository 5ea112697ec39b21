/** Bytes of an answer that goes on: lines, silence, and the end that was asked for. */
import type { Readable } from 'node:stream';

const newline = 0x0a;

/** A line longer than this is no Kubernetes object (etcd takes 1.5 MiB). */
const lineBytesMax = 32 * 1024 * 1024;

/** The complete lines of `chunks`. Throws when the last one lacks its end: the connection broke, whatever it says. */
export async function* splitLines(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let pieces: Buffer[] = [];
  let pieceBytes = 0;
  for await (const chunk of chunks) {
    let start = 0;
    let end = chunk.indexOf(newline);
    while (end !== -1) {
      const tail = chunk.subarray(start, end);
      yield pieces.length === 0 ? tail : Buffer.concat([...pieces, tail]);
      pieces = [];
      pieceBytes = 0;
      start = end + 1;
      end = chunk.indexOf(newline, start);
    }
    if (start < chunk.length) pieces.push(chunk.subarray(start));
    pieceBytes += chunk.length - start;
    if (pieceBytes > lineBytesMax) throw new Error(`Cannot read stream: line is longer than ${lineBytesMax} bytes`);
  }
  if (pieceBytes > 0) throw new Error('Cannot read stream: it ended inside a line');
}

/** The chunks of `body`; throws when the other side is silent for `idleTimeoutMs` while we wait for it. A slow reader is no silence. */
export async function* withIdleTimeout(body: Readable, idleTimeoutMs: number): AsyncGenerator<Buffer> {
  let isWaiting = true;
  const timer = setTimeout(() => {
    if (isWaiting) body.destroy(new Error(`Cannot read stream: silent for ${idleTimeoutMs} ms`));
    else timer.refresh();
  }, idleTimeoutMs);
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      isWaiting = false;
      yield chunk;
      isWaiting = true;
      timer.refresh();
    }
  } finally {
    clearTimeout(timer);
  }
}

/** The same items; ends, rather than throws, once `signal` has aborted. */
export async function* untilAborted<T>(items: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  try {
    for await (const item of items) {
      if (signal.aborted) return;
      yield item;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
