/**
 * The thread in which patterns of users meet lines of users. RE2 needs no more than linear time, but a pattern of a thousand states times a line of
 * 16 KiB is seconds: here it holds nobody up, and matcher.ts ends the thread when it takes too long.
 */
import { parentPort } from 'node:worker_threads';
import { RE2JS } from 're2js';
import { limits } from '../../../sidecar/protocol.ts';

export interface MatchRequest {
  readonly pattern: string;
  readonly lines: readonly string[];
}

export interface MatchAnswer {
  readonly isMatch: boolean;
  /** Why the pattern cannot be read. */
  readonly fault?: string;
}

/** Compiled patterns, the least recently used first: one takes a millisecond, and a log comes in many pieces. */
const compiled = new Map<string, RE2JS>();
const compiledMax = 100;

parentPort?.on('message', (request: MatchRequest) => {
  parentPort?.postMessage(answer(request));
});
// Before it, the thread is being started, and that is not the pattern's time.
parentPort?.postMessage('ready');

function answer({ pattern, lines }: MatchRequest): MatchAnswer {
  try {
    const expression = compile(pattern);
    // Not test(): its automaton takes hundreds of megabytes for some patterns, the matcher no more than the pattern is long.
    return { isMatch: lines.some((line) => expression.matcher(line).find()) };
  } catch (error) {
    return { isMatch: false, fault: error instanceof Error ? error.message : String(error) };
  }
}

function compile(pattern: string): RE2JS {
  const expression = compiled.get(pattern) ?? RE2JS.compile(pattern);
  const size = expression.programSize();
  if (size > limits.patternInstructionsMax) {
    throw new RangeError(`it has ${size} instructions, more than ${limits.patternInstructionsMax}`);
  }
  compiled.delete(pattern);
  compiled.set(pattern, expression);
  const [oldest] = compiled.keys();
  if (compiled.size > compiledMax && oldest !== undefined) compiled.delete(oldest);
  return expression;
}
