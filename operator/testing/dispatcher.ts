/** A way to the operator's loop that a test answers: it notes each command, and does what it is told. */
import type { CommandEnd, CommandRequest, Dispatcher } from '../master/dispatch.ts';

export interface FakeDispatcher extends Dispatcher {
  /** In order. */
  readonly requests: {
    readonly line: string;
    readonly issuedBy: CommandRequest['issuedBy'];
    readonly signal: AbortSignal;
  }[];
}

export type Respond = (line: string, signal: AbortSignal) => FakeEnd | Promise<FakeEnd>;

export interface FakeEnd extends Partial<CommandEnd> {
  readonly output?: readonly string[];
}

/** Everything succeeds and says nothing, if `respond` is absent. */
export function createFakeDispatcher(respond: Respond = () => ({})): FakeDispatcher {
  const requests: FakeDispatcher['requests'] = [];
  return {
    requests,
    async run(request, signal) {
      const { line, issuedBy } = request;
      requests.push({ line, issuedBy, signal });
      const { output = [], ...end } = await respond(line, signal);
      // As it would come: in pieces.
      for (const text of output) request.onOutput([text]);
      return { exitCode: 0, isTruncated: false, ...end };
    },
  };
}

/** A command line as the operator reads it: words by blanks, single quotes as POSIX shells have them. */
export function splitLine(line: string): string[] {
  const words: string[] = [];
  let rest = line;
  while (rest !== '') {
    const piece = /^(?:[^\s'\\]|\\[^]|'[^']*')+/.exec(rest)?.[0];
    if (piece === undefined) throw new RangeError(`Cannot split the line: it goes on with ${JSON.stringify(rest)}`);
    words.push(
      piece.replaceAll(/'([^']*)'|\\([^])/g, (_, quoted?: string, escaped?: string) => quoted ?? escaped ?? ''),
    );
    rest = rest.slice(piece.length).replace(/^\s+/, '');
  }
  return words;
}
