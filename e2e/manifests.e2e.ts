/** What a person who writes manifests meets: refusals that say what to write, `kubectl explain`, `get`, `apply` and `diff`, and other managers. */
import assert from 'node:assert/strict';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parseAllDocuments } from 'yaml';
import type { Cluster } from './cluster/cluster.ts';
import { installToolCrds, toolGroups } from './gitops/toolcrds.ts';
import type { InstanceObject, KubeObject, Namespace } from './harness.ts';
import {
  auditSince,
  busybox,
  failureOf,
  freshNamespace,
  instance,
  isOnline,
  isWrite,
  lasting,
  poll,
  testCluster,
} from './harness.ts';
import { releaseNamespace } from './release.ts';

const root = join(import.meta.dirname, '..');

type Spec = Record<string, unknown>;

const commandSentence =
  'the runtimes process, screen and tmux need command, such as ["/server", "--port=1"]: they start the program themselves and do not know the entry point of the image';
const patternSentence =
  'write readiness.logPattern as a regular expression in RE2 syntax, such as Done \\(; a literal ( needs a backslash';

/** What is laid over an Instance that is right, and the sentence that it is refused with. */
const refusals: readonly (readonly [Spec, string])[] = [
  [{ image: 'two words' }, 'write the name of an image without blanks, such as example.com/server:1.2'],
  [{ image: '' }, 'spec.image in body should be at least 1 chars long'],
  [
    { runtime: 'vm' },
    'spec.runtime: Unsupported value: "vm": supported values: "kubernetes", "process", "screen", "tmux", "docker"',
  ],
  [{ imagePullPolicy: 'Sometimes' }, 'supported values: "Always", "IfNotPresent", "Never"'],
  [{ workingDir: 'data' }, 'write an absolute path, such as /data'],
  [
    { env: [{ name: 'A', value: 'x', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }] },
    'give value or valueFrom, not both',
  ],
  [{ env: [{ name: '1A', value: 'x' }] }, 'use letters, digits, hyphens, dots and underscores, and no digit first'],
  [
    { env: [{ name: 'A', valueFrom: {} }] },
    'valueFrom needs exactly one of secretKeyRef, configMapKeyRef and fieldRef',
  ],
  [
    {
      env: [
        { name: 'A', value: '1' },
        { name: 'A', value: '2' },
      ],
    },
    'spec.env[1]: Duplicate value: {"name":"A"}',
  ],
  [{ envFrom: [{ prefix: 'A_' }] }, 'envFrom needs exactly one of configMapRef and secretRef'],
  [
    { envFrom: [{ configMapRef: { name: 'a' }, secretRef: { name: 'b' } }] },
    'envFrom needs exactly one of configMapRef and secretRef',
  ],
  [
    { ports: [{ name: 'Game', port: 1 }] },
    'use lower-case letters, digits and single hyphens, with at least one letter, such as game',
  ],
  [{ ports: [{ name: 'a-name-that-is-too-long', port: 1 }] }, 'Too long: may not be more than 15 bytes'],
  [{ ports: [{ name: 'game', port: 0 }] }, 'spec.ports[0].port in body should be greater than or equal to 1'],
  [{ ports: [{ name: 'game', port: 65536 }] }, 'spec.ports[0].port in body should be less than or equal to 65535'],
  [
    {
      ports: [
        { name: 'a', port: 1 },
        { name: 'b', port: 1 },
      ],
    },
    'two ports may not have the same number and protocol',
  ],
  [
    {
      ports: [
        { name: 'a', port: 1, protocol: 'TCP' },
        { name: 'b', port: 1 },
      ],
    },
    'two ports may not have the same number and protocol',
  ],
  [
    {
      ports: [
        { name: 'a', port: 1, protocol: 'UDP' },
        { name: 'b', port: 1, protocol: 'UDP' },
      ],
    },
    'two ports may not have the same number and protocol',
  ],
  [
    {
      ports: [
        { name: 'a', port: 1 },
        { name: 'a', port: 2 },
      ],
    },
    'spec.ports[1]: Duplicate value: {"name":"a"}',
  ],
  [{ service: { type: 'ClusterIP' } }, 'a service needs at least one entry in ports'],
  [{ service: { type: 'ExternalName' } }, 'supported values: "ClusterIP", "NodePort", "LoadBalancer", "None"'],
  [{ resources: { requests: { memory: 'much' } } }, 'write a quantity, such as 500m, 2 or 1Gi'],
  [{ resources: { limits: { memory: 'much' } } }, 'write a quantity, such as 500m, 2 or 1Gi'],
  [
    { resources: { requests: { memory: '2Gi' }, limits: { memory: '1Gi' } } },
    'a request may not be larger than the limit of the same resource',
  ],
  [
    { volumes: [{ name: 'a' }] },
    'a volume needs exactly one of emptyDir, persistentVolumeClaim, configMap and secret; other kinds go into podTemplate.spec.volumes',
  ],
  [{ volumes: [{ name: 'a', emptyDir: { sizeLimit: 'big' } }] }, 'write a quantity, such as 500m, 2 or 1Gi'],
  [
    { volumes: [{ name: 'A_1', emptyDir: {} }] },
    'use lower-case letters, digits and hyphens, beginning and ending with a letter or digit',
  ],
  [
    { volumeMounts: [{ name: 'a', mountPath: '/a' }], podTemplate: undefined },
    'every volumeMounts[].name must be the name of one of the volumes',
  ],
  [
    { volumes: [{ name: 'a', emptyDir: {} }], volumeMounts: [{ name: 'a', mountPath: 'a' }] },
    'write an absolute path without a colon, such as /data',
  ],
  [
    {
      volumes: [{ name: 'a', emptyDir: {} }],
      volumeMounts: [
        { name: 'a', mountPath: '/a' },
        { name: 'a', mountPath: '/a' },
      ],
    },
    'Duplicate value: {"mountPath":"/a"}',
  ],
  [{ desiredState: 'Paused' }, 'supported values: "Running", "Stopped"'],
  [{ restartPolicy: 'Sometimes' }, 'supported values: "Always", "OnFailure", "Never"'],
  [{ stop: { command: 'save\nstop' } }, 'write one line, without line breaks'],
  [{ stop: { gracePeriodSeconds: 0 } }, 'spec.stop.gracePeriodSeconds in body should be greater than or equal to 1'],
  [{ readiness: {} }, 'readiness needs exactly one of exec, httpGet, tcpSocket and logPattern'],
  [
    { readiness: { exec: { command: ['true'] }, tcpSocket: { port: 1 } } },
    'readiness needs exactly one of exec, httpGet, tcpSocket and logPattern',
  ],
  [
    { readiness: { logPattern: 'x', tcpSocket: { port: 1 } } },
    'readiness needs exactly one of exec, httpGet, tcpSocket and logPattern',
  ],
  [{ readiness: { logPattern: '' } }, 'spec.readiness.logPattern in body should be at least 1 chars long'],
  [{ readiness: { logPattern: 'a\nb' } }, 'write a pattern for one line, without line breaks'],
  [{ readiness: { logPattern: 'x'.repeat(1025) } }, 'Too long: may not be more than 1024 bytes'],
  // What is wrong with it is said before.
  [{ readiness: { logPattern: 'Done (' } }, 'missing closing ): `Done (`'],
  [{ readiness: { logPattern: 'Done (' } }, patternSentence],
  [{ readiness: { logPattern: '(?=x)' } }, patternSentence],
  [{ logs: { retainBytes: 'much' } }, 'write a quantity, such as 500m, 2 or 1Gi'],
  [{ logs: { retainBytes: '-1Mi' } }, 'write a quantity of bytes from 0, which keeps everything, to 1Ti'],
  [{ logs: { retainBytes: '2Ti' } }, 'write a quantity of bytes from 0, which keeps everything, to 1Ti'],
  [{ runtime: 'process', command: [] }, commandSentence],
  [{ runtime: 'screen', command: [] }, commandSentence],
  [{ runtime: 'tmux', command: [] }, commandSentence],
  [
    { runtime: 'process', env: [{ name: 'RINGMASTER_DIR', value: '/' }] },
    'variables whose name begins with RINGMASTER_ are set by Ringmaster under this runtime: choose another name',
  ],
  [
    { runtime: 'process', volumes: [{ name: 'ringmaster-key', emptyDir: {} }] },
    'names of volumes that begin with ringmaster are taken under this runtime: choose another name',
  ],
  [
    {
      runtime: 'process',
      volumes: [{ name: 'a', emptyDir: {} }],
      volumeMounts: [{ name: 'a', mountPath: '/ringmaster/log' }],
    },
    'the folder /ringmaster is taken under this runtime: choose another mountPath',
  ],
  [
    { runtime: 'docker', volumes: [{ name: 'a', emptyDir: {} }] },
    'the runtime docker has no volumes, because its container does not belong to the pod: remove volumes and volumeMounts, or choose another runtime',
  ],
  [
    { runtime: 'docker', ports: [{ name: 'a', port: 1 }], service: { type: 'ClusterIP' } },
    'under the runtime docker there is no Service, because its container does not belong to the pod: remove service and use the address of the node',
  ],
  [
    { runtime: 'docker', ports: [{ name: 'a', port: 1, protocol: 'SCTP' }] },
    'under the runtime docker the protocol of a port is TCP or UDP',
  ],
  [
    { runtime: 'docker', readiness: { tcpSocket: { port: 1 } } },
    'under the runtime docker readiness can only be logPattern, because its container does not belong to the pod, where the other probes look',
  ],
  ...templateRefusals(),
];

