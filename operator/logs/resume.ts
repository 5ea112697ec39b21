/**
 * Pure cursor arithmetic: time stamps, positions, and the search for a position in a log that is read again. No I/O, no clock.
 *
 * The kubelet names no position inside a log, so one is built from what each line carries: (pod sequence, stamp, ordinal among the lines of
 * that stamp). Containerd stamps each line in nanoseconds, but conmon gives every line of one read (up to 8 KiB) the same stamp, so the
 * ordinal is needed, not a nicety. Stamps are written in the node's own zone and may be out of order by a little where stdout and stderr
 * meet; hence counts are kept for several recent stamps, and a stamp is compared as an instant, never as text. A hash of the line guards
 * against mistaking another line of equal stamp and ordinal (a log that was rotated inside such a group) for the one that is meant.
 */
import { OperatorError } from '../errors.ts';
import type { Cursor } from './source.ts';

/** An instant in two numbers that stay exact. */
export interface Stamp {
  seconds: number;
  nanos: number;
}

/** The place just after one line of one instance's log. */
export interface Position extends Readonly<Stamp> {
  readonly podSequence: number;
  /** 1 for the first line of that stamp in its container's log. */
  readonly ordinal: number;
  /** Hash of the line's bytes. */
  readonly hash: number;
}

const digit0 = 48;
const letterT = 84;
const letterZ = 90;
const space = 32;
const dot = 46;
const plus = 43;
const minus = 45;
const colon = 58;
/** `2026-11-24T10:54:00`. */
const dateBytes = 19;

/** Negative if `a` is before `b`, 0 if they are the same instant. */
export function compareStamps(a: Readonly<Stamp>, b: Readonly<Stamp>): number {
  return a.seconds - b.seconds || a.nanos - b.nanos;
}

/** Order of writing. Positions of equal stamp in two containers of one pod cannot be told apart, and do not occur. */
export function comparePositions(a: Position, b: Position): number {
  return a.podSequence - b.podSequence || compareStamps(a, b) || a.ordinal - b.ordinal;
}

/**
 * Reads the RFC 3339 stamp in front of a line. One object for each stream: it remembers the last date, zone and second, because nearly
 * every line shares them with the line before it, and then only the fraction is read.
 */
export class StampReader implements Stamp {
  seconds = 0;
  nanos = 0;
  readonly #date = new Uint8Array(dateBytes);
  #dateSeconds = Number.NaN;

  /** Length of the stamp and the space behind it; 0 if the line does not begin with one. The instant is left in `seconds` and `nanos`. */
  read(bytes: Uint8Array, start: number, end: number): number {
    if (end - start < dateBytes + 2 || bytes[start + 10] !== letterT) {
      return 0;
    }
    if (!this.#isSameDate(bytes, start) && !this.#readDate(bytes, start)) {
      return 0;
    }
    let at = start + dateBytes;
    let nanos = 0;
    if (bytes[at] === dot) {
      let scale = 1e8;
      for (at += 1; at < end; at += 1) {
        const digit = (bytes[at] ?? 0) - digit0;
        if (digit < 0 || digit > 9) {
          break;
        }
        nanos += digit * scale;
        scale /= 10;
      }
    }
    this.nanos = Math.trunc(nanos);
    this.seconds = this.#dateSeconds;
    const zoneBytes = bytes[at] === letterZ ? 1 : this.#readZone(bytes, at);
    at += zoneBytes;
    return zoneBytes === 0 || at >= end || bytes[at] !== space ? 0 : at + 1 - start;
  }

  #isSameDate(bytes: Uint8Array, start: number): boolean {
    const date = this.#date;
    for (let index = dateBytes - 1; index >= 0; index -= 1) {
      if (bytes[start + index] !== date[index]) {
        return false;
      }
    }
    return !Number.isNaN(this.#dateSeconds);
  }

