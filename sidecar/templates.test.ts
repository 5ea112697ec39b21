import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import type { TemplateSource } from './protocol.ts';
import { putTemplates, readJob } from './templates.ts';

const base = mkdtempSync(join(tmpdir(), 'templates-'));
after(() => {
  rmSync(base, { recursive: true });
});

interface Desk {
  readonly root: string;
  readonly outside: string;
  /** Makes a template as the kubelet mounts it: files behind two links. */
  readonly template: (files: Record<string, string | Buffer>, more?: Partial<TemplateSource>) => TemplateSource;
  readonly put: (...sources: TemplateSource[]) => Promise<number>;
  readonly read: (path: string) => string;
}

function desk(values: Record<string, string> = { A: 'x' }): Desk {
  const folder = mkdtempSync(join(base, 'desk-'));
  const root = join(folder, 'volume');
  const outside = join(folder, 'outside');
  mkdirSync(root);
  mkdirSync(outside);
  writeFileSync(join(outside, 'secret'), 'untouched');
  return {
    root,
    outside,
    template: (files, more = {}) => {
      const mounted = mkdtempSync(join(folder, 'configmap-'));
      mkdirSync(join(mounted, '..2026'));
      symlinkSync('..2026', join(mounted, '..data'));
      for (const [name, content] of Object.entries(files)) {
        writeFileSync(join(mounted, '..2026', name), content);
        symlinkSync(join('..data', name), join(mounted, name));
      }
      return { name: 'server-files', files: mounted, path: '', folder: '/data', replaceIn: [], ...more };
    },
    put: (...sources) => putTemplates({ root, sources, values, mark: 'a1b2c3' }),
    read: (path) => readFileSync(join(root, path), 'utf8'),
  };
}

test('putTemplates: files arrive, values only in the listed ones, folders are made, and nothing else is left', async () => {
  const { root, template, put, read } = desk();
  const blob = Buffer.from([0, 255, 37, 65, 37]);
  const files = { 'a.conf': 'a=%A%', 'b.conf': 'b=%A%', blob };
  const plugins = template({ 'p.yml': 'p' }, { path: 'plugins/.config', folder: '/data/plugins/.config' });
  assert.equal(await put(template(files, { replaceIn: ['a.conf'] }), plugins), 4);
  assert.equal(read('a.conf'), 'a=x');
  assert.equal(read('b.conf'), 'b=%A%');
  assert.deepEqual(readFileSync(join(root, 'blob')), blob);
  assert.equal(read('plugins/.config/p.yml'), 'p');
  assert.deepEqual(readdirSync(root).sort(), ['a.conf', 'b.conf', 'blob', 'plugins']);
  assert.ok(lstatSync(join(root, 'a.conf')).isFile());
});

test('putTemplates: on a kept volume its files are replaced, also those that nobody may write, and others stay', async () => {
  const { root, template, put, read } = desk();
  writeFileSync(join(root, 'a.conf'), 'old and longer than the new one');
  chmodSync(join(root, 'a.conf'), 0o444);
  writeFileSync(join(root, 'world.dat'), 'kept');
  // What an earlier one left when it was killed.
  writeFileSync(join(root, '.ringmaster-a1b2c3'), 'half');
  await put(template({ 'a.conf': 'new' }));
  assert.equal(read('a.conf'), 'new');
  assert.equal(read('world.dat'), 'kept');
  assert.ok(!existsSync(join(root, '.ringmaster-a1b2c3')));
});

test('putTemplates: of two templates with one file the later one counts', async () => {
  const { template, put, read } = desk();
  await put(template({ a: 'first' }), template({ a: 'second' }));
  assert.equal(read('a'), 'second');
});

test('putTemplates: everybody in the pod may write, and a script may be started', () => {
  const { root, template } = desk();
  const env = {
    ...process.env,
    RINGMASTER_TEMPLATE_ROOT: root,
    RINGMASTER_ID: 'a1b2c3',
    RINGMASTER_TEMPLATE_0: JSON.stringify(
      template({ run: '#!/bin/sh\n', conf: '%NODE% %A%' }, { path: 'd', replaceIn: ['conf'] }),
    ),
    RINGMASTER_VALUE_NODE: 'node1',
    RINGMASTER_VALUE_A: '%NODE%',
  };
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, 'templates.ts')], {
    env,
    encoding: 'utf8',
  });
  assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: 'Files put into place: 2.\n', stderr: '' });
  assert.equal(statSync(join(root, 'd')).mode & 0o777, 0o777);
  assert.equal(statSync(join(root, 'd/run')).mode & 0o777, 0o777);
  assert.equal(statSync(join(root, 'd/conf')).mode & 0o777, 0o666);
  assert.equal(readFileSync(join(root, 'd/conf'), 'utf8'), 'node1 %NODE%');
});

test('templates: what is wrong is one line on standard error, which the kubelet keeps', () => {
  const { root, template } = desk();
  const env = {
    ...process.env,
    RINGMASTER_TEMPLATE_ROOT: root,
    RINGMASTER_ID: 'a1b2c3',
    RINGMASTER_TEMPLATE_0: JSON.stringify(template({})),
  };
  const { status, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, 'templates.ts')], {
    env,
    encoding: 'utf8',
  });
  assert.equal(status, 1);
  assert.equal(
    stderr,
    'The ConfigMap "server-files" does not exist in the namespace of the Instance, or has no files.\n',
  );
});

