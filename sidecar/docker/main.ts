/**
 * The first process of the workload's container under the runtime `docker`: it runs the workload in a Docker Engine, and is to the sidecar
 * what launch.sh is under the other runtimes.
 *
 *   spec.ts       environment -> settings -> request for the container
 *   launcher.ts   one run: find or make the container, copy, wait for its end, clear away
 *   container.ts  find, pull, create, start        engine.ts   the port to the Engine
 *   logcopy.ts    the Engine's log -> `log`, each byte once: demux.ts (frames), position.ts (where the copy stands), logfile.ts (what is kept)
 *   input.ts      `stdin` -> the container         stopper.ts  SIGTERM and SIGINT
 *   mirror.ts     `log` -> standard output
 * README.md beside this file says what it promises. This file alone reads the environment.
 */
import { createSay } from '../say.ts';
import { connectEngine } from './engine.ts';
import { Launcher } from './launcher.ts';
import { readSettings } from './spec.ts';
import { Stopper } from './stopper.ts';

const say = createSay('docker-launcher');

async function main(): Promise<number> {
  const settings = readSettings(process.env);
  const stopper = new Stopper(settings);
  process.on('SIGTERM', () => {
    stopper.terminate();
  });
  process.on('SIGINT', () => {
    stopper.interrupt();
  });
  return await new Launcher({ settings, engine: connectEngine(settings.socketPath), stopper, say }).run();
}

if (import.meta.main) {
  try {
    process.exit(await main());
  } catch (error) {
    say('error', error instanceof Error ? error.message : String(error));
    process.exit(1);
  }
}