  #readDate(bytes: Uint8Array, start: number): boolean {
    const text = Buffer.from(bytes.subarray(start, start + dateBytes)).toString('latin1');
    if (!/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}$/.test(text)) {
      return false;
    }
    const milliseconds = Date.parse(`${text}Z`);
    if (Number.isNaN(milliseconds)) {
      return false;
    }
    this.#date.set(bytes.subarray(start, start + dateBytes));
    this.#dateSeconds = milliseconds / 1000;
    return true;
  }

  /** `+02:00`: nodes stamp in their own zone. Moves `seconds` to UTC. */
  #readZone(bytes: Uint8Array, at: number): number {
    const sign = bytes[at];
    if ((sign !== plus && sign !== minus) || bytes[at + 3] !== colon) {
      return 0;
    }
    const digits = [bytes[at + 1], bytes[at + 2], bytes[at + 4], bytes[at + 5]].map((byte) => (byte ?? 0) - digit0);
    if (digits.some((digit) => digit < 0 || digit > 9)) {
      return 0;
    }
    const [h1 = 0, h0 = 0, m1 = 0, m0 = 0] = digits;
    const offset = (h1 * 10 + h0) * 3600 + (m1 * 10 + m0) * 60;
    this.seconds += sign === plus ? -offset : offset;
    return 6;
  }
}

/** How many recent stamps keep their count: more than stdout and stderr can interleave. */
const recentStampsMax = 8;

/** Numbers the lines of equal stamp, in file order, also where such lines are not adjacent. */
export class OrdinalCounter {
  readonly #seconds = new Float64Array(recentStampsMax).fill(-1);
  readonly #nanos = new Float64Array(recentStampsMax);
  readonly #counts = new Uint32Array(recentStampsMax);
  /** The slot that was counted last, and the one that was filled last: slots are filled in a circle. */
  #last = 0;
  #top = 0;
  #newestSeconds = -1;
  #newestNanos = 0;

  next(seconds: number, nanos: number): number {
    const slot = this.#slotOf(seconds, nanos);
    this.#last = slot;
    const count = (this.#counts[slot] ?? 0) + 1;
    this.#counts[slot] = count;
    return count;
  }

  #slotOf(seconds: number, nanos: number): number {
    if (this.#isSlotOf(this.#last, seconds, nanos)) {
      return this.#last;
    }
    if (!this.#isNewest(seconds, nanos)) {
      for (let slot = 0; slot < recentStampsMax; slot += 1) {
        if (this.#isSlotOf(slot, seconds, nanos)) {
          return slot;
        }
      }
    }
    this.#top = (this.#top + 1) % recentStampsMax;
    this.#seconds[this.#top] = seconds;
    this.#nanos[this.#top] = nanos;
    this.#counts[this.#top] = 0;
    return this.#top;
  }

  #isSlotOf(slot: number, seconds: number, nanos: number): boolean {
    return this.#nanos[slot] === nanos && this.#seconds[slot] === seconds;
  }

  #isNewest(seconds: number, nanos: number): boolean {
    if (seconds > this.#newestSeconds || (seconds === this.#newestSeconds && nanos > this.#newestNanos)) {
      this.#newestSeconds = seconds;
      this.#newestNanos = nanos;
      return true;
    }
    return false;
  }
}

/** How many lines back a stamp is remembered. A power of two. */
const rememberedStampsMax = 4096;

/** The stamps of the last lines, to tell a line that is read again from one that is merely out of order. */
export class RecentStamps {
  readonly #seconds = new Float64Array(rememberedStampsMax);
  readonly #nanos = new Float64Array(rememberedStampsMax);
  #count = 0;

  add(seconds: number, nanos: number): void {
    const slot = this.#count & (rememberedStampsMax - 1);
    this.#seconds[slot] = seconds;
    this.#nanos[slot] = nanos;
    this.#count += 1;
  }

