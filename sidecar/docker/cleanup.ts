/**
 * Removes what a pod left on the Docker Engine of its node. The operator runs it there, in a pod of its own, once the pod's launcher has ended without
 * saying that its container is gone: it was killed. `RINGMASTER_POD_UID` and `RINGMASTER_DOCKER_SOCKET` as for the launcher.
 *
 * Ends with 0 when the Engine has no container of that pod; until then it tries again, and whoever runs it sets its time.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { createSay } from '../say.ts';
import { removeLeftover } from './container.ts';
import { connectEngine } from './engine.ts';
import type { Engine } from './engine.ts';
import { labels, readCleanup } from './spec.ts';

const retryMs = 2000;
const say = createSay('docker-cleanup');

/** Stops and removes every container of this pod, and looks again until there is none. Throws EngineError. */
async function removeAllOf(engine: Engine, podUid: string): Promise<void> {
  const find = async (): Promise<string[]> => engine.list(`${labels.podUid}=${podUid}`);
  for (let found = await find(); found.length > 0; found = await find()) {
    for (const container of found) {
      await removeLeftover(engine, container);
      say('info', 'Removed the container of a lost pod', { container, podUid });
    }
  }
}

async function main(): Promise<void> {
  const { podUid, socketPath } = readCleanup(process.env);
  const engine = connectEngine(socketPath);
  for (;;) {
    try {
      await removeAllOf(engine, podUid);
      return;
    } catch (error) {
      say('error', error instanceof Error ? error.message : String(error));
    }
    await delay(retryMs);
  }
}

if (import.meta.main) {
  // As the first process of a container it would ignore it otherwise.
  process.on('SIGTERM', () => process.exit(143));
  try {
    await main();
    process.exit(0);
  } catch (error) {
    say('error', error instanceof Error ? error.message : String(error));
    process.exit(1);
  }
}
