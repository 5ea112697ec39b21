/** A log hub without sources: tests say what the log holds, and subscriptions pull it. Everything is kept, nothing ever falls out of a ring. */
import { OperatorError } from '../errors.ts';
import type { Cursor, GapCause, LogBatch, Start } from '../logs/source.ts';
import type { Chunk, EncodedBatch, Encoder, Hub, LineChunk, Subscription } from '../logs/subscription.ts';

export interface FakeHub extends Hub {
  /** Appends one batch. */
  write(instanceUid: string, ...lines: (string | Buffer)[]): void;
  gap(instanceUid: string, lines: number | undefined, cause?: GapCause): void;
  restart(instanceUid: string, cause: 'container' | 'pod'): void;
  end(instanceUid: string): void;
  /** Every present and later subscription of this log throws, once it has given what was written before. */
  fail(instanceUid: string, error: unknown): void;
  /** Subscriptions that are not closed. */
  readonly openCount: number;
}

type Entry =
  { readonly type: 'lines'; readonly batch: LogBatch; readonly firstLine: number } | Exclude<Chunk, LineChunk>;

interface Log {
  readonly entries: Entry[];
  lineCount: number;
  failure: { readonly error: unknown } | undefined;
  readonly waiting: Set<() => void>;
}

export function createFakeHub(): FakeHub {
  const logs = new Map<string, Log>();
  const open = new Set<Subscription>();
  const encodings = new WeakMap<LogBatch, Map<Encoder, EncodedBatch>>();

  const logOf = (uid: string): Log => {
    const log = logs.get(uid) ?? { entries: [], lineCount: 0, failure: undefined, waiting: new Set() };
    logs.set(uid, log);
    return log;
  };
  const append = (uid: string, entry: Entry): void => {
    const log = logOf(uid);
    log.entries.push(entry);
    wakeAll(log);
  };
  const encode = (batch: LogBatch, encoder: Encoder): EncodedBatch => {
    const known = encodings.get(batch) ?? new Map<Encoder, EncodedBatch>();
    encodings.set(batch, known);
    const encoded = known.get(encoder) ?? encoder.encode(batch);
    known.set(encoder, encoded);
    return encoded;
  };

  return {
    write(uid, ...lines) {
      const log = logOf(uid);
      const firstLine = log.lineCount;
      log.lineCount += lines.length;
      append(uid, { type: 'lines', batch: toBatch(uid, firstLine, lines), firstLine });
    },
    gap: (uid, lines, cause = 'rotated') => {
      append(uid, { type: 'gap', lines, cause });
    },
    restart: (uid, cause) => {
      append(uid, { type: 'restart', cause });
    },
    end: (uid) => {
      append(uid, { type: 'end' });
    },
    fail(uid, error) {
      const log = logOf(uid);
      log.failure = { error };
      wakeAll(log);
    },
    get openCount() {
      return open.size;
    },
    subscribe(uid, start) {
      const log = logOf(uid);
      const subscription = createSubscription({ log, fromLine: firstLineOf(uid, log, start), encode, open });
      open.add(subscription);
      return subscription;
    },
    newest(uid) {
      const log = logs.get(uid);
      return log === undefined || log.lineCount === 0 ? undefined : cursorOf(uid, log.lineCount - 1);
    },
    close() {
      for (const subscription of [...open]) subscription.close();
    },
  };
}

function createSubscription(parts: {
  log: Log;
  fromLine: number;
  encode: (batch: LogBatch, encoder: Encoder) => EncodedBatch;
  open: Set<Subscription>;
}): Subscription {
  const { log, encode, open } = parts;
  let index = 0;
  let line = parts.fromLine;
  let isClosed = false;
  const wakers = new Set<() => void>();

  // Events before the first wanted line are not told, as with a real source that starts there.
  while (isBefore(log.entries[index], line)) index++;

  const subscription: Subscription = {
    next() {
      if (isClosed) return undefined;
      const entry = log.entries[index];
      if (entry === undefined) {
        if (log.failure !== undefined) throw log.failure.error;
        return undefined;
      }
      index++;
      if (entry.type !== 'lines') return entry;
      const from = Math.max(line - entry.firstLine, 0);
      line = entry.firstLine + entry.batch.lines.length;
      return toChunk(entry.batch, from, encode);
    },
    whenReadable(wake) {
      if (isClosed || log.failure !== undefined || index < log.entries.length) return true;
      wakers.add(wake);
      log.waiting.add(wake);
      return false;
    },
    get behindLines() {
      return isClosed ? 0 : log.lineCount - line;
    },
    close() {
      isClosed = true;
      open.delete(subscription);
      for (const wake of [...wakers]) {
        wakers.delete(wake);
        if (log.waiting.delete(wake)) wake();
      }
    },
  };
  return subscription;
}

function isBefore(entry: Entry | undefined, line: number): boolean {
  if (entry === undefined || entry.type === 'end') return false;
  return entry.type !== 'lines' ? line > 0 : entry.firstLine + entry.batch.lines.length <= line;
}

function toChunk(
  batch: LogBatch,
  from: number,
  encode: (batch: LogBatch, encoder: Encoder) => EncodedBatch,
): LineChunk {
  return {
    type: 'lines',
    batch,
    from,
    to: batch.lines.length,
    encoded(encoder) {
      const { bytes, offsets } = encode(batch, encoder);
      return bytes.subarray(offsets[from], offsets[batch.lines.length]);
    },
  };
}

function toBatch(uid: string, firstLine: number, lines: readonly (string | Buffer)[]): LogBatch {
  return {
    type: 'lines',
    lines: lines.map((line) => (typeof line === 'string' ? Buffer.from(line, 'utf8') : line)),
    cursorAt: (index) => cursorOf(uid, firstLine + index),
    timeAt: () => undefined,
  };
}

function firstLineOf(uid: string, log: Log, start: Start): number {
  if ('tail' in start) return Math.max(log.lineCount - start.tail, 0);
  const prefix = `${uid}:`;
  const line = start.after.startsWith(prefix) ? Number(start.after.slice(prefix.length)) : NaN;
  if (!Number.isInteger(line))
    throw new OperatorError('CURSOR_INVALID', 'Cannot resume: the cursor is not of this instance');
  return line + 1;
}

function cursorOf(uid: string, line: number): Cursor {
  return `${uid}:${line}`;
}

function wakeAll(log: Log): void {
  const waiting = [...log.waiting];
  log.waiting.clear();
  for (const wake of waiting) wake();
}
