/** Our own images: the same from any clone, the same by Dockerfile, with nothing in them that is not told, under licences that we may use. */
import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { before, test } from 'node:test';
import { run } from '../cluster/command.ts';
import { ensurePackages, imageRequirements } from '../cluster/packages.ts';
import { nodePackage, ownImageSpec, ringmasterImage, sidecarImage } from './images.ts';
import { layerEntries } from './layer.ts';
import type { Image } from './oci.ts';
import { ownImages } from './own.ts';
import type { OwnImageName } from './own.ts';
import { copyProgram, findProgram } from './program.ts';
import { billOfMaterials, licenceOf } from './sbom.ts';

const root = join(import.meta.dirname, '../..');
const names = Object.keys(ownImages) as OwnImageName[];
const build = { ringmaster: ringmasterImage, sidecar: sidecarImage };

/** What may be in an image: each lets us pass it on with no more than its notice. */
const allowedLicences = ['MIT', 'ISC', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'Unlicense', 'PSF-2.0'];
/** What development may use besides. */
const allowedForDevelopment = ['BlueOak-1.0.0', 'CC-BY-4.0', 'CC0-1.0', 'Python-2.0'];

before(() => ensurePackages(() => undefined, imageRequirements));

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-images-'));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** What the images are made of, somewhere else, written now, by somebody with another umask. */
async function copyClone(clone: string): Promise<void> {
  const programs = await Promise.all(names.map((name) => findProgram({ root, ...ownImages[name].program })));
  const packages = programs.flatMap(({ packages: paths }) => paths);
  const node = join('node_modules', nodePackage(), 'bin/node');
  const umask = process.umask(0o077);
  try {
    for (const path of new Set(['package.json', 'package-lock.json', 'operator', 'sidecar', node, ...packages])) {
      await mkdir(dirname(join(clone, path)), { recursive: true });
      await cp(join(root, path), join(clone, path), { recursive: true, dereference: true });
    }
  } finally {
    process.umask(umask);
  }
}

test('images: another clone, elsewhere and at another time, gives the same digests', { timeout: 300_000 }, async () => {
  await inFolder(async (folder) => {
    const clone = join(folder, 'clone');
    await copyClone(clone);
    for (const name of names) {
      const here: Image = await build[name]();
      const there = await build[name](join(folder, 'cache'), clone);
      assert.equal(there.digest, here.digest, name);
      assert.equal(there.name, here.name);
    }
  });
});

