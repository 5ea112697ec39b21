/** The master keys, from the folder that Kubernetes mounts their Secret as. */
import { readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';

/** Gives the secrets that the keys of sidecars are derived from. */
export interface MasterKey {
  /** The one that new pods get first, then those that pods may have as well; never empty. Rejects if they cannot be had now. */
  read(): Promise<readonly Buffer[]>;
}

/** Of every master key. */
export const keyBytes = 32;

/**
 * Entries of the Secret, in the order in which they are tried. New pods get `key`. While it is being replaced, `previous` is that of the pods from
 * before, and `next` the one that is about to become `key`.
 */
export const masterKeyEntries = { current: 'key', others: ['previous', 'next'] } as const;

/**
 * Reads the file at `path`, which is the current key, and the others beside it, again when they have changed: the kubelet replaces them when the Secret
 * changes. A file that is not exactly 32 bytes is not used, and told to `log` by its path and size and nothing of its content. The others can be done
 * without; instead of a current one that cannot be used, the keys from before count on, and only where there are none it rejects.
 */
export function createMasterKey(path: string, log: Logger): MasterKey {
  const others = masterKeyEntries.others.map((name) => join(dirname(path), name));
  let known: { readonly keys: readonly Buffer[]; readonly version: string } | undefined;
  let fault: string | undefined;
  const readOther = async (other: string): Promise<Buffer | undefined> => {
    try {
      return await readKey(other);
    } catch (error) {
      if (!isMissing(error)) log.error({ error: messageOf(error) }, 'One of the master keys counts for nothing');
      return undefined;
    }
  };
  const read = async (): Promise<readonly Buffer[]> => {
    const versions = [await versionOf(path), ...(await Promise.all(others.map((other) => versionOrNone(other))))];
    const version = versions.join();
    if (known?.version !== version) {
      const keys = [await readKey(path), ...(await Promise.all(others.map((other) => readOther(other))))];
      known = { keys: keys.filter((key) => key !== undefined), version };
    }
    return known.keys;
  };
  return {
    async read() {
      try {
        const keys = await read();
        fault = undefined;
        return keys;
      } catch (error) {
        if (known === undefined) throw error;
        const said = messageOf(error);
        if (said !== fault) log.error({ error: said }, 'Cannot use the changed master key: the one before counts on');
        fault = said;
        return known.keys;
      }
    },
  };
}

async function versionOf(path: string): Promise<string> {
  // The kubelet swaps a link, so another file is behind the same path: its number changes with its time.
  const { mtimeMs, ino, size } = await stat(path);
  return `${mtimeMs}/${ino}/${size}`;
}

async function versionOrNone(path: string): Promise<string> {
  try {
    return await versionOf(path);
  } catch (error) {
    if (isMissing(error)) return '';
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT';
}

async function readKey(path: string): Promise<Buffer> {
  const key = await readFile(path);
  if (key.length !== keyBytes) {
    throw new Error(`Cannot use the master key in "${path}": it has ${key.length} bytes, not ${keyBytes}`);
  }
  return key;
}
