/**
 * Every metric, declared once. `createMetrics()` makes a registry with the process and Node metrics and ours; nothing is kept in the module,
 * so a test or a second server in one process has its own.
 *
 * Labels come from small fixed sets (a kind, a status, a controller, a route pattern): never an instance, a pod, a key or a line, so that the
 * number of time series does not grow with use.
 */
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import type { MetricObject } from 'prom-client';

const requestSecondsBuckets = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10];
const consoleSecondsBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30];
const reconcileSecondsBuckets = [0.005, 0.025, 0.1, 0.5, 2.5, 10, 60];

/** What the Master counts of its clients. */
export interface MasterMetrics {
  readonly socketsOpen: Gauge<'kind'>;
  readonly upgradesRefused: Counter<'status'>;
  readonly connectionsCut: Counter<'cause'>;
  readonly socketsClosed: Counter<'cause'>;
  readonly linesSent: Counter;
  readonly eventsSent: Counter<'type'>;
  readonly bytesSent: Counter;
  readonly socketsBusiest: Gauge<'scope'>;
  readonly socketsLimit: Gauge<'scope'>;
  readonly httpRequests: Counter<'route' | 'status'>;
  readonly httpSeconds: Histogram<'route'>;
  readonly commandsTyped: Counter<'runtime' | 'result'>;
  readonly kubernetesReviews: Counter<'kind' | 'result'>;
  readonly consoleCommands: Counter<'result'>;
  readonly consoleSeconds: Histogram;
  readonly consoleWaiting: Gauge<'state'>;
  readonly consoleEnds: Counter<'type'>;
}

/** What the log hub counts. */
export interface HubMetrics {
  readonly upstreamsOpen: Gauge<'runtime'>;
  readonly upstreamOpens: Counter<'runtime'>;
  readonly upstreamResumes: Counter<'runtime'>;
  readonly upstreamGaps: Counter<'runtime' | 'cause'>;
  readonly upstreamLines: Counter<'runtime'>;
  readonly upstreamBytes: Counter<'runtime'>;
  readonly subscribersBehind: Gauge;
  readonly subscriberLagLines: Gauge;
  readonly subscribersFellBehind: Counter;
  readonly subscribersRejoined: Counter;
}

/** What is counted where the Master serves TLS itself. */
export interface TlsMetrics {
  readonly certificateNotAfter: Gauge;
  readonly certificateIsStale: Gauge;
  readonly certificateReloads: Counter<'result'>;
  readonly handshakesFailed: Counter<'cause'>;
}

/** What everything that talks to Kubernetes counts. */
export interface RuntimeMetrics {
  readonly apiRequests: Counter<'verb' | 'status'>;
  readonly relists: Counter<'resource'>;
  readonly watchRestarts: Counter<'resource'>;
  readonly reflectorErrors: Counter<'resource'>;
  readonly leaderIsLeading: Gauge;
}

/** What a control loop counts; the label is its name. */
export interface ControllerMetrics {
  readonly reconciles: Counter<'controller'>;
  readonly reconcileErrors: Counter<'controller'>;
  readonly reconcileSeconds: Histogram<'controller'>;
  readonly queueDepth: Gauge<'controller'>;
  readonly queueAdds: Counter<'controller'>;
  readonly queueRetries: Counter<'controller'>;
}

export interface Metrics extends MasterMetrics, HubMetrics, TlsMetrics, RuntimeMetrics, ControllerMetrics {
  /** Value of `Content-Type` for `text()`. */
  readonly contentType: string;
  /** All metrics in the Prometheus text format. */
  text(): Promise<string>;
  /** What is declared here, in that order; without those of the process and of Node. */
  describe(): MetricDescription[];
}

export interface MetricDescription {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly labels: readonly string[];
}

