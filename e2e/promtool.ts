/** Prometheus' own checker of rules, from this machine or out of its Debian package; nothing is installed, so that no server starts. */
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasProgram, run } from './cluster/command.ts';
import { defaultCacheDir } from './cluster/settings.ts';

/** Its path; undefined, with the reason said, where it cannot be had. The package (19 MB) is fetched once. */
export async function findPromtool(say: (line: string) => void): Promise<string | undefined> {
  if (await hasProgram('promtool')) return 'promtool';
  const cached = join(defaultCacheDir(), 'promtool');
  if (await hasProgram(cached)) return cached;
  try {
    await fetchTo(cached);
    return cached;
  } catch (error) {
    // No apt, or no network: the tests that need it are skipped, with this as the reason.
    say(`promtool cannot be had: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

async function fetchTo(file: string): Promise<void> {
  await mkdir(defaultCacheDir(), { recursive: true });
  const scratch = await mkdtemp(join(defaultCacheDir(), 'promtool-'));
  try {
    // No lists yet, or lists that name files which are gone; if it is something else, the second try says so.
    await download(scratch).catch(async () => {
      await run('apt-get', ['update', '-q']);
      await download(scratch);
    });
    const [debian = ''] = await readdir(scratch);
    await run('dpkg-deb', ['--extract', join(scratch, debian), join(scratch, 'files')]);
    await rename(join(scratch, 'files/usr/bin/promtool'), file);
  } finally {
    await rm(scratch, { recursive: true });
  }
}

async function download(cwd: string): Promise<void> {
  await run('apt-get', ['download', '-q', 'prometheus'], { cwd });
}
