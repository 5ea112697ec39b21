/** What is said of a log when it has ended, so that a copy of it can be trusted as far as it is one. */
import { ReclaimedError } from './log.ts';
import type { LogFile } from './log.ts';
import { beginChecksum, checksumOf } from './protocol.ts';
import type { LogSeal } from './protocol.ts';
import type { Starts } from './starts.ts';

/** More than a kubelet keeps of one container unless it is told to; a tenth of a second of work. */
const sealedBytesMax = 32 * 1024 * 1024;
/** With both, the seal is a line of at most 4 KiB. */
const blocksMax = 126;
const blockBytesMin = 4096;
const chunkBytes = 262_144;
const triesMax = 3;
/** A kubelet keeps the last container and the one before it. */
const runsKept = 2;

/** Reads the last 32 MiB, or less where less is kept or can be of use. Rejects if the log cannot be read. */
export async function sealLog(log: LogFile, starts: Starts): Promise<LogSeal> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await seal(log, starts);
    } catch (error) {
      // Retention moves on for a moment after the last byte.
      if (!(error instanceof ReclaimedError) || tries === triesMax) {
        throw error;
      }
    }
  }
}

async function seal(log: LogFile, starts: Starts): Promise<LogSeal> {
  starts.refresh();
  const { end, epoch } = log;
  const runs = starts.newest(runsKept).map(({ starts: number, offset }) => [number, offset] as const);
  const from = Math.min(end, Math.max(log.first, end - sealedBytesMax, runs[0]?.[1] ?? 0));
  const blockBytes = Math.max(blockBytesMin, Math.ceil((end - from) / blocksMax));
  const blocks: [number, string][] = [];
  const chunk = Buffer.allocUnsafe(chunkBytes);
  for (let at = from; at < end;) {
    const cut = runs.find(([, offset]) => offset > at)?.[1] ?? end;
    const to = Math.min(at + blockBytes, cut, end);
    blocks.push([to - at, await checksumBetween({ log, chunk, from: at, to })]);
    at = to;
  }
  return { epoch, end, runs, from, blocks };
}

async function checksumBetween(block: { log: LogFile; chunk: Buffer; from: number; to: number }): Promise<string> {
  const hash = beginChecksum();
  for (let at = block.from; at < block.to;) {
    const bytes = block.chunk.subarray(0, Math.min(block.chunk.length, block.to - at));
    const length = await block.log.read(bytes, at);
    if (length === 0) {
      throw new Error(`Cannot seal the log: it ends at ${at}, before ${block.to}`);
    }
    hash.update(bytes.subarray(0, length));
    at += length;
  }
  return checksumOf(hash);
}
