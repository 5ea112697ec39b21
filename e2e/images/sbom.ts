/**
 * `npm run sbom [-- FOLDER]`: what our two images hold, as CycloneDX 1.6 in JSON: npm packages with the hashes of the lockfile, Node, and the Debian
 * packages that single files were taken from. The same clone on the same machine gives the same documents, byte for byte.
 */
import { mkdir, readFile, realpath, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { run } from '../cluster/command.ts';
import { ensurePackages, imageRequirements } from '../cluster/packages.ts';
import { nodePackage, ownImageSpec } from './images.ts';
import { layerEntries } from './layer.ts';
import { ownImages } from './own.ts';
import type { OwnImageName } from './own.ts';
import { findProgram } from './program.ts';

const root = join(import.meta.dirname, '../..');

export interface Component {
  readonly type: 'library' | 'platform';
  readonly 'bom-ref': string;
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly hashes?: readonly { alg: 'SHA-512'; content: string }[];
  readonly licenses?: readonly { expression: string }[];
  /** Where it is in the image. */
  readonly properties: readonly { name: 'ringmaster:path'; value: string }[];
}

export interface Bom {
  readonly bomFormat: 'CycloneDX';
  readonly specVersion: '1.6';
  readonly version: 1;
  readonly metadata: {
    readonly component: {
      readonly type: 'container';
      readonly 'bom-ref': string;
      readonly name: string;
      readonly version: string;
    };
  };
  readonly components: readonly Component[];
  readonly dependencies: readonly { readonly ref: string; readonly dependsOn: readonly string[] }[];
}

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license?: string;
  /** As packages wrote it long ago. */
  readonly licenses?: readonly { readonly type: string }[];
}

export async function billOfMaterials(name: OwnImageName): Promise<Bom> {
  const { version } = await readManifest('.');
  const image = ownImages[name].labels['org.opencontainers.image.title'];
  const components = [...(await npmComponents(name)), await nodeComponent(), ...(await debianComponents(name))];
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: { type: 'container', 'bom-ref': image, name: image, version } },
    components,
    dependencies: [{ ref: image, dependsOn: components.map((component) => component['bom-ref']) }],
  };
}

/** An SPDX expression, from a package's own words. Throws for a package that names no licence. */
export async function licenceOf(path: string): Promise<string> {
  const { license, licenses } = await readManifest(path);
  const expression = license ?? licenses?.map(({ type }) => type).join(' OR ');
  if (expression === undefined || expression === '') throw new Error(`The package in ${path} names no licence`);
  return expression;
}

async function readManifest(path: string): Promise<Manifest> {
  return JSON.parse(await readFile(join(root, path, 'package.json'), 'utf8')) as Manifest;
}

async function npmComponents(image: OwnImageName): Promise<Component[]> {
  const { packages } = await findProgram({ root, ...ownImages[image].program });
  const lockfile = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { integrity?: string }>;
  };
  return Promise.all(packages.map((path) => npmComponent(path, lockfile.packages[path]?.integrity)));
}

async function npmComponent(path: string, integrity: string | undefined): Promise<Component> {
  const { name, version } = await readManifest(path);
  const [algorithm, digest] = integrity?.split('-') ?? [];
  if (algorithm !== 'sha512' || digest === undefined) throw new Error(`The lockfile has no SHA-512 of ${path}`);
  return {
    type: 'library',
    'bom-ref': path,
    name,
    version,
    purl: `pkg:npm/${name.replace('@', '%40')}@${version}`,
    hashes: [{ alg: 'SHA-512', content: Buffer.from(digest, 'base64').toString('hex') }],
    licenses: [{ expression: await licenceOf(path) }],
    properties: [{ name: 'ringmaster:path', value: `/app/${path}` }],
  };
}

async function nodeComponent(): Promise<Component> {
  const path = join('node_modules', nodePackage());
  const { name, version } = await readManifest(path);
  return {
    type: 'platform',
    'bom-ref': 'node',
    name: 'node',
    version,
    purl: `pkg:npm/${name}@${version}`,
    licenses: [{ expression: await licenceOf(path) }],
    properties: [{ name: 'ringmaster:path', value: '/usr/local/bin/node' }],
  };
}

/** Of every file that is the machine's and not the clone's. Throws for one that no package has. */
async function debianComponents(image: OwnImageName): Promise<Component[]> {
  const folders = await Promise.all([root, join(root, 'node_modules')].map((folder) => realpath(folder)));
  const entries = (await Promise.all((await ownImageSpec(image)).layers.map(layerEntries))).flat();
  const ofMachine = entries.filter(
    (entry) => entry.kind === 'file' && !folders.some((folder) => entry.source.startsWith(`${folder}/`)),
  );
  const sources = ofMachine.flatMap((entry) => (entry.kind === 'file' ? [entry.source] : []));
  const owners = await debianOwners(sources);
  const paths = new Map<string, string[]>();
  for (const [index, { name }] of ofMachine.entries()) {
    const owner = owners[index] ?? '';
    paths.set(owner, [...(paths.get(owner) ?? []), `/${name}`]);
  }
  return Promise.all([...paths].sort(byName).map(([name, files]) => debianComponent(name, files)));
}

async function debianComponent(name: string, files: readonly string[]): Promise<Component> {
  const fields = await run('dpkg-query', ['--show', '--showformat=${Version} ${Architecture}', name]);
  const [version = '', architecture = ''] = fields.split(' ');
  return {
    type: 'library',
    'bom-ref': `deb:${name}`,
    name,
    version,
    purl: `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}`,
    properties: files.map((value) => ({ name: 'ringmaster:path', value })),
  };
}

/** The package of each file. */
async function debianOwners(files: readonly string[]): Promise<string[]> {
  // Where /lib is a link to /usr/lib, a package may have the file under either name; what it does not have is no failure.
  const names = files.flatMap((file) => [file, file.replace(/^\/usr/, '')]);
  const answer = await run('sh', ['-c', 'dpkg-query --search "$@" 2>/dev/null || true', 'sh', ...new Set(names)]);
  const owners = new Map<string, string>();
  for (const [, owner = '', file = ''] of answer.matchAll(/^([^:,\s]+)[^\s]*: (.+)$/gm)) owners.set(file, owner);
  return files.map((file) => {
    const owner = owners.get(file) ?? owners.get(file.replace(/^\/usr/, ''));
    if (owner === undefined) throw new Error(`No Debian package has ${file}`);
    return owner;
  });
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}

if (import.meta.main) {
  await ensurePackages(() => undefined, imageRequirements);
  const folder = resolve(process.argv[2] ?? join(root, '.ringmaster/sbom'));
  await mkdir(folder, { recursive: true });
  for (const name of Object.keys(ownImages) as OwnImageName[]) {
    const bom = await billOfMaterials(name);
    const file = join(folder, `${bom.metadata.component.name}.cdx.json`);
    await writeFile(file, `${JSON.stringify(bom, null, 2)}\n`);
    process.stdout.write(`${file}: ${bom.components.length} components\n`);
  }
}
