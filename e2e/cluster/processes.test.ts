import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { withLock } from './lock.ts';
import { isRunning, signalProgram, startProgram, waitForExit } from './processes.ts';

async function inFolder(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'ringmaster-processes-'));
  try {
    await work(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}

test(
  'startProgram: enters its group first, writes to its log, and ends by a signal',
  { skip: !isLinux() },
  async () => {
    await inFolder(async (dir) => {
      // A plain folder stands for the cgroup: the shell writes its pid to a file there all the same.
      const logFile = join(dir, 'sleeper.log');
      const script = 'echo "$$"; exec sleep 60';
      const program = { name: 'sleeper', file: 'sh', args: ['-c', script], cgroupDir: dir, logFile };
      const started = startProgram(program);
      assert.ok(isRunning(started));
      assert.ok(!isRunning({ ...started, startTicks: '1' }), 'another process that has the pid is not it');
      while ((await readFile(logFile, 'utf8')) === '') await new Promise(setImmediate);
      assert.equal((await readFile(logFile, 'utf8')).trim(), String(started.pid));
      assert.equal((await readFile(join(dir, 'cgroup.procs'), 'utf8')).trim(), String(started.pid));
      signalProgram(started, 'SIGKILL');
      assert.ok(await waitForExit(started, 5_000));
      signalProgram(started, 'SIGKILL');
    });
  },
);

test('withLock: one at a time, and free again after an error', { skip: !isLinux() }, async () => {
  await inFolder(async (dir) => {
    const file = join(dir, 'lock');
    let inside = 0;
    const work = async (): Promise<void> => {
      assert.equal(++inside, 1);
      await new Promise(setImmediate);
      inside--;
    };
    await Promise.all([1, 2, 3].map(() => withLock(file, () => undefined, work)));
    await assert.rejects(
      withLock(
        file,
        () => undefined,
        () => Promise.reject(new Error('no')),
      ),
      /^Error: no$/,
    );
    await withLock(file, () => undefined, work);
  });
});

function isLinux(): boolean {
  return process.platform === 'linux';
}
