/** Deletes commands whose time is over. Beside the loop that runs them, so that no command waits for a deletion. */
import type { ConsoleCommand } from '../../api/v1alpha1/consolecommand.ts';
import { consoleCommands } from '../../api/v1alpha1/consolecommand.ts';
import { isReason } from '../../runtime/client.ts';
import type { Client } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import { hasEnded } from './status.ts';

export interface CommandCleanerOptions {
  readonly client: Client;
  readonly clock: Clock;
  readonly commands: { get(key: string): ConsoleCommand | undefined };
  /** What lies elsewhere was never run, and is its author's to delete. */
  readonly releaseNamespace: string;
}

export class CommandCleaner {
  readonly #options: CommandCleanerOptions;

  constructor(options: CommandCleanerOptions) {
    this.#options = options;
  }

  async reconcile(key: string, signal: AbortSignal): Promise<{ requeueAfterMs?: number }> {
    const { client, commands } = this.#options;
    const command = commands.get(key);
    if (command === undefined || command.metadata.deletionTimestamp !== undefined) return {};
    const leftMs = this.leftMs(command);
    if (leftMs === undefined) return {};
    if (leftMs > 0) return { requeueAfterMs: leftMs };
    const { name, namespace = '', uid } = command.metadata;
    try {
      await client.remove(consoleCommands, { name, namespace }, { ...(uid === undefined ? {} : { uid }), signal });
    } catch (error) {
      // Another one has its name by now.
      if (!isReason(error, 'Conflict')) throw error;
    }
    return {};
  }

  /** Until it is deleted; undefined: never, as it stands. */
  leftMs(command: ConsoleCommand): number | undefined {
    const { clock, releaseNamespace } = this.#options;
    if (command.metadata.namespace !== releaseNamespace || !hasEnded(command)) return undefined;
    const { ttlSecondsAfterFinished } = command.spec;
    const finishedAtMs = Date.parse(command.status?.finishedAt ?? '');
    return (Number.isNaN(finishedAtMs) ? 0 : finishedAtMs) + ttlSecondsAfterFinished * 1000 - clock.now();
  }
}
