/** stern, which follows the logs of many pods in one terminal: a peer of the benchmarks, built from its Go module when one first needs it. */
import { ensureProgram } from './build.ts';
import type { BuildOptions } from './build.ts';
import type { GoProgram } from './recipe.ts';
import { versions } from './settings.ts';

const program: GoProgram = {
  module: 'go-stern',
  target: 'github.com/stern/stern',
  output: 'stern',
  title: `stern ${versions.stern}`,
  ldflags: '-s -w',
};

/** Gives its file, building it if it is not there: a minute, and a newer Go than the cluster's, which Go fetches as a module. */
export async function ensureStern(options: BuildOptions): Promise<string> {
  return ensureProgram(program, { ...options, goVersion: versions.goForStern });
}