  /** Whether the stamp is surely none of those before: not one that is remembered, nor older than all of them where some are forgotten. */
  isNew(seconds: number, nanos: number): boolean {
    let isAfterSome = this.#count <= rememberedStampsMax;
    for (let slot = Math.min(this.#count, rememberedStampsMax) - 1; slot >= 0; slot -= 1) {
      const order = seconds - (this.#seconds[slot] ?? 0) || nanos - (this.#nanos[slot] ?? 0);
      if (order === 0) {
        return false;
      }
      isAfterSome ||= order > 0;
    }
    return isAfterSome;
  }
}

/** The position before the first line of a pod. No line has it: ordinals count from 1. */
export function beginningOf(podSequence: number): Position {
  return { podSequence, seconds: 0, nanos: 0, ordinal: 0, hash: 0 };
}

export function isBeginning(position: Position): boolean {
  return position.ordinal === 0;
}

/** 32-bit FNV-1a. */
export function hashOf(bytes: Uint8Array, seed = 0x811c9dc5): number {
  let hash = seed;
  for (const byte of bytes) {
    hash = Math.imul(hash ^ byte, 0x01000193);
  }
  return hash >>> 0;
}

const cursorPattern = /^k1((?:\.[0-9a-z]{1,11}){6})$/;
const radix = 36;
const scope = new TextEncoder();

/** The cursor as text. It is bound to the instance: one of another instance, or a mistyped one, does not decode. */
export function encodeCursor(instanceUid: string, position: Position): Cursor {
  const { podSequence, seconds, nanos, ordinal, hash } = position;
  const body = [podSequence, seconds, nanos, ordinal, hash].map((part) => part.toString(radix)).join('.');
  return `k1.${body}.${checkOf(instanceUid, body)}`;
}

/** Throws `CURSOR_INVALID` unless `cursor` was made by `encodeCursor` for the same instance. */
export function decodeCursor(instanceUid: string, cursor: Cursor): Position {
  const parts = cursorPattern.exec(cursor)?.[1]?.slice(1).split('.') ?? [];
  const check = parts.pop();
  const [podSequence = -1, seconds = -1, nanos = -1, ordinal = -1, hash = -1] = parts.map((part) =>
    Number.parseInt(part, radix),
  );
  if (check === undefined || check !== checkOf(instanceUid, parts.join('.'))) {
    throw new OperatorError(
      'CURSOR_INVALID',
      `Cannot resume the log: cursor "${cursor.slice(0, 80)}" is not of this instance`,
    );
  }
  return { podSequence, seconds, nanos, ordinal, hash };
}

function checkOf(instanceUid: string, body: string): string {
  return hashOf(scope.encode(`${instanceUid}/${body}`)).toString(radix);
}

/** `sinceTime` that surely includes the line of `stamp`: the server drops fractions, and stamps may be out of order by less than `slackSeconds`. */
export function sinceTimeOf(stamp: Readonly<Stamp>, slackSeconds: number): string {
  return new Date(Math.max(0, stamp.seconds - slackSeconds) * 1000).toISOString().replace('.000Z', 'Z');
}

/** RFC 3339 in UTC with nanoseconds. */
export function formatStamp(stamp: Readonly<Stamp>): string {
  const date = new Date(stamp.seconds * 1000).toISOString().slice(0, dateBytes);
  return `${date}.${String(stamp.nanos).padStart(9, '0')}Z`;
}

/** What a line says about a search: the searched one, still before it, or certainly beyond it. */
export type Match = 'found' | 'before' | 'beyond';

/** Whether a line read again is the one that `position` follows. Slack: how far stamps may be out of order. */
export function matchLine(
  line: { readonly seconds: number; readonly nanos: number; readonly ordinal: number; readonly bytes: Uint8Array },
  position: Position,
  slackSeconds: number,
): Match {
  if (line.nanos === position.nanos && line.seconds === position.seconds) {
    return line.ordinal === position.ordinal && hashOf(line.bytes) === position.hash ? 'found' : 'before';
  }
  const beyondBy = line.seconds - position.seconds - slackSeconds;
  return beyondBy > 0 || (beyondBy === 0 && line.nanos > position.nanos) ? 'beyond' : 'before';
}
