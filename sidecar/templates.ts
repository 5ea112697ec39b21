/**
 * Puts the files of templates into a working directory, and ends: the init container `ringmaster-templates` of a pod.
 *
 * The volume may have been another program's before, or be shared with one that runs now: what is in it is not believed. No symbolic link in it
 * is followed, not even one that is made while this runs, because each folder is opened within the one that was opened before.
 */
import { constants } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { mkdir, open, readdir, readFile, rename, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { TemplateSource } from './protocol.ts';
import { templateVariables } from './protocol.ts';
import { render, renderedBytesMax } from './render.ts';

/** A ConfigMap cannot have more. */
const fileBytesMax = 1024 * 1024;

export interface TemplateJob {
  /** The volume's folder: nothing outside of it is written. */
  readonly root: string;
  readonly sources: readonly TemplateSource[];
  readonly values: Readonly<Record<string, string>>;
  /** Part of the name that a file has until it is complete: of one Instance alone, since a volume may be shared. */
  readonly mark: string;
}

/** What somebody who wrote a template or its Instance has to mend, in a sentence. */
export class TemplateFault extends Error {
  constructor(message: string, options?: { cause: unknown }) {
    super(message, options);
    this.name = 'TemplateFault';
  }
}

/**
 * Puts every file into place and returns their number. Each file is there as a whole or as it was before; where two templates have the same file,
 * the later one counts. Throws a TemplateFault: before anything is written where a template is missing or lacks a file.
 */
export async function putTemplates(job: TemplateJob): Promise<number> {
  const listed = [];
  for (const source of job.sources) listed.push({ source, names: await listFiles(source) });
  let count = 0;
  for (const { source, names } of listed) {
    const folder = await openFolder(job.root, source);
    try {
      for (const name of names) {
        await putFile(folder, name, { source, job });
        count += 1;
      }
    } finally {
      await folder.close();
    }
  }
  return count;
}

async function listFiles({ name, files, replaceIn }: TemplateSource): Promise<string[]> {
  // The kubelet's own entries, such as ..data, which no key of a ConfigMap may look like.
  const names = (await readdir(files)).filter((entry) => !entry.startsWith('..')).sort();
  if (names.length === 0) {
    throw new TemplateFault(`The ConfigMap "${name}" does not exist in the namespace of the Instance, or has no files`);
  }
  const missing = replaceIn.find((wanted) => !names.includes(wanted));
  if (missing !== undefined) {
    throw new TemplateFault(`The ConfigMap "${name}" has no file "${missing}", which replaceIn names`);
  }
  return names;
}

/** Opens the folder below `root`, and makes what is missing of it. */
async function openFolder(root: string, { path, folder: shown }: TemplateSource): Promise<FileHandle> {
  const segments = path.split('/').filter((segment) => segment !== '' && segment !== '.');
  if (segments.includes('..')) throw new TemplateFault(`The folder "${shown}" would be outside of the volume`);
  let folder = await open(root, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  for (const segment of segments) {
    const parent = folder;
    try {
      folder = await enterFolder(within(parent, segment));
    } catch (error) {
      throw faultOf(error, { action: 'make', path: shown });
    } finally {
      await parent.close();
    }
  }
  return folder;
}

async function enterFolder(path: string): Promise<FileHandle> {
  try {
    await mkdir(path, 0o777);
  } catch (error) {
    // It is there, perhaps on a volume in which nothing can be made: opening it says what it is.
    if (!['EEXIST', 'EROFS', 'EACCES'].includes(codeOf(error))) throw error;
    return openExisting(path, error);
  }
  return openExisting(path);
}

async function openExisting(path: string, denied?: unknown): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    throw codeOf(error) === 'ENOENT' && denied !== undefined ? denied : error;
  }
}

interface FileContext {
  readonly source: TemplateSource;
  readonly job: TemplateJob;
}

