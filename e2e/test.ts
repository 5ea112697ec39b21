/**
 * `npm test`: format, lint, types, generated files and unit tests; then integration tests on a real control plane; then end-to-end tests on a
 * real cluster of two nodes. `--check` stops after the first group; `--only NAME` runs one group; words after `--` pick test files, those of
 * `e2e/matrix/` too, which take too long to be run each time.
 *
 * Every group runs even when an earlier one failed, so that one run shows everything. The clusters it makes are its own (`integration`,
 * `test`) and are taken down in the end; what an interrupted run left is cleared before.
 */
import { spawn } from 'node:child_process';
import { glob } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { canRunEmbedded, downCluster, startCluster } from './cluster/cluster.ts';
import { ensurePackages, sidecarRequirements } from './cluster/packages.ts';
import { previousReleaseFault } from './previous-release.ts';
import { createProgress } from './progress.ts';
import { downTestCluster, installForTests } from './setup-cluster.ts';

const root = join(import.meta.dirname, '..');
const upgradeFile = 'e2e/upgrade.e2e.ts';
const groups = ['check', 'unit', 'integration', 'e2e'] as const;
type Group = (typeof groups)[number];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { check: { type: 'boolean' }, only: { type: 'string', multiple: true }, keep: { type: 'boolean' } },
});
const progress = createProgress('test');
const totals = { passed: 0, failed: 0, skipped: 0 };
/** Said again in the end, where it is seen. */
const failures: string[] = [];
const chosen = (values.only ?? (values.check === true ? ['check', 'unit'] : groups)) as readonly Group[];

const runs: Record<Group, () => Promise<void>> = { check, unit, integration, e2e };
for (const group of groups.filter((name) => chosen.includes(name))) {
  await progress.step(group, runs[group]).catch((error: unknown) => {
    totals.failed += 1;
    failures.push(`${group}: ${error instanceof Error ? error.message : String(error)}`);
  });
}
for (const failure of failures) process.stdout.write(`failed  ${failure}\n`);
process.stdout.write(`total: ${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped\n`);
process.exitCode = totals.failed === 0 && totals.passed > 0 ? 0 : 1;

async function check(): Promise<void> {
  const commands: readonly (readonly [string, ...string[]])[] = [
    ['prettier', '--check', '--log-level=warn', '.'],
    ['eslint', '--max-warnings=0', '.'],
    ['tsc', '--noEmit'],
    ['node', 'operator/generate.ts', '--check'],
  ];
  for (const [command, ...args] of commands) {
    const code = await runCommand(command, args);
    totals[code === 0 ? 'passed' : 'failed'] += 1;
    if (code !== 0) failures.push(`check: "${[command, ...args].join(' ')}"`);
  }
}

async function unit(): Promise<void> {
  await ensurePackages(log, sidecarRequirements);
  const isUnit = (file: string): boolean => !file.endsWith('.integration.test.ts');
  await runTests(
    (await testFiles(['operator/**/*.test.ts', 'sidecar/**/*.test.ts', 'e2e/**/*.test.ts'])).filter(isUnit),
  );
}

async function integration(): Promise<void> {
  needEmbedded();
  const cluster = await startCluster({ name: 'integration', controlPlaneOnly: true, log });
  try {
    const files = await testFiles(['operator/**/*.integration.test.ts', 'e2e/**/*.integration.test.ts']);
    await runTests(files, {
      ...cluster.env(),
      RINGMASTER_TEST_KUBECONFIG: cluster.kubeconfig,
      RINGMASTER_TEST_CLUSTER: 'integration',
    });
  } finally {
    if (values.keep !== true) await downCluster('integration', { wipe: true });
  }
}

async function e2e(): Promise<void> {
  needEmbedded();
  // What takes long is only run when it is asked for.
  const long = positionals.length === 0 ? [] : ['e2e/matrix/*.e2e.ts'];
  const files = await testFiles(['e2e/*.e2e.ts', ...long]);
  const isUpgraded = files.includes(upgradeFile) && (await canUpgrade());
  try {
    const installation = await installForTests(progress, { isUpgraded });
    try {
      if (isUpgraded) {
        // First: it makes of the release before what all the others test.
        await runTests([upgradeFile], installation.env);
        await installation.upgrade();
      }
      const others = files.filter((file) => file !== upgradeFile);
      if (others.length > 0 || !isUpgraded) await runTests(others, installation.env);
      // A run of its own: the runner sorts the files that it is given. These leave no Ringmaster behind.
      await runTests(await testFiles(['e2e/last/*.e2e.ts']), installation.env);
    } finally {
      await installation.close();
    }
  } finally {
    if (values.keep !== true) await downTestCluster();
  }
}

/** Without the release before there is nothing to upgrade; the other files install this tree then, and the count says that one was skipped. */
async function canUpgrade(): Promise<boolean> {
  const fault = await previousReleaseFault();
  if (fault === undefined) return true;
  process.stdout.write(`skip  ${upgradeFile}: ${fault}\n`);
  totals.skipped += 1;
  return false;
}

function needEmbedded(): void {
  const able = canRunEmbedded();
  if (!able.ok) throw new Error(`Cannot run these tests here: the embedded cluster cannot run: ${able.why}`);
}

function log(line: string): void {
  progress.say(line);
}

async function testFiles(patterns: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for await (const file of glob(patterns, { cwd: root })) files.push(file);
  const wanted = positionals.length === 0 ? files : positionals.flatMap((word) => filesOf(word, files));
  return [...new Set(wanted)].sort();
}

/** The file with this name, or else all whose path holds the word. */
function filesOf(word: string, files: readonly string[]): string[] {
  const named = files.filter((file) => basename(file).replace(/\..*$/, '') === word);
  return named.length > 0 ? named : files.filter((file) => file.includes(word));
}

/** Node's own runner, one file after the other: they share two cores and one cluster. */
async function runTests(files: readonly string[], env: Record<string, string> = {}): Promise<void> {
  if (files.length === 0) {
    if (positionals.length > 0) return;
    throw new Error('no test file found');
  }
  const args = [
    '--test',
    '--test-concurrency=1',
    `--import=${join(import.meta.dirname, 'property-seed.ts')}`,
    `--test-reporter=${join(import.meta.dirname, 'reporter.ts')}`,
    ...files,
  ];
  let output = '';
  const code = await runCommand('node', args, { env, onOutput: (text) => (output += text) });
  for (const [, failure = ''] of output.matchAll(/^failed {2}(.*)$/gm)) failures.push(failure);
  const counts = /^counts: (\d+) passed, (\d+) failed, (\d+) skipped$/m.exec(output);
  if (counts === null) throw new Error(`the test runner ended with exit code ${code} and no counts`);
  totals.passed += Number(counts[1]);
  totals.failed += Number(counts[2]);
  totals.skipped += Number(counts[3]);
  if (code !== 0 && counts[2] === '0') throw new Error(`the test runner ended with exit code ${code}`);
}

interface CommandOptions {
  readonly env?: Record<string, string>;
  readonly onOutput?: (text: string) => void;
}

/** Runs to the end with output passed on; gives the exit code, 128 for a signal. */
async function runCommand(command: string, args: readonly string[], options: CommandOptions = {}): Promise<number> {
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    options.onOutput?.(text);
    process.stdout.write(text);
  });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.once('error', reject);
  child.once('close', (code) => {
    resolve(code ?? 128);
  });
  return promise;
}
