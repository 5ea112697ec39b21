/** PURE: values in the place of `%WORDS%`. */

/** Many short words with long values would grow without an end. */
export const renderedBytesMax = 4 * 1024 * 1024;

/**
 * Replaces each `%KEY%` whose KEY has a value, from the left, in one pass: what a value brings in is not looked at again. Every other byte stays as it
 * is, whatever the encoding, other `%WORDS%` included. Undefined if the result is larger than `renderedBytesMax`.
 */
export function render(bytes: Buffer, values: Readonly<Record<string, string>>): Buffer | undefined {
  const keys = Object.keys(values);
  if (keys.length === 0) return bytes;
  // In latin1 each byte is one character. Keys are letters, digits and underscores.
  const text = bytes.toString('latin1');
  const parts: Buffer[] = [];
  let from = 0;
  let total = bytes.length;
  for (const { 0: word, index } of text.matchAll(new RegExp(`%(?:${keys.join('|')})%`, 'g'))) {
    const value = Buffer.from(values[word.slice(1, -1)] ?? '');
    total += value.length - word.length;
    if (total > renderedBytesMax + bytes.length) return undefined;
    parts.push(bytes.subarray(from, index), value);
    from = index + word.length;
  }
  parts.push(bytes.subarray(from));
  return total > renderedBytesMax ? undefined : Buffer.concat(parts);
}
