/** Batches in pieces, so that what a client has half taken is small whatever the lines are like. PURE. */
import type { LogBatch, LogEvent } from './source.ts';

/**
 * A piece has at most so many lines and bytes of them, or one line. The frames of a line can be much larger than the line is: with the JSON protocol an
 * empty line takes a hundred bytes, and a byte that has to be escaped six.
 */
export const pieceLinesMax = 256;
export const pieceBytesMax = 16 * 1024;

/** The same lines, in order; the batch itself if it is small enough, as nearly all are. */
export function piecesOf(event: LogEvent): readonly LogEvent[] {
  if (event.type !== 'lines') {
    return [event];
  }
  const pieces: LogBatch[] = [];
  let from = 0;
  let bytes = 0;
  for (const [index, { length }] of event.lines.entries()) {
    if (index > from && (index - from === pieceLinesMax || bytes + length > pieceBytesMax)) {
      pieces.push(slice(event, from, index));
      from = index;
      bytes = 0;
    }
    bytes += length;
  }
  return from === 0 ? [event] : [...pieces, slice(event, from, event.lines.length)];
}

function slice(batch: LogBatch, from: number, to: number): LogBatch {
  return {
    type: 'lines',
    lines: batch.lines.slice(from, to),
    cursorAt: (index) => batch.cursorAt(from + index),
    timeAt: (index) => batch.timeAt(from + index),
  };
}
