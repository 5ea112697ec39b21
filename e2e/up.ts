/**
 * `npm run up`: from a clean clone to a line of a log. Makes or finds a cluster, installs Ringmaster, applies the samples, makes API keys
 * and streams ten lines. Idempotent: run again, it brings everything to the state of this clone.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { releaseImages } from './images/images.ts';
import { liveLog } from './client.ts';
import { createProgress } from './progress.ts';
import type { Progress } from './progress.ts';
import { apiKeyManifest, createToken, installRelease, releaseName, releaseNamespace } from './release.ts';
import { contextTarget, embeddedTarget, stateDir } from './target.ts';
import type { Target } from './target.ts';

const samplesNamespace = 'ringmaster-samples';
const shownLines = 10;
const envFile = join(stateDir, 'env');

const { values } = parseArgs({ options: { context: { type: 'string' }, help: { type: 'boolean', short: 'h' } } });
if (values.help === true) {
  process.stdout.write(
    'Usage: npm run up [-- --context NAME]   (or RINGMASTER_CONTEXT=NAME; without: the embedded cluster)\n',
  );
} else {
  await up(values.context ?? process.env.RINGMASTER_CONTEXT).catch((error: unknown) => {
    process.stderr.write(`ringmaster: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  });
}

async function up(context: string | undefined): Promise<void> {
  const progress = createProgress('up');
  const target =
    context === undefined || context === '' ? await embeddedTarget(progress) : await contextTarget(context, progress);
  const images = await progress.step('Building the images', async () => {
    const built = await releaseImages((line) => {
      progress.say(line);
    });
    await target.loadImages(Object.values(built));
    return built;
  });
  await progress.step(`Installing the Helm chart into ${target.title}`, () => installRelease(target, images));
  const tokens = await progress.step('Making API keys', () => makeKeys(target));
  await progress.step('Applying the samples', () => applySamples(target));
  const url = await target.url();
  await writeEnv(target, { url, tokens });
  await showLog(target, { url, token: tokens.all, progress });
}

interface Tokens {
  readonly all: string;
  readonly public: string;
}

/** The tokens of the last `up` stay good; only hashes go to the cluster. */
async function makeKeys(target: Target): Promise<Tokens> {
  const kept = await readEnv();
  const tokens: Tokens = {
    all: kept.RINGMASTER_TOKEN ?? createToken(),
    public: kept.RINGMASTER_PUBLIC_TOKEN ?? createToken(),
  };
  const manifests = [
    apiKeyManifest('up-all', { token: tokens.all, permission: 'ALL' }),
    apiKeyManifest('up-public', { token: tokens.public, permission: 'PUBLIC' }),
  ];
  await target.kubectl(['apply', '-f', '-'], { input: manifests.join('\n---\n') });
  return tokens;
}

async function applySamples(target: Target): Promise<void> {
  const namespace = {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name: samplesNamespace, labels: { 'pod-security.kubernetes.io/enforce': 'restricted' } },
  };
  await target.kubectl(['apply', '-f', '-'], { input: JSON.stringify(namespace) });
  await target.kubectl(['apply', '-n', samplesNamespace, '-f', join(import.meta.dirname, 'samples')]);
  await target.kubectl(['wait', '-n', samplesNamespace, '--for=condition=Ready', '--timeout=120s', 'instance/lobby']);
}

async function readEnv(): Promise<Partial<Record<string, string>>> {
  if (!existsSync(envFile)) return {};
  const text = await readFile(envFile, 'utf8');
  return Object.fromEntries(
    [...text.matchAll(/^export (\w+)='([^']*)'$/gm)].map(([, name = '', value = '']) => [name, value]),
  );
}

async function writeEnv(target: Target, { url, tokens }: { url: string; tokens: Tokens }): Promise<void> {
  const variables: Record<string, string> = {
    KUBECONFIG: target.kubeconfig,
    RINGMASTER_URL: url,
    RINGMASTER_TOKEN: tokens.all,
    RINGMASTER_PUBLIC_TOKEN: tokens.public,
    ...(target.context === undefined ? {} : { RINGMASTER_CONTEXT: target.context }),
  };
  const lines = Object.entries(variables).map(([name, value]) => `export ${name}='${value}'`);
  const path =
    target.binDir === undefined
      ? []
      : [`case ":$PATH:" in *:'${target.binDir}':*) ;; *) export PATH="$PATH":'${target.binDir}' ;; esac`];
  await mkdir(stateDir, { recursive: true });
  await writeFile(
    envFile,
    ['# Made by `npm run up`, removed by `npm run down`. Use: . .ringmaster/env', ...lines, ...path, ''].join('\n'),
    { mode: 0o600 },
  );
}

async function showLog(target: Target, options: { url: string; token: string; progress: Progress }): Promise<void> {
  const { url, token, progress } = options;
  const id = (
    await target.kubectl(['get', 'instance', 'lobby', '-n', samplesNamespace, '-o', 'jsonpath={.status.id}'])
  ).trim();
  progress.say(`The live log of instance "lobby" (${id}), the first ${shownLines} lines:`);
  let shown = 0;
  for await (const line of liveLog({ url, token, id, timeoutMs: 60_000 })) {
    process.stdout.write(`    ${line}\n`);
    shown += 1;
    if (shown === shownLines) break;
  }
  if (shown < shownLines)
    throw new Error(`The live log ended after ${shown} lines: kubectl describe instance lobby -n ${samplesNamespace}`);
  process.stdout.write(nextSteps(id));
}

function nextSteps(id: string): string {
  const socket = `"\${RINGMASTER_URL/http/ws}/api/instances/${id}/live-log"`;
  return `
Ringmaster runs (release "${releaseName}" in namespace "${releaseNamespace}"). Next:

    . .ringmaster/env
    kubectl get instances -A
    npx wscat -H "Authorization: Bearer $RINGMASTER_TOKEN" -c ${socket}
    curl -s -H "Authorization: Bearer $RINGMASTER_TOKEN" "$RINGMASTER_URL/api/instances"
    kubectl apply -n ${samplesNamespace} -f e2e/samples/runtimes/screen.yaml
    npm run down
`;
}
