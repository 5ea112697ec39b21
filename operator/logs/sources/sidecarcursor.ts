/**
 * Positions in a log that a sidecar serves. PURE.
 *
 * A position is (pod sequence, epoch, offset): the byte just after a line, in the one file of that name. Offsets are exact, so nothing has to be
 * searched for. The run that the line belongs to goes with it, so that a reader who returns is told of a restart that came since. Positions of two epochs of one pod have an order that means nothing but is always the same: an epoch only changes when
 * somebody tampers with the file, and then a gap is announced.
 */
import { OperatorError } from '../../errors.ts';
import { hashOf } from '../resume.ts';
import type { Cursor } from '../source.ts';

export interface SidecarPosition {
  readonly podSequence: number;
  /** 16 hexadecimal digits. */
  readonly epoch: string;
  readonly offset: number;
  /** Which run of the workload wrote the line, from 1; 0 if that is not known. */
  readonly run: number;
}

/** Stands for the epoch that is not known yet: before all others. */
const noEpoch = '0'.repeat(16);
const cursorPattern = /^s1\.([0-9a-z]{1,11})\.([0-9a-f]{16})\.([0-9a-z]{1,11})\.([0-9a-z]{1,11})\.([0-9a-z]{1,7})$/;
const radix = 36;
const scope = new TextEncoder();

/** Before the first byte of a pod whose sidecar has not been seen yet. */
export function beginningOf(podSequence: number): SidecarPosition {
  return { podSequence, epoch: noEpoch, offset: 0, run: 0 };
}

export function isBeginning(position: SidecarPosition): boolean {
  return position.epoch === noEpoch;
}

export function comparePositions(a: SidecarPosition, b: SidecarPosition): number {
  const byEpoch = a.epoch < b.epoch ? -1 : a.epoch > b.epoch ? 1 : 0;
  return a.podSequence - b.podSequence || byEpoch || a.offset - b.offset;
}

/** The cursor as text. It is bound to the instance: one of another instance, or a mistyped one, does not decode. */
export function encodeCursor(instanceUid: string, position: SidecarPosition): Cursor {
  const [podSequence, run, offset] = [position.podSequence, position.run, position.offset].map((part) =>
    part.toString(radix),
  );
  const body = `${podSequence}.${position.epoch}.${run}.${offset}`;
  return `s1.${body}.${checkOf(instanceUid, body)}`;
}

/** Throws `CURSOR_INVALID` unless `cursor` was made by `encodeCursor` for the same instance. */
export function decodeCursor(instanceUid: string, cursor: Cursor): SidecarPosition {
  const [, podSequence = '', epoch = '', run = '', offset = '', check] = cursorPattern.exec(cursor) ?? [];
  const [sequence = 0, runNumber = 0, byte = 0] = [podSequence, run, offset].map((part) =>
    Number.parseInt(part, radix),
  );
  const isWhole = [sequence, runNumber, byte].every((part) => Number.isSafeInteger(part));
  if (!isWhole || check !== checkOf(instanceUid, `${podSequence}.${epoch}.${run}.${offset}`)) {
    throw new OperatorError(
      'CURSOR_INVALID',
      `Cannot resume the log: cursor "${cursor.slice(0, 80)}" is not of this instance`,
    );
  }
  return { podSequence: sequence, epoch, run: runNumber, offset: byte };
}

function checkOf(instanceUid: string, body: string): string {
  return hashOf(scope.encode(`${instanceUid}/${body}`)).toString(radix);
}
