/** Ties the observer hooks of runtime/ and logs/ to the metrics, so that neither knows Prometheus. */
import type { HubObserver } from './logs/hub.ts';
import type { SourceObserver } from './logs/sources/kubernetes.ts';
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

export function observeHub(metrics: Metrics): HubObserver {
  return {
    upstreamOpened() {
      metrics.upstreamOpens.inc();
      metrics.upstreamsOpen.inc();
    },
    upstreamClosed() {
      metrics.upstreamsOpen.dec();
    },
    caughtBehind() {
      metrics.subscribersBehind.inc();
    },
    caughtUp() {
      metrics.subscribersBehind.dec();
    },
  };
}

export function observeSource(metrics: Metrics): SourceObserver {
  return {
    resumed() {
      metrics.upstreamResumes.inc();
    },
    gap(cause) {
      metrics.upstreamGaps.inc({ cause });
    },
  };
}
