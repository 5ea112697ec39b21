/** Programs from PyPI, each in an environment of its own below the cache folder. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasProgram, run } from './cluster/command.ts';
import { ensurePackages } from './cluster/packages.ts';
import { defaultCacheDir } from './cluster/settings.ts';

/** Path of the program that has the package's name; the package and its own are fetched once. */
export async function installPythonProgram(
  { name, version }: { name: string; version: string },
  say: (line: string) => void,
): Promise<string> {
  const folder = join(defaultCacheDir(), `${name}-${version}`);
  const program = join(folder, 'bin', name);
  if (await hasProgram(program)) return program;
  await ensurePackages(say, [{ need: 'python3', debian: 'python3-venv' }]);
  try {
    await mkdir(defaultCacheDir(), { recursive: true });
    await run('python3', ['-m', 'venv', '--clear', folder]);
    await run(join(folder, 'bin/pip'), ['install', '--quiet', '--disable-pip-version-check', `${name}==${version}`]);
    return program;
  } catch (error) {
    // What is half made must not be found.
    await rm(folder, { recursive: true, force: true });
    throw new Error(`Cannot install ${name}: it needs python3 with venv (python3-venv), and PyPI`, { cause: error });
  }
}
