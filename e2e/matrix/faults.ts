/** The nine faults of the matrix, each done to a running cluster as what it imitates would. Each returns when it is over. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../cluster/command.ts';
import { nodeDir } from '../cluster/plan.ts';
import { nodeAddress } from '../cluster/settings.ts';
import { eventually, masters, podOf, restartApiServer } from '../live-harness.ts';
import type { World } from '../live-harness.ts';
import { pidsInPod } from '../pids.ts';
import { releaseNamespace } from '../release.ts';
import { pidsOf } from '../runtime-harness.ts';
import type { Runtime } from '../runtime-harness.ts';

/** What a fault may know of the Instance that it is done to, one for each runtime. */
export interface Subject {
  readonly runtime: Runtime;
  readonly name: string;
}

export interface Fault {
  readonly title: string;
  /** Faults with the same number do not disturb each other and come at the same time. */
  readonly round: number;
  /** The node whose log files are rotated soon, or the one where they never are. */
  readonly node: 'node1' | 'node2';
  /** Clients lose their connections by it. */
  readonly cutsClients?: boolean;
  /** What the fault takes away may be announced as missing. Otherwise nothing may. */
  readonly mayAnnounce?: boolean;
  /** Before the programs begin; what it changes it gives back in `world.cleanups`. */
  prepare?(world: World): Promise<void>;
  strike(world: World, subjects: readonly Subject[]): Promise<void>;
  /** After the programs have ended. */
  verify?(world: World, subjects: readonly Subject[]): Promise<void>;
}

const masterProgram = 'operator/master';
const operatorProgram = 'operator/main';
const sidecarProgram = 'sidecar/main.js';
const kubeletPort = 10_250;
const etcdPauseMs = 10_000;
const apiServerGoneMs = 5_000;
const betweenBlowsMs = 8_000;
const betweenCutsMs = 2_000;
/** About eight seconds' worth of log lines, so that the kubelet rotates several times in a run. */
const smallLogMaxSize = '384Ki';
const smallLogInterval = '3s';

export const faults: readonly Fault[] = [
  {
    title: 'API server SIGKILL',
    round: 1,
    node: 'node2',
    async strike(world) {
      await world.cluster.kill('kube-apiserver');
      await sleep(apiServerGoneMs);
      await restartApiServer(world);
    },
  },
  {
    title: 'etcd pause',
    round: 2,
    node: 'node2',
    async strike({ cluster }) {
      cluster.pause('etcd');
      await sleep(etcdPauseMs);
      cluster.resume('etcd');
    },
  },
  {
    title: 'kubelet restart',
    round: 3,
    node: 'node2',
    async strike({ cluster }) {
      for (let time = 0; time < 2; time += 1) {
        await cluster.kill('kubelet-2');
        await cluster.start('kubelet-2');
        await sleep(betweenBlowsMs);
      }
    },
  },
  {
    title: 'log rotation',
    round: 3,
    node: 'node1',
    prepare: rotateSoon,
    async strike() {
      // The kubelet does it all the time.
    },
    verify: wasRotated,
  },
  {
    title: 'TCP reset',
    round: 4,
    node: 'node2',
    cutsClients: true,
    async strike(world) {
      for (let time = 0; time < 3; time += 1) {
        for (const net of await masterNets(world)) await run('nsenter', [...net, 'ss', '--kill', '--tcp']);
        await sleep(betweenBlowsMs / 2);
      }
    },
  },
  { title: 'clean EOF', round: 5, node: 'node2', strike: endCleanly },
  {
    title: 'pod deletion',
    round: 5,
    node: 'node1',
    mayAnnounce: true,
    async strike(world, subjects) {
      for (const { name } of subjects) await world.kubectl(['delete', 'pod', await podOf(world, name), '--wait=false']);
    },
  },
  {
    title: 'Master SIGKILL',
    round: 6,
    node: 'node2',
    cutsClients: true,
    async strike(world) {
      // One after the other: the clients of each have the other one to go to.
      for (const { uid } of await masters(world)) {
        await killAll(await pidsInPod(uid, masterProgram));
        await sleep(betweenBlowsMs);
      }
    },
  },
  {
    title: 'operator SIGKILL',
    round: 7,
    node: 'node2',
    async strike({ cluster }) {
      const selector = ['-n', releaseNamespace, '-l', 'app.kubernetes.io/component=operator'];
      const uids = await cluster.kubectl(['get', 'pods', ...selector, '-o', 'jsonpath={.items[*].metadata.uid}']);
      for (const uid of uids.split(' ')) await killAll(await pidsInPod(uid, operatorProgram));
    },
  },
];

async function killAll(pids: readonly number[]): Promise<void> {
  assert.ok(pids.length > 0, 'there is a process to kill');
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  return Promise.resolve();
}

/** Arguments that run a program in the network of each Master. */
async function masterNets(world: World): Promise<string[][]> {
  const nets: string[][] = [];
  for (const { uid } of await masters(world)) {
    const [pid = 0] = await pidsInPod(uid, masterProgram);
    nets.push(['--net', '--target', String(pid), '--']);
  }
  return nets;
}

/**
 * A stream that ends as if all had been read. Under `kubernetes` it is what the API server makes of a connection to the kubelet that breaks; a sidecar
 * says that it is about to stop, and is started again.
 */
async function endCleanly(world: World, subjects: readonly Subject[]): Promise<void> {
  for (const { runtime, name } of subjects) {
    if (runtime === 'kubernetes') await cutKubelet(world, name);
    else for (const pid of await pidsOf(world, name, sidecarProgram)) process.kill(pid, 'SIGTERM');
  }
}

async function cutKubelet(world: World, name: string): Promise<void> {
  const connections = `${nodeAddress(world.cluster.settings, 2)}:${kubeletPort}`;
  // kubectl reads the same way, and takes it for the end of the log. When it has begun to read cannot be seen from here.
  let text: string | undefined;
  const reader = world.kubectl(['logs', '--follow', '--tail=1', await podOf(world, name)]).then((all) => (text = all));
  await eventually('kubectl to see the end', async () => {
    await run('ss', ['--kill', '--tcp', 'dst', connections]);
    await sleep(betweenCutsMs);
    return text !== undefined;
  });
  assert.doesNotMatch(await reader, / end /, 'and that it is none');
}

/** Small log files on the first node. */
async function rotateSoon({ cluster, cleanups }: World): Promise<void> {
  const file = join(nodeDir(cluster.settings, 1), 'kubelet.json');
  const before = await readFile(file, 'utf8');
  const restart = async (config: string): Promise<void> => {
    await writeFile(file, config);
    await cluster.stop('kubelet-1');
    await cluster.start('kubelet-1');
  };
  const small = { containerLogMaxSize: smallLogMaxSize, containerLogMonitorInterval: smallLogInterval };
  await restart(JSON.stringify({ ...(JSON.parse(before) as object), ...small }));
  cleanups.push(() => restart(before));
}

/** The kubelet shows the newest file alone, so its first line tells what was rotated away. */
async function wasRotated(world: World, subjects: readonly Subject[]): Promise<void> {
  for (const { runtime, name } of subjects.filter((subject) => subject.runtime === 'kubernetes')) {
    await eventually(`${runtime}: the log to be readable`, async () => {
      const first = await world.kubectl(['logs', await podOf(world, name), '--limit-bytes=60']);
      const [, number = '0'] = /^\S+ (\d+) /.exec(first) ?? [];
      return Number(number) > 10_000;
    });
  }
}
