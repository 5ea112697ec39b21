import assert from 'node:assert/strict';
import { test } from 'node:test';
import { callMaster } from '../../testing/call.ts';
import { createFakeCache } from '../../testing/cached.ts';
import { instanceInfo, publicToken, startMaster, testId, testToken } from '../../testing/master.ts';
import { createFakeReviews, jwtOf } from '../../testing/reviews.ts';
import type { Node } from '../../runtime/nodes.ts';
import { keepNode } from '../../runtime/nodes.ts';
import type { TemplateMap } from '../templates.ts';
import { trimTemplate } from '../templates.ts';

function nodeOf(name: string, ready: string, unschedulable = false): Node {
  const conditions = [
    { type: 'MemoryPressure', status: 'False' },
    { type: 'Ready', status: ready },
  ];
  const allocatable = { cpu: '3920m', memory: '8039424Ki', pods: '110' };
  const images = [{ names: ['example.com/server:1'] }];
  return keepNode({
    metadata: { name, uid: name, resourceVersion: '1', labels: { a: 'b' } },
    spec: { unschedulable },
    status: { allocatable, conditions, ...{ images } },
  });
}

function twoNodes(): ReturnType<typeof createFakeCache<Node>> {
  return createFakeCache({ b: nodeOf('node-2', 'Unknown', true), a: nodeOf('node-1', 'True') });
}

const first = {
  id: 'node-1',
  name: 'node-1',
  state: 'ONLINE',
  schedulable: true,
  allocatableRamMB: 7_851,
  allocatableCpu: 392,
  allocatedRamMB: 512,
  allocatedCpu: 100,
  instances: 1,
};
const second = { ...first, id: 'node-2', name: 'node-2', state: 'OFFLINE', schedulable: false };

test('nodes: what Kubernetes says of them, and what their Instances have set aside', async () => {
  await using master = await startMaster({ nodes: twoNodes() });
  master.add({ ...instanceInfo('nnnnn1'), state: 'STOPPED' });
  master.add({ ...instanceInfo('nnnnn2'), wrapperNodeId: null });
  const list = await callMaster(master, '/api/cluster/nodes');
  const idle = { ...second, allocatedRamMB: 0, allocatedCpu: 0, instances: 0 };
  assert.deepEqual([list.status, list.json], [200, [first, idle]]);
  assert.deepEqual((await callMaster(master, '/api/cluster/nodes/node-2')).json, idle);
  master.instances.delete(testId);
  const { json } = await callMaster(master, '/api/cluster/nodes/node-1');
  assert.deepEqual(json, { ...first, allocatedRamMB: 0, allocatedCpu: 0, instances: 0 });
});

test('nodes: the own node is the one that the Master runs on', async () => {
  const nodes = twoNodes();
  await using master = await startMaster({ nodes });
  assert.equal((await callMaster(master, '/api/node')).status, 404);
  nodes.put('c', nodeOf('master-0', 'True'));
  const { json } = await callMaster(master, '/api/node');
  assert.deepEqual((json as { id: string }).id, 'master-0');
});

test('nodes: open to PUBLIC keys within their limit, closed to strangers, and nothing else is opened by that', async () => {
  await using master = await startMaster({ nodes: twoNodes(), limits: { publicCallsMax: 4 } });
  for (const path of ['/api/cluster/nodes', '/api/cluster/nodes/node-1']) {
    assert.equal((await callMaster(master, path, { token: publicToken })).status, 200);
    for (const token of ['', 'nobody']) {
      const answer = await callMaster(master, path, { token });
      assert.deepEqual([answer.status, answer.json], [401, { error: 'Unauthorized' }]);
    }
  }
  assert.equal((await callMaster(master, '/api/templates', { token: publicToken })).status, 401);
  assert.equal((await callMaster(master, '/api/cluster/nodes', { token: publicToken, method: 'POST' })).status, 405);
  assert.equal((await callMaster(master, '/api/node', { token: publicToken })).status, 429);
});

test('nodes: malformed and unknown ones, before they are known, and without the right to read them', async () => {
  const nodes = twoNodes();
  await using master = await startMaster({ nodes });
  const malformed = await callMaster(master, '/api/cluster/nodes/Node_1');
  assert.equal(malformed.status, 400);
  assert.match(malformed.text, /Malformed node id/);
  const unknown = await callMaster(master, '/api/cluster/nodes/node-3');
  assert.deepEqual([unknown.status, unknown.json], [404, { error: 'Node not found' }]);
  nodes.hasSynced = false;
  assert.equal((await callMaster(master, '/api/cluster/nodes')).headers.get('retry-after'), '1');
  await using blind = await startMaster();
  for (const path of ['/api/cluster/nodes', '/api/cluster/nodes/node-1', '/api/node']) {
    const answer = await callMaster(blind, path, { token: testToken });
    assert.equal(answer.status, 503);
    assert.match(answer.text, /no right to read them \(master\.nodes\.enabled\)/);
  }
});

test('templates: names and files, without what is in them', async () => {
  const metadata = { namespace: 'ringmaster-system', resourceVersion: '1', uid: 'u', labels: { a: 'b' } };
  const base = trimTemplate({
    metadata: { ...metadata, name: 'base' },
    data: { 'server.properties': 'secret', 'a.txt': '' },
    binaryData: { 'world.zip': 'UEs=' },
  });
  assert.ok(!JSON.stringify(base).includes('secret'));
  const templates = createFakeCache<TemplateMap>({ z: { metadata: { ...metadata, name: 'zoo' } }, base });
  await using master = await startMaster({ templates });
  const { status, json } = await callMaster(master, '/api/templates');
  assert.equal(status, 200);
  assert.deepEqual(json, [
    { name: 'base', namespace: 'ringmaster-system', files: ['a.txt', 'server.properties', 'world.zip'] },
    { name: 'zoo', namespace: 'ringmaster-system', files: [] },
  ]);
  templates.hasSynced = false;
  assert.equal((await callMaster(master, '/api/templates')).status, 503);
});

test('cluster: a Kubernetes user needs the right to the nodes, and to the ConfigMaps of the release', async () => {
  const reviews = createFakeReviews();
  reviews.tokens.set(jwtOf(1), 'alice');
  await using master = await startMaster({ reviews, nodes: twoNodes(), templates: createFakeCache<TemplateMap>() });
  const calls: [path: string, right: string][] = [
    ['/api/cluster/nodes', 'list    nodes'],
    ['/api/cluster/nodes/node-1', 'get   node-1 nodes'],
    ['/api/node', 'get   master-0 nodes'],
    ['/api/templates', 'list  ringmaster-system  configmaps'],
  ];
  for (const [path, right] of calls) {
    assert.equal((await callMaster(master, path, { token: jwtOf(1) })).status, 401, path);
    assert.ok(reviews.asked.includes(`access alice ${right}`), reviews.asked.join('; '));
  }
});