test('putTemplates: a missing template or file is said before anything is written', async () => {
  const { root, template, put } = desk();
  await assert.rejects(put(template({ a: '' }), template({}, { name: 'absent' })), /"absent" does not exist/);
  await assert.rejects(
    put(template({ a: '' }), template({ b: '' }, { replaceIn: ['b', 'c'] })),
    /^TemplateFault: The ConfigMap "server-files" has no file "c", which replaceIn names$/,
  );
  assert.deepEqual(readdirSync(root), []);
});

test('putTemplates: a file that grows too large with its values is refused and named', async () => {
  const { template, put } = desk({ A: 'x'.repeat(4096) });
  const large = template({ large: '%A%'.repeat(2000) }, { replaceIn: ['large'] });
  await assert.rejects(put(large), /file "large" of the ConfigMap "server-files" would be larger than 4 MiB/);
});

test('putTemplates: a folder in the place of a file, or a file in the place of a folder, is named as the program sees it', async () => {
  const { root, template, put } = desk();
  mkdirSync(join(root, 'a', 'full'), { recursive: true });
  writeFileSync(join(root, 'b'), '');
  await assert.rejects(put(template({ a: '' })), /Cannot write "\/data\/a": there is a folder of this name/);
  const below = template({ a: '' }, { path: 'b/c', folder: '/data/b/c' });
  await assert.rejects(put(below), /Cannot make "\/data\/b\/c": a part of this path is a file or a symbolic link/);
  assert.deepEqual(readdirSync(root).sort(), ['a', 'b'], 'no draft is left');
});

test('putTemplates: no link that a program left on its volume leads out of it', async () => {
  const { root, outside, template, put, read } = desk();
  symlinkSync(join(outside, 'secret'), join(root, 'a.conf'));
  symlinkSync(outside, join(root, 'plugins'));
  symlinkSync(join(outside, 'secret'), join(root, '.ringmaster-a1b2c3'));
  await put(template({ 'a.conf': 'mine' }));
  assert.equal(read('a.conf'), 'mine');
  assert.ok(lstatSync(join(root, 'a.conf')).isFile(), 'the link itself was replaced');
  for (const path of ['plugins', 'plugins/deeper', '../outside', 'plugins/../../outside']) {
    await assert.rejects(put(template({ secret: 'taken', more: '' }, { path })), /^TemplateFault/);
  }
  assert.equal(readFileSync(join(outside, 'secret'), 'utf8'), 'untouched');
  assert.deepEqual(readdirSync(outside), ['secret']);
});

test('putTemplates: whatever is on the volume and whatever the path, nothing outside of it changes', async () => {
  const name = fc.constantFrom('a', 'b', 'c', '.ringmaster-a1b2c3');
  const path = fc
    .array(fc.constantFrom('a', 'b', 'c', '.', '..', ''), { maxLength: 4 })
    .map((parts) => parts.join('/'));
  const entry = fc.record({
    at: fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/')),
    is: fc.constantFrom('file', 'folder', 'link out', 'link to a file outside', 'link up', 'link to itself'),
  });
  const world = fc.record({
    entries: fc.array(entry, { maxLength: 8 }),
    path,
    files: fc.array(name, { minLength: 1 }),
  });
  await fc.assert(
    fc.asyncProperty(world, async ({ entries, path: wanted, files }) => {
      const { root, outside, template, put } = desk();
      for (const { at, is } of entries) plant({ root, outside }, at, is);
      const source = template(Object.fromEntries(files.map((file) => [file, 'taken'])), { path: wanted });
      await put(source).catch((error: unknown) => {
        assert.equal((error as Error).name, 'TemplateFault', String(error));
      });
      assert.equal(readFileSync(join(outside, 'secret'), 'utf8'), 'untouched');
      assert.deepEqual(readdirSync(outside), ['secret']);
      assert.deepEqual(
        readdirSync(dirname(root))
          .filter((each) => !each.startsWith('configmap-'))
          .sort(),
        ['outside', 'volume'],
      );
    }),
    { numRuns: 150 },
  );
});

function plant({ root, outside }: { root: string; outside: string }, at: string, is: string): void {
  const targets: Record<string, string> = {
    'link out': outside,
    'link to a file outside': join(outside, 'secret'),
    'link up': '..',
    'link to itself': at.split('/').at(-1) ?? '',
  };
  const path = join(root, at);
  // Only what can be made inside: the test itself must not follow a link out.
  const parts = at.split('/');
  for (let depth = 1; depth < parts.length; depth += 1) {
    const parent = lstatSync(join(root, ...parts.slice(0, depth)), { throwIfNoEntry: false });
    if (parent === undefined) break;
    if (!parent.isDirectory()) return;
  }
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) return;
  mkdirSync(dirname(path), { recursive: true });
  const target = targets[is];
  if (target !== undefined) symlinkSync(target, path);
  else if (is === 'folder') mkdirSync(path);
  else writeFileSync(path, 'before');
}

test('readJob: takes what the operator sets, and says what it does not', () => {
  const env = {
    RINGMASTER_TEMPLATE_ROOT: '/r',
    RINGMASTER_ID: 'a1b2c3',
    RINGMASTER_TEMPLATE_0: '{"name":"a"}',
    RINGMASTER_TEMPLATE_1: '{"name":"b"}',
    RINGMASTER_VALUE_PORT: '1',
    RINGMASTER_OTHER: 'x',
  };
  const { root, mark, sources, values } = readJob(env);
  assert.deepEqual({ root, mark, values }, { root: '/r', mark: 'a1b2c3', values: { PORT: '1' } });
  assert.deepEqual(
    sources.map(({ name }) => name),
    ['a', 'b'],
  );
  assert.throws(() => readJob({}), /RINGMASTER_TEMPLATE_ROOT is not set/);
});
