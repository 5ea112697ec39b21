/** What GitOps tools say of real objects, by their own code: `go/` builds kstatus, Lua and Argo CD's engine into one program, which is kept. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ensureProgram } from '../cluster/build.ts';
import type { Cluster } from '../cluster/cluster.ts';
import { run } from '../cluster/command.ts';
import type { GoProgram } from '../cluster/recipe.ts';
import type { KubeObject } from '../harness.ts';

/** The health checks that we publish for Argo CD. */
export const healthChecksFile = join(import.meta.dirname, '../../docs/gitops/argocd-cm.yaml');
/** One to four minutes of building the first time. */
const program: GoProgram = {
  module: '../gitops/go',
  target: '.',
  output: 'gitops-judge',
  title: 'the judge of GitOps tools',
  ldflags: '-s -w',
};

export interface Request {
  readonly object: object;
  /** What it was applied from, for a comparison; the object then needs its `managedFields`. */
  readonly manifest?: object;
  /** What the API server answered to a server-side apply of the manifest in a dry run. Without it, manifests are compared as after `kubectl apply`. */
  readonly predicted?: object;
}

export type KStatus = 'InProgress' | 'Current' | 'Failed' | 'Terminating' | 'NotFound' | 'Unknown';
export type Health = 'Healthy' | 'Progressing' | 'Degraded' | 'Suspended' | 'Missing' | 'Unknown' | '';

export interface Verdict {
  readonly kstatus: { readonly status: KStatus; readonly message: string };
  /** Empty where the kind has no check. */
  readonly health: { readonly status: Health; readonly message: string };
  /** What Argo CD would change, by its way of comparing: what is there and what would be; absent: nothing. */
  readonly drift?: Readonly<Record<string, readonly [unknown, unknown]>>;
}

/** One program run for all; the verdicts come in the order of the requests. Builds the program first where it is not there: one to four minutes. */
export async function judge(cluster: Cluster, requests: readonly Request[]): Promise<Verdict[]> {
  const file = await ensureJudge();
  const scratch = await mkdtemp(join(tmpdir(), 'ringmaster-judge-'));
  try {
    const types = join(scratch, 'openapi.json');
    const isNeeded = requests.some(({ predicted }) => predicted !== undefined);
    if (isNeeded) await writeFile(types, await cluster.kubectl(['get', '--raw', '/openapi/v2']));
    return JSON.parse(await run(file, [healthChecksFile, types], { input: JSON.stringify(requests) })) as Verdict[];
  } finally {
    await rm(scratch, { recursive: true });
  }
}

/** What kstatus, which Flux and kpt wait by, says of each. */
export async function kstatusOf(cluster: Cluster, objects: readonly KubeObject[]): Promise<KStatus[]> {
  const verdicts = await judge(
    cluster,
    objects.map((object) => ({ object })),
  );
  return verdicts.map(({ kstatus }) => kstatus.status);
}

let built: Promise<string> | undefined;

/** Gives the program, out of the cache where the same was built before. */
export async function ensureJudge(): Promise<string> {
  built ??= build();
  return built;
}

async function build(): Promise<string> {
  const names = await readdir(join(import.meta.dirname, 'go'));
  return ensureProgram(program, {
    log: (line) => {
      process.stderr.write(`gitops-judge: ${line}\n`);
    },
    sources: names.filter((name) => name.endsWith('.go')).sort(),
  });
}
