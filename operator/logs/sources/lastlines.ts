/** The last lines of an instance's log, read once and not followed: what `GET logs` answers. */
import { ApiError } from '../../runtime/client.ts';
import { beginningOf, encodeCursor } from '../resume.ts';
import type { Position } from '../resume.ts';
import type { LastLines } from '../source.ts';
import type { PodLog, PodLogBatch } from './podlog.ts';
import type { PodLogs } from './podlogs.ts';

/** Of the lines that were asked for, as many as fit are kept: the answer is one piece of memory. */
export const lastLinesBytesMax = 16 * 1024 * 1024;

export interface LastLinesContext {
  readonly logs: PodLogs;
  readonly instanceUid: string;
  readonly podSequence: number;
  /** The program has ended for good: what it left without a line end is its last line. */
  readonly isOver: boolean;
  readonly limits: { readonly tailContextLines: number; readonly scanQuietMs: number };
}

interface Kept {
  readonly lines: Buffer[];
  bytes: number;
  last: Position | undefined;
}

/** Throws `ApiError` for an error answer, what the network throws, and an `Error` when the log breaks off. */
export async function readLastLines(count: number, context: LastLinesContext): Promise<LastLines> {
  const current = await readOrNone(count, context, false);
  const missing = count - (current?.lines.length ?? 0);
  // A container that has just begun has little to show: the one before it is the same program.
  const previous = missing > 0 ? await readOrNone(missing, context, true) : undefined;
  const last = current?.last ?? previous?.last ?? beginningOf(context.podSequence);
  return {
    lines: [...(previous?.lines ?? []), ...(current?.lines ?? [])],
    cursor: encodeCursor(context.instanceUid, last),
  };
}

/** Undefined: there is no such container (yet). */
async function readOrNone(count: number, context: LastLinesContext, previous: boolean): Promise<Kept | undefined> {
  // The lines before the wanted ones number those of equal stamp, which makes the cursor exact.
  const tailLines = count + context.limits.tailContextLines;
  try {
    const stream = await context.logs.open(previous ? { previous, tailLines } : { tailLines });
    try {
      return await keepLast(stream, count, { ...context, isOver: previous || context.isOver });
    } finally {
      stream.close();
    }
  } catch (error) {
    // Waits to start, or there is no container before.
    if (error instanceof ApiError && error.code === 400) return undefined;
    throw error;
  }
}

async function keepLast(stream: PodLog, count: number, context: LastLinesContext): Promise<Kept | undefined> {
  const kept: Kept = { lines: [], bytes: 0, last: undefined };
  while (true) {
    const read = await stream.read(context.limits.scanQuietMs);
    if (read.type === 'lines') {
      keep(kept, read.batch, count);
      continue;
    }
    if (read.type === 'end' && read.cause === 'missing') return undefined;
    if (read.type === 'quiet' || read.cause !== 'eof') {
      throw new Error(`Cannot read the last lines: ${read.type === 'quiet' ? 'the log fell silent' : read.detail}`);
    }
    const rest = context.isOver ? stream.takeRest() : undefined;
    if (rest !== undefined) keep(kept, rest, count);
    return kept;
  }
}

function keep(kept: Kept, batch: PodLogBatch, count: number): void {
  for (const [index, line] of batch.lines.entries()) {
    // A copy: the line is a view into a chunk that may be large.
    kept.lines.push(Buffer.from(line));
    kept.bytes += line.length;
    if (index === batch.lines.length - 1) kept.last = batch.positionAt(index);
    while (kept.lines.length > count || kept.bytes > lastLinesBytesMax) kept.bytes -= kept.lines.shift()?.length ?? 0;
  }
}
