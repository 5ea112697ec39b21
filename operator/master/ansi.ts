/**
 * Removes terminal escape sequences from one line. Pure, linear in the line's length, works on UTF-8 bytes.
 *
 * Removed: CSI (colours, cursor moves), OSC (titles, links), DCS, SOS, PM, APC, the short sequences (`ESC c`, `ESC ( B`), and the same opened by
 * the C1 characters U+0080 to U+009F. All other bytes stay, control characters such as tab and BEL too.
 *
 * A line may end in the middle of a sequence, or a program may print a bare ESC. Then as little as possible goes: what was recognised as
 * part of a sequence, never text behind it. So a title that is not ended within the line loses its introducer only and its text is shown.
 */

const escape = 0x1b;
const bell = 0x07;
/** First byte in UTF-8 of U+0080 to U+00BF. */
const c1Lead = 0xc2;

/** The line without its sequences; the same buffer if it has none. */
export function stripAnsi(line: Buffer): Buffer {
  if (!line.includes(escape) && !line.includes(c1Lead)) return line;
  const kept = Buffer.allocUnsafe(line.length);
  const scan: Scan = { line, terminatorAt: -1 };
  let length = 0;
  let position = 0;
  while (position < line.length) {
    const end = sequenceEnd(scan, position);
    if (end > position) {
      position = end;
      continue;
    }
    kept[length++] = line[position++] ?? 0;
  }
  return length === line.length ? line : kept.subarray(0, length);
}

interface Scan {
  readonly line: Buffer;
  /**
   * Where the nearest string terminator is that was found by the last search; the line's length if there was none. Kept, so that a line full
   * of introducers is not searched anew for each of them.
   */
  terminatorAt: number;
}

/** Where the sequence that begins at `start` ends; `start` itself if none begins there. */
function sequenceEnd(scan: Scan, start: number): number {
  const { line } = scan;
  const first = line[start];
  if (first === escape) {
    const second = line[start + 1];
    return second === undefined ? start + 1 : bodyEnd(scan, second, start + 2);
  }
  const second = line[start + 1];
  // U+0080 to U+009F stand for ESC and 0x40 to 0x5F.
  if (first === c1Lead && second !== undefined && second <= 0x9f) return bodyEnd(scan, second - 0x40, start + 2);
  return start;
}

/** `kind` is the byte after ESC, `from` the position behind it. */
function bodyEnd(scan: Scan, kind: number, from: number): number {
  switch (kind) {
    case 0x5b: // [
      return controlEnd(scan.line, from);
    case 0x5d: // ]
    case 0x50: // P
    case 0x58: // X
    case 0x5e: // ^
    case 0x5f: // _
      return stringEnd(scan, from);
    default:
      return shortEnd(scan.line, kind, from);
  }
}

/** CSI: parameters, intermediates, one final byte. Anything else cuts it short and is text again. */
function controlEnd(line: Buffer, from: number): number {
  let position = skip(line, from, 0x30, 0x3f);
  position = skip(line, position, 0x20, 0x2f);
  const final = line[position];
  return final !== undefined && final >= 0x40 && final <= 0x7e ? position + 1 : position;
}

/** ESC, intermediates, one final byte. ESC before anything else stands alone. */
function shortEnd(line: Buffer, kind: number, from: number): number {
  if (kind >= 0x30 && kind <= 0x7e) return from;
  if (kind < 0x20 || kind > 0x2f) return from - 1;
  const position = skip(line, from, 0x20, 0x2f);
  const final = line[position];
  return final !== undefined && final >= 0x30 && final <= 0x7e ? position + 1 : position;
}

/** OSC and its kin: up to BEL or the string terminator; without one in this line only the introducer counts. */
function stringEnd(scan: Scan, from: number): number {
  if (scan.terminatorAt < from) scan.terminatorAt = findTerminator(scan.line, from);
  const { line, terminatorAt } = scan;
  if (terminatorAt >= line.length) return from;
  return terminatorAt + (line[terminatorAt] === bell ? 1 : 2);
}

function findTerminator(line: Buffer, from: number): number {
  for (let position = from; position < line.length; position++) {
    const byte = line[position];
    if (byte === bell) return position;
    if (byte === escape && line[position + 1] === 0x5c) return position;
    if (byte === c1Lead && line[position + 1] === 0x9c) return position;
  }
  return line.length;
}

function skip(line: Buffer, from: number, low: number, high: number): number {
  let position = from;
  for (;;) {
    const byte = line[position];
    if (byte === undefined || byte < low || byte > high) return position;
    position++;
  }
}
