import assert from 'node:assert/strict';
import { test } from 'node:test';
import { importsOf, stripTypes } from './strip.ts';

const source = `import type { Settings } from './settings.ts';
import { join, type PlatformPath } from 'node:path';
import './effects.ts';
import {
  first,
  second,
} from '../parts/both.ts';
export { third } from './third.ts';
export const text: string = "from './kept.ts'";
export async function load(): Promise<unknown> {
  // import { nothing } from 'comment';
  await import('./later.ts');
  await import('scoped/deep.js');
  return new URL('launch.sh', import.meta.url) ?? new URL('./worker.ts', import.meta.url);
}
`;

test('stripTypes: types are gone, lines and columns stay, and modules are found under their new names', () => {
  const code = stripTypes(source);
  assert.equal(code.split('\n').length, source.split('\n').length);
  assert.doesNotMatch(code, /Settings|PlatformPath|Promise</);
  for (const name of ['./effects.js', '../parts/both.js', './third.js', './later.js', './worker.js'])
    assert.ok(code.includes(`'${name}'`), name);
  assert.ok(code.includes(`"from './kept.ts'"`));
  assert.ok(code.includes(`new URL('launch.sh'`));
});

test('importsOf: modules, packages and files beside the module; no types, no texts, no comments', () => {
  assert.deepEqual(importsOf(source).sort(), [
    '../parts/both.ts',
    './effects.ts',
    './later.ts',
    './launch.sh',
    './third.ts',
    './worker.ts',
    'node:path',
    'scoped/deep.js',
  ]);
});

test('stripTypes: what is more than a type is refused', () => {
  assert.throws(() => stripTypes('enum Colour { Red }'), { name: 'SyntaxError' });
});
