/** All calls of the Master, for the OpenAPI document. A test holds them against the routes that there are. */
import { z } from 'zod';
import {
  configurationBody,
  configurationInfo,
  consoleAnswer,
  consoleBody,
  createInstanceBody,
  errorAnswer,
  executeAnswer,
  executeBody,
  instanceId,
  instanceInfo,
  instanceStateBody,
  lifecycleAnswer,
  lifecycleTargets,
  logsAnswer,
  nodeInfo,
  objectName,
  pingAnswer,
  rateAnswer,
  stoppedAnswer,
  templateInfo,
} from './schemas.ts';

export const schemas = {
  Ping: pingAnswer,
  Instance: instanceInfo,
  InstanceCreation: createInstanceBody,
  InstanceState: instanceStateBody,
  InstanceStopped: stoppedAnswer,
  LifecycleChange: lifecycleAnswer,
  Logs: logsAnswer,
  InputLine: executeBody,
  InputDispatched: executeAnswer,
  ConsoleCommand: consoleBody,
  ConsoleOutput: consoleAnswer,
  ConfigurationSpec: configurationBody,
  Configuration: configurationInfo,
  Template: templateInfo,
  Node: nodeInfo,
  Error: errorAnswer,
  RateError: rateAnswer,
} satisfies Record<string, z.ZodType>;
type SchemaName = keyof typeof schemas;

interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query';
  readonly required: boolean;
  readonly description: string;
  readonly example?: unknown;
  readonly schema: z.ZodType;
}

const query = { in: 'query', required: false } as const;
const path = { in: 'path', required: true } as const;

export const parameters = {
  instanceId: { name: 'id', ...path, description: 'Id of the Instance.', example: 'a1b2c3', schema: instanceId },
  nodeId: { name: 'id', ...path, description: 'Name of the node.', example: 'node-1', schema: objectName },
  configurationName: { name: 'name', ...path, description: 'Its name.', example: 'lobby', schema: objectName },
  namespace: {
    ...{ name: 'namespace', ...query },
    description: 'Its namespace, where several have the name, or where a new one is to be made elsewhere.',
    schema: z.string().regex(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/),
  },
  target: {
    ...{ name: 'target', in: 'query', required: true, example: 'restart' },
    description: 'What is to happen.',
    schema: z.enum(lifecycleTargets),
  },
  lines: { name: 'lines', ...query, description: 'How many; 100 if absent.', schema: z.int().min(1).max(1000) },
  tail: {
    ...{ name: 'tail', ...query },
    description: 'Begin with so many last lines; 1000 if absent.',
    schema: z.int().min(0).max(10_000),
  },
  cursor: {
    ...{ name: 'cursor', ...query },
    description: 'Begin after the line that had this cursor; not together with tail.',
    schema: z.string().regex(/^[!-~]{1,1024}$/),
  },
  ansi: { name: 'ansi', ...query, description: 'strip: without escape sequences.', schema: z.enum(['strip']) },
} satisfies Record<string, Parameter>;

interface Answer {
  readonly says: string;
  /** `Error` where the status is one, if absent. */
  readonly schema?: SchemaName;
  readonly isList?: boolean;
  /** A media type that is not JSON. */
  readonly content?: string;
}

export interface Operation {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly id: string;
  readonly summary: string;
  readonly tag: 'probes' | 'instances' | 'console' | 'configurations' | 'cluster';
  /** Who may: anybody, any key, or keys with ALL. */
  readonly access: 'open' | 'PUBLIC' | 'ALL';
  readonly uses?: readonly (keyof typeof parameters)[];
  readonly body?: SchemaName;
  /** By status. */
  readonly answers: Readonly<Record<number, Answer>>;
}

const noInstance = { 404: { says: 'There is no such Instance.' } } as const;
const noConfiguration = { 404: { says: 'There is no such configuration.' } } as const;
const ambiguous = { 409: { says: 'Several have the name; or it was changed by somebody else meanwhile.' } } as const;
const large = { 413: { says: 'The body is too large.' } } as const;
const written = {
  500: { says: 'It failed, or nobody knows whether it was done; the error says which.' },
} as const;
const upgrade = {
  101: { says: 'The WebSocket is open.' },
  426: { says: 'The request did not ask for a WebSocket.' },
} as const;

