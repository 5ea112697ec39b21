import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, constants, existsSync, openSync, writeSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SidecarRuntime } from './protocol.ts';
import { Rig, until } from './testing/rig.ts';

const shells: Record<string, readonly string[]> = { dash: ['dash'], busybox: ['busybox', 'sh'] };
const runtimes: readonly SidecarRuntime[] = ['process', 'screen', 'tmux'];

async function everywhere(body: (rig: Rig, shell: readonly string[], where: string) => Promise<void>): Promise<void> {
  for (const runtime of runtimes) {
    for (const [name, shell] of Object.entries(shells)) {
      const rig = await Rig.create(runtime);
      try {
        await body(rig, shell, `${runtime} under ${name}`);
      } finally {
        await rig.close();
      }
    }
  }
}

/** Starts the launcher, waits for the word "ready" and sends SIGTERM; gives the exit code. */
async function stopped(
  rig: Rig,
  shell: readonly string[],
  run: { command: string; env: object; again?: boolean },
): Promise<number | null> {
  const child = rig.launch(shell, ['dash', '-c', run.command], { ...run.env });
  await until(async () => (await rig.logFile()).includes('ready\n'), 'the program');
  const ended = once(child, 'close') as Promise<[number | null]>;
  child.kill('SIGTERM');
  if (run.again === true) {
    // The first is taken before the second is sent: two that are pending are one.
    await until(async () => (await rig.logFile()).includes('told to stop\n'), 'the stop command');
    child.kill('SIGTERM');
  }
  const [code] = await ended;
  return code;
}

const stubborn = `trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.05; done`;
const listening = `trap 'echo got TERM; exit 5' TERM; echo ready; while read -r line; do echo told to "$line"; done; sleep 60`;

test('launch: a stop command is typed as it is, and a workload that ends by it gets no signal', async () => {
  const line = `stop $HOME "now"; -n %s \\n`;
  const command = `trap 'echo got TERM; exit 5' TERM; env | grep RINGMASTER_; echo ready; read -r line; printf '<%s>\\n' "$line"; exit 4`;
  await everywhere(async (rig, shell, where) => {
    const env = { RINGMASTER_STOP_COMMAND: line, RINGMASTER_STOP_GRACE_SECONDS: '60' };
    const before = Date.now();
    assert.equal(await stopped(rig, shell, { command, env }), 4, where);
    const expected = `ready\n<${line}>\n`;
    await until(async () => (await rig.logFile()).length >= expected.length, `the last line, ${where}`);
    assert.equal((await rig.logFile()).toString(), expected, where);
    assert.ok(Date.now() - before < 20_000, where);
    const { workload } = await rig.status();
    assert.deepEqual([workload.state, workload.exitCode], ['exited', 4], where);
  });
});

test('launch: a workload that does not heed the stop command gets SIGTERM after the grace', async () => {
  await everywhere(async (rig, shell, where) => {
    const before = Date.now();
    const env = { RINGMASTER_STOP_COMMAND: 'stop', RINGMASTER_STOP_GRACE_SECONDS: '1' };
    assert.equal(await stopped(rig, shell, { command: stubborn, env }), 5, where);
    assert.ok(Date.now() - before >= 1000, where);
    await until(async () => (await rig.logFile()).toString() === 'ready\ngot TERM\n', `one SIGTERM, ${where}`);
  });
});

test('launch: a second SIGTERM is passed on at once', async () => {
  await everywhere(async (rig, shell, where) => {
    const before = Date.now();
    const env = { RINGMASTER_STOP_COMMAND: 'stop', RINGMASTER_STOP_GRACE_SECONDS: '300' };
    const command = listening.replace('; sleep 60', '');
    assert.equal(await stopped(rig, shell, { command, env, again: true }), 5, where);
    assert.ok(Date.now() - before < 30_000, where);
  });
});

test('launch: a full pipe keeps neither the launcher nor the signal', async () => {
  for (const [name, shell] of Object.entries(shells)) {
    const rig = await Rig.create('process');
    try {
      const child = rig.launch(shell, ['dash', '-c', stubborn], {
        RINGMASTER_STOP_COMMAND: 'stop',
        RINGMASTER_STOP_GRACE_SECONDS: '1',
      });
      await until(async () => (await rig.logFile()).includes('ready\n'), 'the program');
      fill(rig.path('stdin'));
      const ended = once(child, 'close') as Promise<[number | null]>;
      child.kill('SIGTERM');
      assert.equal((await ended)[0], 5, name);
      // Nobody holds the pipe any more: the process that could not type is gone too.
      assert.equal((await rig.status()).workload.state, 'exited', name);
    } finally {
      await rig.close();
    }
  }
});

function fill(path: string): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  try {
    for (;;) {
      writeSync(fd, Buffer.alloc(4096, 'x\n'));
    }
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'EAGAIN');
  } finally {
    closeSync(fd);
  }
}

test('launch: SIGTERM at whatever moment of the start ends it', async () => {
  await everywhere(async (rig, shell, where) => {
    for (let delayMs = 0; delayMs <= 160; delayMs += 10) {
      const child = rig.launch(shell, ['sleep', '60']);
      const ended = once(child, 'close') as Promise<[number | null, string | null]>;
      // Before it has a line of its own to say, it can be killed but not asked.
      await until(() => existsSync(rig.path('run/workload')), 'the launcher to have begun');
      await sleep(delayMs);
      child.kill('SIGTERM');
      const [code, signal] = await ended;
      assert.deepEqual([code, signal], [143, null], `${where}, after ${delayMs} ms`);
      await rm(rig.path('run/workload'));
    }
  });
});
