import assert from 'node:assert/strict';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';

const crds = join(import.meta.dirname, '../../crds');

/** Paths of the defaults that are inside of items of a list. */
function defaultsInItems(schema: unknown, path = '', isInItems = false): string[] {
  if (typeof schema !== 'object' || schema === null) return [];
  const own = isInItems && Object.hasOwn(schema, 'default') && Object.hasOwn(schema, 'type') ? [path] : [];
  const below = Object.entries(schema).flatMap(([name, value]) =>
    defaultsInItems(value, `${path}.${name}`, isInItems || name === 'items'),
  );
  return [...own, ...below];
}

test('crds: no default inside of a list item, which kubectl apply would take for a change each time', async () => {
  assert.deepEqual(defaultsInItems({ items: { properties: { a: { type: 'string', default: 'x' } } } }), [
    '.items.properties.a',
  ]);
  const files: string[] = [];
  for await (const file of glob('*.yaml', { cwd: crds })) files.push(file);
  assert.ok(files.length >= 4);
  for (const file of files) {
    const crd = parse(await readFile(join(crds, file), 'utf8')) as { spec: { versions: { schema: unknown }[] } };
    for (const { schema } of crd.spec.versions) assert.deepEqual(defaultsInItems(schema), [], file);
  }
});