function templateRefusals(): (readonly [Spec, string])[] {
  const templates = [{ name: 'server-files' }];
  const at = (workingDir: string | undefined, more: Spec = {}): Spec => ({ workingDir, templates, ...more });
  const below = (path: string): Spec => at('/data', { templates: [{ name: 'server-files', path }] });
  const needsFolder =
    'templates need workingDir, an absolute path such as /data that is not /, without colons and without . and .. as parts of it: their files go there';
  const notBelow =
    'write a folder below the working directory, such as plugins/config, without . and .. as parts of it';
  const data = { name: 'data', emptyDir: {} };
  return [
    ...[undefined, '/', '/srv/../etc', '/srv/./a', '/a:b'].map((path) => [at(path), needsFolder] as const),
    [
      { runtime: 'docker', templates },
      'the runtime docker has no templates, because its container does not belong to the pod: remove templates, or choose another runtime',
    ],
    [
      at('/ringmaster/run', { runtime: 'tmux', command: ['a'] }),
      'the folder /ringmaster is taken under this runtime: choose another workingDir for the templates',
    ],
    [
      at('/data', { volumes: [data], volumeMounts: [{ name: 'data', mountPath: '/data', readOnly: true }] }),
      'templates cannot be put into a volume that is mounted read-only: remove readOnly from the mount at workingDir',
    ],
    [
      at('/data', { volumes: [{ ...data, name: 'ringmaster-work' }] }),
      'names of volumes that begin with ringmaster are taken where there are templates: choose another name',
    ],
    ...['../etc', '/etc', 'a/../../b', 'a//b', 'a/', '..', ''].map((path) => [below(path), notBelow] as const),
    [
      at('/data', { templates: [{ name: 'Files' }] }),
      'write the name of a ConfigMap: lower-case letters, digits, hyphens and dots',
    ],
    [at('/data', { templates: [{ name: 'a' }, { name: 'a' }] }), 'spec.templates[1]: Duplicate value'],
    [
      at('/data', { templates: [{ name: 'a', replaceIn: ['a/b'] }] }),
      'write the name of a file, which is a key of the ConfigMap',
    ],
    ...['max', '1A', 'A-B'].map(
      (key) =>
        [
          { properties: { [key]: '1' } },
          'write each key in capital letters, digits and underscores, beginning with a letter, such as MAX_PLAYERS; at most 63 characters',
        ] as const,
    ),
    ...['INSTANCE_ID', 'NODE'].map(
      (key) =>
        [
          { properties: { [key]: '1' } },
          'INSTANCE_ID, INSTANCE_NAME, PORT, NODE have values of their own: choose another key',
        ] as const,
    ),
    [{ properties: { A: 'a\u0000b' } }, 'a value cannot contain a zero byte'],
  ];
}