/** A registry of its own with everything above. Starts Node's garbage-collection observer, which keeps no process alive. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return {
    ...masterMetrics([registry]),
    ...hubMetrics([registry]),
    ...tlsMetrics([registry]),
    ...runtimeMetrics([registry]),
    ...controllerMetrics([registry]),
    contentType: registry.contentType,
    text: () => registry.metrics(),
    describe: () =>
      registry
        .getMetricsAsArray()
        .filter(({ name }) => name.startsWith('ringmaster_'))
        .map((metric) => ({ ...typeOf(metric), labels: labelsOf(metric) })),
  };
}

function typeOf(metric: MetricObject): Omit<MetricDescription, 'labels'> {
  const { name, help } = metric;
  if (metric instanceof Histogram) return { name, help, type: 'histogram' };
  return { name, help, type: metric instanceof Counter ? 'counter' : 'gauge' };
}

/** The library keeps them, and its published types do not say so. */
function labelsOf(metric: MetricObject): readonly string[] {
  return (metric as MetricObject & { readonly labelNames: readonly string[] }).labelNames;
}

function masterMetrics(registers: Registry[]): MasterMetrics {
  return { ...socketMetrics(registers), ...requestMetrics(registers), ...consoleMetrics(registers) };
}

type ConsoleMetrics = Pick<MasterMetrics, Extract<keyof MasterMetrics, `console${string}`>>;

function consoleMetrics(registers: Registry[]): ConsoleMetrics {
  return {
    consoleCommands: new Counter({
      name: 'ringmaster_console_commands_total',
      help: 'Command lines of consoles and calls that were given to the cluster, by what came of them: ok, failed, misunderstood, interrupted, unavailable (withdrawn), lost, refused, cancelled (the client left).',
      labelNames: ['result'] as const,
      registers,
    }),
    consoleSeconds: new Histogram({
      name: 'ringmaster_console_command_duration_seconds',
      help: 'Time from a command line until its end is known, those of clients that left not counted.',
      buckets: consoleSecondsBuckets,
      registers,
    }),
    consoleWaiting: new Gauge({
      name: 'ringmaster_console_commands_waiting',
      help: 'Command lines that wait: for their turn in a session (state queued), or for their end (running).',
      labelNames: ['state'] as const,
      registers,
    }),
    consoleEnds: new Counter({
      name: 'ringmaster_console_command_ends_total',
      help: 'Ends of command lines, by what brought them: answer (straight from the operator, of commands that only read), record (the status of the ConsoleCommand).',
      labelNames: ['type'] as const,
      registers,
    }),
  };
}

type RequestMetrics = Pick<MasterMetrics, 'httpRequests' | 'httpSeconds' | 'commandsTyped' | 'kubernetesReviews'>;

function socketMetrics(registers: Registry[]): Omit<MasterMetrics, keyof RequestMetrics | keyof ConsoleMetrics> {
  return {
    socketsOpen: new Gauge({
      name: 'ringmaster_master_sockets_open',
      help: 'WebSockets that are open now.',
      labelNames: ['kind'] as const,
      registers,
    }),
    upgradesRefused: new Counter({
      name: 'ringmaster_master_upgrades_refused_total',
      help: 'WebSocket upgrades that were answered with an HTTP error, by its status.',
      labelNames: ['status'] as const,
      registers,
    }),
    connectionsCut: new Counter({
      name: 'ringmaster_master_connections_cut_total',
      help: 'Connections, WebSockets not among them, that were cut without an answer, by cause: crowded (too many, and this one waited longest), pipelined (too many requests at once), unread (an answer was not read).',
      labelNames: ['cause'] as const,
      registers,
    }),
    socketsClosed: new Counter({
      name: 'ringmaster_master_sockets_closed_total',
      help: 'WebSockets that this side ended, by cause.',
      labelNames: ['cause'] as const,
      registers,
    }),
    linesSent: new Counter({
      name: 'ringmaster_master_lines_sent_total',
      help: 'Log lines written to WebSockets; a line sent to two clients counts twice.',
      registers,
    }),
    eventsSent: new Counter({
      name: 'ringmaster_master_events_sent_total',
      help: 'Frames written to WebSockets that are no log line, by type.',
      labelNames: ['type'] as const,
      registers,
    }),
    bytesSent: new Counter({
      name: 'ringmaster_master_sent_bytes_total',
      help: 'Bytes of frames, headers included, written to WebSockets.',
      registers,
    }),
    socketsBusiest: new Gauge({
      name: 'ringmaster_master_sockets_busiest',
      help: 'WebSockets of the ApiKey (scope key) and on the Instance (scope instance) that have the most, measured when it is read.',
      labelNames: ['scope'] as const,
      registers,
    }),
    socketsLimit: new Gauge({
      name: 'ringmaster_master_sockets_limit',
      help: 'WebSockets that may be open: in all (scope all), with one ApiKey (key), on one Instance (instance).',
      labelNames: ['scope'] as const,
      registers,
    }),
  };
}

