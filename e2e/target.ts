/** Which cluster `up` and `down` work on: the embedded one, or the one that a kubeconfig context names. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureBuilt } from './cluster/build.ts';
import { canRunEmbedded, startCluster } from './cluster/cluster.ts';
import { hasProgram, run } from './cluster/command.ts';
import type { Image } from './images/oci.ts';
import type { Progress } from './progress.ts';
import { masterUrl, releaseName, releaseNamespace } from './release.ts';
import type { Tools } from './release.ts';

export interface Target extends Tools {
  /** For people: what it is. */
  readonly title: string;
  /** What `.ringmaster/env` says. */
  readonly kubeconfig: string;
  readonly context: string | undefined;
  /** Folder of `kubectl` and `helm` where they are ours. */
  readonly binDir: string | undefined;
  /** Makes the images available to the nodes. */
  loadImages(images: readonly Image[]): Promise<void>;
  /** An address of the Master that this machine reaches. */
  url(): Promise<string>;
}

/** Everything that `up` leaves in the clone. */
export const stateDir = join(import.meta.dirname, '../.ringmaster');
const forwardFile = join(stateDir, 'port-forward.json');
const forwardPort = 7000;

export async function embeddedTarget(progress: Progress): Promise<Target> {
  const able = canRunEmbedded();
  if (!able.ok) throw new Error(`Cannot run the embedded cluster: ${able.why}. ${await waysOn()}`);
  const cluster = await startCluster({
    name: 'dev',
    log: (line) => {
      progress.say(line);
    },
  });
  const tools: Tools = {
    kubectl: (args, options) => cluster.kubectl(args, options),
    helm: (args) => cluster.helm(args),
  };
  return {
    ...tools,
    title: 'the embedded cluster',
    kubeconfig: cluster.kubeconfig,
    context: undefined,
    binDir: cluster.binDir,
    loadImages: (images) => cluster.importImages(images.map(({ tar }) => tar)),
    url: () => masterUrl(tools),
  };
}

/** The cluster of a kubeconfig context. kubectl and Helm are the machine's own, or the ones that were built for the embedded cluster. */
export async function contextTarget(context: string, progress: Progress): Promise<Target> {
  const binDir =
    (await hasProgram('kubectl')) && (await hasProgram('helm'))
      ? undefined
      : await ensureBuilt({
          log: (line) => {
            progress.say(line);
          },
        });
  const command = (name: string): string => (binDir === undefined ? name : join(binDir, name));
  const tools: Tools = {
    kubectl: (args, options) => run(command('kubectl'), ['--context', context, ...args], options),
    helm: (args) => run(command('helm'), ['--kube-context', context, ...args]),
  };
  return {
    ...tools,
    title: `context "${context}"`,
    kubeconfig: process.env.KUBECONFIG ?? join(process.env.HOME ?? '', '.kube/config'),
    context,
    binDir,
    loadImages: (images) => loadIntoContext(context, images),
    url: () => forward(command('kubectl'), context),
  };
}

async function waysOn(): Promise<string> {
  const kind = (await hasProgram('kind')) ? ', for example one made by: kind create cluster' : '';
  return `Use a cluster that you have: npm run up -- --context NAME${kind}`;
}

async function loadIntoContext(context: string, images: readonly Image[]): Promise<void> {
  if (context.startsWith('kind-') && (await hasProgram('kind'))) {
    const name = context.slice('kind-'.length);
    for (const { tar } of images) await run('kind', ['load', 'image-archive', tar, '--name', name]);
    return;
  }
  if (process.env.RINGMASTER_IMAGES_LOADED === 'yes') return;
  const list = images.map(({ name, tar }) => `  ${name}  from  ${tar}`).join('\n');
  throw new Error(
    `Cannot load images into context "${context}" by myself: import these archives on its nodes ` +
      `(ctr -n k8s.io images import FILE), then set RINGMASTER_IMAGES_LOADED=yes and run it again:\n${list}`,
  );
}

/** Starts `kubectl port-forward`, or finds the one that is running; `stopForward` ends it. */
async function forward(kubectl: string, context: string): Promise<string> {
  await stopForward();
  await mkdir(stateDir, { recursive: true });
  const log = await open(join(stateDir, 'port-forward.log'), 'w');
  const args = [
    '--context',
    context,
    'port-forward',
    '-n',
    releaseNamespace,
    `service/${releaseName}-master`,
    `${forwardPort}:7000`,
  ];
  const child = spawn(kubectl, args, { detached: true, stdio: ['ignore', log.fd, log.fd] });
  child.unref();
  await writeFile(forwardFile, JSON.stringify({ pid: child.pid, args }));
  await log.close();
  return `http://127.0.0.1:${forwardPort}`;
}

/** Ends the port-forward that `up` left, by its pid, if that still is what `up` started. */
export async function stopForward(): Promise<void> {
  if (!existsSync(forwardFile)) return;
  const { pid, args } = JSON.parse(await readFile(forwardFile, 'utf8')) as { pid: number; args: string[] };
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  if (args.every((argument) => commandLine.split('\0').includes(argument))) process.kill(pid, 'SIGTERM');
  await rm(forwardFile, { force: true });
}
