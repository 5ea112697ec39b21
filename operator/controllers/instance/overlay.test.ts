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

const program = (fields: Record<string, unknown>): Record<string, unknown> => ({
  containers: [{ name: 'instance', ...fields }],
});

const sidecarFaults: Record<string, { overlay: Record<string, unknown>; fault: RegExp }> = {
  'the sidecar': { overlay: { initContainers: [{ name: 'ringmaster-sidecar', image: 'x' }] }, fault: /is ours/ },
  'the sidecar as a container': { overlay: { containers: [{ name: 'ringmaster-sidecar' }] }, fault: /is ours/ },
  'all init containers': { overlay: { initContainers: null }, fault: /initContainers must be a list/ },
  'init containers without names': { overlay: { initContainers: [{ image: 'x' }] }, fault: /initContainers must be/ },
  'all containers': { overlay: { containers: null }, fault: /containers must be a list/ },
  'all volumes': { overlay: { volumes: null }, fault: /volumes must be a list/ },
  'a volume of ours': {
    overlay: { volumes: [{ name: 'ringmaster-key', emptyDir: {} }] },
    fault: /"ringmaster-key" is taken/,
  },
  'the command': { overlay: program({ command: ['sh'] }), fault: /command cannot be set/ },
  'the standard input': { overlay: program({ stdin: true }), fault: /stdin cannot be set/ },
  'a folder of ours': {
    overlay: program({ volumeMounts: [{ name: 'a', mountPath: '/ringmaster/log' }] }),
    fault: /mountPath/,
  },
  'a variable of ours': {
    overlay: program({ env: [{ name: 'RINGMASTER_DIR', value: '/' }] }),
    fault: /RINGMASTER_DIR/,
  },
  'all variables': { overlay: program({ env: null }), fault: /env must be a list/ },
};

for (const [name, { overlay, fault }] of Object.entries(sidecarFaults)) {
  test(`overlayFaults: ${name} cannot be changed under a runtime with a sidecar, and can under kubernetes`, () => {
    assert.match(overlayFaults(overlay, 'process').join(), fault);
    assert.deepEqual(overlayFaults(overlay, 'kubernetes'), []);
  });
}

test('overlayFaults: what does not touch the sidecar passes under every runtime', () => {
  const overlay = {
    securityContext: { runAsUser: 1000 },
    initContainers: [{ name: 'prepare', image: 'x' }],
    volumes: [{ name: 'mine', emptyDir: {} }],
    ...program({ env: [{ name: 'A', value: '1' }], volumeMounts: [{ name: 'mine', mountPath: '/ringmaster-data' }] }),
  };
  assert.deepEqual(overlayFaults(overlay, 'screen'), []);
});
