import { limits } from './protocol.ts';

/** Exactly one of `offset` and `tail` is set. */
export interface LogQuery {
  readonly offset: number | undefined;
  readonly tail: number | undefined;
  readonly follow: boolean;
}

const known = new Set(['offset', 'tail', 'follow']);

/** PURE: the query of `GET /v1/log`, or one sentence about what is wrong with it. */
export function parseLogQuery(params: URLSearchParams): { query: LogQuery; fault: undefined } | { fault: string } {
  const names = [...params.keys()];
  const stray = names.find((name, index) => !known.has(name) || names.indexOf(name) !== index);
  if (stray !== undefined) {
    return { fault: `Cannot read the log: query parameter "${stray.slice(0, 40)}" is unknown or given twice` };
  }
  const follow = params.get('follow') ?? 'false';
  if (follow !== 'true' && follow !== 'false') {
    return { fault: 'Cannot read the log: "follow" must be true or false' };
  }
  if (params.has('offset') === params.has('tail')) {
    return { fault: 'Cannot read the log: give either "offset" or "tail"' };
  }
  const offset = parseCount(params.get('offset'), Number.MAX_SAFE_INTEGER);
  const tail = parseCount(params.get('tail'), limits.tailLinesMax);
  if (Number.isNaN(offset) || Number.isNaN(tail)) {
    const range = Number.isNaN(offset)
      ? '"offset" must be a byte position'
      : `"tail" must be 0 to ${limits.tailLinesMax}`;
    return { fault: `Cannot read the log: ${range}` };
  }
  return { query: { offset, tail, follow: follow === 'true' }, fault: undefined };
}

function parseCount(text: string | null, max: number): number | undefined {
  if (text === null) {
    return undefined;
  }
  const value = /^\d{1,16}$/.test(text) ? Number(text) : NaN;
  return value <= max ? value : NaN;
}
