/** The two ways to a program's standard input: its pod's sidecar, or an attach to its container. */
import { OperatorError, messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { LogTarget } from '../logs/target.ts';
import { workloadContainer } from '../names.ts';
import { ApiError } from '../runtime/client.ts';
import type { Client } from '../runtime/client.ts';
import { SidecarError, SidecarUnreachableError, SidecarVersionError } from '../sidecar/client.ts';
import type { SidecarClient } from '../sidecar/client.ts';
import { StdinFault } from './typist.ts';
import type { StdinWriter } from './typist.ts';

export interface StdinOptions {
  readonly client: Pick<Client, 'attachStdin'>;
  /** Undefined: this Master has no key for sidecars. */
  readonly sidecars: Pick<SidecarClient, 'writeStdin'> | undefined;
  readonly directory: {
    watchTarget(uid: string): { current(): LogTarget };
    runtimeOf(uid: string): string | undefined;
  };
  readonly log: Logger;
}

/** What API servers, kubelets and container runtimes say of a container that takes no input because it does not run. */
const notRunning =
  /container .*(not found|not running|not created|is waiting|has terminated)|no running task|is not running|not in running state/i;

export function createStdinWriter(options: StdinOptions): StdinWriter {
  return async (uid, lines) => {
    const target = options.directory.watchTarget(uid).current();
    const runtime = options.directory.runtimeOf(uid);
    if (target.isFinished || target.podName === undefined || runtime === undefined) {
      throw new OperatorError('NOT_RUNNING', 'Cannot type: the instance is not running');
    }
    if (runtime === 'kubernetes') {
      await attach(options, { namespace: target.namespace, name: target.podName }, lines);
      return;
    }
    if (options.sidecars === undefined) {
      throw new OperatorError(
        'STDIN_UNAVAILABLE',
        `Cannot type: this Master serves no instance of the runtime "${runtime}"`,
      );
    }
    if (target.podIP === undefined) {
      throw new OperatorError('NOT_RUNNING', 'Cannot type: the instance is not running yet');
    }
    try {
      await options.sidecars.writeStdin({ host: target.podIP, instanceUid: uid }, lines);
    } catch (error) {
      throw sidecarFault(error, options.log);
    }
  };
}

async function attach(
  { client, log }: StdinOptions,
  pod: { namespace: string; name: string },
  lines: Uint8Array,
): Promise<void> {
  try {
    await client.attachStdin(pod, workloadContainer, lines);
  } catch (error) {
    if (!(error instanceof ApiError)) {
      log.info({ cause: messageOf(error) }, 'An attach broke');
      throw uncertain(error);
    }
    if (error.code === 404 || error.code === 409 || notRunning.test(error.message)) {
      throw new OperatorError('NOT_RUNNING', 'Cannot type: the instance is not running', { cause: error });
    }
    log.warn({ cause: error.message, status: error.code }, 'Cannot attach to a pod');
    // A refusal before anything was sent, or the server's last word after it: the status does not tell them apart but for these.
    if (error.code === 401 || error.code === 403 || error.code === 429) {
      const cause = 'the Kubernetes API refuses it';
      throw new OperatorError('STDIN_UNAVAILABLE', `Cannot type: ${cause}`, { cause: error });
    }
    throw uncertain(error);
  }
}

function sidecarFault(error: unknown, log: Logger): Error {
  if (error instanceof SidecarUnreachableError) {
    log.info({ cause: error.message }, 'Cannot reach a sidecar');
    return new OperatorError('STDIN_UNAVAILABLE', 'Cannot type: the instance does not answer', { cause: error });
  }
  if (error instanceof SidecarVersionError && !error.mayHaveActed) {
    log.warn({ cause: error.message }, 'A sidecar speaks another protocol');
    return new OperatorError('STDIN_UNAVAILABLE', `Cannot type: ${error.message}`, { cause: error });
  }
  if (!(error instanceof SidecarError)) {
    log.info({ cause: messageOf(error) }, 'A call to a sidecar broke');
    return uncertain(error);
  }
  const { linesWritten } = error;
  if (error.code === 'OVERLOADED') {
    return new OperatorError('STDIN_OVERLOADED', 'Cannot type: too many commands are waiting', { cause: error });
  }
  return new StdinFault(linesWritten, refusedBySidecar(error, log));
}

function refusedBySidecar(error: SidecarError, log: Logger): OperatorError {
  if (error.code === 'NOT_RUNNING') {
    return new OperatorError('NOT_RUNNING', 'Cannot type: the instance is not running', { cause: error });
  }
  if (error.code === 'STDIN_FULL') {
    return new OperatorError('STDIN_FULL', 'Cannot type: the program does not read its standard input', {
      cause: error,
    });
  }
  log.warn({ cause: error.message, status: error.status }, 'A sidecar refused standard input');
  return new OperatorError('STDIN_UNAVAILABLE', 'Cannot type: the instance refuses it', { cause: error });
}

function uncertain(cause: unknown): OperatorError {
  const what = 'the connection broke; whether the program got the command is unknown';
  return new OperatorError('STDIN_UNCERTAIN', `Cannot type: ${what}`, { cause });
}
