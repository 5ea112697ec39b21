import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMetrics } from './metrics.ts';
import { beginUpstreams, observeHub, observeSource } from './observers.ts';

test('observers: what comes from logs is counted by runtime, and all is there as 0 before it happens', async () => {
  const metrics = createMetrics();
  beginUpstreams(metrics, 'process');
  const hub = observeHub(metrics, 'process');
  const source = observeSource(metrics, 'process');
  const has = async (line: string): Promise<void> => {
    assert.ok((await metrics.text()).includes(`\n${line}\n`), line);
  };
  await has('ringmaster_hub_upstream_gaps_total{runtime="process",cause="expired"} 0');
  await has('ringmaster_hub_upstreams_open{runtime="process"} 0');
  hub.upstreamOpened?.();
  hub.linesReceived?.(3, 12);
  hub.linesReceived?.(1, 0);
  hub.caughtBehind?.();
  source.resumed?.();
  source.gap?.('expired');
  await has('ringmaster_hub_upstreams_open{runtime="process"} 1');
  await has('ringmaster_hub_upstream_opens_total{runtime="process"} 1');
  await has('ringmaster_hub_upstream_lines_total{runtime="process"} 4');
  await has('ringmaster_hub_upstream_bytes_total{runtime="process"} 12');
  await has('ringmaster_hub_upstream_resumes_total{runtime="process"} 1');
  await has('ringmaster_hub_upstream_gaps_total{runtime="process",cause="expired"} 1');
  await has('ringmaster_hub_subscribers_fell_behind_total 1');
  hub.upstreamClosed?.();
  await has('ringmaster_hub_upstreams_open{runtime="process"} 0');
});
