/** What the operator and the Masters hold: memory, file descriptors, sockets, watches, as the kernel and the API server count them. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { metricOf } from '../live-harness.ts';
import type { World } from '../live-harness.ts';
import { pidsInPod } from '../pids.ts';
import { trendOf } from './trend.ts';

/** A process that no fault is aimed at, so that its age is that of the soak. */
export interface Survivor {
  readonly name: string;
  readonly podUid: string;
  readonly pid: number;
  /** Of a Master: what it serves is not counted, because clients of a killed replica come to this one and stay. */
  readonly url?: string;
}

export interface Sample {
  /** Resident, in MB. */
  readonly memory: number;
  /** Without those of a Master's clients, and of the logs that it follows for them. */
  readonly files: number;
  /** The same. */
  readonly sockets: number;
}

/** What may be added from the first to the last tenth of the time, and still counts as flat: the larger of the two. */
const allowed: Readonly<Record<keyof Sample, { absolute: number; share: number }>> = {
  memory: { absolute: 24, share: 0.15 },
  files: { absolute: 8, share: 0.15 },
  sockets: { absolute: 8, share: 0.15 },
};
export const measures = ['memory', 'files', 'sockets'] as const;

export interface Survived {
  readonly name: string;
  readonly podUid: string;
  /** In its command line. */
  readonly word: string;
  readonly url?: string;
}

/** Throws where the pod does not run exactly one such process. */
export async function survivorIn({ name, podUid, word, url }: Survived): Promise<Survivor> {
  const pids = await pidsInPod(podUid, word);
  const [pid] = pids;
  if (pid === undefined || pids.length > 1) throw new Error(`${name}: ${pids.length} processes instead of one`);
  return { name, podUid, pid, ...(url === undefined ? {} : { url }) };
}

/** Throws when the process has ended, or its Master does not answer. */
export async function sampleOf({ name, pid, url }: Survivor): Promise<Sample> {
  try {
    const served = url === undefined ? { sockets: 0, upstreams: 0 } : await servedBy(url);
    const own = served.sockets + served.upstreams;
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    const files = await readdir(`/proc/${pid}/fd`);
    // A file that was closed meanwhile is none.
    const links = await Promise.all(files.map((file) => readlink(`/proc/${pid}/fd/${file}`).catch(() => undefined)));
    return {
      memory: Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024,
      files: links.filter((link) => link !== undefined).length - own,
      sockets: links.filter((link) => link?.startsWith('socket:') === true).length - own,
    };
  } catch (error) {
    throw new Error(
      `Cannot look at ${name}, at which no fault was aimed: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}

/** Watches on our kinds that the API server has open, of whoever. */
export async function watchesOpen(world: World): Promise<number> {
  const page = await world.cluster.kubectl(['get', '--raw', '/metrics']);
  return page
    .split('\n')
    .filter((line) => /^apiserver_longrunning_requests\{.*group="ringmaster.dev".*verb="WATCH"/.test(line))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}

/** What a replica of the Master still serves. */
export async function servedBy(url: string): Promise<{ sockets: number; upstreams: number }> {
  return {
    sockets: await metricOf(url, 'ringmaster_master_sockets_open'),
    upstreams: await metricOf(url, 'ringmaster_hub_upstreams_open'),
  };
}

export interface Verdict {
  readonly first: number;
  readonly last: number;
  readonly growth: number;
  readonly limit: number;
  readonly isFlat: boolean;
}

/** Throws a RangeError for fewer than six values. */
export function verdictOn(measure: keyof Sample, values: readonly number[]): Verdict {
  const { first, last, growth } = trendOf(values);
  const { absolute, share } = allowed[measure];
  const limit = Math.max(absolute, share * first);
  return { first, last, growth, limit, isFlat: growth <= limit };
}