const probes: readonly Operation[] = [
  {
    ...{ method: 'GET', path: '/api/ping', id: 'ping', tag: 'probes', access: 'open' },
    summary: 'Whether a Master answers, and which',
    answers: { 200: { says: 'It does.', schema: 'Ping' } },
  },
  {
    ...{ method: 'GET', path: '/api/metrics', id: 'metrics', tag: 'probes', access: 'open' },
    summary: 'Metrics in the Prometheus text format',
    answers: { 200: { says: 'The metrics.', content: 'text/plain' } },
  },
  {
    ...{ method: 'GET', path: '/api/openapi.json', id: 'openapi', tag: 'probes', access: 'open' },
    summary: 'This document',
    answers: { 200: { says: 'The document.', content: 'application/json' } },
  },
];

const instances: readonly Operation[] = [
  {
    ...{ method: 'GET', path: '/api/instances', id: 'listInstances', tag: 'instances', access: 'ALL' },
    summary: 'All Instances',
    answers: { 200: { says: 'By id.', schema: 'Instance', isList: true } },
  },
  {
    ...{ method: 'POST', path: '/api/instances', id: 'createInstance', tag: 'instances', access: 'ALL' },
    summary: 'Make an Instance from a configuration',
    body: 'InstanceCreation',
    answers: {
      201: { says: 'It was made.', schema: 'Instance' },
      409: { says: 'It is there already, and there is to be one alone.' },
      ...large,
      ...written,
      504: { says: 'It was made, but has no id yet. Do not repeat the call: look for it in the list.' },
    },
  },
  {
    ...{ method: 'GET', path: '/api/instances/{id}', id: 'getInstance', tag: 'instances', access: 'ALL' },
    summary: 'One Instance',
    uses: ['instanceId'],
    answers: { 200: { says: 'The Instance.', schema: 'Instance' }, ...noInstance },
  },
  {
    ...{ method: 'DELETE', path: '/api/instances/{id}', id: 'deleteInstance', tag: 'instances', access: 'ALL' },
    summary: 'Stop an Instance gracefully and remove it',
    uses: ['instanceId'],
    answers: {
      200: { says: 'It is being stopped, and goes when it has ended.', schema: 'InstanceStopped' },
      ...noInstance,
      409: { says: 'It cannot be removed now.' },
      ...written,
    },
  },
  {
    ...{ method: 'PATCH', path: '/api/instances/{id}/lifecycle', tag: 'instances', access: 'ALL' },
    id: 'changeLifecycle',
    summary: 'Start, stop or restart an Instance, which keeps its id',
    uses: ['instanceId', 'target'],
    answers: {
      200: { says: 'It was told.', schema: 'LifecycleChange' },
      ...noInstance,
      409: { says: 'It cannot be told so now.' },
      ...written,
    },
  },
  {
    ...{ method: 'PUT', path: '/api/instances/{id}/state', id: 'putState', tag: 'instances', access: 'ALL' },
    summary: 'Report how an Instance is, from outside',
    uses: ['instanceId'],
    body: 'InstanceState',
    answers: {
      200: { says: 'The Instance, with what was reported.', schema: 'Instance' },
      ...noInstance,
      409: { says: 'It cannot be reported on now.' },
      ...large,
      ...written,
    },
  },
  {
    ...{ method: 'GET', path: '/api/instances/{id}/logs', id: 'getLogs', tag: 'instances', access: 'ALL' },
    summary: 'The last lines of the log of an Instance',
    uses: ['instanceId', 'lines'],
    answers: { 200: { says: 'The lines, the oldest first.', schema: 'Logs' }, ...noInstance },
  },
  {
    ...{ method: 'GET', path: '/api/instances/{id}/live-log', id: 'openLiveLog', tag: 'instances', access: 'ALL' },
    summary: 'The log of an Instance as it is written: a WebSocket',
    uses: ['instanceId', 'tail', 'cursor', 'ansi'],
    answers: { ...upgrade, ...noInstance },
  },
  {
    ...{ method: 'POST', path: '/api/instances/{id}/execute', id: 'execute', tag: 'instances', access: 'ALL' },
    summary: 'Type one line into the program of an Instance',
    uses: ['instanceId'],
    body: 'InputLine',
    answers: {
      200: { says: 'It was handed over.', schema: 'InputDispatched' },
      ...noInstance,
      409: { says: 'No program runs.' },
      ...large,
      502: { says: 'Whether it was typed is unknown.' },
      504: { says: 'The program does not read.' },
    },
  },
];

