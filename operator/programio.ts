/** Logs and standard input of programs for the console's commands: the Master's own ways, fed from the operator's caches. */
import type { Instance } from './api/v1alpha1/instance.ts';
import type { ProgramIo } from './controllers/consolecommand/world.ts';
import { OperatorError } from './errors.ts';
import type { Logger } from './log.ts';
import { Directory } from './master/directory.ts';
import { commandFault } from './master/schemas.ts';
import { createSources } from './master/sources.ts';
import { createStdinWriter } from './master/stdin.ts';
import { createTypist } from './master/typist.ts';
import type { Metrics } from './metrics.ts';
import { observeSource } from './observers.ts';
import { withDeadline } from './runtime/abort.ts';
import type { Client } from './runtime/client.ts';
import { systemClock } from './runtime/clock.ts';
import type { ChangeHandler } from './runtime/informer.ts';
import { createSidecarClient } from './sidecar/client.ts';
import type { MasterKey } from './sidecar/masterkey.ts';

/** As the Master's own limit for the same read. */
const tailTimeoutMs = 10_000;

export interface ProgramIoOptions {
  readonly client: Client;
  readonly instances: { onChange(handler: ChangeHandler<Instance>): () => void };
  /** Undefined: this operator serves the runtime kubernetes alone. */
  readonly masterKey: MasterKey | undefined;
  readonly metrics: Metrics;
  readonly log: Logger;
}

export interface ClosableProgramIo extends ProgramIo {
  close(): void;
}

export function createProgramIo({ client, instances, masterKey, metrics, log }: ProgramIoOptions): ClosableProgramIo {
  const directory = new Directory();
  const unsubscribe = instances.onChange((_, previous, next) => {
    if (next !== undefined) directory.set(next);
    else if (previous !== undefined) directory.remove(previous);
  });
  const sidecars = masterKey === undefined ? undefined : createSidecarClient({ masterKey });
  const parts = { client, sidecars, directory, log };
  const observerFor = (runtime: string): ReturnType<typeof observeSource> => observeSource(metrics, runtime);
  const sourceFor = createSources({ ...parts, clock: systemClock, random: Math.random, observerFor });
  const typist = createTypist(createStdinWriter(parts));
  return {
    async tail(uid, count, signal) {
      const deadline = { clock: systemClock, timeoutMs: tailTimeoutMs, signal, what: 'read the log' };
      try {
        const { lines } = await withDeadline(deadline, (limit) => sourceFor(uid).tail(count, limit));
        // What is not UTF-8 becomes U+FFFD, as in the frames of a live log.
        return lines.map((line) => line.toString('utf8'));
      } catch (error) {
        if (error instanceof OperatorError || signal.aborted) throw error;
        throw new OperatorError('LOG_SOURCE_UNAVAILABLE', 'Cannot read the log: it did not answer in time', {
          cause: error,
        });
      }
    },
    type: (uid, line, signal) => typist.type(uid, line, signal),
    lineFault: commandFault,
    close: () => {
      unsubscribe();
      sidecars?.close();
    },
  };
}
