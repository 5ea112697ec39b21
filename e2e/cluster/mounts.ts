import { readFileSync } from 'node:fs';
import { run } from './command.ts';

/** Mount points at or below a folder, deepest first, from the text of `/proc/self/mountinfo`. */
export function mountsBelow(mountinfo: string, dir: string): string[] {
  const points = mountinfo
    .split('\n')
    .map((line) => unescapeOctal(line.split(' ')[4] ?? ''))
    .filter((point) => point === dir || point.startsWith(`${dir}/`));
  return points.sort().reverse();
}

/** Unmounts everything below a folder: what kubelet, containerd and containers leave behind when they are killed. */
export async function unmountBelow(dir: string): Promise<void> {
  const points = mountsBelow(readFileSync('/proc/self/mountinfo', 'utf8'), dir);
  // Some hundred at a time keep the command line short. Lazy: a process outside may still look into one.
  for (let at = 0; at < points.length; at += 200) await run('umount', ['-l', ...points.slice(at, at + 200)]);
}

/** The kernel writes blanks in paths as `\040`. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8)));
}