function requestMetrics(registers: Registry[]): RequestMetrics {
  return {
    httpRequests: new Counter({
      name: 'ringmaster_http_requests_total',
      help: 'HTTP requests answered, upgrades not included.',
      labelNames: ['route', 'status'] as const,
      registers,
    }),
    httpSeconds: new Histogram({
      name: 'ringmaster_http_request_duration_seconds',
      help: 'Time from a complete request header to the end of the response.',
      labelNames: ['route'] as const,
      buckets: requestSecondsBuckets,
      registers,
    }),
    commandsTyped: new Counter({
      name: 'ringmaster_master_commands_typed_total',
      help: 'Lines for the standard input of programs, by runtime and by what came of them (ok, or the code of the fault).',
      labelNames: ['runtime', 'result'] as const,
      registers,
    }),
    kubernetesReviews: new Counter({
      name: 'ringmaster_master_kubernetes_reviews_total',
      help: 'Questions about Kubernetes tokens (kind token) and what their users may do (access), by answer: yes, no, error, limited (not asked).',
      labelNames: ['kind', 'result'] as const,
      registers,
    }),
  };
}

function hubMetrics(registers: Registry[]): HubMetrics {
  return { ...upstreamMetrics(registers), ...subscriberMetrics(registers) };
}

type UpstreamMetrics = Pick<HubMetrics, Extract<keyof HubMetrics, `upstream${string}`>>;

function upstreamMetrics(registers: Registry[]): UpstreamMetrics {
  const labelNames = ['runtime'] as const;
  return {
    upstreamsOpen: new Gauge({
      name: 'ringmaster_hub_upstreams_open',
      help: 'Instances whose log is being followed now, by runtime.',
      labelNames,
      registers,
    }),
    upstreamOpens: new Counter({
      name: 'ringmaster_hub_upstream_opens_total',
      help: 'Times that an instance log was opened for its first subscriber, by runtime.',
      labelNames,
      registers,
    }),
    upstreamResumes: new Counter({
      name: 'ringmaster_hub_upstream_resumes_total',
      help: 'Times that a broken or ended log stream was taken up again where it had stopped, by runtime.',
      labelNames,
      registers,
    }),
    upstreamGaps: new Counter({
      name: 'ringmaster_hub_upstream_gaps_total',
      help: 'Places where lines could no longer be had, by runtime and cause.',
      labelNames: ['runtime', 'cause'] as const,
      registers,
    }),
    upstreamLines: new Counter({
      name: 'ringmaster_hub_upstream_lines_total',
      help: 'Log lines that came from upstreams, by runtime; those that a slow subscriber reads for itself not counted.',
      labelNames,
      registers,
    }),
    upstreamBytes: new Counter({
      name: 'ringmaster_hub_upstream_bytes_total',
      help: 'Bytes of those lines, without their line ends, by runtime.',
      labelNames,
      registers,
    }),
  };
}

