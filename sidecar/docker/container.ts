/** Finds the container of this pod, or makes it; clears away what a lost pod left. */
import { EngineError } from './engine.ts';
import type { ContainerState, Engine } from './engine.ts';
import { containerName, createOptions, labels, withTag } from './spec.ts';
import type { Settings } from './spec.ts';

/** Nothing that another try at once would mend: the message is for people. */
export class CannotStartError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'CannotStartError';
  }
}

const leftoverGraceSeconds = 10;

/**
 * The container that an earlier launcher of this pod made: running, ended, or never started. Containers of the same Instance from other pods are
 * stopped and removed before, since two copies of one workload must not run side by side.
 */
export async function findContainer(
  engine: Engine,
  settings: Settings,
  onRemoved: (state: ContainerState) => void,
): Promise<ContainerState | undefined> {
  let own: ContainerState | undefined;
  for (const id of await engine.list(`${labels.instanceUid}=${settings.instanceUid}`)) {
    const state = await inspectIfThere(engine, id);
    if (state?.labels[labels.podUid] === settings.podUid) {
      own = state;
    } else if (state !== undefined) {
      await removeLeftover(engine, id);
      onRemoved(state);
    }
  }
  return own;
}

/** Stops and removes a container that nobody follows any more. */
export async function removeLeftover(engine: Engine, id: string): Promise<void> {
  await engine.stop(id, leftoverGraceSeconds);
  await engine.remove(id);
}

/** Undefined if it has been removed. */
export async function inspectIfThere(engine: Engine, id: string): Promise<ContainerState | undefined> {
  try {
    return await engine.inspect(id);
  } catch (error) {
    if (error instanceof EngineError && error.kind === 'missing') {
      return undefined;
    }
    throw error;
  }
}

/** Sees to the image as the pull policy says. Throws CannotStartError; EngineError if the Engine is gone. */
export async function ensureImage(engine: Engine, settings: Settings, stopped: Promise<void>): Promise<void> {
  const { image, pull } = settings.spec;
  const isPresent = pull !== 'Always' && (await engine.hasImage(image));
  if (!isPresent && pull === 'Never') {
    throw new CannotStartError(
      `Cannot start the workload: the image "${image}" is not on the Engine, and it must not be pulled`,
    );
  }
  if (!isPresent) {
    await explain(`Cannot pull the image "${image}"`, () =>
      // A pull may take long, and nobody waits for it any more.
      Promise.race([engine.pull(withTag(image)), stopped.then(interrupt)]),
    );
  }
}

/** Makes the container, and does not start it. Throws CannotStartError; EngineError if the Engine is gone: it may have made it. */
export async function createContainer(engine: Engine, settings: Settings): Promise<string> {
  return await explain(`Cannot create the container "${containerName(settings)}"`, () =>
    engine.create(createOptions(settings)),
  );
}

function interrupt(): never {
  throw new EngineError('unreachable', 'The launcher was told to stop');
}

/** Starts it. Throws CannotStartError with the Engine's reason: no such program, a port in use. */
export async function startContainer(engine: Engine, id: string): Promise<void> {
  await explain('Cannot start the workload', () => engine.start(id));
}

async function explain<T>(what: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof EngineError && error.kind !== 'unreachable') {
      throw new CannotStartError(`${what}: ${error.message}`, { cause: error });
    }
    throw error;
  }
}