const keyRefusals: readonly (readonly [Spec, string])[] = [
  [
    { tokenSHA256: 'secret' },
    'write the SHA-256 of the token as 64 lower-case hexadecimal digits: printf %s "$TOKEN" | sha256sum',
  ],
  [{ permission: 'SOME' }, 'supported values: "ALL", "PUBLIC"'],
  [{ expiresAt: 'tomorrow' }, 'spec.expiresAt in body must be of type date-time: "tomorrow"'],
];

/** Rules on how an object may change; they have tests of their own below. */
const transitions = [
  'runtime cannot be changed: delete the Instance and create it again with the other runtime',
  'the id of an Instance never changes',
  'the id of an Instance cannot be removed',
];

const nameSentence =
  'metadata.name must begin with a letter, hold only lower-case letters, digits and hyphens, and have at most 48 characters: pods and a Service are named after it';

let cluster: Cluster;
let namespace: Namespace;

before(async () => {
  cluster = await testCluster();
  namespace = await freshNamespace(cluster, 'e2e-manifests');
  await namespace.apply(instance('hall'));
  await poll('"hall" to be ONLINE', async () => ((await hall()).status?.state === 'ONLINE' ? true : undefined));
});

after(async () => {
  await namespace.remove();
});

async function hall(): Promise<InstanceObject> {
  return namespace.get<InstanceObject>('instance', 'hall');
}

