/**
 * The files of one of our programs: the modules that its entries reach, and the packages that these import, with what those depend on. Run as a
 * script it copies them, for the Dockerfiles:
 *   node e2e/images/program.ts [--strip] FOLDER ENTRY...
 */
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { builtinModules } from 'node:module';
import { basename, dirname, join, posix, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { importsOf, isRelative, stripTypes } from './strip.ts';

export interface ProgramSpec {
  /** The clone: paths are relative to it, and its `node_modules` and lockfile are used. */
  readonly root: string;
  /** Modules that are started, such as `operator/main.ts`. */
  readonly entries: readonly string[];
  /** Turns TypeScript into JavaScript. */
  readonly strip?: boolean;
}

export interface Program {
  /** Path below the program's folder, and what is in it. */
  readonly sources: readonly { path: string; content: string; isExecutable: boolean }[];
  /** Folders of packages below the clone, such as `node_modules/pino`; each without the packages inside it, which are listed themselves. */
  readonly packages: readonly string[];
}

/** Finds everything. Throws with its name for a module that does not exist and for a package that the lockfile does not have. */
export async function findProgram({ root, entries, strip = false }: ProgramSpec): Promise<Program> {
  const { files, packages } = await reach(root, entries);
  const sources = [...files].sort(byName).map(([path, source]) => {
    const isStripped = strip && path.endsWith('.ts');
    return {
      path: isStripped ? path.replace(/\.ts$/, '.js') : path,
      content: isStripped ? stripTypes(source) : source,
      isExecutable: source.startsWith('#!'),
    };
  });
  // Node takes a file for an ES module by the package that it is in.
  sources.push({ path: 'package.json', content: '{ "type": "module" }\n', isExecutable: false });
  const lockfile = await readFile(join(root, 'package-lock.json'), 'utf8');
  return { sources, packages: packagePaths(lockfile, [...packages]) };
}

interface Reached {
  readonly files: Map<string, string>;
  readonly packages: Set<string>;
}

async function reach(root: string, entries: readonly string[]): Promise<Reached> {
  const reached: Reached = { files: new Map(), packages: new Set() };
  const waiting = [...entries];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    if (reached.files.has(path)) continue;
    const source = await readFile(join(root, path), 'utf8');
    reached.files.set(path, source);
    if (!path.endsWith('.ts')) continue;
    for (const name of importsOf(source)) {
      if (isRelative(name)) waiting.push(posix.join(posix.dirname(path), name));
      else if (!isBuiltin(name)) reached.packages.add(packageOf(name));
    }
  }
  return reached;
}

function isBuiltin(name: string): boolean {
  return name.startsWith('node:') || builtinModules.includes(name);
}

/** `ws/wrapper.mjs` is in `ws`, `@scope/a/b` in `@scope/a`. */
function packageOf(name: string): string {
  return name
    .split('/')
    .slice(0, name.startsWith('@') ? 2 : 1)
    .join('/');
}

interface LockedPackage {
  dependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
  peerDependenciesMeta?: Record<string, { optional?: boolean }>;
}

/**
 * Where the lockfile puts these packages and everything that they depend on, sorted. Optional dependencies are left out: those are compiled on
 * the machine that installs them, and the packages do without.
 */
export function packagePaths(lockfile: string, names: readonly string[]): string[] {
  const { packages } = JSON.parse(lockfile) as { packages: Partial<Record<string, LockedPackage>> };
  const found = new Set<string>();
  const waiting = names.map((name) => ({ name, from: '' }));
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const path = findPackage(packages, next);
    if (found.has(path)) continue;
    found.add(path);
    waiting.push(...needsOf(packages[path] ?? {}).map((name) => ({ name, from: path })));
  }
  return [...found].sort();
}

function needsOf({ dependencies = {}, peerDependencies = {}, peerDependenciesMeta = {} }: LockedPackage): string[] {
  const peers = Object.keys(peerDependencies).filter((name) => peerDependenciesMeta[name]?.optional !== true);
  return [...Object.keys(dependencies), ...peers];
}

/** As Node looks for it: within the package that needs it, then ever further up. */
function findPackage(packages: Partial<Record<string, LockedPackage>>, need: { name: string; from: string }): string {
  for (const folder of [...foldersUp(need.from), '']) {
    const path = posix.join(folder, 'node_modules', need.name);
    if (packages[path] !== undefined) return path;
  }
  const user = need.from === '' ? 'one of our modules' : need.from;
  throw new Error(`Cannot find the package "${need.name}" in the lockfile; ${user} needs it`);
}

function foldersUp(path: string): string[] {
  if (path === '') return [];
  return [path, ...foldersUp(path.slice(0, Math.max(0, path.lastIndexOf('/node_modules/'))))];
}

/**
 * Nothing of these is needed at run time, and they are half of the size. What install scripts compiled (`build` of node-gyp) would also be another on
 * each machine, and the Dockerfiles run none; packages that have such a part do without.
 */
export function isForDevelopers(path: string): boolean {
  return /\.(map|d\.[cm]?ts)$/.test(path) || (basename(path) === 'build' && existsSync(join(path, 'config.gypi')));
}

/** Writes a program into a folder, which is made. */
export async function copyProgram(spec: ProgramSpec, folder: string): Promise<void> {
  const { sources, packages } = await findProgram(spec);
  for (const { path, content, isExecutable } of sources) {
    const target = join(folder, path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, content);
    await chmod(target, isExecutable ? 0o755 : 0o644);
  }
  for (const path of packages) {
    const source = join(spec.root, path);
    if (!existsSync(source)) throw new Error(`Cannot copy the package "${path}": it is not installed`);
    const nested = join(source, 'node_modules');
    const filter = (child: string): boolean => child !== nested && !isForDevelopers(child);
    await cp(source, join(folder, path), { recursive: true, filter });
  }
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { strip: { type: 'boolean' } } });
  const [folder, ...entries] = positionals;
  if (folder === undefined || entries.length === 0) {
    process.stderr.write('Usage: node e2e/images/program.ts [--strip] FOLDER ENTRY...\n');
    process.exitCode = 2;
  } else {
    const root = resolve(import.meta.dirname, '../..');
    await copyProgram({ root, entries, strip: values.strip === true }, resolve(folder));
  }
}
