/**
 * Runs one command and keeps what it prints. What the command or the API server did wrong is an outcome; a rejection means that the leadership is
 * lost, and nobody here can say what came of it.
 */
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { withDeadline } from '../../runtime/abort.ts';
import type { KubernetesObject } from '../../runtime/client.ts';
import { UsageFault, oneLine, toCommandFault } from './fault.ts';
import { Output } from './output.ts';
import type { Invocation, Registry } from './registry.ts';
import type { World } from './world.ts';

export type Outcome = 'Completed' | 'CommandFailed' | 'UnknownCommand';

export interface RunOptions {
  readonly world: World;
  readonly registry: Registry;
  readonly log: Logger;
  /** A command that takes longer is given up. */
  readonly timeoutMs: number;
  /** Ends with the leadership. */
  readonly signal: AbortSignal;
  readonly noteChange: (object: KubernetesObject, what: string) => void;
}

export class Run {
  readonly output = new Output();
  result: Readonly<Record<string, unknown>> | undefined;
  /** Called after each piece of output. */
  onOutput: () => void = () => undefined;

  /** A line that is no command: what to write instead is its output. */
  refuse(fault: UsageFault): Outcome {
    this.#print(oneLine(fault.message));
    for (const line of fault.usage) this.#print(line);
    return 'UnknownCommand';
  }

  async execute(invocation: Invocation, options: RunOptions): Promise<Outcome> {
    const { world, registry, timeoutMs, signal, noteChange } = options;
    const deadline = { clock: world.clock, timeoutMs, signal, what: 'run the command' };
    let isLate = false;
    try {
      await withDeadline(deadline, async (limit) => {
        limit.addEventListener('abort', () => {
          isLate = !signal.aborted;
        });
        await invocation.command.run({
          ...{ arguments: invocation.arguments, options: invocation.options },
          ...{ world, registry, noteChange, signal: limit },
          print: (text) => {
            this.#print(text);
          },
          setResult: (result) => {
            this.result = result;
          },
        });
      });
      return 'Completed';
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof UsageFault) return this.refuse(error);
      return this.#fail(error, { ...options, isLate });
    }
  }

  #fail(error: unknown, { log, timeoutMs, isLate }: RunOptions & { isLate: boolean }): Outcome {
    const fault = toCommandFault(error);
    if (isLate) {
      this.#print(`Given up after ${timeoutMs / 1000} s: a part of it may have been done`);
    } else if (fault === undefined) {
      // Not an expected fault: what it is belongs to the log, not to whoever typed.
      log.error({ error: messageOf(error), stack: error instanceof Error ? error.stack : undefined }, 'Command failed');
      this.#print('The command failed: an internal fault, which the log of the operator tells');
    } else {
      this.#print(oneLine(fault.message));
      if (fault.code !== undefined) this.result = { ...this.result, code: fault.code };
    }
    return 'CommandFailed';
  }

  #print(text: string): void {
    this.output.print(text);
    this.onOutput();
  }
}