function apiKey(name: string, spec: Spec): KubeObject {
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'ApiKey',
    metadata: { name },
    spec: { permission: 'ALL', tokenSHA256: '0'.repeat(64), ...spec },
  };
}

describe('a wrong manifest is refused with a sentence', () => {
  test('every wrong field gets the sentence that says what to write', async () => {
    const cases = [
      ...refusals.map(([spec, sentence], index) => ({ object: instance(`wrong-${index}`, spec), sentence })),
      ...keyRefusals.map(([spec, sentence], index) => ({ object: apiKey(`key-${index}`, spec), sentence })),
    ];
    const items = cases.map(({ object }) => object);
    const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
    const output = await namespace.kubectlFails(['create', '--dry-run=server', '-f', '-'], list);
    const answers = output.split(/^(?=The |Error )/m);
    for (const { object, sentence } of cases) {
      const answer = answers.find((text) => text.includes(`"${object.metadata.name}" is invalid`)) ?? '(accepted)';
      assert.ok(answer.includes(sentence), `${JSON.stringify(object.spec)}\nwants: ${sentence}\nbut: ${answer}`);
    }
  });

  test('every rule of the CRDs has its case here', async () => {
    const known = [...[...refusals, ...keyRefusals].map(([, sentence]) => sentence), ...transitions, nameSentence];
    for (const name of ['instances', 'apikeys']) {
      const crd = JSON.parse(
        await cluster.kubectl(['get', 'crd', `${name}.ringmaster.dev`, '--output=json']),
      ) as object;
      const sentences = messagesIn(crd);
      assert.ok(sentences.length > 0);
      assert.deepEqual(
        sentences.filter((sentence) => !known.includes(sentence)),
        [],
        name,
      );
    }
  });

  test('what is right under each runtime is accepted', async () => {
    const command = ['/server'];
    const specs: Spec[] = [
      { readiness: { logPattern: 'Done \\(\\d+' }, logs: { retainBytes: '1Gi' } },
      {
        ports: [
          { name: 'a', port: 1 },
          { name: 'b', port: 1, protocol: 'UDP' },
          { name: 'c', port: 1, protocol: 'SCTP' },
          { name: 'd', port: 2, protocol: 'TCP' },
        ],
      },
      ...['process', 'screen', 'tmux'].map((runtime) => ({ runtime, command, logs: { retainBytes: 0 } })),
      {
        runtime: 'docker',
        ports: [{ name: 'a', port: 1 }],
        service: { type: 'None' },
        readiness: { logPattern: 'x' },
      },
      ...['.', 'plugins/.config', '.hidden', 'a..b', 'zwei Wörter'].map((path) => ({
        workingDir: '/srv/.data/',
        templates: [{ name: 'files.v1', path, replaceIn: ['server.properties'] }],
        properties: { A: '', MAX_PLAYERS_2: '%A%' },
      })),
    ];
    const items = specs.map((spec, index) => instance(`right-${index}`, spec));
    const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
    await namespace.kubectl(['create', '--dry-run=server', '-f', '-'], list);
  });

  test('a name that pods and a Service cannot have is refused', async () => {
    for (const name of ['1lobby', 'lobby.eu', `a${'b'.repeat(48)}`]) {
      const output = await namespace.kubectlFails(
        ['create', '--dry-run=server', '-f', '-'],
        JSON.stringify(instance(name)),
      );
      assert.ok(output.includes(nameSentence), output);
    }
    const longest = JSON.stringify(instance(`a${'b'.repeat(47)}`));
    await namespace.kubectl(['create', '--dry-run=server', '-f', '-'], longest);
  });

  test('a manifest without an image is refused', async () => {
    const args = ['create', '--dry-run=server', '-f', '-'];
    const imageless = JSON.stringify(instance('imageless', { image: undefined }));
    assert.match(
      await namespace.kubectlFails(args, imageless),
      /missing required field "image"|spec\.image: Required value/,
    );
    // The server says it as well, to those who do not ask kubectl first.
    assert.match(await namespace.kubectlFails([...args, '--validate=false'], imageless), /spec\.image: Required value/);
  });

  test('an unknown field is refused by its path', async () => {
    const typo = JSON.stringify(instance('typo', { desiredSate: 'Stopped', stop: { comand: 'stop' } }));
    const output = await namespace.kubectlFails(['apply', '--dry-run=server', '-f', '-'], typo);
    assert.match(output, /unknown field "spec\.desiredSate"/);
    assert.match(output, /unknown field "spec\.stop\.comand"/);
  });

  test('the runtime cannot be changed', async () => {
    const output = await namespace.kubectlFails([
      ...['patch', 'instance', 'hall', '--type=merge', '--patch', '{"spec":{"runtime":"docker"}}'],
    ]);
    assert.match(output, /spec\.runtime: .*runtime cannot be changed: delete the Instance and create it again/);
  });

  test('the id cannot be changed and not be removed', async () => {
    const args = ['patch', 'instance', 'hall', '--subresource=status', '--type=merge', '--patch'];
    const changed = await namespace.kubectlFails([...args, '{"status":{"id":"aaaaaa"}}']);
    assert.match(changed, /the id of an Instance never changes/);
    const removed = await namespace.kubectlFails([...args, '{"status":{"id":null}}']);
    assert.match(removed, /the id of an Instance cannot be removed/);
  });
});

