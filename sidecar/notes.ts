/**
 * What a launcher writes down for the sidecar, in the folder `run` of the shared volume. launch.sh writes the same files in shell; whoever
 * launches a workload in another way uses these functions. Each file is replaced whole, so that neither a reader nor a crash sees a part.
 *
 * Order, for each start: end the log's last line if it has no end, `noteStart` with the log's size, `writeWorkloadNote`, and only then the
 * workload may write. The sidecar looks for new starts before it sends new bytes, so a note that comes first is never too late.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readWhole, writeWhole } from './state.ts';

/** The newest starts are kept; of the older ones it is forgotten where they were. */
export const startsMax = 10_000;
const startsFile = 'starts';
const workloadFile = 'workload';
const faultFile = 'fault';
const containerFile = 'container';
/** The sidecar may run as another user. */
const readableByAll = 0o644;

/** One start of the workload. */
export interface StartNote {
  /** 1 for the first in this pod. Each start that may have written something has a number of its own. */
  readonly starts: number;
  /** Size of the file that the workload writes to, before it may write: `log`, or `terminal` under screen and tmux. A line start. */
  readonly offset: number;
}

export interface WorkloadNote {
  readonly starts: number;
  readonly startedAtS: number;
  /** Exit code as a shell gives it, 0 to 255; absent while the workload runs. */
  readonly code?: number | undefined;
  readonly exitedAtS?: number | undefined;
}

/** Path of the file that holds the starts: lines `STARTS OFFSET`, in rising order. */
export function startsPath(runDirectory: string): string {
  return join(runDirectory, startsFile);
}

/** PURE: the starts of a file's text. Lines that are none are left out, and so is what a later line contradicts. */
export function parseStarts(text: string): StartNote[] {
  const notes: StartNote[] = [];
  for (const match of text.matchAll(/^([1-9]\d{0,11}) (\d{1,15})$/gm)) {
    const note = { starts: Number(match[1]), offset: Number(match[2]) };
    // A launcher that died between two notes comes again with the same number; a file that shrank gives smaller offsets.
    while ((notes.at(-1)?.starts ?? 0) >= note.starts || (notes.at(-1)?.offset ?? 0) > note.offset) {
      notes.pop();
    }
    notes.push(note);
  }
  return notes.slice(-startsMax);
}

export function formatStarts(notes: readonly StartNote[]): string {
  return notes
    .slice(-startsMax)
    .map(({ starts, offset }) => `${starts} ${offset}\n`)
    .join('');
}

/** The starts that were noted so far. */
export async function readStarts(runDirectory: string): Promise<StartNote[]> {
  return parseStarts((await readWhole(startsPath(runDirectory))) ?? '');
}

/** Notes that the workload starts, before it may write. Readers of the log are told of a restart at this offset, unless it is the first start. */
export async function noteStart(runDirectory: string, note: StartNote): Promise<void> {
  const text = formatStarts([...(await readStarts(runDirectory)), note]);
  await writeWhole(startsPath(runDirectory), text, readableByAll);
}

/** What the status says of the workload; `code` and `exitedAtS` once it has ended. */
export async function writeWorkloadNote(runDirectory: string, note: WorkloadNote): Promise<void> {
  const begin = `starts=${note.starts}\nstarted=${note.startedAtS}\n`;
  const end = note.code === undefined ? '' : `code=${note.code}\nexited=${note.exitedAtS ?? note.startedAtS}\n`;
  await writeWhole(join(runDirectory, workloadFile), begin + end, readableByAll);
}

/** Number of the last start that was written down with `writeWorkloadNote`; 0 before the first. The next start has one more. */
export async function readStartCount(runDirectory: string): Promise<number> {
  const text = (await readWhole(join(runDirectory, workloadFile))) ?? '';
  return Number(/^starts=(\d{1,12})$/m.exec(text)?.[1] ?? 0);
}

/** What keeps the runtime from starting, in one sentence; empty when nothing does (to be written at each start). */
export async function writeFault(runDirectory: string, message: string): Promise<void> {
  const text = message === '' ? '' : `${message}\n`;
  await writeWhole(join(runDirectory, faultFile), text, readableByAll);
}

/** Whether a container of this pod may be on the Engine, which the next launcher must know where the Engine does not answer. */
export async function noteContainer(runDirectory: string, mayBeLeft: boolean): Promise<void> {
  await writeWhole(join(runDirectory, containerFile), mayBeLeft ? 'left\n' : 'none\n');
}

/** What was noted last; false before the first note. */
export async function mayContainerBeLeft(runDirectory: string): Promise<boolean> {
  return (await readWhole(join(runDirectory, containerFile))) === 'left\n';
}

/** To `path`, where the kubelet looks for a container's last words; nothing if it is not there, as outside of a pod. */
export async function writeLastWords(path: string, message: string): Promise<void> {
  try {
    await writeFile(path, `${message}\n`, { flag: 'r+' });
  } catch {
    // They are in the log and in the fault as well.
  }
}
