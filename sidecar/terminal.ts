/** PURE: what a terminal wrote, made into what the program wrote. */

/**
 * The launcher writes this to the terminal after the program has ended and all its output has gone the same way: when it arrives, nothing
 * is under way any more. A terminal shows nothing for it. launch.sh holds the same bytes.
 */
export const endMark = Buffer.from('\u001b_ringmaster:end\u001b\\', 'latin1');

const carriageReturn = 13;
const newline = 10;

export interface Cleaned {
  readonly output: readonly Buffer[];
  /** Bytes at the end whose meaning depends on what follows: to be put before the next chunk. */
  readonly held: Buffer;
  readonly hasEndMark: boolean;
}

/**
 * Undoes ONLCR, which turns each `\n` of the program into `\r\n`: one `\r` before each `\n` goes, all others stay, so the result is
 * what the program wrote. End marks go as well. The output shares memory with the input.
 */
export function cleanTerminal(bytes: Buffer): Cleaned {
  const output: Buffer[] = [];
  let from = 0;
  for (let mark = bytes.indexOf(endMark); mark >= 0; mark = bytes.indexOf(endMark, from)) {
    dropReturns(bytes.subarray(from, mark), output);
    from = mark + endMark.length;
  }
  const rest = bytes.subarray(from);
  const heldBytes = countHeld(rest);
  dropReturns(rest.subarray(0, rest.length - heldBytes), output);
  return { output, held: rest.subarray(rest.length - heldBytes), hasEndMark: from > 0 };
}

function dropReturns(bytes: Buffer, output: Buffer[]): void {
  let from = 0;
  for (let at = bytes.indexOf(carriageReturn); at >= 0; at = bytes.indexOf(carriageReturn, at + 1)) {
    if (bytes[at + 1] === newline) {
      output.push(bytes.subarray(from, at));
      from = at + 1;
    }
  }
  output.push(bytes.subarray(from));
}

/** The beginning of an end mark, or a `\r` at the end. */
function countHeld(bytes: Buffer): number {
  for (let length = Math.min(endMark.length - 1, bytes.length); length > 0; length -= 1) {
    if (bytes.subarray(bytes.length - length).equals(endMark.subarray(0, length))) {
      return length;
    }
  }
  return bytes.at(-1) === carriageReturn ? 1 : 0;
}