describe('kubectl', () => {
  test('explain shows every field of the spec with a sentence', async () => {
    const output = await cluster.kubectl(['explain', 'instance.spec']);
    assert.match(output, /image\t<string> -required-\n\s+Container image of the program\./);
    assert.match(output, /desiredState\t<string>\n\s+enum: Running, Stopped/);
    assert.doesNotMatch(output, /<no description>/);
    assert.match(await cluster.kubectl(['explain', 'inst.spec.stop.command']), /written to the\s+standard input/);
    const all = await cluster.kubectl(['explain', 'apikey', '--recursive']);
    assert.match(all, /tokenSHA256\t<string> -required-/);
  });

  test('get shows id, runtime, state, node, readiness, restarts and age', async () => {
    const { status } = await hall();
    const [header = '', row = ''] = (await namespace.kubectl(['get', 'instances'])).split('\n');
    assert.deepEqual(header.trim().split(/\s+/), 'NAME ID RUNTIME STATE NODE READY RESTARTS AGE'.split(' '));
    const cells = row.trim().split(/\s+/);
    assert.deepEqual(cells.slice(0, 7), ['hall', status?.id, 'kubernetes', 'ONLINE', status?.nodeName, 'True', '0']);
  });

  test('get -o wide adds address, reason and image, and what is wrong with the sidecar', async () => {
    const { status } = await hall();
    const [header = '', row = ''] = (await namespace.kubectl(['get', 'instances', '--output=wide'])).split('\n');
    assert.deepEqual(header.trim().split(/\s+/).slice(8), ['ADDRESS', 'REASON', 'IMAGE', 'SIDECAR']);
    assert.deepEqual(row.trim().split(/\s+/).slice(8), [status?.hostAddress, 'Ready', busybox]);
  });

  test('short names and the category find both kinds', async () => {
    assert.equal(await namespace.kubectl(['get', 'inst', '--output=name']), 'instance.ringmaster.dev/hall\n');
    const keys = await cluster.kubectl(['get', 'ak', '--namespace', releaseNamespace, '--output=name']);
    assert.match(keys, /^apikey\.ringmaster\.dev\/test-all$/m);
    const both = await cluster.kubectl(['get', 'ringmaster', '--all-namespaces', '--output=name']);
    assert.match(both, /^instance\.ringmaster\.dev\/hall$/m);
    assert.match(both, /^apikey\.ringmaster\.dev\/test-public$/m);
  });

  test('apply twice: the second changes nothing, and diff is empty', async () => {
    const before = await hall();
    assert.match(await namespace.apply(instance('hall')), /^instance\.ringmaster\.dev\/hall unchanged$/m);
    assert.equal(await namespace.kubectl(['diff', '-f', '-'], JSON.stringify(instance('hall'))), '');
    const now = await hall();
    assert.equal(now.metadata.generation, before.metadata.generation);
    assert.equal(now.metadata.resourceVersion, before.metadata.resourceVersion);
  });
});

