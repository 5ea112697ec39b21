import assert from 'node:assert/strict';
import { test } from 'node:test';
import { instances } from '../../api/v1alpha1/instance.ts';
import {
  configurationLabel,
  floorLabel,
  podHashAnnotation,
  restartedAtAnnotation,
  templateHashAnnotation,
} from '../../names.ts';
import type { ObjectMeta } from '../../runtime/client.ts';
import { makeConfiguration, makeInstance } from '../../testing/objects.ts';
import { buildPod, podHash } from '../instance/pod.ts';
import { buildService } from '../instance/service.ts';
import { buildInstance, randomName, successorName, templateHash, updateInstance } from './instance.ts';

const storage = { size: '1Gi', accessModes: ['ReadWriteOnce'] };

test('buildInstance: one for the floor has both labels, the hash, the template and an owner', () => {
  const configuration = makeConfiguration({ template: { args: ['--port=1'] } });
  const { apiVersion, kind, metadata, spec } = buildInstance(configuration, { name: 'lobby-x', isFloor: true });
  assert.deepEqual([apiVersion, kind, metadata.name], [instances.apiVersion, 'Instance', 'lobby-x']);
  assert.equal(metadata.namespace, 'games');
  assert.deepEqual(metadata.labels, { [configurationLabel]: 'lobby', [floorLabel]: 'true' });
  assert.deepEqual(metadata.annotations, { [templateHashAnnotation]: templateHash(configuration.spec) });
  assert.deepEqual((metadata as ObjectMeta).ownerReferences, [
    {
      apiVersion: instances.apiVersion,
      kind: 'InstanceConfiguration',
      name: 'lobby',
      uid: 'uid-configuration',
      controller: true,
      blockOwnerDeletion: true,
    },
  ]);
  assert.deepEqual(spec.args, ['--port=1']);
});

test('buildInstance: one by hand has no floor label and no owner, and follows the template all the same', () => {
  const { metadata } = buildInstance(makeConfiguration(), { name: 'lobby-x', isFloor: false });
  assert.deepEqual(metadata.labels, { [configurationLabel]: 'lobby' });
  assert.ok(metadata.annotations?.[templateHashAnnotation]);
  assert.ok(!('ownerReferences' in metadata));
});

test('buildInstance: the name is the one given, or the server makes its end, or it is random; a static one has the name of the configuration', () => {
  const configuration = makeConfiguration();
  const generated = buildInstance(configuration, { generateName: 'lobby-', isFloor: false }).metadata;
  assert.deepEqual([generated.name, (generated as { generateName?: string }).generateName], ['', 'lobby-']);
  assert.match(buildInstance(configuration, { isFloor: true }).metadata.name, /^lobby-[bcdfghj-np-tv-xz24-9]{5}$/);
  const only = makeConfiguration({ spec: { static: true } });
  assert.equal(buildInstance(only, { generateName: 'lobby-', isFloor: false }).metadata.name, 'lobby');
});

test('buildInstance: labels of the template come along and cannot take the place of ours', () => {
  const metadata = { labels: { tier: 'front', [floorLabel]: 'true' }, annotations: { note: 'hello' } };
  const configuration = makeConfiguration({ spec: { template: { metadata, spec: { image: 'a' } } } });
  const built = buildInstance(configuration, { isFloor: true }).metadata;
  assert.equal(built.labels?.['tier'], 'front');
  assert.equal(built.labels[configurationLabel], 'lobby');
  assert.equal(built.annotations?.['note'], 'hello');
});

test('buildInstance: the longest name of a configuration gives names that an Instance may have', () => {
  const name = randomName('a'.repeat(42));
  assert.equal(name.length, 48);
});