const console: readonly Operation[] = [
  {
    ...{ method: 'GET', path: '/api/console', id: 'openConsole', tag: 'console', access: 'ALL' },
    summary: 'The console: a WebSocket',
    answers: upgrade,
  },
  {
    ...{ method: 'POST', path: '/api/commands/execute', id: 'executeCommand', tag: 'console', access: 'ALL' },
    summary: 'Run one command of the console and wait for its end',
    body: 'ConsoleCommand',
    answers: { 200: { says: 'Its output.', schema: 'ConsoleOutput' }, ...large, ...written },
  },
];

const configurations: readonly Operation[] = [
  {
    ...{ method: 'GET', path: '/api/configurations', id: 'listConfigurations', access: 'ALL' },
    tag: 'configurations',
    summary: 'All configurations',
    answers: { 200: { says: 'By namespace and name.', schema: 'Configuration', isList: true } },
  },
  {
    ...{ method: 'GET', path: '/api/configurations/{name}', id: 'getConfiguration', access: 'ALL' },
    tag: 'configurations',
    summary: 'One configuration',
    uses: ['configurationName', 'namespace'],
    answers: { 200: { says: 'The configuration.', schema: 'Configuration' }, ...noConfiguration, ...ambiguous },
  },
  {
    ...{ method: 'PUT', path: '/api/configurations/{name}', id: 'putConfiguration', access: 'ALL' },
    tag: 'configurations',
    summary: 'Make a configuration, or replace its spec',
    uses: ['configurationName', 'namespace'],
    body: 'ConfigurationSpec',
    answers: { 204: { says: 'Written.' }, ...noConfiguration, ...ambiguous, ...large, ...written },
  },
  {
    ...{ method: 'DELETE', path: '/api/configurations/{name}', id: 'deleteConfiguration', access: 'ALL' },
    tag: 'configurations',
    summary: 'Remove a configuration',
    uses: ['configurationName', 'namespace'],
    answers: { 204: { says: 'Removed.' }, ...noConfiguration, ...ambiguous, ...written },
  },
];

const cluster: readonly Operation[] = [
  {
    ...{ method: 'GET', path: '/api/templates', id: 'listTemplates', tag: 'cluster', access: 'ALL' },
    summary: 'The templates of files',
    answers: { 200: { says: 'By name.', schema: 'Template', isList: true } },
  },
  {
    ...{ method: 'GET', path: '/api/cluster/nodes', id: 'listNodes', tag: 'cluster', access: 'PUBLIC' },
    summary: 'All nodes of the cluster',
    answers: { 200: { says: 'By name.', schema: 'Node', isList: true } },
  },
  {
    ...{ method: 'GET', path: '/api/cluster/nodes/{id}', id: 'getNode', tag: 'cluster', access: 'PUBLIC' },
    summary: 'One node',
    uses: ['nodeId'],
    answers: { 200: { says: 'The node.', schema: 'Node' }, 404: { says: 'There is no such node.' } },
  },
  {
    ...{ method: 'GET', path: '/api/node', id: 'getOwnNode', tag: 'cluster', access: 'PUBLIC' },
    summary: 'The node that the answering Master runs on',
    answers: { 200: { says: 'The node.', schema: 'Node' }, 404: { says: 'It is not known.' } },
  },
];

export const operations: readonly Operation[] = [...probes, ...instances, ...console, ...configurations, ...cluster];
