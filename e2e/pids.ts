/** Processes of pods as this machine sees them: the nodes of an embedded cluster share its kernel. */
import { readdir, readFile } from 'node:fs/promises';

/** Pids of the processes in a pod whose command line has this word. */
export async function pidsInPod(podUid: string, word: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry));
  const found: number[] = [];
  for (const pid of pids) {
    const [command, groups] = await Promise.all(['cmdline', 'cgroup'].map((file) => contentOf(`/proc/${pid}/${file}`)));
    const isInPod = groups?.replaceAll('_', '-').includes(podUid) === true;
    if (isInPod && command?.includes(word) === true) found.push(Number(pid));
  }
  return found;
}

/** Processes come and go while one looks. */
async function contentOf(file: string): Promise<string> {
  return readFile(file, 'latin1').catch(() => '');
}
