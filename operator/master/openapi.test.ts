import assert from 'node:assert/strict';
import { test } from 'node:test';
import { callMaster } from '../testing/call.ts';
import { startMaster, testId } from '../testing/master.ts';
import { openApiDocument } from './openapi.ts';
import { operations } from './operations.ts';

test('openapi: the document is open and has a reference for nothing that it does not have', async () => {
  await using master = await startMaster();
  const { status, json, text } = await callMaster(master, '/api/openapi.json', { token: '' });
  assert.equal(status, 200);
  assert.deepEqual(json, JSON.parse(JSON.stringify(openApiDocument())));
  const document = json as { components: Record<string, Record<string, unknown>> };
  const references = [...text.matchAll(/"\$ref":"#\/components\/(\w+)\/(\w+)"/g)];
  assert.ok(references.length > 50);
  for (const [reference, kind = '', name = ''] of references) assert.ok(document.components[kind]?.[name], reference);
  const used = new Set(references.map(([, kind, name]) => `${kind ?? ''} ${name ?? ''}`));
  for (const kind of ['schemas', 'parameters']) {
    for (const name of Object.keys(document.components[kind] ?? {})) assert.ok(used.has(`${kind} ${name}`), name);
  }
  assert.ok(!/"(x-|\$schema)/.test(text));
});

test('openapi: every path that it names is there and has exactly the methods that it says', async (context) => {
  await using master = await startMaster();
  const own = operations.filter(({ tag }) => tag !== 'console');
  for (const [path, described] of Map.groupBy(own, (operation) => operation.path)) {
    await context.test(path, async () => {
      const where = path.replace('{id}', testId).replace('{name}', 'lobby');
      const { status, headers } = await callMaster(master, where, { method: 'OPTIONS' });
      assert.equal(status, 405);
      const methods = (headers.get('allow') ?? '').split(', ').filter((method) => method !== 'HEAD');
      assert.deepEqual(methods.sort(), described.map(({ method }) => method).sort());
    });
  }
});

test('openapi: each operation has an id of its own, and says what a call without a token gets', () => {
  const ids = operations.map(({ id }) => id);
  assert.deepEqual([...new Set(ids)], ids);
  const { paths } = openApiDocument() as { paths: Record<string, Record<string, { responses: object }>> };
  for (const { path, method, access } of operations) {
    const responses = Object.keys(paths[path]?.[method.toLowerCase()]?.responses ?? {});
    assert.equal(responses.includes('401'), access !== 'open', path);
  }
});
