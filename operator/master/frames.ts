/**
 * From lines to the bytes of WebSocket frames. Pure.
 *
 * A batch is encoded once into one buffer, whatever the number of clients; a socket writes slices of it. Every encoder gives whole server
 * frames (FIN, text, unmasked, no extension), so that any slice that ends at an offset ends at a frame boundary. Bytes that are valid UTF-8, nearly
 * all, are copied as they are and never become a string.
 */
import { isUtf8 } from 'node:buffer';
import type { GapCause, LogBatch } from '../logs/source.ts';
import { lineBytesMax } from '../logs/source.ts';
import type { EncodedBatch, Encoder } from '../logs/subscription.ts';
import { stripAnsi } from './ansi.ts';

/** How a client wants its lines. */
export interface Format {
  /** Each frame is a JSON object, and events are told. */
  readonly isJson: boolean;
  readonly isAnsiStripped: boolean;
}

export type LiveEvent =
  | { readonly type: 'gap'; readonly lines: number | undefined; readonly cause: GapCause }
  | { readonly type: 'restart'; readonly cause: 'container' | 'pod' }
  | { readonly type: 'end' };

/** FIN and opcode 1. */
const textFrameByte = 0x81;

const plain: Encoder = { encode: (batch) => encodePlain(batch.lines) };
const plainStripped: Encoder = { encode: (batch) => encodePlain(batch.lines.map(toStripped)) };
const json: Encoder = { encode: (batch) => encodeJson(batch, (line) => line) };
const jsonStripped: Encoder = { encode: (batch) => encodeJson(batch, toStripped) };

/** The one encoder of a format: the same object each time, so that its results are shared. */
export function encoderFor(format: Format): Encoder {
  if (format.isJson) return format.isAnsiStripped ? jsonStripped : json;
  return format.isAnsiStripped ? plainStripped : plain;
}

/** The frame that tells an event; undefined where the plain protocol has no words for it. */
export function encodeEvent(format: Format, event: LiveEvent): Buffer | undefined {
  if (format.isJson) return frame(Buffer.from(JSON.stringify(toJsonEvent(event)), 'utf8'));
  return event.type === 'gap' ? frame(Buffer.from(gapLine(event.lines), 'utf8')) : undefined;
}

/** The line that stands for missing ones. Its shape is fixed, also for one line, because scripts look for it. */
export function gapLine(lines: number | undefined): string {
  return `[ringmaster] ${lines === undefined ? 'some' : lines.toString()} lines were no longer available`;
}

/** One text frame for each line; none of them may be longer than `lineBytesMax`. */
export function encodeLines(lines: readonly string[]): Buffer {
  return encodeFrames(lines.map((line) => Buffer.from(line, 'utf8'))).bytes;
}

/** One text frame. */
export function frame(payload: Buffer): Buffer {
  return encodeFrames([payload]).bytes;
}

/**
 * The end of the last frame that lies wholly within `bytesMax` after `from`, or of the first frame if that alone is larger. `from` must be a
 * frame boundary, and `bytes` hold whole frames.
 */
export function frameBoundary(bytes: Buffer, from: number, bytesMax: number): number {
  if (bytes.length - from <= bytesMax) return bytes.length;
  let end = frameEnd(bytes, from);
  while (end < bytes.length) {
    const next = frameEnd(bytes, end);
    if (next - from > bytesMax) break;
    end = next;
  }
  return end;
}

function frameEnd(bytes: Buffer, start: number): number {
  const short = bytes[start + 1] ?? 0;
  if (short < 126) return start + 2 + short;
  if (short === 126) return start + 4 + bytes.readUInt16BE(start + 2);
  return start + 10 + bytes.readUIntBE(start + 4, 6);
}

function headerBytes(payloadBytes: number): number {
  if (payloadBytes < 126) return 2;
  return payloadBytes < 65_536 ? 4 : 10;
}

function encodePlain(lines: readonly Buffer[]): EncodedBatch {
  let repaired: Buffer[] | undefined;
  let isOversized = false;
  for (let index = 0; index < lines.length; index++) {
    const line = lines[index];
    if (line === undefined || isUtf8(line)) continue;
    repaired ??= [...lines];
    const mended = repair(line);
    repaired[index] = mended;
    isOversized ||= mended.length > lineBytesMax;
  }
  if (repaired === undefined) return encodeFrames(lines);
  return isOversized ? encodeOversized(repaired) : encodeFrames(repaired);
}

