import { constants } from 'node:os';
import { join } from 'node:path';
import { readWhole } from './state.ts';
import type { SidecarStatus } from './protocol.ts';
import type { StdinPipe } from './stdin.ts';

/** The launcher writes these two into the folder `run` of the volume. */
const workloadFile = 'workload';
const faultFile = 'fault';
const faultCharactersMax = 512;

type Workload = SidecarStatus['workload'];

/** What the launcher wrote down, checked against whether anybody holds the pipe: a launcher that was killed writes nothing. */
export async function readWorkload(
  runDirectory: string,
  pipe: StdinPipe,
): Promise<Pick<SidecarStatus, 'workload' | 'fault'>> {
  const [text, fault, isOpen] = await Promise.all([
    readWhole(join(runDirectory, workloadFile)),
    readWhole(join(runDirectory, faultFile)),
    pipe.isOpen(),
  ]);
  const message = fault?.split('\n')[0]?.slice(0, faultCharactersMax) ?? '';
  return {
    workload: parseWorkload(text ?? '', isOpen),
    fault: message === '' ? null : { reason: 'RuntimeMissing', message },
  };
}

/** `key=value` lines; the volume is not ours alone, so anything that is not a number is left out. */
export function parseWorkload(text: string, isOpen: boolean): Workload {
  const read = (key: string): number | null => {
    const value = new RegExp(`^${key}=(\\d{1,12})$`, 'm').exec(text)?.[1];
    return value === undefined ? null : Number(value);
  };
  const starts = read('starts') ?? 0;
  const exitCode = isOpen ? null : read('code');
  const [startedAt, exitedAt] = [read('started'), read('exited')];
  return {
    state: isOpen ? 'running' : starts === 0 ? 'waiting' : 'exited',
    starts,
    startedAtMs: startedAt === null ? null : startedAt * 1000,
    exitedAtMs: isOpen || exitedAt === null ? null : exitedAt * 1000,
    exitCode,
    signal: exitCode === null ? null : signalOf(exitCode),
  };
}

function signalOf(exitCode: number): string | null {
  return Object.entries(constants.signals).find(([, number]) => number === exitCode - 128)?.[0] ?? null;
}
