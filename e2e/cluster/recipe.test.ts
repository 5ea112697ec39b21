import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAtLeast, parseVersion } from './golang.ts';
import { kwokProgram, programKey, readRecipeFile, recipeFiles, recipeKey } from './recipe.ts';

function reader(changed?: string): (file: string) => Promise<string> {
  return (file) => Promise.resolve(file === changed ? 'changed' : `content of ${file}`);
}

test('recipeKey: the same inputs give the same key', async () => {
  assert.equal(await recipeKey(reader(), 'x64'), await recipeKey(reader(), 'x64'));
});

test('recipeKey: each recipe file and the architecture change it', async () => {
  const keys = [await recipeKey(reader(), 'x64'), await recipeKey(reader(), 'arm64')];
  for (const file of recipeFiles) keys.push(await recipeKey(reader(file), 'x64'));
  assert.equal(new Set(keys).size, recipeFiles.length + 2);
});

test('recipeKey: every recipe file is there', async () => {
  assert.match(await recipeKey(readRecipeFile, process.arch), /^[0-9a-f]{12}$/);
});

test('programKey: its module, our files in it and the release of Go change it', async () => {
  const options = { sources: ['main.go'] };
  const keys = [
    await programKey(kwokProgram, reader(), options),
    await programKey(kwokProgram, reader(), { ...options, goVersion: '1.99.0' }),
    await programKey({ ...kwokProgram, target: '.' }, reader(), options),
  ];
  for (const file of ['go.mod', 'go.sum', 'main.go'])
    keys.push(await programKey(kwokProgram, reader(`${kwokProgram.module}/${file}`), options));
  assert.equal(new Set(keys).size, keys.length);
});

test('isAtLeast: compares Go versions by number', () => {
  assert.deepEqual(parseVersion('go1.26.8\n'), [1, 26, 8]);
  assert.deepEqual(parseVersion('go1.26rc1'), [1, 26, 0]);
  assert.deepEqual(parseVersion('devel'), []);
  assert.ok(isAtLeast([1, 26, 8], [1, 26, 0]));
  assert.ok(isAtLeast([1, 26], [1, 26, 0]));
  assert.ok(isAtLeast([2, 0, 0], [1, 99, 0]));
  assert.ok(!isAtLeast([1, 9, 9], [1, 21]));
  assert.ok(!isAtLeast([], [1, 21]));
});