describe('manifests that we publish', () => {
  test('samples, README and guides pass the server strictly', async () => {
    const manifests = await publishedManifests();
    assert.ok(manifests.length >= 8, `only ${manifests.length} found`);
    const removeToolCrds = await installToolCrds(cluster);
    try {
      for (const { file, text } of manifests) {
        const args = ['create', '--dry-run=server', '--validate=strict', '-f', '-'];
        await namespace.kubectl(args, text).catch((error: unknown) => {
          throw new Error(`${file} is refused: ${error instanceof Error ? error.message : String(error)}`);
        });
      }
    } finally {
      await removeToolCrds();
    }
    for (const group of ['ringmaster.dev', ...toolGroups])
      assert.ok(
        manifests.some(({ text }) => text.includes(`"apiVersion":"${group}/`)),
        `nothing of ${group}`,
      );
  });
});

describe('other managers', () => {
  test('fields, labels and finalizers that others apply stay beside ours', async () => {
    await namespace.apply(instance('shared', { desiredState: 'Stopped' }));
    await namespace.until<InstanceObject>('instance', 'shared', ({ status }) => status?.state === 'STOPPED');
    const theirs = {
      apiVersion: 'ringmaster.dev/v1alpha1',
      kind: 'Instance',
      metadata: { name: 'shared', labels: { team: 'red' }, finalizers: ['example.com/theirs'] },
      spec: { env: [{ name: 'THEIRS', value: '1' }] },
    };
    await namespace.kubectl(['apply', '--server-side', '--field-manager=them', '-f', '-'], JSON.stringify(theirs));
    await namespace.kubectl([
      'patch',
      'instance',
      'shared',
      '--type=merge',
      '-p',
      '{"spec":{"desiredState":"Running"}}',
    ]);
    const { metadata, spec } = await namespace.until<InstanceObject>('instance', 'shared', isOnline);
    assert.equal(metadata.labels?.['team'], 'red');
    assert.match(metadata.labels['ringmaster.dev/id'] ?? '', /^[0-9a-z]{6}$/);
    assert.deepEqual([...(metadata.finalizers ?? [])].sort(), ['example.com/theirs', 'ringmaster.dev/graceful-stop']);
    assert.deepEqual(spec?.['env'], [{ name: 'THEIRS', value: '1' }]);

    await namespace.kubectl(['delete', 'instance', 'shared', '--wait=false']);
    await namespace.until('instance', 'shared', ({ metadata: { finalizers = [] } }) => finalizers.length === 1);
    assert.deepEqual((await namespace.get('instance', 'shared')).metadata.finalizers, ['example.com/theirs']);
    await namespace.kubectl(['patch', 'instance', 'shared', '--type=merge', '-p', '{"metadata":{"finalizers":null}}']);
    await namespace.kubectl(['wait', '--for=delete', 'instance/shared', '--timeout=20s']);
  });

  test('an applied set of labels does not take ours off', async () => {
    const relabelled = instance('hall');
    relabelled.metadata.labels = { team: 'blue' };
    await namespace.apply(relabelled);
    await namespace.apply(instance('hall'));
    const { metadata } = await hall();
    assert.match(metadata.labels?.['ringmaster.dev/id'] ?? '', /^[0-9a-z]{6}$/);
    assert.equal(metadata.labels?.['team'], undefined);
  });
});

