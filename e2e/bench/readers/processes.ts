/** CPU time and memory of everything that takes part, by process. */
import { readFile } from 'node:fs/promises';
import type { Bench } from '../../bench.ts';
import { pidsInPod } from '../../pids.ts';
import { releaseNamespace } from '../../release.ts';
import { cpuMsOf } from './readers.ts';

/** Pids by name. */
export type Processes = ReadonlyMap<string, number>;

/** The control plane, the operator that leads, the one that waits, the Master, and this benchmark. */
export async function processesOf({ cluster }: Bench): Promise<Processes> {
  const found = new Map<string, number>();
  const ofRelease = ['-n', releaseNamespace, '-o'];
  const holder = 'jsonpath={.spec.holderIdentity}';
  const [leader = ''] = (await cluster.kubectl(['get', 'lease', 'ringmaster-operator', ...ofRelease, holder])).split(
    '_',
  );
  const path = 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{"\\n"}{end}';
  const pods = await cluster.kubectl(['get', 'pods', ...ofRelease, path]);
  for (const [name = '', uid = ''] of pods
    .trim()
    .split('\n')
    .map((line) => line.split(' '))) {
    const [operator] = await pidsInPod(uid, 'operator/main.ts');
    const [master] = await pidsInPod(uid, 'operator/master.ts');
    if (operator !== undefined) found.set(name === leader ? 'operator' : 'operator that waits', operator);
    if (master !== undefined) found.set('master', master);
  }
  if (!found.has('operator')) throw new Error(`No pod is that of the leader "${leader}"`);
  for (const name of ['kube-apiserver', 'etcd', 'kube-controller-manager', 'kube-scheduler'] as const) {
    const pid = cluster.pid(name);
    if (pid !== undefined) found.set(name, pid);
  }
  return found.set('this benchmark', process.pid);
}

/** Runs the work, and gives the CPU seconds that each process took meanwhile, to a hundredth. */
export async function cpuSecondsOf(
  processes: Processes,
  work: () => Promise<void>,
): Promise<ReadonlyMap<string, number>> {
  const read = async (): Promise<number[]> => Promise.all([...processes.values()].map(cpuMsOf));
  const before = await read();
  await work();
  const after = await read();
  return new Map(
    [...processes.keys()].map((name, index) => [name, ((after[index] ?? 0) - (before[index] ?? 0)) / 1_000]),
  );
}

/** Resident memory now and at its highest, in MB. */
export async function memoryOf(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const mb = (field: string): string =>
    (Number(new RegExp(`^${field}:\\s*(\\d+)`, 'm').exec(status)?.[1] ?? Number.NaN) / 1_024).toFixed(0);
  return `${mb('VmRSS')} MB resident, ${mb('VmHWM')} MB at most`;
}
