/** `npm run bench -- NAME [--count N]`: runs one benchmark of e2e/bench/ on a cluster of its own and takes the cluster down again (`--keep` does not). */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { downCluster, startCluster } from './cluster/cluster.ts';
import type { Cluster, StartOptions } from './cluster/cluster.ts';
import { releaseImages, workbenchImage } from './images/images.ts';
import { createProgress } from './progress.ts';
import type { Progress } from './progress.ts';
import { apiKeyManifest, createToken, installRelease, masterUrl } from './release.ts';
import { engineValues, startEngine } from './setup-cluster.ts';

/** What a benchmark gets. */
export interface Bench {
  readonly cluster: Cluster;
  readonly progress: Progress;
  readonly url: string;
  readonly token: string;
  /** Image with Node in it, for programs that need a clock. */
  readonly nodeImage: string;
  /** The same with screen and tmux. */
  readonly workbenchImage: string;
  /** Of `--count`. */
  readonly count: number | undefined;
}

/** A file of `bench/`. */
interface Benchmark {
  readonly run: (bench: Bench) => Promise<void>;
  /** Of the chart, besides one Master. */
  readonly values?: readonly string[];
  /** Added to the arguments of the cluster's components. */
  readonly extraArgs?: NonNullable<StartOptions['extraArgs']>;
  /** Of the one node. */
  readonly kubeletConfig?: Readonly<Record<string, unknown>>;
}

const folder = join(import.meta.dirname, 'bench');
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { keep: { type: 'boolean' }, count: { type: 'string' } },
});
const names = (await readdir(folder))
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.slice(0, -'.ts'.length));
const name = positionals[0];
if (name === undefined || !names.includes(name)) {
  process.stderr.write(`Usage: npm run bench -- NAME, one of: ${names.join(', ')}\n`);
  process.exitCode = 2;
} else {
  await main(name);
}

async function main(benchmark: string): Promise<void> {
  const { run, ...settings } = (await import(join(folder, `${benchmark}.ts`))) as Benchmark;
  const progress = createProgress('bench');
  const cleanups: (() => Promise<void>)[] = [];
  try {
    await run(await prepare(progress, cleanups, settings));
  } finally {
    for (const cleanUp of cleanups) await cleanUp();
    if (values.keep !== true) await downCluster('bench', { wipe: true });
  }
}

async function prepare(
  progress: Progress,
  cleanups: (() => Promise<void>)[],
  { values: chartValues = [], extraArgs = {}, kubeletConfig = {} }: Omit<Benchmark, 'run'>,
): Promise<Bench> {
  const cluster = await startCluster({
    name: 'bench',
    log: (line) => {
      progress.say(line);
    },
    // A million lines in one file: what is measured is reading, not rotation.
    kubeletConfig: { containerLogMaxSize: '2Gi', ...kubeletConfig },
    extraArgs,
  });
  const images = await releaseImages((line) => {
    progress.say(line);
  });
  const workbench = await workbenchImage();
  await cluster.importImages([...Object.values(images), workbench].map(({ tar }) => tar));
  const engine = await startEngine(progress, [workbench]);
  cleanups.push(() => engine.close());
  const settings = ['master.replicas=1', ...engineValues(engine), ...chartValues];
  await progress.step('Installing the Helm chart', () => installRelease(cluster, images, settings));
  const token = createToken();
  await cluster.kubectl(['apply', '-f', '-'], { input: apiKeyManifest('bench', { token, permission: 'ALL' }) });
  return {
    cluster,
    progress,
    url: await masterUrl(cluster),
    token,
    nodeImage: images.ringmaster.name,
    workbenchImage: workbench.name,
    count: values.count === undefined ? undefined : Number(values.count),
  };
}