describe('at rest', () => {
  test('nothing is written but the lease, and nothing is read', async () => {
    const { status } = await hall();
    const pod = status?.podName ?? '';
    const versions = async (): Promise<(string | undefined)[]> =>
      Promise.all([hall(), namespace.get('pod', pod)].map(async (object) => (await object).metadata.resourceVersion));
    // What the tests before this one caused may still be on its way; two seconds without a write are rest.
    await poll('a moment of rest', () => Promise.resolve(work(Date.now() - 2000).length === 0 ? true : undefined));
    const startedMs = Date.now();
    const before = await versions();
    await lasting(4000);
    assert.deepEqual(await versions(), before);
    assert.deepEqual(work(startedMs), []);
  });

  /** All requests of the operator's replicas but for the lease and for watches that are opened again. */
  function work(sinceMs: number): string[] {
    return auditSince(cluster, sinceMs)
      .filter(({ user }) => user.username.endsWith(':ringmaster-operator'))
      .filter((entry) => entry.objectRef?.resource !== 'leases' && (isWrite(entry) || entry.verb !== 'watch'))
      .map(({ verb, requestURI }) => `${verb} ${requestURI}`);
  }
});

describe('ApiKeys', () => {
  test('a key in a foreign namespace is told that it does not count', async () => {
    await namespace.apply(apiKey('stray', {}));
    const wait = [
      'wait',
      'apikey/stray',
      '--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=ForeignNamespace',
    ];
    await namespace.kubectl([...wait, '--timeout=20s']);
    const { status } = await namespace.get<InstanceObject>('apikey', 'stray');
    const ready = status?.conditions?.find(({ type }) => type === 'Ready');
    assert.equal(ready?.message, `Keys count only in namespace "${releaseNamespace}": create it there.`);
  });

  test('get shows permission and readiness, and never more than the hash', async () => {
    const [header = ''] = (await cluster.kubectl(['get', 'apikeys', '-n', releaseNamespace])).split('\n');
    assert.deepEqual(header.trim().split(/\s+/), ['NAME', 'PERMISSION', 'EXPIRES', 'READY', 'AGE']);
    const everything = await cluster.kubectl(['get', 'apikeys', '-n', releaseNamespace, '--output=yaml']);
    assert.ok(!everything.includes(process.env.RINGMASTER_TOKEN ?? 'rm_'));
  });

  test('a key that has expired says so', async () => {
    const key = apiKey('expired', { expiresAt: '2020-01-01T00:00:00Z', tokenSHA256: '1'.repeat(64) });
    const args = ['--namespace', releaseNamespace];
    await cluster.kubectl(['apply', ...args, '-f', '-'], { input: JSON.stringify(key) });
    const wait = ['wait', 'apikey/expired', '--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=Expired'];
    await cluster.kubectl([...wait, ...args, '--timeout=20s']);
    await cluster.kubectl(['delete', 'apikey', 'expired', ...args]);
    await failureOf(() => cluster.kubectl(['get', 'apikey', 'expired', ...args]));
  });
});

/** The sentence of each CEL rule below an object. */
function messagesIn(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  const own = 'rule' in value && 'message' in value && typeof value.message === 'string' ? [value.message] : [];
  return [...own, ...Object.values(value).flatMap(messagesIn)];
}

/** Values of charts and pieces of manifests are left out. */
function isChecked({ apiVersion = '', kind }: KubeObject): boolean {
  if (apiVersion === 'v1') return kind === 'ConfigMap';
  return ['ringmaster.dev', ...toolGroups].some((group) => apiVersion.startsWith(`${group}/`));
}

/** Every manifest in the samples, in the files for GitOps tools, and in the fenced YAML of README and guides: ours, and those of these tools. */
async function publishedManifests(): Promise<{ file: string; text: string }[]> {
  const found: { file: string; text: string }[] = [];
  for await (const file of glob(['README.md', 'docs/**/*.{md,yaml}', 'operator/**/*.md', 'e2e/samples/**/*.yaml'], {
    cwd: root,
  })) {
    const content = await readFile(join(root, file), 'utf8');
    const blocks = file.endsWith('.md')
      ? [...content.matchAll(/^```ya?ml\n(.*?)^```/gms)].map((match) => match[1] ?? '')
      : [content];
    for (const document of blocks.flatMap((block) => parseAllDocuments(block))) {
      const object = document.toJS() as KubeObject | null;
      if (object === null || !isChecked(object)) continue;
      found.push({ file, text: JSON.stringify(object) });
    }
  }
  return found;
}