function subscriberMetrics(registers: Registry[]): Omit<HubMetrics, keyof UpstreamMetrics> {
  return {
    subscribersBehind: new Gauge({
      name: 'ringmaster_hub_subscribers_behind',
      help: 'Subscribers with lines waiting that they have not taken yet, measured when it is read.',
      registers,
    }),
    subscriberLagLines: new Gauge({
      name: 'ringmaster_hub_subscriber_lag_max_lines',
      help: 'Lines that wait for the slowest subscriber, at most those that the ring holds, measured when it is read.',
      registers,
    }),
    subscribersFellBehind: new Counter({
      name: 'ringmaster_hub_subscribers_fell_behind_total',
      help: 'Times that a subscriber fell out of the ring and went on from the source.',
      registers,
    }),
    subscribersRejoined: new Counter({
      name: 'ringmaster_hub_subscribers_rejoined_total',
      help: 'Times that a subscriber met the ring again, or for the first time after it came with an older cursor.',
      registers,
    }),
  };
}

function tlsMetrics(registers: Registry[]): TlsMetrics {
  return {
    certificateNotAfter: new Gauge({
      name: 'ringmaster_tls_certificate_not_after_timestamp_seconds',
      help: 'End of the certificate that is served, in seconds since 1970; 0 without TLS.',
      registers,
    }),
    certificateIsStale: new Gauge({
      name: 'ringmaster_tls_certificate_is_stale',
      help: '1 while the files hold a certificate that cannot be used and an older one is served, else 0.',
      registers,
    }),
    certificateReloads: new Counter({
      name: 'ringmaster_tls_certificate_reloads_total',
      help: 'New certificates found in the files, by result (ok or failed).',
      labelNames: ['result'] as const,
      registers,
    }),
    handshakesFailed: new Counter({
      name: 'ringmaster_tls_handshakes_failed_total',
      help: 'Connections that came to no TLS session, by cause (plain-http, timeout, closed or refused).',
      labelNames: ['cause'] as const,
      registers,
    }),
  };
}

function runtimeMetrics(registers: Registry[]): RuntimeMetrics {
  return {
    apiRequests: new Counter({
      name: 'ringmaster_kubernetes_requests_total',
      help: 'Requests to the Kubernetes API, by verb and status (0: no answer).',
      labelNames: ['verb', 'status'] as const,
      registers,
    }),
    relists: new Counter({
      name: 'ringmaster_reflector_relists_total',
      help: 'Complete lists of a resource, the first included.',
      labelNames: ['resource'] as const,
      registers,
    }),
    watchRestarts: new Counter({
      name: 'ringmaster_reflector_watch_restarts_total',
      help: 'Watches that ended and were opened again.',
      labelNames: ['resource'] as const,
      registers,
    }),
    reflectorErrors: new Counter({
      name: 'ringmaster_reflector_errors_total',
      help: 'Failed lists and watches.',
      labelNames: ['resource'] as const,
      registers,
    }),
    leaderIsLeading: new Gauge({
      name: 'ringmaster_leader_is_leading',
      help: '1 while this replica holds the lease, else 0.',
      registers,
    }),
  };
}

function controllerMetrics(registers: Registry[]): ControllerMetrics {
  return {
    reconciles: new Counter({
      name: 'ringmaster_controller_reconciles_total',
      help: 'Finished reconciles, failed ones included.',
      labelNames: ['controller'] as const,
      registers,
    }),
    reconcileErrors: new Counter({
      name: 'ringmaster_controller_reconcile_errors_total',
      help: 'Reconciles that failed and will be tried again, or gave up.',
      labelNames: ['controller'] as const,
      registers,
    }),
    reconcileSeconds: new Histogram({
      name: 'ringmaster_controller_reconcile_duration_seconds',
      help: 'Time of one reconcile.',
      labelNames: ['controller'] as const,
      buckets: reconcileSecondsBuckets,
      registers,
    }),
    queueDepth: new Gauge({
      name: 'ringmaster_workqueue_depth_keys',
      help: 'Keys that wait for a worker.',
      labelNames: ['controller'] as const,
      registers,
    }),
    queueAdds: new Counter({
      name: 'ringmaster_workqueue_adds_total',
      help: 'Keys added, those already waiting not counted.',
      labelNames: ['controller'] as const,
      registers,
    }),
    queueRetries: new Counter({
      name: 'ringmaster_workqueue_retries_total',
      help: 'Keys put back with a delay because their reconcile failed.',
      labelNames: ['controller'] as const,
      registers,
    }),
  };
}
