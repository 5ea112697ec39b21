/**
 * Command lines as words. Quotes and backslashes are read as POSIX shells read them; nothing is expanded: `$HOME`, `*`, `;` and `|` are plain
 * characters. Pure.
 */
import { split } from 'shlex';

/** Throws a `RangeError` with a sentence for a quote that is not closed, or a backslash at the end. */
export function splitWords(line: string): string[] {
  try {
    // The library also reads bash's $'…' and $"…", which would turn what was written into something else.
    return split(line.replace(/\$(?=['"])/g, String.raw`\$`));
  } catch (error) {
    const isQuote = error instanceof Error && error.message.includes('quoted string');
    throw new RangeError(isQuote ? 'a quote is not closed' : 'a backslash is at the end', { cause: error });
  }
}

/**
 * The first `count` words as they stand, cut at blanks, and the rest as it stands: everything after the one blank that follows the last word.
 * Fewer words where there are fewer.
 */
export function splitRaw(line: string, count: number): { words: string[]; rest: string } {
  const words: string[] = [];
  let rest = line;
  while (words.length < count) {
    const match = /^[ \t]*([^ \t]+)(?:[ \t]|$)/.exec(rest);
    if (match === null) break;
    words.push(match[1] ?? '');
    rest = rest.slice(match[0].length);
  }
  return { words, rest };
}
