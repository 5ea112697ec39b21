/** The contract of log sources over real pods: one that Kubernetes keeps the log of, and one with a sidecar. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';
import { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { instances } from '../operator/api/v1alpha1/instance.ts';
import type { Instance } from '../operator/api/v1alpha1/instance.ts';
import { createSilentLogger } from '../operator/log.ts';
import { testLogSourceContract } from '../operator/logs/sources/contract.ts';
import type { LogHarness } from '../operator/logs/sources/contract.ts';
import type { LogSource } from '../operator/logs/source.ts';
import { Directory } from '../operator/master/directory.ts';
import { createSources } from '../operator/master/sources.ts';
import { systemClock } from '../operator/runtime/clock.ts';
import { connect } from '../operator/runtime/http.ts';
import { InformerSet } from '../operator/runtime/informerset.ts';
import { createSidecarClient } from '../operator/sidecar/client.ts';
import { applyInstance, enterWorld, eventually, podOf } from './live-harness.ts';
import type { World } from './live-harness.ts';
import { releaseNamespace } from './release.ts';
import { programUnder } from './runtime-harness.ts';
import type { Runtime } from './runtime-harness.ts';

/** Copies what is written to a named pipe, until its `cat` is killed, or SIGTERM. */
const copier = `
exec 2>/dev/null
rm -f /tmp/feed; mkfifo /tmp/feed
cat <>/tmp/feed &
echo $! >/tmp/pid
trap 'kill $(cat /tmp/pid)' TERM
wait $!
[ -e /tmp/done ]
exit`;

let world: World;
let master: FakeMaster;
let made = 0;

before(async () => {
  world = await enterWorld();
  master = await FakeMaster.start(world);
});

after(async () => {
  await master.stop();
  await world.leave();
});

/** What a Master has of log sources, in this process, so that its connections can be cut. */
class FakeMaster {
  readonly sourceFor: (instanceUid: string) => LogSource;
  readonly #stop: () => Promise<void>;
  readonly #sockets = new Set<Socket>();

  private constructor(sourceFor: (instanceUid: string) => LogSource, stop: () => Promise<void>) {
    this.sourceFor = sourceFor;
    subscribe('net.client.socket', this.#note);
    this.#stop = stop;
  }

  static async start({ cluster, namespace }: World): Promise<FakeMaster> {
    process.env.KUBECONFIG = cluster.kubeconfig;
    const log = createSilentLogger();
    const { client } = connect({ log });
    const directory = new Directory();
    const cache = new InformerSet({ client, resource: instances, clock: systemClock, random: Math.random, log }, [
      namespace,
    ]);
    cache.onChange((_, previous: Instance | undefined, next: Instance | undefined) => {
      if (next !== undefined) directory.set(next);
      else if (previous !== undefined) directory.remove(previous);
    });
    const secret = ['get', 'secret', '-n', releaseNamespace, 'ringmaster-master-key', '-o', 'jsonpath={.data.key}'];
    const key = Buffer.from(await cluster.kubectl(secret), 'base64');
    const sidecars = createSidecarClient({ masterKey: { read: () => Promise.resolve([key]) } });
    const watching = new AbortController();
    const running = cache.run(watching.signal);
    const sourceFor = createSources({
      ...{ client, sidecars, directory, log, clock: systemClock },
      random: Math.random,
      observerFor: () => ({}),
    });
    return new FakeMaster(sourceFor, async () => {
      watching.abort();
      await running;
      sidecars.close();
    });
  }

  /** Cuts every connection, to the API server as well as to sidecars. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy(new Error('cut by the test'));
  }

  async stop(): Promise<void> {
    unsubscribe('net.client.socket', this.#note);
    await this.#stop();
  }

  readonly #note = (message: unknown): void => {
    const { socket } = message as { socket: Socket };
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
  };
}

async function createHarness(runtime: Runtime): Promise<LogHarness> {
  made += 1;
  const name = `${runtime}-${made}`;
  await applyInstance(world, name, programUnder(runtime, copier, { restartPolicy: 'OnFailure' }));
  const uid = await world.kubectl(['get', 'instance', name, '-o', 'jsonpath={.metadata.uid}']);
  const exec = async (script: string): Promise<void> => {
    await world.kubectl(['exec', await podOf(world, name), '-c', 'instance', '--', 'sh', '-c', script]);
  };
  /** Ready and in the pod, and the life, that it should be in. */
  const running = async (sequence: number, restarts: number): Promise<void> => {
    const path = 'jsonpath={.status.podSequence} {.status.restarts} {.status.state}';
    await eventually(`${name} to run`, async () => {
      const now = await world.kubectl(['get', 'instance', name, '-o', path]);
      return now === `${sequence} ${restarts} ONLINE`;
    });
    await eventually(`${name} to take lines`, async () =>
      exec('test -p /tmp/feed').then(
        () => true,
        () => false,
      ),
    );
  };
  let [sequence, restarts] = [1, 0];
  await running(sequence, restarts);
  return {
    source: master.sourceFor(uid),
    async write(...lines) {
      const bytes = Buffer.concat(lines.flatMap((line) => [Buffer.from(line), Buffer.from('\n')]));
      await exec(`echo ${bytes.toString('base64')} | base64 -d >/tmp/feed`);
    },
    async restart() {
      restarts += 1;
      await exec('sleep 0.3; kill $(cat /tmp/pid)');
      await running(sequence, restarts);
    },
    async replacePod() {
      [sequence, restarts] = [sequence + 1, 0];
      await world.kubectl(['delete', 'pod', await podOf(world, name), '--wait=false']);
      await running(sequence, restarts);
    },
    cut() {
      // How it ends cleanly cannot be asked of a real server; that is shown over a fake one.
      master.cut();
      return Promise.resolve();
    },
    async finish() {
      await exec('sleep 0.3; touch /tmp/done; kill $(cat /tmp/pid)');
    },
    // The sidecar is a part of the pod.
    isGoneWhenFinished: runtime !== 'kubernetes',
    pass: (ms) => sleep(ms),
    async close() {
      await world.kubectl(['delete', 'instance', name, '--wait=false']);
    },
  };
}

for (const runtime of ['kubernetes', 'process'] as const) {
  testLogSourceContract(`${runtime}, on a cluster,`, () => createHarness(runtime));
}