test('buildInstance: storage is mounted where it says, or else in the working directory', () => {
  const at = (mountPath?: string): unknown => {
    const given = mountPath === undefined ? storage : { ...storage, mountPath };
    const configuration = makeConfiguration({
      spec: { static: true, storage: given, template: { spec: { image: 'a', workingDir: '/srv' } } },
    });
    const { spec } = buildInstance(configuration, { isFloor: true });
    assert.deepEqual(spec.volumes, [{ name: 'storage', persistentVolumeClaim: { claimName: 'lobby' } }]);
    return spec.volumeMounts;
  };
  assert.deepEqual(at(), [{ name: 'storage', mountPath: '/srv' }]);
  assert.deepEqual(at('/data'), [{ name: 'storage', mountPath: '/data' }]);
});

test('templateHash: tells every change that Instances get, and nothing else', () => {
  const hash = (spec: object): string => templateHash(makeConfiguration({ spec }).spec);
  const template = { spec: { image: 'a' } };
  const base = hash({ template });
  assert.notEqual(hash({ template: { spec: { image: 'b' } } }), base);
  assert.notEqual(hash({ template: { ...template, metadata: { labels: { a: 'b' } } } }), base);
  const restart = { annotations: { [restartedAtAnnotation]: 'now' } };
  assert.notEqual(hash({ template: { ...template, metadata: restart } }), base);
  const mounted = { static: true, storage: { ...storage, mountPath: '/data' } };
  assert.notEqual(hash({ template, ...mounted }), base);
  assert.equal(hash({ template, minimumServiceCount: 3, updateStrategy: { maxUnavailable: 2 } }), base);
  assert.equal(hash({ template: { spec: { image: 'a', restartPolicy: 'Always' } } }), base);
  const grown = { static: true, storage: { ...storage, mountPath: '/data', size: '2Gi' } };
  assert.equal(hash({ template, ...grown }), hash({ template, ...mounted }));
});

test('updateInstance: gives the present template, and keeps whether it should run, its other labels and its finalizers', () => {
  const configuration = makeConfiguration({ template: { image: 'example.com/server:2' } });
  const before = makeInstance({
    metadata: { labels: { own: '1' }, annotations: { other: '2' }, finalizers: ['x'], resourceVersion: '7' },
    spec: { desiredState: 'Stopped', args: ['old'] },
  });
  const after = updateInstance(before, configuration);
  assert.equal(after.spec.image, 'example.com/server:2');
  assert.equal(after.spec.desiredState, 'Stopped');
  assert.equal(after.spec.args, undefined);
  assert.deepEqual([after.metadata.labels, after.metadata.finalizers], [{ own: '1' }, ['x']]);
  assert.equal(after.metadata.resourceVersion, '7');
  assert.equal(after.metadata.annotations?.['other'], '2');
  assert.equal(after.metadata.annotations[templateHashAnnotation], templateHash(configuration.spec));
});

test('successorName: the same Instance has one successor, another one another', () => {
  assert.equal(successorName('lobby', 'uid-1'), successorName('lobby', 'uid-1'));
  assert.notEqual(successorName('lobby', 'uid-1'), successorName('lobby', 'uid-2'));
  assert.match(successorName('lobby', 'uid-1'), /^lobby-[a-z0-9]{5}$/);
});

test('buildPod: pod and Service of an Instance of a configuration carry its label, and no pod is replaced for it', () => {
  const ports = [{ name: 'game', port: 1, protocol: 'TCP' as const }];
  const plain = makeInstance({ spec: { ports } });
  const labelled = makeInstance({ metadata: { labels: { [configurationLabel]: 'lobby' } }, spec: { ports } });
  const pod = buildPod(labelled, { id: 'a1b2c3', sequence: 1 });
  assert.equal(pod.metadata.labels?.[configurationLabel], 'lobby');
  assert.equal(buildService(labelled, 'a1b2c3')?.metadata.labels?.[configurationLabel], 'lobby');
  assert.equal(pod.metadata.annotations?.[podHashAnnotation], podHash(plain.spec));
  assert.ok(!(configurationLabel in (buildPod(plain, { id: 'a1b2c3', sequence: 1 }).metadata.labels ?? {})));
});
