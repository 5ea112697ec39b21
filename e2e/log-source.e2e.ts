/** The contract of log sources over real pods: one that Kubernetes keeps the log of, and one with a sidecar. */
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { instances } from '../operator/api/v1alpha1/instance.ts';
import type { Instance } from '../operator/api/v1alpha1/instance.ts';
import { createSilentLogger } from '../operator/log.ts';
import { LogReader, testLogSourceContract } from '../operator/logs/sources/contract.ts';
import type { LogHarness } from '../operator/logs/sources/contract.ts';
import type { LogSource, Start } from '../operator/logs/source.ts';
import { Directory } from '../operator/master/directory.ts';
import { createSources } from '../operator/master/sources.ts';
import { systemClock } from '../operator/runtime/clock.ts';
import { connect } from '../operator/runtime/http.ts';
import { InformerSet } from '../operator/runtime/informerset.ts';
import { createSidecarClient } from '../operator/sidecar/client.ts';
import { applyInstance, applyInstances, call, enterWorld, eventually, podOf } from './live-harness.ts';
import type { World } from './live-harness.ts';
import { releaseNamespace } from './release.ts';
import { programUnder, runtimes, Typist, underEach } from './runtime-harness.ts';
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
  world = await enterWorld('privileged');
  master = await FakeMaster.start(world);
});

after(async () => {
  await master.stop();
  await world.leave();
});

/** What a Master has of log sources, in this process, so that its connections can be cut. */
class FakeMaster {
  readonly #sourceFor: (instanceUid: string) => LogSource;
  readonly #directory: Directory;
  readonly #stop: () => Promise<void>;
  readonly #sockets = new Set<Socket>();

  private constructor(sourceFor: (instanceUid: string) => LogSource, directory: Directory, stop: () => Promise<void>) {
    this.#sourceFor = sourceFor;
    this.#directory = directory;
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
    return new FakeMaster(sourceFor, directory, async () => {
      watching.abort();
      await running;
      sidecars.close();
    });
  }

  /** Once this Master's own watch has seen the Instance: before, it would be one that is gone, and its log one that has ended. */
  async sourceFor(uid: string): Promise<LogSource> {
    await eventually(`the watch to show ${uid}`, () => Promise.resolve(this.#directory.byUid(uid) !== undefined));
    return this.#sourceFor(uid);
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
    source: await master.sourceFor(uid),
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
    pass: (ms) => sleep(ms),
    async close() {
      await world.kubectl(['delete', 'instance', name, '--wait=false']);
    },
  };
}

const lifeLines = 20_008;
/** Has two lives: each writes, waits for a word, and ends inside a line, with a failure if the word was `crash`. */
const twoLives = `
printf 'plain\\ntabs\\tand\\ttabs\\n  blanks  \\ngr\u00fc\u00dfe, \u4e16\u754c\\n\\033[31mred\\033[0m\\n\\n\\n'
awk 'BEGIN { s = sprintf("%300s", ""); gsub(/ /, "w", s); print s; for (i = 1; i <= 20000; i++) print "line " i }'
read -r word
printf 'last, without an end'
[ "$word" != crash ]`;

test('log source: of a finished instance a late reader gets the last lines, the same under every runtime, and one who had read on gets exactly the rest', async () => {
  const typist = new Typist(world);
  const ids = await applyInstances(world, underEach(twoLives, { restartPolicy: 'OnFailure' }));
  const readEach = async (start: (runtime: Runtime) => Start): Promise<Record<Runtime, LogReader>> => {
    const readers = {} as Record<Runtime, LogReader>;
    for (const runtime of runtimes) {
      const uid = await world.kubectl(['get', 'instance', runtime, '-o', 'jsonpath={.metadata.uid}']);
      readers[runtime] = new LogReader({ source: await master.sourceFor(uid), pass: sleep }, start(runtime));
    }
    return readers;
  };
  const typeEach = async (word: string): Promise<void> => {
    for (const runtime of runtimes) {
      await eventually(
        `${runtime} to take "${word}"`,
        async () => (await typist.type(ids[runtime], word)).status === 200,
      );
    }
  };
  const early = await readEach(() => ({ tail: 100_000 }));
  for (const runtime of runtimes) await early[runtime].untilLines(lifeLines);
  await typeEach('crash');
  for (const runtime of runtimes) {
    await early[runtime].untilLines(2 * lifeLines + 1);
    await early[runtime].stop();
  }
  await typeEach('end');
  const names = runtimes.map((runtime) => `instance/${runtime}`);
  await world.kubectl(['wait', '--for=jsonpath={.status.state}=STOPPED', ...names, '--timeout=60s']);

  const all = [...early.kubernetes.texts, 'last, without an end', '<end>'];
  assert.equal(all.indexOf('<restart>'), lifeLines + 1);
  for (const back of [15_000, 1]) {
    const late = await readEach(() => ({ tail: back }));
    for (const runtime of runtimes) {
      await late[runtime].until(() => late[runtime].isDone, `the end of ${runtime}`);
      assert.deepEqual(late[runtime].texts, all.slice(-back - 1), `the last ${back} under ${runtime}`);
    }
  }
  for (const index of [lifeLines + 2, 1.5 * lifeLines, 2 * lifeLines + 1]) {
    const late = await readEach((runtime) => ({ after: early[runtime].received[index]?.cursor ?? '' }));
    for (const runtime of runtimes) {
      await late[runtime].until(() => late[runtime].isDone, `the end of ${runtime}`);
      assert.deepEqual(late[runtime].texts, all.slice(index + 1), `after line ${index} under ${runtime}`);
    }
  }
  // Of a pod that has ended the kubelet may already have removed the container before the last one.
  const half = await readEach((runtime) => ({ after: early[runtime].received[100]?.cursor ?? '' }));
  for (const runtime of runtimes) {
    const reader = half[runtime];
    await reader.until(() => reader.isDone, `the end of ${runtime}`);
    const isWhole = reader.texts.length === all.length - 101;
    assert.ok(isWhole || reader.texts[0] === '<gap>', `${runtime}: ${JSON.stringify(reader.texts.slice(0, 3))}`);
    const lines = all.slice(101).filter((text) => !text.startsWith('<'));
    assert.deepEqual(reader.lines, isWhole ? lines : lines.slice(-lifeLines - 1), runtime);
  }
  for (const runtime of runtimes) {
    const { json } = await call(world.url, `/api/instances/${ids[runtime]}/logs?lines=3`, { token: world.token });
    assert.deepEqual(
      (json as { lines: string[] }).lines,
      ['line 19999', 'line 20000', 'last, without an end'],
      runtime,
    );
  }
});

for (const runtime of ['kubernetes', 'process'] as const) {
  testLogSourceContract(`${runtime}, on a cluster,`, () => createHarness(runtime));
}
