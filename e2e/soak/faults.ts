/** The faults of a soak. Each says what it did, or undefined where it could not be done now. */
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../cluster/command.ts';
import { podOf } from '../live-harness.ts';
import type { World } from '../live-harness.ts';
import { pidsInPod } from '../pids.ts';
import { pidsOf, restartEngine } from '../runtime-harness.ts';
import type { Member } from './fleet.ts';

export interface Victims {
  /** Pods whose processes are killed, again and again. */
  readonly masterUid: string;
  readonly operatorUid: string;
}

export interface FaultOptions {
  readonly world: World;
  readonly victims: Victims;
  /** Of the faults' own numbers. */
  readonly random: () => number;
  readonly members: () => readonly Member[];
}

type Fault = () => Promise<string | undefined>;

const sidecarProgram = 'sidecar/main.js';
const cut =
  'add table inet cut { chain i { type filter hook input priority 0; tcp dport 7070 drop; }; chain o { type filter hook output priority 0; tcp sport 7070 drop; }; }';

export function faultsOf({ world, victims, random, members }: FaultOptions): Readonly<Record<string, Fault>> {
  const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(random() * from.length)];
  const withSidecar = (): Member | undefined => pick(members().filter(({ runtime }) => runtime !== 'kubernetes'));
  /** A container that was killed often is not started again at once; it is spared until it runs. */
  const killIn = async (uid: string, word: string): Promise<string | undefined> => {
    const pids = await pidsInPod(uid, word);
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    return pids.length === 0 ? undefined : word;
  };
  return {
    'Master SIGKILL': () => killIn(victims.masterUid, 'operator/master'),
    'operator SIGKILL': () => killIn(victims.operatorUid, 'operator/main'),
    'sidecar SIGKILL': async () => {
      const member = withSidecar();
      if (member === undefined) return undefined;
      const pids = await pidsOf(world, member.name, sidecarProgram);
      for (const pid of pids) process.kill(pid, 'SIGKILL');
      return pids.length === 0 ? undefined : member.name;
    },
    'TCP cut': async () => {
      const member = withSidecar();
      const [pid] = member === undefined ? [] : await pidsOf(world, member.name, sidecarProgram);
      if (member === undefined || pid === undefined) return undefined;
      const net = ['--net', '--target', String(pid), 'nft'];
      await run('nsenter', [...net, cut]);
      const ms = 2000 + Math.floor(random() * 8000);
      await sleep(ms);
      // The pod may have been replaced meanwhile, and its network with it.
      await run('nsenter', [...net, 'delete', 'table', 'inet', 'cut']).catch(() => undefined);
      return `${member.name} for ${ms} ms`;
    },
    'kubelet restart': async () => {
      const { cluster } = world;
      const kubelet = pick(cluster.components.filter((component) => component.startsWith('kubelet-')));
      if (kubelet === undefined) return undefined;
      await cluster.kill(kubelet);
      await cluster.start(kubelet);
      return kubelet;
    },
    'Docker Engine SIGKILL': async () => {
      await restartEngine();
      return 'the one of both nodes';
    },
    'pod deleted': async () => {
      const member = pick(members());
      if (member === undefined) return undefined;
      const pod = await podOf(world, member.name);
      if (pod === '') return undefined;
      await world.kubectl(['delete', 'pod', pod, '--wait=false', '--ignore-not-found']);
      return pod;
    },
  };
}
