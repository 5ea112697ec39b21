/** Lines that say what is being done and how long it took, on stderr, so that stdout stays for results. */

export interface Progress {
  /** Says what begins, runs it, and says how long it took. */
  step<T>(what: string, run: () => Promise<T>): Promise<T>;
  /** A line of its own, with the time since the start. */
  say(line: string): void;
}

export function createProgress(name: string): Progress {
  const started = performance.now();
  const say = (line: string): void => {
    process.stderr.write(`${name} ${seconds(performance.now() - started).padStart(7)}  ${line}\n`);
  };
  return {
    say,
    async step(what, run) {
      say(`${what}…`);
      const from = performance.now();
      const result = await run();
      say(`${what}: done in ${seconds(performance.now() - from)}`);
      return result;
    },
  };
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
