/**
 * The release before this one, taken from the clone's own history: what an installation may still run when it is upgraded to this tree, and what
 * the sidecars of its pods are. Tests of upgrades install it by its own scripts.
 */
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CommandError, run } from './cluster/command.ts';

/** The commit. Its sidecar speaks protocol 1. After a release this becomes the commit that was released. */
export const previousRelease = '872c8f1b4a9a119d2c6a5889a6dacc224bbaa012';

const root = join(import.meta.dirname, '..');
const parts = ['charts', 'crds', 'e2e', 'operator', 'sidecar', 'package.json', 'package-lock.json'];

export interface PreviousTree {
  /** Where its files are. The packages are those of this tree. */
  readonly folder: string;
  remove(): Promise<void>;
}

/**
 * Why the release before cannot be had here, as a sentence; undefined: it can. A shallow clone does not have it, nor do files without their history. Where
 * the history is whole, a commit that is not in it is a mistake: then it throws.
 */
export async function previousReleaseFault(commit = previousRelease, folder = root): Promise<string | undefined> {
  const git = async (...args: string[]): Promise<string> => run('git', ['-C', folder, ...args]);
  try {
    await git('cat-file', '-e', `${commit}^{commit}`);
    return undefined;
  } catch {
    const fault = `the previous release, commit ${commit}, is not in the history of this clone`;
    const isShallow = (await git('rev-parse', '--is-shallow-repository').catch(() => 'true')).trim() === 'true';
    const commits = Number(await git('rev-list', '--count', 'HEAD').catch(() => '0'));
    if (isShallow || commits <= 1) return `${fault}: run "git fetch --unshallow"`;
    throw new Error(`${fault}, which is whole: set previousRelease to the commit that was released`);
  }
}

/** Writes its files into a new temporary folder. Throws a sentence that says what to do where the history does not have it. */
export async function extractPreviousRelease(commit: string = previousRelease): Promise<PreviousTree> {
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-previous-'));
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    const archive = join(folder, 'tree.tar');
    await run('git', ['-C', root, 'archive', '--output', archive, commit, '--', ...parts]);
    await run('tar', ['-xf', archive, '-C', folder]);
    await rm(archive);
    await symlink(join(root, 'node_modules'), join(folder, 'node_modules'));
  } catch (error) {
    await remove();
    const cause = error instanceof CommandError ? error.output.trim() : String(error);
    throw new Error(
      `Cannot get the previous release, commit ${commit}, from the history of this clone: ${cause}. ` +
        'Tests of upgrades need git and the whole history: in a shallow clone run "git fetch --unshallow"',
      { cause: error },
    );
  }
  return { folder, remove };
}
