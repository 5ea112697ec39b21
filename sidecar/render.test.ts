import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { render, renderedBytesMax } from './render.ts';

const rendered = (text: string, values: Record<string, string>): string | undefined =>
  render(Buffer.from(text), values)?.toString();

const cases: Record<string, { text: string; values: Record<string, string>; expected: string }> = {
  'every occurrence': { text: '%A%%A%-%A%', values: { A: 'x' }, expected: 'xx-x' },
  'a word without a value stays': { text: '%B% %A%', values: { A: 'x' }, expected: '%B% x' },
  'a word without a value takes nothing from its neighbour': { text: '%B%A%', values: { A: 'x' }, expected: '%Bx' },
  'from the left': { text: '%A%B%', values: { A: 'x', B: 'y' }, expected: 'xB%' },
  'a key that begins like another': { text: '%A_B% %A%', values: { A: 'x', A_B: 'y' }, expected: 'y x' },
  'what a value brings in is not looked at again': { text: '%A%', values: { A: '%B%', B: 'y' }, expected: '%B%' },
  'nor what it forms with its neighbours': { text: '%%A%B%', values: { A: '', B: 'y' }, expected: '%B%' },
  'a value is no pattern': { text: '%A%', values: { A: '$& $1 \\' }, expected: '$& $1 \\' },
  'other characters': { text: 'ä%A%ö', values: { A: '世界' }, expected: 'ä世界ö' },
  'no values at all': { text: '%A%', values: {}, expected: '%A%' },
};

for (const [name, { text, values, expected }] of Object.entries(cases)) {
  test(`render: ${name}`, () => {
    assert.equal(rendered(text, values), expected);
  });
}

const key = fc.stringMatching(/^[A-Z][A-Z0-9_]{0,5}$/);
const bytes = fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array).filter((byte) => byte !== 0x25));

test('render: between the words every byte stays, in any encoding, and each word becomes its value', () => {
  const values = fc.dictionary(key, fc.string({ unit: 'binary', maxLength: 20 }), {
    minKeys: 1,
    noNullPrototype: true,
  });
  const model = values.chain((given) =>
    fc.record({
      given: fc.constant(given),
      pieces: fc.array(fc.tuple(bytes, fc.constantFrom(...Object.keys(given))), { maxLength: 20 }),
      end: bytes,
    }),
  );
  fc.assert(
    fc.property(model, ({ given, pieces, end }) => {
      const join = (wordOf: (name: string) => string): Buffer =>
        Buffer.concat([...pieces.flatMap(([before, name]) => [Buffer.from(before), Buffer.from(wordOf(name))]), end]);
      const source = join((name) => `%${name}%`);
      const before = Buffer.from(source);
      assert.deepEqual(
        render(source, given),
        join((name) => given[name] ?? ''),
      );
      assert.deepEqual(source, before, 'the source is not changed');
    }),
  );
});

test('render: bytes without a known word come out as they are', () => {
  const noise = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
  fc.assert(
    fc.property(noise, (source) => {
      assert.deepEqual(render(source, { NEVER_IN_THERE_BY_CHANCE: 'x' }), source);
    }),
  );
});

test('render: what would grow above the limit is refused, and what just fits is not', () => {
  const value = 'x'.repeat(4096);
  const fits = renderedBytesMax / value.length;
  assert.equal(render(Buffer.from('%A%'.repeat(fits)), { A: value })?.length, renderedBytesMax);
  assert.equal(render(Buffer.from('%A%'.repeat(fits + 1)), { A: value }), undefined);
  assert.equal(render(Buffer.from('%A%'.repeat(300_000)), { A: value }), undefined);
});
