/** `npm run down`: removes what `up` made, and nothing else. The cache of built programs stays, for the next `up`; `--cache` removes it too. */
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { join } from 'node:path';
import { downCluster } from './cluster/cluster.ts';
import { defaultCacheDir } from './cluster/settings.ts';
import { createProgress } from './progress.ts';
import { releaseName, releaseNamespace } from './release.ts';
import { contextTarget, stateDir, stopForward } from './target.ts';

const samplesNamespace = 'ringmaster-samples';

const { values } = parseArgs({ options: { context: { type: 'string' }, cache: { type: 'boolean' } } });
const progress = createProgress('down');
const context = values.context ?? process.env.RINGMASTER_CONTEXT ?? (await contextOfLastUp());
if (context === undefined || context === '') {
  await progress.step('Ending the embedded cluster', () => downCluster('dev', { wipe: true }));
} else {
  await progress.step(`Removing Ringmaster from context "${context}"`, () => uninstall(context));
}
await rm(stateDir, { recursive: true, force: true });
if (values.cache === true) await rm(defaultCacheDir(), { recursive: true, force: true });

async function contextOfLastUp(): Promise<string | undefined> {
  const file = join(stateDir, 'env');
  if (!existsSync(file)) return undefined;
  return /^export RINGMASTER_CONTEXT='([^']*)'$/m.exec(await readFile(file, 'utf8'))?.[1];
}

/** The samples first, while the operator can still stop them gracefully; then the release, then what Helm leaves on purpose. */
async function uninstall(name: string): Promise<void> {
  const target = await contextTarget(name, progress);
  await stopForward();
  const quietly = ['--ignore-not-found', '--wait', '--timeout=120s'];
  await target.kubectl(['delete', 'namespace', samplesNamespace, ...quietly]);
  await target.helm(['uninstall', releaseName, '--namespace', releaseNamespace, '--ignore-not-found', '--wait']);
  const others = (await target.kubectl(['get', 'instances.ringmaster.dev', '-A', '-o', 'name'])).trim();
  if (others === '') await target.kubectl(['delete', 'crd', '-l', 'app.kubernetes.io/part-of=ringmaster', ...quietly]);
  else progress.say(`Kept the CRDs: there are Instances that up did not make`);
  await target.kubectl(['delete', 'namespace', releaseNamespace, ...quietly]);
}
