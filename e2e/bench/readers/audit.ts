/** What the API server was asked, from its audit log. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { logDir } from '../../cluster/plan.ts';
import { clusterSettings } from '../../cluster/settings.ts';

const file = join(logDir(clusterSettings('bench')), 'audit.log');

/** Arguments of the API server. Never rotated: a benchmark reads all of it. */
export const auditArgs = [
  `--audit-policy-file=${join(import.meta.dirname, '../audit-policy.json')}`,
  `--audit-log-path=${file}`,
  '--audit-log-maxsize=2000',
];

/** Requests by `verb resource`, such as `patch instances/status`. */
export type Requests = ReadonlyMap<string, number>;

const writingVerbs = ['create', 'update', 'patch', 'delete', 'deletecollection'];

/** What was asked from one moment to another. */
export class AuditWindow {
  readonly #fromByte: number;

  private constructor(fromByte: number) {
    this.#fromByte = fromByte;
  }

  /** Begins now. */
  static async open(): Promise<AuditWindow> {
    return new AuditWindow((await stat(file)).size);
  }

  /** By users whose name matches, until now. Watches are left out: they last. */
  async read(user: RegExp): Promise<Requests> {
    const { size } = await stat(file);
    const found = new Map<string, number>();
    if (size <= this.#fromByte) return found;
    const lines = createInterface({ input: createReadStream(file, { start: this.#fromByte, end: size - 1 }) });
    for await (const line of lines) {
      const event = parse(line);
      if (event === undefined || event.verb === 'watch' || !user.test(event.user.username)) continue;
      const { resource = '', subresource } = event.objectRef ?? {};
      const key = `${event.verb} ${resource}${subresource === undefined ? '' : `/${subresource}`}`;
      found.set(key, (found.get(key) ?? 0) + 1);
    }
    return found;
  }
}

interface AuditEvent {
  readonly verb: string;
  readonly user: { readonly username: string };
  readonly objectRef?: { readonly resource?: string; readonly subresource?: string };
}

/** Undefined for a line that is being written. */
function parse(line: string): AuditEvent | undefined {
  try {
    return JSON.parse(line) as AuditEvent;
  } catch {
    return undefined;
  }
}

/** How many of them write, without leases: a leader renews its own for as long as it leads. */
export function writesOf(requests: Requests): number {
  const writes = [...requests].filter(([key]) => {
    const [verb = '', resource = ''] = key.split(' ');
    return writingVerbs.includes(verb) && resource !== 'leases';
  });
  return writes.reduce((sum, [, count]) => sum + count, 0);
}

/** The most frequent first, each divided by `count`. */
export function perObject(requests: Requests, count: number): string {
  const rows = [...requests].sort(([, a], [, b]) => b - a).filter(([, times]) => times / count >= 0.005);
  return rows.map(([key, times]) => `${key} ${(times / count).toFixed(2)}`).join(', ');
}
