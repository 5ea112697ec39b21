/** A Master with an operator behind it that does what commands say in memory: for clients that try everything there is. */
import type { InstanceConfiguration } from '../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurationSpec } from '../api/v1alpha1/instanceconfiguration.ts';
import type { Node } from '../runtime/nodes.ts';
import type { TemplateMap } from '../master/templates.ts';
import type { FakeCache } from './cached.ts';
import { createFakeCache } from './cached.ts';
import type { FakeEnd } from './dispatcher.ts';
import { createFakeDispatcher, splitLine } from './dispatcher.ts';
import { instanceInfo, startMaster } from './master.ts';
import type { TestMaster } from './master.ts';

const namespace = 'ringmaster-system';

/** It knows the instance `testId`, the configuration `lobby`, the template `base` and the node `node-1`. */
export async function startMasterWorld(): Promise<TestMaster> {
  const configurations = createFakeCache({ lobby: configurationOf('lobby') });
  const templates = createFakeCache<TemplateMap>({
    base: { metadata: { name: 'base', namespace }, data: { 'a.txt': '' } },
  });
  const nodes = createFakeCache<Node>({
    'master-0': { metadata: { name: 'master-0' } },
    'node-1': { metadata: { name: 'node-1' }, status: { allocatable: { cpu: '2', memory: '4Gi' } } },
  });
  const dispatcher = createFakeDispatcher((line) => operate(master, configurations, splitLine(line)));
  const master = await startMaster({ dispatcher, configurations, templates, nodes });
  return master;
}

export function configurationOf(
  name: string,
  metadata: Partial<InstanceConfiguration['metadata']> = {},
): InstanceConfiguration {
  const spec = instanceConfigurationSpec.parse({ template: { spec: { image: 'example.com/server:1' } } });
  return { metadata: { name, namespace, uid: `uid-${name}`, generation: 1, ...metadata }, spec };
}

function operate(
  master: TestMaster,
  configurations: FakeCache<InstanceConfiguration>,
  words: readonly string[],
): FakeEnd {
  const [group, verb, name = '', json = '{}'] = words;
  if (group === 'config') return operateConfiguration(configurations, { verb, name, json });
  if (verb === 'create') return createInstance(master, configurations, name);
  if (!master.instances.has(name)) return failed(404, 'Instance not found');
  if (verb === 'delete') master.instances.delete(name);
  return {};
}

function createInstance(master: TestMaster, configurations: FakeCache<InstanceConfiguration>, name: string): FakeEnd {
  if (!configurations.list().some(({ metadata }) => metadata.name === name)) {
    return failed(404, `Unknown configuration: ${name}`);
  }
  const id = master.instances.size.toString(36).padStart(6, 'n');
  const info = { ...instanceInfo(id), configurationName: name };
  master.add(info);
  return { result: { instances: [{ id, name: info.name, namespace: info.namespace, uid: `uid-${id}` }] } };
}

function operateConfiguration(
  configurations: FakeCache<InstanceConfiguration>,
  { verb, name, json }: { verb: string | undefined; name: string; json: string },
): FakeEnd {
  if (verb === 'delete') {
    configurations.remove(name);
    return {};
  }
  const spec = instanceConfigurationSpec.safeParse(JSON.parse(json));
  // As the API server would.
  if (!spec.success) return failed(400, `InstanceConfiguration "${name}" is invalid: ${spec.error.message}`);
  const [place = namespace, bare = name] = name.includes('/') ? name.split('/') : [];
  configurations.put(name, { ...configurationOf(bare, { namespace: place }), spec: spec.data });
  return { result: { name: bare, namespace: place, generation: 1 } };
}

function failed(code: number, sentence: string): FakeEnd {
  return { exitCode: 1, output: [sentence], result: { code } };
}
