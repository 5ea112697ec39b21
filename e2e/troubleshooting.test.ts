/** docs/troubleshooting.md has everything that the code can say to a user, and nothing that it cannot. */
import assert from 'node:assert/strict';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { parse } from 'yaml';
import { errorCodes } from '../operator/errors.ts';
import { healthFaults } from '../operator/health.ts';
import { gapCauses } from '../operator/logs/source.ts';
import { brokenEnds } from '../operator/master/dispatch.ts';
import { stoppingFault } from '../operator/master/sockets.ts';
import { reasons } from '../operator/names.ts';
import { chartDir } from './release.ts';

const root = join(import.meta.dirname, '..');
/** What the library `ws` closes with by itself, and what a client sees of a connection that was cut. */
const closeCodesOfOthers = ['1006', '1007', '1009'];

let page: string;
/** Of the Master, comments left out. */
let sources: string;

before(async () => {
  page = await readFile(join(root, 'docs/troubleshooting.md'), 'utf8');
  const texts: string[] = [];
  for await (const file of glob('operator/master/**/*.ts', { cwd: root })) {
    if (!file.endsWith('.test.ts')) texts.push(await readFile(join(root, file), 'utf8'));
  }
  sources = texts.join('\n').replace(/\/\*\*[^]*?\*\//g, '');
});

/** The first cells of the rows of a section's tables; those of the one table whose head begins so, if it is given. */
function firstCells(title: string, head?: string): string[] {
  const section = page.split(/^## /m).find((text) => text.startsWith(`${title}\n`));
  assert.ok(section !== undefined, title);
  const tables = section.split(/\n\n+/).filter((text) => text.startsWith('|'));
  return tables
    .filter((table) => head === undefined || table.startsWith(`| ${head}`))
    .flatMap((table) => table.trimEnd().split('\n').slice(2))
    .map((row) => (row.split('|')[1] ?? '').trim().replaceAll('`', ''));
}

function found(pattern: RegExp): string[] {
  return [...sources.matchAll(pattern)].map(([, text = '']) => text);
}

function assertSame(onPage: readonly string[], inCode: Iterable<string>): void {
  assert.deepEqual([...onPage].sort(), [...new Set(inCode)].sort());
}

test('troubleshooting: every reason of a condition or an Event', () => {
  assertSame(firstCells('Reasons'), reasons);
});

test('troubleshooting: every status that a call or an upgrade is refused with', () => {
  const inCode = [...found(/\bstatus: (\d{3})\b/g), ...found(/\.status\((\d{3})\)/g)];
  const ofErrors = Object.values(errorCodes).map(({ status }) => String(status));
  assertSame(
    firstCells('Refusals', 'status'),
    [...inCode, ...ofErrors].filter((status) => status >= '400'),
  );
});

test('troubleshooting: every sentence of a 503', () => {
  const inCode = [...found(/\bunavailable\(\s*'([A-Z][^']*)'/g), stoppingFault, ...Object.values(healthFaults)];
  assert.ok(inCode.length >= 10);
  assertSame(firstCells('Refusals', 'sentence'), inCode);
});

test('troubleshooting: every close code', () => {
  const ofErrors = Object.values(errorCodes).map(({ closeCode }) => String(closeCode));
  assertSame(firstCells('Close codes'), [...found(/\bcode: (1\d{3})\b/g), ...ofErrors, ...closeCodesOfOthers]);
});

test('troubleshooting: every cause of missing lines, and every way in which a command has no end of its own', () => {
  assertSame(firstCells('Missing lines'), gapCauses);
  assertSame(firstCells('Broken commands'), brokenEnds);
});

test('troubleshooting: every alert', async () => {
  const { groups } = parse(await readFile(join(chartDir, 'monitoring/alerts.yaml'), 'utf8')) as {
    groups: { rules: { alert: string }[] }[];
  };
  assertSame(
    firstCells('Alerts'),
    groups.flatMap(({ rules }) => rules.map(({ alert }) => alert)),
  );
});

test('operating: every message of the table of logs is one that the code writes', async () => {
  const text = await readFile(join(root, 'docs/operating.md'), 'utf8');
  const table = text.slice(text.indexOf('| `msg`'), text.indexOf('## Support bundle'));
  const rows = table.split('\n').slice(2);
  const messages = rows
    .map((row) => row.split(' | ')[0] ?? '')
    .filter((cell) => cell.startsWith('| `'))
    .flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, message = '']) => message));
  assert.ok(messages.length > 15);
  let code = '';
  for await (const file of glob('operator/**/*.ts', { cwd: root })) {
    if (!file.endsWith('.test.ts')) code += await readFile(join(root, file), 'utf8');
  }
  assert.deepEqual(
    messages.filter((message) => !code.includes(`'${message}'`)),
    [],
  );
});

test('docs: every link to a page or a section leads somewhere', async () => {
  const broken: string[] = [];
  for await (const file of glob(['*.md', 'docs/**/*.md', 'operator/**/*.md', 'sidecar/**/*.md'], { cwd: root })) {
    const text = (await readFile(join(root, file), 'utf8')).replace(/^```.*?^```/gms, '').replace(/`[^`\n]*`/g, '');
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [path = '', anchor] = target.split('#');
      const other = path === '' ? file : join(file, '..', path);
      const content = await readFile(join(root, other), 'utf8').catch((error: unknown) =>
        (error as NodeJS.ErrnoException).code === 'EISDIR' ? '' : undefined,
      );
      if (content === undefined || (anchor !== undefined && !anchors(content).includes(anchor)))
        broken.push(`${file}: ${target}`);
    }
  }
  assert.deepEqual(broken, []);
});

/** Of the headings of a page, as GitHub makes them. */
function anchors(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, title = '']) =>
    title
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}