/** Hot: one allocation for the frames and one for the offsets, however many lines. */
function encodeFrames(payloads: readonly Buffer[]): EncodedBatch {
  const count = payloads.length;
  const offsets = new Uint32Array(count + 1);
  let total = 0;
  for (let index = 0; index < count; index++) {
    const length = payloads[index]?.length ?? 0;
    total += headerBytes(length) + length;
    offsets[index + 1] = total;
  }
  // Not out of a slab of 64 KiB, which any line of it would keep alive for as long as it is in a ring.
  const bytes = Buffer.allocUnsafeSlow(total);
  let position = 0;
  for (let index = 0; index < count; index++) {
    const payload = payloads[index];
    if (payload === undefined) continue;
    position = writeHeader(bytes, position, payload.length);
    bytes.set(payload, position);
    position += payload.length;
  }
  return { bytes, offsets };
}

function writeHeader(bytes: Buffer, start: number, payloadBytes: number): number {
  bytes[start] = textFrameByte;
  if (payloadBytes < 126) {
    bytes[start + 1] = payloadBytes;
    return start + 2;
  }
  if (payloadBytes < 65_536) {
    bytes[start + 1] = 126;
    bytes[start + 2] = payloadBytes >>> 8;
    bytes[start + 3] = payloadBytes & 0xff;
    return start + 4;
  }
  bytes[start + 1] = 127;
  bytes.writeUInt16BE(0, start + 2);
  bytes.writeUIntBE(payloadBytes, start + 4, 6);
  return start + 10;
}

/** A bad byte becomes three, so a repaired line can outgrow the largest frame: it is cut again, and its offset spans several frames. */
function encodeOversized(lines: readonly Buffer[]): EncodedBatch {
  const pieces: Buffer[] = [];
  const pieceCounts = lines.map((line) => {
    const cut = cutLine(line);
    pieces.push(...cut);
    return cut.length;
  });
  const encoded = encodeFrames(pieces);
  const offsets = new Uint32Array(lines.length + 1);
  let piece = 0;
  for (const [index, count] of pieceCounts.entries()) {
    piece += count;
    offsets[index + 1] = encoded.offsets[piece] ?? 0;
  }
  return { bytes: encoded.bytes, offsets };
}

/** Pieces of at most `lineBytesMax`, each but the last ending at a character boundary. `line` is valid UTF-8. */
function cutLine(line: Buffer): Buffer[] {
  const pieces: Buffer[] = [];
  let start = 0;
  while (line.length - start > lineBytesMax) {
    let end = start + lineBytesMax;
    while (((line[end] ?? 0) & 0xc0) === 0x80) end--;
    pieces.push(line.subarray(start, end));
    start = end;
  }
  pieces.push(line.subarray(start));
  return pieces;
}

/** What is not UTF-8 becomes U+FFFD, by the same rules as in a browser. A byte order mark is text like any other. */
function repair(line: Buffer): Buffer {
  return Buffer.from(new TextDecoder('utf-8', { ignoreBOM: true }).decode(line), 'utf8');
}

/** Repaired first: a sequence is looked for in characters, and a stray 0x9b must not become one by accident. */
function toStripped(line: Buffer): Buffer {
  return stripAnsi(isUtf8(line) ? line : repair(line));
}

function encodeJson(batch: LogBatch, convert: (line: Buffer) => Buffer): EncodedBatch {
  const payloads = batch.lines.map((line, index) => {
    const converted = convert(line);
    const text = (isUtf8(converted) ? converted : repair(converted)).toString('utf8');
    // `time` is left out where the source does not know it.
    const entry = { type: 'line', cursor: batch.cursorAt(index), time: batch.timeAt(index), line: text };
    return Buffer.from(JSON.stringify(entry), 'utf8');
  });
  return encodeFrames(payloads);
}

function toJsonEvent(event: LiveEvent): Record<string, unknown> {
  switch (event.type) {
    case 'gap':
      return { type: 'gap', lines: event.lines ?? null, cause: event.cause };
    case 'restart':
      return { type: 'restart', cause: event.cause };
    case 'end':
      return { type: 'end' };
  }
}
