import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ClusterPlan } from './plan.ts';
import type { StartedProgram } from './processes.ts';
import type { ClusterSettings } from './settings.ts';

/** What is known of a cluster that came up: enough for another process to use it, and to start any of its programs again. */
export interface ClusterRecord {
  plan: ClusterPlan;
  programs: StartedProgram[];
}

/** The record of a cluster; undefined if it is not up, or was interrupted on the way. */
export function readRecord(settings: ClusterSettings): ClusterRecord | undefined {
  const file = recordFile(settings);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as ClusterRecord) : undefined;
}

/** Replaces the record in one step. */
export function writeRecord(settings: ClusterSettings, record: ClusterRecord): void {
  const file = recordFile(settings);
  writeFileSync(`${file}.new`, JSON.stringify(record, undefined, 2));
  renameSync(`${file}.new`, file);
}

/** Removes the record: from here on the cluster counts as not up. */
export function removeRecord(settings: ClusterSettings): void {
  rmSync(recordFile(settings), { force: true });
}

function recordFile(settings: ClusterSettings): string {
  return join(settings.stateDir, 'cluster.json');
}
