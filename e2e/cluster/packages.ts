import { access, constants } from 'node:fs/promises';
import { hasProgram, run } from './command.ts';

/** A program (or a file or folder, when it begins with `/`) that a cluster needs, and the Debian package that has it. */
export interface Requirement {
  need: string;
  debian: string;
}

/** What a cluster runs on. */
export const clusterRequirements: readonly Requirement[] = [
  { need: 'containerd', debian: 'containerd' },
  { need: 'ctr', debian: 'containerd' },
  { need: 'runc', debian: 'runc' },
  { need: '/usr/lib/cni/bridge', debian: 'containernetworking-plugins' },
  { need: 'ip', debian: 'iproute2' },
  { need: 'nft', debian: 'nftables' },
  { need: 'iptables', debian: 'iptables' },
  { need: 'conntrack', debian: 'conntrack' },
  { need: 'modprobe', debian: 'kmod' },
  { need: 'busybox', debian: 'busybox-static' },
  { need: 'openssl', debian: 'openssl' },
];

/** What the enforcement of NetworkPolicies needs besides. */
export const networkPolicyRequirements: readonly Requirement[] = [{ need: 'ipset', debian: 'ipset' }];

/** What the tests of the sidecar run programs under. */
export const sidecarRequirements: readonly Requirement[] = [
  { need: 'busybox', debian: 'busybox-static' },
  { need: 'dash', debian: 'dash' },
  { need: 'screen', debian: 'screen' },
  { need: 'tmux', debian: 'tmux' },
  { need: 'fallocate', debian: 'util-linux' },
  { need: 'script', debian: 'bsdutils' },
];

/** What goes from this machine into images. */
export const imageRequirements: readonly Requirement[] = [
  { need: 'busybox', debian: 'busybox-static' },
  { need: 'screen', debian: 'screen' },
  { need: 'tmux', debian: 'tmux' },
  { need: 'mkfifo', debian: 'coreutils' },
  { need: 'fallocate', debian: 'util-linux' },
  { need: '/lib/terminfo/x', debian: 'ncurses-base' },
  { need: '/usr/lib/locale/C.utf8', debian: 'libc-bin' },
];

/**
 * Installs what is missing with apt, and only that. Throws one line that names what is missing where there is no apt.
 * Programs are looked for rather than packages, so that a machine that has them from elsewhere is left alone.
 */
export async function ensurePackages(
  log: (line: string) => void,
  requirements: readonly Requirement[] = clusterRequirements,
): Promise<void> {
  const missing = await missingRequirements(requirements);
  if (missing.length === 0) return;
  if (!(await hasProgram('apt-get'))) {
    throw new Error(`Missing programs: ${missing.map((entry) => entry.need).join(', ')}: install them first`);
  }
  await aptInstall([...new Set(missing.map((entry) => entry.debian))], log);
}

/** Installs Debian packages; the package lists are fetched only when the install does not work without. */
export async function aptInstall(names: readonly string[], log: (line: string) => void): Promise<void> {
  const startedAt = Date.now();
  log(`installing Debian packages: ${names.join(' ')}`);
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const install = ['install', '-y', '-q', '--no-install-recommends', ...names];
  try {
    await run('apt-get', install, { env });
  } catch {
    // No lists yet, or lists that name files which are gone; if it is something else, the second try says so.
    await run('apt-get', ['update', '-q'], { env });
    await run('apt-get', install, { env });
  }
  log(`installed Debian packages in ${((Date.now() - startedAt) / 1000).toFixed(0)} s`);
}

async function missingRequirements(requirements: readonly Requirement[]): Promise<Requirement[]> {
  const present = await Promise.all(requirements.map((entry) => isPresent(entry.need)));
  return requirements.filter((_, index) => present[index] === false);
}

async function isPresent(need: string): Promise<boolean> {
  if (!need.startsWith('/')) return hasProgram(need);
  return isExecutable(need);
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return true;
  } catch {
    // Not there, or not ours to run.
    return false;
  }
}
