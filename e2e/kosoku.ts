/** kosoku, which runs the cases of the Autobahn test suite against a WebSocket server: what RFC 6455 asks of one. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CommandError, run } from './cluster/command.ts';
import { installPythonProgram } from './python.ts';

export const kosoku = { name: 'kosoku', version: '0.1.0' } as const;

/** Cases that are no matter here: messages up to 16 MiB, and compression, which is not offered. */
const excluded = ['9.*', '12.*', '13.*'];
/** Cases of a suite that wait for nothing for a second or two each. */
const atOnce = 8;

/** How a case went, as far as it is looked at. */
export interface CaseReport {
  readonly id: string;
  readonly description: string;
  readonly behavior: string;
  readonly behaviorClose: string;
  readonly remoteCloseCode: number | null;
  /** What would have been right, by how right it is. */
  readonly expected: Readonly<Record<string, readonly CaseEvent[]>>;
  readonly received: readonly CaseEvent[];
}

/** Such as `["message", "text", false]`, where the last says whether it is binary. */
export type CaseEvent = readonly [type: string, data?: string, isBinary?: boolean];

/** Runs the suite against the server at `address` (`host:port`), path `/`, and gives the report of each case. */
export async function runSuite(address: string, say: (line: string) => void): Promise<CaseReport[]> {
  const program = await installPythonProgram(kosoku, say);
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-kosoku-'));
  const exclude = excluded.flatMap((cases) => ['--exclude', cases]);
  try {
    await run(program, ['--parallelism', String(atOnce), ...exclude, '--outdir', folder, address]).catch(
      (error: unknown) => {
        // What failed is in the reports.
        if (!(error instanceof CommandError)) throw error;
      },
    );
    const index = JSON.parse(await readFile(join(folder, 'index.json'), 'utf8')) as Index;
    const files = Object.values(index).flatMap((cases) => Object.values(cases).map(({ reportfile }) => reportfile));
    return await Promise.all(
      files.map(async (file) => JSON.parse(await readFile(join(folder, file), 'utf8')) as CaseReport),
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** By agent and case. */
type Index = Record<string, Record<string, { reportfile: string }>>;