async function putFile(folder: FileHandle, name: string, { source, job }: FileContext): Promise<void> {
  const bytes = await readSource(name, source, job);
  const draft = within(folder, `.ringmaster-${job.mark}`);
  try {
    await remove(draft);
    const handle = await open(
      draft,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      0o600,
    );
    try {
      await handle.writeFile(bytes);
      // The program may run as any user.
      await handle.chmod(bytes.subarray(0, 2).equals(shebang) ? 0o777 : 0o666);
    } finally {
      await handle.close();
    }
    await rename(draft, within(folder, name));
  } catch (error) {
    // What keeps the file from being written may keep the draft from being removed; the next start removes it then.
    await remove(draft).catch(() => undefined);
    throw faultOf(error, { action: 'write', path: join(source.folder, name) });
  }
}

const shebang = Buffer.from('#!');

async function readSource(name: string, source: TemplateSource, { values }: TemplateJob): Promise<Buffer> {
  const path = join(source.files, name);
  const { size } = await stat(path);
  if (size > fileBytesMax) throw new TemplateFault(`The file "${name}" of "${source.name}" is larger than 1 MiB`);
  const bytes = await readFile(path);
  if (!source.replaceIn.includes(name)) return bytes;
  const rendered = render(bytes, values);
  if (rendered !== undefined) return rendered;
  throw new TemplateFault(
    `The file "${name}" of the ConfigMap "${source.name}" would be larger than ${renderedBytesMax / fileBytesMax} MiB with its values`,
  );
}

async function remove(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

/** Names a file in an opened folder, wherever that folder is by now. */
function within(folder: FileHandle, name: string): string {
  return `/proc/self/fd/${folder.fd}/${name}`;
}

const causes: Readonly<Record<string, string>> = {
  EACCES:
    'its user may not write in this volume: set podTemplate.spec.securityContext.fsGroup, or runAsUser to the owner',
  EROFS: 'the volume is mounted read-only',
  ENOSPC: 'the volume is full',
  EDQUOT: 'the volume is full',
  EISDIR: 'there is a folder of this name',
  ENOTDIR: 'a part of this path is a file or a symbolic link',
  ELOOP: 'a part of this path is a symbolic link',
  EBUSY: 'another volume is mounted there',
};

function faultOf(error: unknown, { action, path }: { action: 'make' | 'write'; path: string }): Error {
  if (error instanceof TemplateFault) return error;
  const code = codeOf(error);
  const cause = causes[code === 'EPERM' ? 'EACCES' : code] ?? (error instanceof Error ? error.message : String(error));
  return new TemplateFault(`Cannot ${action} "${path}": ${cause}`, { cause: error });
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? '';
}

/** What the operator asks for, from the variables that it sets. Throws where one is missing. */
export function readJob(env: NodeJS.ProcessEnv): TemplateJob {
  const { root, source, value, mark } = templateVariables;
  const sources = [];
  for (let index = 0; ; index += 1) {
    const text = env[`${source}${index}`];
    if (text === undefined) break;
    sources.push(JSON.parse(text) as TemplateSource);
  }
  const values = Object.entries(env).flatMap(([name, text]) =>
    name.startsWith(value) && text !== undefined ? [[name.slice(value.length), text] as const] : [],
  );
  return { root: needed(env, root), mark: needed(env, mark), sources, values: Object.fromEntries(values) };
}

function needed(env: NodeJS.ProcessEnv, name: string): string {
  const text = env[name];
  if (text === undefined || text === '') throw new Error(`Cannot start: ${name} is not set`);
  return text;
}

if (import.meta.main) {
  // The modes of files and folders are those that are written here.
  process.umask(0);
  try {
    const job = readJob(process.env);
    process.stdout.write(`Files put into place: ${await putTemplates(job)}.\n`);
  } catch (error) {
    // The kubelet keeps this line as the termination message, where the operator reads it.
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}.\n`);
    process.exitCode = 1;
  }
}
