/** One run of the launcher: from the Engine's first answer to the container's exit code. */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  mayContainerBeLeft,
  noteContainer,
  noteStart,
  readStartCount,
  writeFault,
  writeLastWords,
  writeWorkloadNote,
} from '../notes.ts';
import type { WorkloadNote } from '../notes.ts';
import { nothingLeft, runtimeMissingExitCode } from '../protocol.ts';
import {
  CannotStartError,
  createContainer,
  ensureImage,
  findContainer,
  inspectIfThere,
  startContainer,
} from './container.ts';
import { EngineError } from './engine.ts';
import type { ContainerState, Engine } from './engine.ts';
import { Input } from './input.ts';
import { LogCopy } from './logcopy.ts';
import { CopiedLog } from './logfile.ts';
import { Mirror } from './mirror.ts';
import type { Settings } from './spec.ts';
import type { Stopper } from './stopper.ts';

export interface LauncherOptions {
  readonly settings: Settings;
  readonly engine: Engine;
  readonly stopper: Stopper;
  /** One line for whoever reads the launcher's own output. */
  readonly say: (level: 'info' | 'error', message: string, fields?: Record<string, unknown>) => void;
}

const retryMsMin = 100;
const retryMsMax = 5000;
/** The net under the Engine's own answer: the state is looked at this often. */
const waitMsMax = 2000;
/** The mirror's time for the last lines: while it gets on, and in all. */
const mirrorQuietMs = 2000;
const mirrorSettleMs = 8000;
const removeTries = 5;
const cannotStartCode = 1;
const terminatedCode = 143;
const killedCode = 137;

export class Launcher {
  readonly #options: LauncherOptions;
  readonly #log: CopiedLog;
  readonly #runDirectory: string;
  #lastFault = '';
  #input: Input | undefined;
  #note: WorkloadNote = { starts: 0, startedAtS: 0 };
  /** What keeps the runtime from starting, for the last words. */
  #faultMessage = '';

  /** Throws if the shared volume is not as the sidecar makes it. */
  constructor(options: LauncherOptions) {
    this.#options = options;
    const { directory } = options.settings;
    this.#log = new CopiedLog(directory, this.#onFault);
    this.#runDirectory = join(directory, 'run');
  }

