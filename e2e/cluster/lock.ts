import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';

const waitNoticeMs = 500;

/**
 * Runs `work` while holding an exclusive lock on `file`, which is made if need be. `onWait` is called once when another process holds it.
 * The lock belongs to a helper process that ends when this one does, however it ends: a killed run never leaves a lock behind.
 */
export async function withLock<T>(file: string, onWait: () => void, work: () => Promise<T>): Promise<T> {
  await mkdir(dirname(file), { recursive: true });
  const holder = spawn('flock', [file, 'sh', '-c', 'echo held; exec cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const notice = setTimeout(onWait, waitNoticeMs);
  try {
    // Either the one line that says it is held, or the error that `flock` could not be started.
    await once(holder.stdout, 'data');
  } finally {
    clearTimeout(notice);
  }
  try {
    return await work();
  } finally {
    const closed = once(holder, 'close');
    holder.stdin.end();
    await closed;
  }
}
