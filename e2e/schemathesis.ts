/** schemathesis, which calls everything that an OpenAPI document describes, with right and with wrong values. It lives in an environment of its own. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CommandError, run } from './cluster/command.ts';
import { installPythonProgram } from './python.ts';

const version = '4.32.5';
const config = join(import.meta.dirname, 'schemathesis.toml');

/** Its path. The package (about 60 MB with its own) is fetched once. */
export async function installSchemathesis(say: (line: string) => void): Promise<string> {
  return installPythonProgram({ name: 'schemathesis', version }, say);
}

export interface Hunt {
  readonly program: string;
  /** Of the Master, without a path. */
  readonly url: string;
  readonly token: string;
  /** For each call and phase. */
  readonly examples: number;
  /** Operation ids that are left out. */
  readonly exclude?: readonly string[];
}

/** What it found, as it says it; empty if nothing. The same seed makes the same calls. */
export async function hunt({ program, url, token, examples, exclude = [] }: Hunt): Promise<string> {
  const cwd = await mkdtemp(join(tmpdir(), 'ringmaster-schemathesis-'));
  const options = [
    ...['--config-file', config, 'run', `${url}/api/openapi.json`],
    ...['--header', `Authorization: Bearer ${token}`],
    ...['--phases', 'examples,coverage,fuzzing', '--max-examples', String(examples), '--seed', '1', '--no-color'],
    ...exclude.flatMap((id) => ['--exclude-operation-id', id]),
  ];
  try {
    await run(program, options, { cwd });
    return '';
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    // Its output and not the message, which has the token. A call that was too large for a schema is too large for a report.
    return error.output.replaceAll(/\S{400,}/g, (text) => `${text.slice(0, 400)}…`);
  } finally {
    await rm(cwd, { recursive: true, force: true });
  }
}