  /** Resolves with the code to exit with: the container's, or 1, 78 or 143 where none ran. */
  async run(): Promise<number> {
    const { settings } = this.#options;
    await writeFault(this.#runDirectory, '');
    this.#note = { starts: (await readStartCount(this.#runDirectory)) + 1, startedAtS: nowS() };
    const mirrorStop = new AbortController();
    const mirror = settings.isMirrored ? new Mirror(settings.directory, this.#log.size) : undefined;
    const mirrored = mirror?.run(mirrorStop.signal).catch(this.#onFault);
    const id = await this.#prepare();
    const code = typeof id === 'number' ? id : await this.#follow(id);
    this.#input?.close();
    await writeWorkloadNote(this.#runDirectory, { ...this.#note, code, exitedAtS: nowS() });
    await mirror?.settle(mirrorQuietMs, mirrorSettleMs);
    mirrorStop.abort();
    await mirrored;
    if (typeof id === 'string') {
      await this.#remove(id);
    }
    await this.#sayLastWords();
    return code;
  }

  /** Written last: a launcher that is killed before leaves nothing there, and the operator then looks for its container. */
  async #sayLastWords(): Promise<void> {
    const words = [this.#faultMessage, (await mayContainerBeLeft(this.#runDirectory)) ? '' : nothingLeft];
    await writeLastWords(this.#options.settings.lastWordsFile, words.filter((part) => part !== '').join('\n'));
  }

  /** The id of a container that was started, or the code to exit with. The Engine may be away for a while; then that is the fault. */
  async #prepare(): Promise<string | number> {
    const { engineTimeoutMs, socketPath } = this.#options.settings;
    const { stopper } = this.#options;
    const deadline = Date.now() + engineTimeoutMs;
    for (let waitMs = retryMsMin; ; waitMs = Math.min(waitMs * 2, retryMsMax)) {
      try {
        await this.#options.engine.ping();
        return await this.#takeContainer();
      } catch (error) {
        if (error instanceof CannotStartError) {
          await this.#log.say(error.message);
          this.#options.say('error', error.message);
          return cannotStartCode;
        }
        if (stopper.isRequested) {
          return terminatedCode;
        }
        if (!(error instanceof EngineError)) {
          throw error;
        }
        this.#onFault(error);
        if (Date.now() + waitMs > deadline) {
          return await this.#fault(`Cannot use the Docker Engine at "${socketPath}": ${error.message}`);
        }
      }
      await Promise.race([delay(waitMs), stopper.requested]);
    }
  }

  async #fault(message: string): Promise<number> {
    await this.#log.say(message);
    await writeFault(this.#runDirectory, message);
    this.#faultMessage = message;
    return runtimeMissingExitCode;
  }

  /** Adopts what an earlier launcher of this pod started, or starts a container. */
  async #takeContainer(): Promise<string> {
    const { engine, settings, say, stopper } = this.#options;
    const found = await findContainer(engine, settings, (state) => {
      say('info', 'Removed the container of an earlier pod', { container: state.id, status: state.status });
    });
    if (found !== undefined && found.status !== 'created') {
      return await this.#adopt(found);
    }
    if (found === undefined) {
      await noteContainer(this.#runDirectory, false);
      await ensureImage(engine, settings, stopper.requested);
    }
    // Before it is made: an Engine that goes away meanwhile may have made it.
    await noteContainer(this.#runDirectory, true);
    const id = found?.id ?? (await createContainer(engine, settings));
    await this.#log.endLastLine();
    this.#log.begin(id);
    await noteStart(this.#runDirectory, { starts: this.#note.starts, offset: this.#log.size });
    await writeWorkloadNote(this.#runDirectory, this.#note);
    try {
      await startContainer(engine, id);
    } catch (error) {
      if (error instanceof CannotStartError) {
        await this.#remove(id);
      }
      throw error;
    }
    // Not before: whoever holds the pipe says that the workload runs.
    this.#input ??= Input.open(settings.directory);
    say('info', 'Started the container', { container: id });
    return id;
  }

  async #adopt(found: ContainerState): Promise<string> {
    if (!(await this.#log.resume(found.id))) {
      await this.#log.endLastLine();
      await this.#log.say(
        'What was copied of a running container is not known any more: its lines come again from its start',
      );
      this.#log.begin(found.id);
    }
    // It is the same start of the same workload.
    this.#note = { starts: Math.max(this.#note.starts - 1, 1), startedAtS: Math.floor(found.startedAtMs / 1000) };
    await writeWorkloadNote(this.#runDirectory, this.#note);
    this.#input ??= Input.open(this.#options.settings.directory);
    this.#options.say('info', 'Adopted the container', { container: found.id, status: found.status });
    return found.id;
  }

  /** Copies output and input until the container ends; then the rest of the log. Gives its exit code. */
  async #follow(container: string): Promise<number> {
    const { engine, stopper, say } = this.#options;
    const stop = new AbortController();
    const copy = new LogCopy({ engine, container, log: this.#log, onFault: this.#onFault });
    const input = this.#input;
    const copying = copy.run(stop.signal);
    const typing = input?.run(engine, container, stop.signal);
    const stopping = stopper.run({ engine, container, input, onFault: this.#onFault }, stop.signal);
    // A log that cannot be written ends the run; the container stays, for the next one to adopt.
    const code = await Promise.race([this.#ended(container), copying.then(() => killedCode)]);
    stop.abort();
    input?.close();
    await Promise.all([copying, typing, stopping]);
    if (code === undefined) {
      await this.#log.say('The container was removed by somebody else: its exit code and its last lines are not known');
      return killedCode;
    }
    await copy.finish(new AbortController().signal);
    say('info', 'The container has ended', { container, code });
    return code;
  }

  /** The exit code once it does not run any more; undefined if it was removed. An Engine that is away is waited for. */
  async #ended(container: string): Promise<number | undefined> {
    const { engine } = this.#options;
    for (let waitMs = retryMsMin; ; waitMs = Math.min(Math.max(waitMs * 2, retryMsMin), retryMsMax)) {
      try {
        await engine.wait(container, waitMsMax);
      } catch {
        // Time to look, or the Engine is away, which the next call says.
      }
      try {
        const state = await inspectIfThere(engine, container);
        if (state?.status !== 'running') {
          return state?.exitCode;
        }
        // The next wait has its own time; only an Engine that does not answer is given a pause.
        waitMs = 0;
      } catch (error) {
        this.#onFault(error);
      }
      await delay(waitMs);
    }
  }

  /** Left to the next start if the Engine does not do it: that one would find it ended, and removes it. */
  async #remove(container: string): Promise<void> {
    for (let tries = 1; tries <= removeTries; tries += 1) {
      try {
        await this.#options.engine.remove(container);
        await noteContainer(this.#runDirectory, false);
        return;
      } catch (error) {
        this.#onFault(error);
        await delay(retryMsMin * 2 ** tries);
      }
    }
  }

  /** The same fault again and again is said once. */
  readonly #onFault = (error: unknown): void => {
    const message = error instanceof Error ? error.message : String(error);
    if (message !== this.#lastFault) {
      this.#lastFault = message;
      this.#options.say('error', message);
    }
  };
}

function nowS(): number {
  return Math.floor(Date.now() / 1000);
}
