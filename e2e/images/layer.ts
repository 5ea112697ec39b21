/** What goes into a layer: local files and folders, listed in a fixed order with modes that do not depend on the umask. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, readlink, realpath, stat } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { run } from '../cluster/command.ts';
import type { TarEntry } from './tar.ts';

/** Puts a file or a folder of this machine, or a text, at an absolute path of the image. */
export type FileSpec =
  | {
      source: string;
      target: string;
      mode?: number;
      /** Leaves out what it is true for. */ skip?: (path: string) => boolean;
    }
  | { content: string; target: string; mode?: number }
  | { directory: true; target: string; mode?: number };

export interface LayerSpec {
  files: FileSpec[];
  /** Adds the machine's busybox as `/bin/busybox`, with a link for every command that it knows. */
  busybox?: boolean;
  /** Adds the shared libraries and the loader of every file (not folder) in `files` that needs them. */
  withLibraries?: boolean;
}

/** Lists a layer's entries, parents before children, sorted by name. Links are followed at a source itself and kept below it. */
export async function layerEntries(spec: LayerSpec): Promise<TarEntry[]> {
  const entries = new Map<string, TarEntry>();
  const specs = [...spec.files, ...(spec.busybox === true ? [await busyboxSpec()] : [])];
  for (const file of specs) await addSpec(entries, file);
  if (spec.busybox === true) await addBusyboxLinks(entries);
  if (spec.withLibraries === true || spec.busybox === true) await addLibraries(entries, specs);
  addParents(entries);
  return [...entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** A key that changes whenever the layer could: small contents are hashed, big files go by size and times. */
export async function layerKey(entries: readonly TarEntry[]): Promise<string> {
  const hash = createHash('sha256');
  for (const entry of entries) hash.update(JSON.stringify(await fingerprint(entry)));
  return hash.digest('hex').slice(0, 24);
}

const hashedBytesMax = 64 * 1024;

async function fingerprint(entry: TarEntry): Promise<unknown[]> {
  if (entry.kind === 'link') return [entry.kind, entry.name, entry.to];
  if (entry.kind === 'directory') return [entry.kind, entry.name, entry.mode];
  const { name, mode } = entry;
  if (entry.kind === 'content') return ['file', name, mode, sha256(entry.content)];
  if (entry.sizeBytes <= hashedBytesMax) return ['file', name, mode, sha256(await readFile(entry.source))];
  const info = await stat(entry.source);
  return ['big', name, mode, entry.source, info.size, info.mtimeMs, info.ctimeMs, info.ino];
}

function sha256(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

async function addSpec(entries: Map<string, TarEntry>, spec: FileSpec): Promise<void> {
  const name = nameOf(spec.target);
  if ('content' in spec) {
    entries.set(name, { kind: 'content', name, mode: spec.mode ?? 0o644, content: Buffer.from(spec.content) });
  } else if ('directory' in spec) {
    entries.set(name, { kind: 'directory', name, mode: spec.mode ?? 0o755 });
  } else {
    await addPath(entries, { source: await realpath(spec.source), name, mode: spec.mode, skip: spec.skip });
  }
}

interface PathToAdd {
  source: string;
  name: string;
  mode?: number | undefined;
  skip?: ((path: string) => boolean) | undefined;
}

async function addPath(entries: Map<string, TarEntry>, { source, name, mode, skip }: PathToAdd): Promise<void> {
  const info = await stat(source);
  if (!info.isDirectory()) {
    const plain = (info.mode & 0o111) === 0 ? 0o644 : 0o755;
    entries.set(name, { kind: 'file', name, mode: mode ?? plain, source, sizeBytes: info.size });
    return;
  }
  entries.set(name, { kind: 'directory', name, mode: 0o755 });
  for (const child of await readdir(source, { withFileTypes: true })) {
    const path = join(source, child.name);
    if (skip?.(path) === true) continue;
    const childName = `${name}/${child.name}`;
    if (child.isSymbolicLink()) entries.set(childName, { kind: 'link', name: childName, to: await readlink(path) });
    else await addPath(entries, { source: path, name: childName, skip });
  }
}

async function busyboxSpec(): Promise<FileSpec> {
  const source = (await run('sh', ['-c', 'command -v busybox'])).trim();
  return { source, target: '/bin/busybox', mode: 0o755 };
}

async function addBusyboxLinks(entries: Map<string, TarEntry>): Promise<void> {
  const commands = (await run('busybox', ['--list'])).split('\n');
  for (const command of commands) {
    const name = `bin/${command}`;
    if (command !== '' && !entries.has(name)) entries.set(name, { kind: 'link', name, to: 'busybox' });
  }
}

/** Name service modules that the C library loads by name where they are not built in, so that `ldd` does not show them. */
const nameServiceModules = ['libnss_files.so.2', 'libnss_dns.so.2', 'libresolv.so.2'];

async function addLibraries(entries: Map<string, TarEntry>, specs: readonly FileSpec[]): Promise<void> {
  const found = new Set<string>();
  for (const spec of specs) {
    if (!('source' in spec)) continue;
    for (const library of await librariesOf(spec.source)) found.add(library);
  }
  for (const library of [...found]) {
    if (!posix.basename(library).startsWith('libc.so')) continue;
    for (const name of nameServiceModules) found.add(join(dirname(library), name));
  }
  for (const library of found) {
    if (existsSync(library))
      await addPath(entries, { source: await realpath(library), name: nameOf(library), mode: 0o755 });
  }
}

async function librariesOf(file: string): Promise<string[]> {
  try {
    // "libc.so.6 => /lib/.../libc.so.6 (0x...)", and for the loader "/lib64/ld-linux-x86-64.so.2 (0x...)".
    return (await run('ldd', [file])).match(/\/\S+/g) ?? [];
  } catch {
    // Not a dynamic executable.
    return [];
  }
}

function addParents(entries: Map<string, TarEntry>): void {
  for (const name of [...entries.keys()]) {
    for (let parent = posix.dirname(name); parent !== '.'; parent = posix.dirname(parent)) {
      if (!entries.has(parent)) entries.set(parent, { kind: 'directory', name: parent, mode: 0o755 });
    }
  }
}

function nameOf(target: string): string {
  if (!target.startsWith('/')) throw new RangeError(`A path in an image must be absolute: "${target}"`);
  return posix.normalize(target).slice(1).replace(/\/$/, '');
}
