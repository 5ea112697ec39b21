/** The chart's dashboard and alerts: they speak of metrics that exist, and Prometheus understands them. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parse, stringify } from 'yaml';
import { createMetrics } from '../operator/metrics.ts';
import { describeSidecar } from '../operator/testing/metricspage.ts';
import { run } from './cluster/command.ts';
import { findPromtool } from './promtool.ts';
import { chartDir } from './release.ts';

const dashboardFile = join(chartDir, 'monitoring/dashboard.json');
const alertsFile = join(chartDir, 'monitoring/alerts.yaml');
const historiesFile = join(import.meta.dirname, 'alerts.promtool.yaml');

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly gridPos: { h: number; w: number; x: number; y: number };
  readonly targets?: { readonly expr: string; readonly legendFormat: string }[];
}

interface Rules {
  readonly groups: { readonly name: string; readonly rules: { readonly alert: string; readonly expr: string }[] }[];
}

async function readPanels(): Promise<Panel[]> {
  return (JSON.parse(await readFile(dashboardFile, 'utf8')) as { panels: Panel[] }).panels;
}

async function dashboardQueries(): Promise<string[]> {
  return (await readPanels()).flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
}

async function readAlerts(): Promise<{ alert: string; expr: string }[]> {
  return (parse(await readFile(alertsFile, 'utf8')) as Rules).groups.flatMap(({ rules }) => rules);
}

/** Names of everything that can be scraped, as PromQL knows them, and their labels. */
async function knownMetrics(): Promise<Map<string, readonly string[]>> {
  const metrics = createMetrics();
  const known = new Map<string, readonly string[]>();
  for (const { name, type, labels } of metrics.describe()) {
    if (type === 'histogram') for (const end of ['_bucket', '_sum', '_count']) known.set(name + end, [...labels, 'le']);
    else known.set(name, labels);
  }
  for (const [, name = ''] of (await metrics.text()).matchAll(/^# TYPE ((?:nodejs|process)_\S+) /gm))
    known.set(name, []);
  for (const { name } of describeSidecar()) known.set(name, []);
  return known;
}

/** A metric with what is between its braces. */
const selector = /\b((?:ringmaster|nodejs|process)_\w+)(?:\{([^}]*)\})?/g;
/** Labels that the scraping adds. */
const added = ['namespace', 'pod'];

test('monitoring: every metric and label that the dashboard and the alerts name exists', async () => {
  const known = await knownMetrics();
  const queries = [...(await dashboardQueries()), ...(await readAlerts()).map(({ expr }) => expr)];
  let selectors = 0;
  for (const query of queries) {
    const labels = new Set(added);
    for (const [, name = '', matchers = ''] of query.matchAll(selector)) {
      selectors += 1;
      const own = known.get(name);
      assert.ok(own !== undefined, `no metric "${name}" in: ${query}`);
      for (const label of own) labels.add(label);
      for (const [, label = ''] of matchers.matchAll(/(\w+)\s*[!=]=?~?\s*"/g))
        assert.ok([...added, ...own].includes(label), `"${name}" has no label "${label}" in: ${query}`);
    }
    for (const [, list = ''] of query.matchAll(/\b(?:by|on)\s*\(([^)]*)\)/g))
      for (const label of list.split(',').map((text) => text.trim()))
        assert.ok(labels.has(label), `no label "${label}" in: ${query}`);
  }
  assert.ok(selectors > 60, `${selectors} selectors were looked at`);
});

test('monitoring: all that the Master counts of its clients and logs is on the dashboard', async () => {
  const queries = (await dashboardQueries()).join('\n');
  const names = createMetrics()
    .describe()
    .map(({ name }) => name);
  const missing = names.filter((name) => !queries.includes(name));
  assert.deepEqual(missing, []);
});

test('monitoring: panels of the dashboard have an id of their own and do not lie on each other', async () => {
  const panels = await readPanels();
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  const taken = new Map<string, string>();
  for (const { title, gridPos } of panels) {
    assert.ok(gridPos.x + gridPos.w <= 24, title);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        assert.equal(taken.get(`${x} ${y}`), undefined, `"${title}" lies on "${taken.get(`${x} ${y}`) ?? ''}"`);
        taken.set(`${x} ${y}`, title);
      }
    }
  }
});

test('monitoring: each alert has a history that it is tested on', async () => {
  const histories = await readFile(historiesFile, 'utf8');
  const untested = (await readAlerts()).map(({ alert }) => alert).filter((alert) => !histories.includes(alert));
  assert.deepEqual(untested, []);
});

describe('monitoring: Prometheus', () => {
  let promtool: string | undefined;
  let reason = '';
  let scratch: string;

  before(async () => {
    promtool = await findPromtool((line) => (reason = line));
    scratch = await mkdtemp(join(tmpdir(), 'ringmaster-promtool-'));
  });
  after(() => rm(scratch, { recursive: true }));

  test('understands the alerts', async (context) => {
    if (promtool === undefined) context.skip(reason);
    else assert.match(await run(promtool, ['check', 'rules', alertsFile]), /SUCCESS: \d+ rules found/);
  });

  test('fires each alert on its history, and not on others', async (context) => {
    if (promtool === undefined) {
      context.skip(reason);
      return;
    }
    const file = join(scratch, 'histories.yaml');
    const histories = parse(await readFile(historiesFile, 'utf8')) as Record<string, unknown>;
    await writeFile(file, stringify({ ...histories, rule_files: [alertsFile] }, { aliasDuplicateObjects: false }));
    assert.match(await run(promtool, ['test', 'rules', file]), /SUCCESS/);
  });

  test('understands every query of the dashboard', async (context) => {
    if (promtool === undefined) {
      context.skip(reason);
      return;
    }
    const rules = (await dashboardQueries()).map((query, index) => ({
      record: `panel:${index}`,
      expr: query.replaceAll('$__rate_interval', '5m').replaceAll('$namespace', '.*'),
    }));
    const file = join(scratch, 'queries.yaml');
    await writeFile(file, stringify({ groups: [{ name: 'dashboard', rules }] }));
    assert.match(await run(promtool, ['check', 'rules', file]), new RegExp(`SUCCESS: ${rules.length} rules found`));
  });
});
