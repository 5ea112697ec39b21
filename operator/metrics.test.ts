import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMetrics } from './metrics.ts';

test('metrics: two registries in one process share nothing', async () => {
  const [one, other] = [createMetrics(), createMetrics()];
  one.linesSent.inc(5);
  assert.match(await one.text(), /^ringmaster_master_lines_sent_total 5$/m);
  assert.match(await other.text(), /^ringmaster_master_lines_sent_total 0$/m);
});

test('metrics: ours have help, a subsystem and a unit; counters end in _total and nothing else does', async () => {
  const text = await createMetrics().text();
  const types = [...text.matchAll(/^# TYPE (ringmaster_\S+) (\w+)$/gm)].map(([, name = '', type = '']) => ({
    name,
    type,
  }));
  assert.ok(types.length > 20);
  for (const { name, type } of types) {
    assert.match(name, /^ringmaster_[a-z]+(_[a-z]+)+$/);
    assert.equal(name.endsWith('_total'), type === 'counter', name);
    if (type === 'histogram') assert.match(name, /_seconds$/);
    assert.match(text, new RegExp(`^# HELP ${name} [A-Z1].*\\.$`, 'm'));
  }
});

test('metrics: those of the process and of Node are there', async () => {
  const text = await createMetrics().text();
  for (const name of ['process_resident_memory_bytes', 'process_open_fds', 'nodejs_eventloop_lag_p99_seconds']) {
    assert.match(text, new RegExp(`^${name} `, 'm'));
  }
});

test('metrics: no label is one that grows with use', () => {
  const labels = new Set(
    createMetrics()
      .describe()
      .flatMap((metric) => metric.labels),
  );
  const bounded = [
    'kind',
    'status',
    'cause',
    'type',
    'scope',
    'route',
    'runtime',
    'result',
    'verb',
    'resource',
    'controller',
    'state',
  ];
  assert.deepEqual([...labels].sort(), bounded.sort());
});
