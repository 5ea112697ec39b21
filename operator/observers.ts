/** Ties the observer hooks of runtime/ and logs/ to the metrics, so that neither knows Prometheus. */
import type { HubObserver } from './logs/hub.ts';
import type { SourceObserver } from './logs/sources/kubernetes.ts';
import { gapCauses } from './logs/source.ts';
import type { Metrics } from './metrics.ts';
import type { ControllerObserver } from './runtime/controller.ts';
import type { ReflectorObserver } from './runtime/reflector.ts';
import type { RequestObserver } from './runtime/rest.ts';
import type { QueueObserver } from './runtime/workqueue.ts';

export function observeRequests(metrics: Metrics): RequestObserver {
  return {
    onAnswer(verb, status) {
      metrics.apiRequests.inc({ verb, status: String(status) });
    },
  };
}

export function observeReflector(metrics: Metrics): ReflectorObserver {
  return {
    onList(resource) {
      metrics.relists.inc({ resource });
    },
    onWatchEnd(resource) {
      metrics.watchRestarts.inc({ resource });
    },
    onError(resource) {
      metrics.reflectorErrors.inc({ resource });
    },
  };
}

export function observeQueue(metrics: Metrics, controller: string): QueueObserver {
  return {
    onDepth(keys) {
      metrics.queueDepth.set({ controller }, keys);
    },
    onAdd() {
      metrics.queueAdds.inc({ controller });
    },
    onRetry() {
      metrics.queueRetries.inc({ controller });
    },
  };
}

export function observeController(metrics: Metrics, controller: string): ControllerObserver {
  return {
    onReconcile(result, durationMs) {
      metrics.reconciles.inc({ controller });
      metrics.reconcileSeconds.observe({ controller }, durationMs / 1000);
      if (result !== 'success') metrics.reconcileErrors.inc({ controller });
    },
  };
}

/** Puts the metrics of a runtime's upstreams at 0: a counter that begins with its first gap shows no increase, and no alert could see that gap. */
export function beginUpstreams(metrics: Metrics, runtime: string): void {
  metrics.upstreamsOpen.inc({ runtime }, 0);
  const { upstreamOpens, upstreamResumes, upstreamLines, upstreamBytes } = metrics;
  for (const counter of [upstreamOpens, upstreamResumes, upstreamLines, upstreamBytes]) counter.inc({ runtime }, 0);
  for (const cause of gapCauses) metrics.upstreamGaps.inc({ runtime, cause }, 0);
}

/** Of the upstreams of one runtime. */
export function observeHub(metrics: Metrics, runtime: string): HubObserver {
  return {
    upstreamOpened() {
      metrics.upstreamOpens.inc({ runtime });
      metrics.upstreamsOpen.inc({ runtime });
    },
    upstreamClosed() {
      metrics.upstreamsOpen.dec({ runtime });
    },
    linesReceived(lines, bytes) {
      metrics.upstreamLines.inc({ runtime }, lines);
      metrics.upstreamBytes.inc({ runtime }, bytes);
    },
    caughtBehind() {
      metrics.subscribersFellBehind.inc();
    },
    caughtUp() {
      metrics.subscribersRejoined.inc();
    },
  };
}

export function observeSource(metrics: Metrics, runtime: string): SourceObserver {
  return {
    resumed() {
      metrics.upstreamResumes.inc({ runtime });
    },
    gap(cause) {
      metrics.upstreamGaps.inc({ runtime, cause });
    },
  };
}
