import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mergeOverlay, overlayFaults } from './overlay.ts';

const base = {
  a: 1,
  nested: { keep: true, change: 'old' },
  containers: [{ name: 'instance', image: 'x', env: [{ name: 'A', value: '1' }] }],
  tolerations: [{ key: 'k', effect: 'NoExecute', tolerationSeconds: 30 }],
  list: [1, 2],
};

const cases: Record<string, { overlay: Record<string, unknown>; expected: Record<string, unknown> }> = {
  'a plain field is replaced': { overlay: { a: 2 }, expected: { ...base, a: 2 } },
  'objects merge': {
    overlay: { nested: { change: 'new' } },
    expected: { ...base, nested: { keep: true, change: 'new' } },
  },
  'null removes': {
    overlay: { a: null },
    expected: { nested: base.nested, containers: base.containers, tolerations: base.tolerations, list: base.list },
  },
  'containers merge by name, their variables too': {
    overlay: { containers: [{ name: 'instance', env: [{ name: 'B', value: '2' }] }] },
    expected: {
      ...base,
      containers: [
        {
          name: 'instance',
          image: 'x',
          env: [
            { name: 'A', value: '1' },
            { name: 'B', value: '2' },
          ],
        },
      ],
    },
  },
  'another container is added behind': {
    overlay: { containers: [{ name: 'helper', image: 'y' }] },
    expected: { ...base, containers: [...base.containers, { name: 'helper', image: 'y' }] },
  },
  'tolerations merge by key and effect': {
    overlay: { tolerations: [{ key: 'k', effect: 'NoExecute', tolerationSeconds: 300 }] },
    expected: { ...base, tolerations: [{ key: 'k', effect: 'NoExecute', tolerationSeconds: 300 }] },
  },
  'other lists are replaced': { overlay: { list: [3] }, expected: { ...base, list: [3] } },
};

for (const [name, { overlay, expected }] of Object.entries(cases)) {
  test(`mergeOverlay: ${name}`, () => {
    const before = structuredClone(base);
    assert.deepEqual(mergeOverlay(base, overlay), expected);
    assert.deepEqual(base, before, 'the base is not changed');
  });
}

test('overlayFaults: fields with a field of their own are refused with the name of that field', () => {
  assert.deepEqual(overlayFaults({ nodeSelector: { a: 'b' } }), []);
  assert.match(overlayFaults({ restartPolicy: 'Never' })[0] ?? '', /set spec\.restartPolicy instead/);
  assert.match(overlayFaults({ terminationGracePeriodSeconds: 1 })[0] ?? '', /spec\.stop\.gracePeriodSeconds/);
  assert.match(overlayFaults({ containers: [{ image: 'x' }] })[0] ?? '', /needs a name/);
});