for (const name of names) {
  test(`images: ${name}.Dockerfile says what the image from local files is`, async () => {
    const { program, env, workingDir, user, entrypoint, labels, ...rest } = ownImages[name];
    const text = await readFile(join(import.meta.dirname, `${name}.Dockerfile`), 'utf8');
    const lines = text
      .replace(/^#.*\n/gm, '')
      .replace(/\\\n\s*/g, '')
      .split('\n');
    const last = lines.slice(lines.findLastIndex((line) => line.startsWith('FROM ')));
    const said = (word: string): string | undefined =>
      last.find((line) => line.startsWith(`${word} `))?.slice(word.length + 1);
    const pairs = (word: string): Record<string, string> =>
      Object.fromEntries(
        [...(said(word) ?? '').matchAll(/([\w.]+)=(?:"([^"]*)"|(\S+))/g)].map(([, key = '', quoted, bare]) => [
          key,
          quoted ?? bare ?? '',
        ]),
      );
    assert.deepEqual(pairs('ENV'), env);
    assert.deepEqual(pairs('LABEL'), labels);
    assert.equal(said('WORKDIR'), workingDir);
    assert.equal(said('USER'), user);
    assert.deepEqual(JSON.parse(said('ENTRYPOINT') ?? ''), entrypoint);
    assert.deepEqual(said('CMD'), 'cmd' in rest ? JSON.stringify(rest.cmd) : undefined);
    const strip = 'strip' in program ? '--strip ' : '';
    assert.ok(lines.includes(`RUN node e2e/images/program.ts ${strip}/app ${program.entries.join(' ')}`));
    // Both stages on the one base that can be pinned, which is as new as the Node in our own image.
    const manifest = await readFile(join(root, 'node_modules', nodePackage(), 'package.json'), 'utf8');
    const { version } = JSON.parse(manifest) as { version: string };
    assert.ok(lines.includes(`ARG NODE_IMAGE=node:${version}-slim`));
    assert.deepEqual(
      lines.filter((line) => line.startsWith('FROM ')),
      ['FROM ${NODE_IMAGE} AS build', 'FROM ${NODE_IMAGE}'],
    );
  });

  test(`images: what ${name}.Dockerfile copies to /app is what the image from local files has there`, async () => {
    await inFolder(async (folder) => {
      await copyProgram({ root, ...ownImages[name].program }, folder);
      const copied = (await run('find', [folder, '-not', '-type', 'd', '-printf', '%P\n'])).trim().split('\n');
      const layers = (await ownImageSpec(name)).layers;
      const built: string[] = [];
      for (const layer of layers) {
        for (const entry of await layerEntries(layer))
          if (entry.kind !== 'directory' && entry.name.startsWith('app/')) built.push(entry.name.slice('app/'.length));
      }
      assertSame(copied, built);
      assert.ok(built.length > 20);
    });
  });

  test(`images: the bill of materials of ${name} has every package in the image, and no others`, async () => {
    const image = await build[name]();
    const bom = await billOfMaterials(name);
    const files = await filesIn(image);
    const manifests = files.filter((file) => /^app\/(.*\/)?node_modules\/(@[^/]+\/)?[^/]+\/package\.json$/.test(file));
    const npm = bom.components.filter(({ purl }) => purl.startsWith('pkg:npm/') && !purl.includes('node-linux'));
    const told = npm.map((component) => `app/${component['bom-ref']}/package.json`);
    assertSame(told, manifests);
    // Everything else is ours, Node, or has a Debian package.
    const ofMachine = files.filter((file) => /^(usr|lib|lib64|bin)\//.test(file) && file !== 'usr/local/bin/node');
    const debian = bom.components
      .filter(({ purl }) => purl.startsWith('pkg:deb/'))
      .flatMap(({ properties }) => properties.map(({ value }) => value.slice(1)));
    assertSame(debian, ofMachine);
    for (const { purl, version } of bom.components) assert.match(`${purl} ${version}`, /^pkg:[^ ]+@[^ ]+ [^ ]+$/);
    assert.deepEqual(await billOfMaterials(name), bom);
  });
}

/** Fails with what only one of them has. */
function assertSame(ours: readonly string[], others: readonly string[]): void {
  const [a, b] = [new Set(ours), new Set(others)];
  const [more, missing] = [ours.filter((name) => !b.has(name)), others.filter((name) => !a.has(name))];
  assert.deepEqual({ more, missing }, { more: [], missing: [] });
}

/** Paths of what is no folder, in all layers. */
async function filesIn({ tar, digest }: Image): Promise<string[]> {
  const read = (path: string): Promise<string> => run('tar', ['-xOf', tar, path]);
  const manifest = JSON.parse(await read(`blobs/sha256/${digest.slice(7)}`)) as { layers: { digest: string }[] };
  const files: string[] = [];
  for (const layer of manifest.layers) {
    const list = await run('sh', [
      '-c',
      `tar -xOf "$1" "$2" | tar -tf -`,
      'sh',
      tar,
      `blobs/sha256/${layer.digest.slice(7)}`,
    ]);
    files.push(...list.split('\n').filter((path) => path !== '' && !path.endsWith('/')));
  }
  return files;
}

test('licences: every package in an image, and every one that development uses, has one that we may use', async () => {
  const lockfile = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; optional?: boolean; license?: string }>;
  };
  const inImages = new Set(
    (await Promise.all(names.map((name) => findProgram({ root, ...ownImages[name].program })))).flatMap(
      ({ packages }) => packages,
    ),
  );
  const wrong: string[] = [];
  for (const [path, { license, optional = false }] of Object.entries(lockfile.packages)) {
    // Ourselves; and what is compiled or downloaded for other machines, which no image has.
    if (path === '' || (optional && !inImages.has(path))) continue;
    const allowed = inImages.has(path) ? allowedLicences : [...allowedLicences, ...allowedForDevelopment];
    const expression = license ?? (await licenceOf(path));
    if (!isAllowed(expression, allowed)) wrong.push(`${path}: ${expression}`);
  }
  assert.deepEqual(wrong, []);
  assert.ok(inImages.size > 20);
});

test('licences: of a choice one has to be allowed, of several all', () => {
  assert.ok(isAllowed('(MIT OR GPL-3.0)', ['MIT']));
  assert.ok(!isAllowed('MIT AND GPL-3.0', ['MIT']));
  assert.ok(!isAllowed('GPL-3.0', ['MIT']));
});

/** For the simple SPDX expressions that packages have: choices, or conjunctions. */
function isAllowed(expression: string, allowed: readonly string[]): boolean {
  const words = expression.replace(/[()]/g, '');
  if (words.includes(' AND ')) return words.split(' AND ').every((licence) => isAllowed(licence, allowed));
  return words.split(' OR ').some((licence) => allowed.includes(licence.trim()));
}
