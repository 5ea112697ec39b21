/** The last lines of a sidecar's log, read once and not followed: what `GET logs` answers. */
import { limits as protocolLimits } from '../../../sidecar/protocol.ts';
import type { LogRange, SidecarLog } from '../../sidecar/client.ts';
import type { LastLines } from '../source.ts';
import { lastLinesBytesMax } from './lastlines.ts';
import type { SidecarOptions } from './sidecar.ts';
import { encodeCursor } from './sidecarcursor.ts';
import { SidecarStream } from './sidecarstream.ts';
import type { SidecarBatch } from './sidecarstream.ts';

export interface SidecarTailOptions extends SidecarOptions {
  readonly openLog: (range: LogRange, signal: AbortSignal) => Promise<SidecarLog>;
  readonly podSequence: number;
  /** The program has ended for good: what it left without a line end is its last line. */
  readonly isOver: boolean;
  readonly signal: AbortSignal;
}

interface Kept {
  readonly lines: Buffer[];
  bytes: number;
}

/** Silence in the middle of an answer, after which it is given up. */
const quietMs = 10_000;

/** Rejects if the log cannot be read to its present end. */
export async function readSidecarTail(count: number, options: SidecarTailOptions): Promise<LastLines> {
  const { instanceUid, podSequence } = options;
  const range = { tail: Math.min(count, protocolLimits.tailLinesMax), follow: false };
  const log = await options.openLog(range, options.signal);
  const stream = new SidecarStream({ ...options, log, lineBytesMax: options.limits.lineBytesMax });
  try {
    const kept: Kept = { lines: [], bytes: 0 };
    for (let isDone = false; !isDone;) {
      isDone = take(await stream.read(quietMs), kept, count);
    }
    const rest = options.isOver ? stream.takeRest() : undefined;
    if (rest !== undefined) {
      keep(kept, rest, count);
    }
    return {
      lines: kept.lines,
      // The last lines may be of several runs: of which the very last one is, the answer does not say.
      cursor: encodeCursor(instanceUid, { podSequence, epoch: log.epoch, run: 0, offset: stream.offset }),
    };
  } finally {
    stream.close();
  }
}

/** Whether that was all. */
function take(read: Awaited<ReturnType<SidecarStream['read']>>, kept: Kept, count: number): boolean {
  if (read.type === 'lines') {
    keep(kept, read.batch, count);
    return false;
  }
  if (read.type === 'end' && read.reason === 'complete') {
    return true;
  }
  throw new Error(
    `Cannot read the last lines: ${read.type === 'end' ? (read.reason ?? 'cut') : 'the log fell silent'}`,
  );
}

function keep(kept: Kept, batch: SidecarBatch, count: number): void {
  for (const line of batch.lines) {
    // A copy: the line is a view into a chunk that may be large.
    kept.lines.push(Buffer.from(line));
    kept.bytes += line.length;
    while (kept.lines.length > count || kept.bytes > lastLinesBytesMax) {
      kept.bytes -= kept.lines.shift()?.length ?? 0;
    }
  }
}
