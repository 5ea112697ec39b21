/**
 * How the operator gives what a reading command printed to the Master that waits for it, beside the record and ahead of it.
 *
 *   ConsoleCommand with `answerToAnnotation` -> the operator runs it -> one line of JSON to that address
 *                                                                    `-> the status, which says the same
 *
 * The connection is TLS with a pre-shared key, from the operator to the Master, and carries lines one way. Both have the master key, from which this
 * key comes; no sidecar has it. A line is a hint that comes early: one that is lost, or cannot be sent at once, costs nothing but time.
 */
import { createHash } from 'node:crypto';
import { deriveKey } from '../../sidecar/protocol.ts';
import type { ConsoleCommandStatus } from '../api/v1alpha1/consolecommand.ts';

/** TCP port of a Master for answers. It is not part of the annotation, so that nobody can make an operator connect to another one. */
export const answerPort = 7001;

/** The output of a command has 512 KiB at most, as it is in JSON; the rest of its status is small. */
export const answerBytesMax = 2 * 1024 * 1024;

export interface Answer {
  readonly name: string;
  readonly uid: string;
  /** The last one of the command, as its record has it. */
  readonly status: ConsoleCommandStatus;
}

/** What the master key is derived for here: no Instance has such a uid. The version is part of it: who speaks another one is not let in. */
const purpose = 'console-answers/v1';

export interface AnswerKey {
  /** Tells which of several keys it is. */
  readonly identity: string;
  readonly psk: Buffer;
}

export function answerKeyOf(masterKey: Uint8Array): AnswerKey {
  const psk = deriveKey(masterKey, purpose);
  return { psk, identity: `${purpose}/${createHash('sha256').update(psk).digest('hex').slice(0, 16)}` };
}

/** With its line end. */
export function encodeAnswer({ name, uid, status }: Answer): string {
  return `${JSON.stringify({ name, uid, status })}\n`;
}

/** Undefined: it is none. */
export function decodeAnswer(line: string): Answer | undefined {
  try {
    const value = JSON.parse(line) as Partial<Answer> | null;
    const { name, uid, status } = value ?? {};
    if (typeof name !== 'string' || typeof uid !== 'string' || typeof status?.phase !== 'string') return undefined;
    return { name, uid, status };
  } catch {
    return undefined;
  }
}
