/**
 * Finds the position that the last N lines of a pod's log follow; reading then starts there like any resume, so that the joint of backlog
 * and live is the same proven code. The log is read once more than needed, which costs some milliseconds and no memory to speak of.
 *
 * `tailLines` counts records of the log file, and a long line is several records: what is asked for is more than needed, what comes is counted.
 */
import { compareStamps } from '../resume.ts';
import type { Position } from '../resume.ts';
import { ApiError } from '../../runtime/client.ts';
import type { PodLog } from './podlog.ts';
import type { OpenOptions } from './podlogs.ts';

export interface TailContext {
  /** The program has ended for good: what it left without a line end is its last line. */
  readonly isOver: boolean;
  readonly open: (options: OpenOptions) => Promise<PodLog>;
  readonly limits: {
    /** Lines read before the wanted ones, to number the lines of equal stamp right. */
    readonly tailContextLines: number;
    /** A line of at least so many bytes may be stored as several records (CRI-O: 8 KiB, containerd: 16 KiB). */
    readonly recordBytes: number;
    readonly scanQuietMs: number;
  };
}

interface Scan {
  readonly count: number;
  /** Position of the line before the last `lines` ones; undefined if there are no more lines than that. */
  readonly before: Position | undefined;
  readonly last: Position | undefined;
  /** Whether the counted lines are the log's last ones without doubt, and `before` is numbered right. */
  readonly isExact: boolean;
}

/** The position to resume after; undefined: from the very beginning. Throws what opening throws, and on a log that breaks off. */
export async function locateTail(lines: number, context: TailContext): Promise<Position | undefined> {
  const current = await scanOrNone(lines, context, false);
  if (current === undefined || current.before !== undefined) {
    return current?.before;
  }
  const previous = await scanOrNone(lines - current.count, context, true);
  const isSameContainer =
    previous?.last !== undefined && current.last !== undefined && compareStamps(previous.last, current.last) === 0;
  return isSameContainer ? undefined : previous?.before;
}

/** Undefined: there is no such log (yet). */
async function scanOrNone(lines: number, context: TailContext, previous: boolean): Promise<Scan | undefined> {
  try {
    const tailLines = lines + context.limits.tailContextLines;
    const scan = await scanLog(lines, context, { previous, tailLines });
    return scan?.isExact === false ? await scanLog(lines, context, { previous }) : scan;
  } catch (error) {
    if (error instanceof ApiError && error.code === 400) {
      return undefined;
    }
    throw error;
  }
}

async function scanLog(lines: number, context: TailContext, options: OpenOptions): Promise<Scan | undefined> {
  const stream = await context.open(options);
  try {
    const ring: Position[] = [];
    let count = 0;
    for (;;) {
      const read = await stream.read(context.limits.scanQuietMs);
      if (read.type === 'end' && read.cause === 'missing' && options.previous === true) {
        return undefined;
      }
      if (read.type === 'quiet' || (read.type === 'end' && read.cause !== 'eof')) {
        throw new Error(`Cannot read the last lines: ${read.type === 'quiet' ? 'the log fell silent' : read.detail}`);
      }
      // What a running container has not ended yet is no line; what a dead one left is.
      const isDead = options.previous === true || context.isOver;
      const batch = read.type === 'lines' ? read.batch : isDead ? stream.takeRest() : undefined;
      for (let index = 0; index < (batch?.lines.length ?? 0); index += 1, count += 1) {
        ring[count % (lines + 1)] = batch?.positionAt(index) ?? missing();
      }
      if (read.type === 'end') {
        return summarize({ stream, ring, count, lines, options, recordBytes: context.limits.recordBytes });
      }
    }
  } finally {
    stream.close();
  }
}

function summarize(result: {
  stream: PodLog;
  ring: Position[];
  count: number;
  lines: number;
  options: OpenOptions;
  recordBytes: number;
}): Scan {
  const { stream, ring, count, lines, options } = result;
  const before = count > lines ? ring[count % (lines + 1)] : undefined;
  const last = count === 0 ? undefined : ring[(count - 1) % (lines + 1)];
  const isWhole =
    options.tailLines === undefined || (count < options.tailLines && stream.longestLineBytes < result.recordBytes);
  const { first } = stream;
  const isNumbered = before !== undefined && first !== undefined && compareStamps(first, before) < 0;
  return { count, before, last, isExact: isWhole || (isNumbered && count > lines + 1) };
}

function missing(): never {
  throw new RangeError('A batch holds a position for each of its lines');
}
