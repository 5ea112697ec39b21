/** The master key, from the file that Kubernetes mounts the Secret as. */
import { readFile, stat } from 'node:fs/promises';

/** Gives the secret that a sidecar's key is derived from. */
export interface MasterKey {
  /** Rejects if it cannot be had now. */
  read(): Promise<Buffer>;
}

const keyBytes = 32;

/**
 * Reads the file again when it has changed: the kubelet replaces it when the Secret changes. A file that is not exactly 32 bytes is refused,
 * with its path and size and nothing of its content.
 */
export function createMasterKey(path: string): MasterKey {
  let known: { readonly key: Buffer; readonly version: string } | undefined;
  return {
    async read() {
      // The kubelet swaps a link, so another file is behind the same path: its number changes with its time.
      const { mtimeMs, ino, size } = await stat(path);
      const version = `${mtimeMs}/${ino}/${size}`;
      if (known?.version !== version) {
        known = { key: await readKey(path), version };
      }
      return known.key;
    },
  };
}

async function readKey(path: string): Promise<Buffer> {
  const key = await readFile(path);
  if (key.length !== keyBytes) {
    throw new Error(`Cannot use the master key in "${path}": it has ${key.length} bytes, not ${keyBytes}`);
  }
  return key;
}
