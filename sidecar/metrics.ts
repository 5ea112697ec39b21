import type { SidecarStatus } from './protocol.ts';

/** What is counted while the sidecar runs. */
export interface Counters {
  sentBytes: number;
  stdinLines: number;
  refusedConnections: number;
  failedHandshakes: number;
  requests: number;
}

export function createCounters(): Counters {
  return { sentBytes: 0, stdinLines: 0, refusedConnections: 0, failedHandshakes: 0, requests: 0 };
}

/**
 * Prometheus text. It is written by hand because a metrics library takes a tenth of the memory that a sidecar may have, for counters
 * without a label.
 */
export function formatMetrics(status: SidecarStatus, counters: Counters, residentBytes: number): string {
  const { log, sidecar, workload } = status;
  const rows: [string, 'counter' | 'gauge', string, number][] = [
    ['log_end_offset_bytes', 'counter', 'Bytes written to the log since the pod began.', log.endOffset],
    ['log_first_offset_bytes', 'counter', 'Bytes of the log that were reclaimed.', log.firstOffset],
    ['log_disk_bytes', 'gauge', 'Disk space of the log.', log.diskBytes],
    ['log_retention_active', 'gauge', '1 while the log is kept within its limit.', Number(log.retention === 'holes')],
    ['log_sent_bytes_total', 'counter', 'Bytes of the log sent to readers.', counters.sentBytes],
    ['log_readers', 'gauge', 'Open log streams.', sidecar.readers],
    ['stdin_lines_total', 'counter', 'Lines written to standard input.', counters.stdinLines],
    ['connections', 'gauge', 'Open connections.', sidecar.connections],
    ['connections_refused_total', 'counter', 'Connections over a limit.', counters.refusedConnections],
    ['handshakes_failed_total', 'counter', 'Connections without the right key.', counters.failedHandshakes],
    ['requests_total', 'counter', 'Requests over TLS-PSK.', counters.requests],
    ['workload_running', 'gauge', '1 while the workload runs.', Number(workload.state === 'running')],
    ['workload_starts_total', 'counter', 'Starts of the workload in this pod.', workload.starts],
    ['resident_memory_bytes', 'gauge', 'Resident memory of the sidecar.', residentBytes],
  ];
  return rows
    .map(([name, type, help, value]) => {
      const full = `ringmaster_sidecar_${name}`;
      return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${full} ${value}\n`;
    })
    .join('');
}
