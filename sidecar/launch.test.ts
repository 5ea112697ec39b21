import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { symlinkSync, mkdirSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { runtimeMissingExitCode } from './protocol.ts';
import type { SidecarRuntime } from './protocol.ts';
import { until, withRig } from './testing/rig.ts';
import type { Rig } from './testing/rig.ts';

const shells: Record<string, readonly string[]> = { dash: ['dash'], busybox: ['busybox', 'sh'] };
const runtimes: readonly SidecarRuntime[] = ['process', 'screen', 'tmux'];

before(() => {
  for (const program of ['dash', 'busybox', 'screen', 'tmux', 'fallocate', 'mkfifo', 'script']) {
    const found = spawnSync('sh', ['-c', `command -v ${program}`]);
    assert.equal(found.status, 0, `"${program}" must be installed for these tests`);
  }
});

/** Lines that have gone wrong somewhere: wide, empty, coloured, not ASCII, with returns of their own, without an end. */
const program = `
i=0
printf 'plain\\n\\n\\n  blanks  \\n\\ttab\\there\\n'
awk 'BEGIN { for (n = 0; n < 3; n++) { for (c = 0; c < 300; c++) printf "%d", c % 10; print "" } }'
printf '\\033[31mred\\033[0m \\303\\274n\\303\\257 \\342\\206\\222 \\360\\237\\232\\200\\n'
printf 'progress 10%%\\rprogress 100%%\\n'
printf 'with return\\r\\n'
printf 'to stderr\\n' >&2
awk 'BEGIN { for (n = 1; n <= 200000; n++) print "burst line " n " of a program that writes as fast as it can" }'
printf 'the last line has no end'
`;

interface Outcome {
  readonly code: number | null;
  readonly log: Buffer;
  readonly stdout: string;
}

async function runToEnd(rig: Rig, shell: readonly string[], command: readonly string[], env = {}): Promise<Outcome> {
  const child = rig.launch(shell, command, env);
  const output: Buffer[] = [];
  child.stdout?.on('data', (data: Buffer) => output.push(data));
  const [code] = (await once(child, 'close')) as [number | null];
  await settle(rig);
  return { code, log: await rig.logFile(), stdout: Buffer.concat(output).toString() };
}

/** Under screen and tmux the sidecar still makes the log: wait until it has all of it. */
async function settle(rig: Rig): Promise<void> {
  if (rig.runtime === 'process') {
    return;
  }
  await until(async () => {
    const [at] = (await readFile(rig.path('run/ingested'), 'utf8').catch(() => '0')).split(' ');
    return Number(at) === (await readFile(rig.path('terminal'))).length;
  }, 'everything taken over into the log');
}

test('launch: the same program gives the same bytes under process, screen and tmux', async () => {
  const expected = execFileSync('dash', ['-c', `exec 2>&1; ${program}`], { maxBuffer: 1 << 26 });
  const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
  for (const runtime of runtimes) {
    for (const [name, shell] of Object.entries(shells)) {
      await withRig(runtime, async (rig) => {
        const { code, log } = await runToEnd(rig, shell, ['dash', '-c', program]);
        assert.equal(code, 0, `${runtime} under ${name}`);
        assert.equal(log.length, expected.length, `${runtime} under ${name}`);
        assert.equal(hash(log), hash(expected), `${runtime} under ${name}`);
      });
    }
  }
});

const typed = [
  'plain',
  '',
  '$HOME ${PATH} `id` $(id)',
  '^C',
  'C-c',
  'Enter',
  'Space',
  'ends with ;',
  ';',
  '-leading',
  '-l --',
  'back\\slash \\n \\033 \\\\',
  `"double" 'single'`,
  '#{session_name} %H :quit ~.',
  '  blanks  ',
  '\ttab\t',
  'ünï → 🚀 日本語',
  '!history &background | pipe > file < file * ? [a]',
  'x'.repeat(4096),
  'ü'.repeat(2048),
];

test('launch: every typed line arrives as it was typed, in order, under every runtime', async () => {
  for (const runtime of runtimes) {
    for (const [name, shell] of Object.entries(shells)) {
      await withRig(runtime, async (rig) => {
        rig.launch(shell, ['dash', '-c', 'echo ready; exec cat']);
        await until(async () => (await rig.logFile()).length > 0, 'the program');
        for (const line of typed) {
          const answer = await rig.call('POST', '/v1/stdin', `${line}\n`);
          assert.equal(answer.status, 200, answer.body);
        }
        const expected = ['ready', ...typed, ''].join('\n');
        await until(
          async () => (await rig.logFile()).length >= Buffer.byteLength(expected),
          `all lines, ${runtime} ${name}`,
        );
        assert.equal((await rig.logFile()).toString(), expected, `${runtime} under ${name}`);
      });
    }
  }
});

test('launch: ten thousand commands reach a program that is slow at first, all and in order', async () => {
  const lines = Array.from({ length: 10_000 }, (_, index) => `command ${index} with some text`);
  for (const runtime of runtimes) {
    await withRig(runtime, async (rig) => {
      rig.launch(['dash'], ['dash', '-c', 'echo ready; sleep 2; exec cat']);
      await until(async () => (await rig.logFile()).length > 0, 'the program');
      for (let from = 0; from < lines.length; from += 500) {
        const answer = await rig.call('POST', '/v1/stdin', lines.slice(from, from + 500).join('\n'));
        assert.equal(answer.status, 200, answer.body);
      }
      const expected = `ready\n${lines.join('\n')}\n`;
      await until(async () => (await rig.logFile()).length >= expected.length, `all commands under ${runtime}`, 60_000);
      assert.equal((await rig.logFile()).toString(), expected, runtime);
    });
  }
});

test('launch: exit code and signal of the workload pass through, and the status tells them', async () => {
  for (const runtime of runtimes) {
    for (const shell of Object.values(shells)) {
      await withRig(runtime, async (rig) => {
        assert.equal((await rig.status()).workload.state, 'waiting');
        assert.equal((await runToEnd(rig, shell, ['sh', '-c', 'exit 7'])).code, 7);
        const first = (await rig.status()).workload;
        assert.deepEqual([first.state, first.exitCode, first.signal, first.starts], ['exited', 7, null, 1]);
        assert.equal((await runToEnd(rig, shell, ['sh', '-c', 'kill -KILL $$'])).code, 137);
        const second = (await rig.status()).workload;
        assert.deepEqual([second.exitCode, second.signal, second.starts], [137, 'SIGKILL', 2]);
      });
    }
  }
});

test('launch: SIGTERM and SIGINT reach the workload, whose own answer counts', async () => {
  for (const runtime of runtimes) {
    for (const shell of Object.values(shells)) {
      await withRig(runtime, async (rig) => {
        const command = `trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.05; done`;
        const child = rig.launch(shell, ['dash', '-c', command]);
        await until(async () => (await rig.logFile()).includes('ready'), 'the program');
        child.kill('SIGTERM');
        const [code] = (await once(child, 'close')) as [number | null];
        await settle(rig);
        assert.equal(code, 5, runtime);
        assert.equal((await rig.logFile()).toString(), 'ready\ngot TERM\n');
      });
    }
  }
});

test('launch: under dash with coreutils a workload gets SIGINT as if it had been started by itself', async () => {
  await withRig('process', async (rig) => {
    const child = rig.launch(['dash'], ['sleep', '60']);
    await until(async () => (await rig.status()).workload.state === 'running', 'the program');
    await new Promise((resolve) => setTimeout(resolve, 300));
    child.kill('SIGINT');
    const [code] = (await once(child, 'close')) as [number | null];
    assert.equal(code, 130);
  });
});

test('launch: a missing binary is a clear line, a marker and an exit code of its own', async () => {
  for (const runtime of ['screen', 'tmux'] as const) {
    await withRig(runtime, async (rig) => {
      const bin = rig.path('bin');
      mkdirSync(bin);
      symlinkSync('/bin/busybox', `${bin}/busybox`);
      for (const name of [
        'sh',
        'cat',
        'date',
        'dd',
        'head',
        'mkfifo',
        'mv',
        'printf',
        'rm',
        'sleep',
        'stat',
        'stty',
        'tail',
        'tr',
      ]) {
        symlinkSync('/bin/busybox', `${bin}/${name}`);
      }
      const { code, log } = await runToEnd(rig, ['/bin/busybox', 'sh'], ['sh', '-c', 'echo never'], { PATH: bin });
      const message = `Cannot start the runtime "${runtime}": the image has no "${runtime}" in its PATH`;
      assert.equal(code, runtimeMissingExitCode);
      assert.equal(log.toString(), `[ringmaster] ${message}\n`);
      assert.deepEqual((await rig.status()).fault, { reason: 'RuntimeMissing', message });
    });
  }
});

test('launch: what the runtime itself says about a failed start ends in the message', async () => {
  await withRig('screen', async (rig) => {
    mkdirSync(rig.path('open'), { mode: 0o777 });
    spawnSync('chmod', ['777', rig.path('open')]);
    const { code } = await runToEnd(rig, ['dash'], ['sh', '-c', 'echo never'], { SCREENDIR: rig.path('open') });
    assert.equal(code, runtimeMissingExitCode);
    assert.match((await rig.status()).fault?.message ?? '', /^Cannot start the runtime "screen": .*700[^\r]*$/);
  });
});

test('launch: a program that does not exist is 127 and a line in the log', async () => {
  for (const runtime of runtimes) {
    await withRig(runtime, async (rig) => {
      const { code, log } = await runToEnd(rig, ['dash'], ['no-such-program', 'x']);
      assert.equal(code, 127, runtime);
      assert.match(log.toString(), /no-such-program/);
    });
  }
});

test('launch: arguments with blanks, quotes, semicolons and dollar signs reach the program as they are', async () => {
  const args = ['a b', `it's`, '"', ';', 'x;', '$HOME', '-n', '', '\\', '*', 'ü', "''"];
  for (const runtime of runtimes) {
    await withRig(runtime, async (rig) => {
      const { log } = await runToEnd(
        rig,
        ['dash'],
        ['sh', '-c', 'for a; do printf "<%s>\\n" "$a"; done', 'sh', ...args],
      );
      assert.equal(log.toString(), args.map((arg) => `<${arg}>\n`).join(''), runtime);
    });
  }
});

test('launch: a restarted workload goes on in the same log, on a new line, and is never given stale input', async () => {
  for (const runtime of runtimes) {
    await withRig(runtime, async (rig) => {
      await runToEnd(rig, ['dash'], ['sh', '-c', 'printf unfinished']);
      const refused = await rig.call('POST', '/v1/stdin', 'too early\n');
      assert.equal(refused.status, 409);
      const { log } = await runToEnd(rig, ['busybox', 'sh'], ['sh', '-c', 'echo second']);
      assert.equal(log.toString(), 'unfinished\nsecond\n', runtime);
      assert.equal((await rig.status()).workload.starts, 2);
    });
  }
});

test('launch: the mirror copies every line to standard output, the last one included', async () => {
  for (const runtime of runtimes) {
    for (const [name, shell] of Object.entries(shells)) {
      await withRig(runtime, async (rig) => {
        await writeFile(rig.path('log'), '');
        await runToEnd(rig, shell, ['sh', '-c', 'echo not mirrored']);
        const env = { RINGMASTER_MIRROR: 'true' };
        const { stdout } = await runToEnd(rig, shell, ['sh', '-c', 'seq 1 5000; printf end'], env);
        const numbers = Array.from({ length: 5000 }, (_, index) => `${index + 1}\n`).join('');
        assert.equal(stdout, `${numbers}end`, `${runtime} under ${name}`);
      });
    }
  }
});

test('launch: the mirror has the first line too, however long it takes to look where the log ends', async () => {
  await withRig('process', async (rig) => {
    const programs = rig.path('programs');
    await mkdir(programs);
    await writeFile(join(programs, 'stat'), '#!/bin/sh\nsleep 0.2\nPATH=${PATH#*:} exec stat "$@"\n', { mode: 0o755 });
    const env = { RINGMASTER_MIRROR: 'true', PATH: `${programs}:${process.env['PATH'] ?? ''}` };
    const { stdout } = await runToEnd(rig, ['dash'], ['sh', '-c', 'echo first; sleep 1; echo last'], env);
    assert.equal(stdout, 'first\nlast\n');
  });
});

test('launch: a mirror that is taken slowly has its time as long as it gets on, and one that is not taken has two seconds', async () => {
  const lines = 400_000;
  const env = { RINGMASTER_MIRROR: 'true' };
  await withRig('process', async (rig) => {
    const child = rig.launch(['dash'], ['sh', '-c', `seq 1 ${lines}`], env);
    let size = 0;
    child.stdout?.on('data', (data: Buffer) => {
      size += data.length;
      child.stdout?.pause();
      setTimeout(() => child.stdout?.resume(), 100);
    });
    await once(child, 'close');
    assert.equal(size, (await rig.logFile()).length);
  });
  await withRig('process', async (rig) => {
    const child = rig.launch(['dash'], ['sh', '-c', `seq 1 ${lines}`], env);
    const began = Date.now();
    await once(child, 'exit');
    assert.ok(Date.now() - began < 10_000);
  });
});

test('launch: what the mirror holds while a full pipe is not taken is still written', async () => {
  for (const shell of ['dash', 'busybox sh']) {
    await withRig('process', async (rig) => {
      // A pipe has 64 KiB: the mirror has read the last lines, and waits to write them for longer than the launcher waits between two looks.
      const child = rig.launch(['sh', '-c', `${shell} "$@" | (sleep 1.5; cat)`, 'sh'], ['sh', '-c', 'seq 1 13000'], {
        RINGMASTER_MIRROR: 'true',
      });
      let mirrored = 0;
      child.stdout?.on('data', (data: Buffer) => {
        mirrored += data.length;
      });
      await once(child, 'close');
      const written = (await rig.logFile()).length;
      assert.ok(written > 65_536 && written < 65_536 + 8192);
      assert.equal(mirrored, written, shell);
    });
  }
});

test('launch: a mirror that only looks for more, as that of busybox does each second, does not get on', async () => {
  await withRig('screen', async (rig) => {
    const programs = rig.path('programs');
    await mkdir(programs);
    await symlink('/bin/busybox', join(programs, 'tail'));
    const sleep = `#!/bin/sh\necho "$1" >>'${rig.path('sleeps')}'\nPATH=\${PATH#*:} exec sleep "$@"\n`;
    await writeFile(join(programs, 'sleep'), sleep, { mode: 0o755 });
    const env = { RINGMASTER_MIRROR: 'true', PATH: `${programs}:${process.env['PATH'] ?? ''}` };
    const child = rig.launch(['dash'], ['sh', '-c', 'echo ready; read -r line'], env);
    await until(async () => (await rig.logFile()).includes('ready'), 'the program');
    // Nobody makes the log of what the session still writes.
    await rig.endSidecar('SIGKILL');
    const before = await looks(rig);
    child.kill('SIGTERM');
    await once(child, 'exit');
    const count = (await looks(rig)) - before;
    assert.ok(count >= 20 && count < 60, `${count} looks`);
  });
});

async function looks(rig: Rig): Promise<number> {
  return (await readFile(rig.path('sleeps'), 'utf8').catch(() => '')).split('\n').filter((text) => text === '0.1')
    .length;
}

test('launch: people can attach and detach, and what they type reaches the program', async () => {
  for (const runtime of ['screen', 'tmux'] as const) {
    await withRig(runtime, async (rig) => {
      rig.launch(
        ['dash'],
        ['dash', '-c', 'trap "echo interrupted" INT; echo ready; while :; do read -r line && echo "$line"; done'],
      );
      await until(async () => (await rig.logFile()).length > 0, 'the program');
      const attach = runtime === 'screen' ? 'screen -r ringmaster-a1b2c3' : 'tmux -u attach -t ringmaster-a1b2c3';
      const detach = runtime === 'screen' ? '\\001d' : '\\002d';
      // `script` gives the client a terminal, as `kubectl exec -it` does.
      const keys = `sleep 1; printf 'typed by hand\\r'; sleep 1; printf '\\003'; sleep 0.5; printf '${detach}'; sleep 0.5`;
      const env = { ...process.env, SCREENDIR: rig.path('run/screen'), TMUX_TMPDIR: rig.path('run'), TERM: 'xterm' };
      spawnSync('sh', ['-c', `(${keys}) | script -qec '${attach}' /dev/null`], { env, timeout: 20_000 });
      await rig.call('POST', '/v1/stdin', 'after\n');
      await until(async () => (await rig.logFile()).includes('after\n'), 'a line after the detach');
      assert.equal((await rig.logFile()).toString(), 'ready\ntyped by hand\ninterrupted\nafter\n', runtime);
      assert.equal((await rig.status()).workload.state, 'running');
    });
  }
});
