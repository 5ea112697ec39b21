/** The Helm chart: what it refuses, what it makes, what each part may do, and what an upgrade and an uninstall do to a running system. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parse, parseAllDocuments } from 'yaml';
import type { LiveLogOptions } from './client.ts';
import { liveLog } from './client.ts';
import type { Cluster } from './cluster/cluster.ts';
import type { InstanceObject, KubeObject, Namespace } from './harness.ts';
import { auditSince, failureOf, freshNamespace, instance, poll, restrictedPod, testCluster } from './harness.ts';
import { chartDir, masterUrl, releaseName, releaseNamespace } from './release.ts';

const where = ['--namespace', releaseNamespace];
const wait = ['--wait', '--timeout', '120s'];

let cluster: Cluster;
let namespace: Namespace;
let scratch: string;
/** The values of the release as the run installed it: whatever happens here, it ends with these. */
let values: string;
/** Of the Master's Service. Other files were told it, and an uninstall gives it up. */
let address: string;

before(async () => {
  cluster = await testCluster();
  scratch = await mkdtemp(join(tmpdir(), 'ringmaster-chart-'));
  values = join(scratch, 'values.json');
  await writeFile(values, await cluster.helm(['get', 'values', releaseName, ...where, '--output=json']));
  address = (await masterService()).spec.clusterIP;
  namespace = await freshNamespace(cluster, 'e2e-chart');
});

after(async () => {
  await install(chartDir);
  await restoreAddress();
  await namespace.remove();
  await rm(scratch, { recursive: true });
});

async function masterService(): Promise<KubeObject & { spec: { clusterIP: string; clusterIPs: string[] } }> {
  const output = await cluster.kubectl(['get', 'service', `${releaseName}-master`, ...where, '--output=json']);
  return JSON.parse(output) as KubeObject & { spec: { clusterIP: string; clusterIPs: string[] } };
}

async function restoreAddress(): Promise<void> {
  const service = await masterService();
  if (service.spec.clusterIP === address) return;
  Object.assign(service.spec, { clusterIP: address, clusterIPs: [address] });
  await cluster.kubectl(['replace', '--force', '-f', '-'], { input: JSON.stringify(service) });
}

async function install(chart: string, ...settings: string[]): Promise<void> {
  const chosen = settings.flatMap((setting) => ['--set', setting]);
  await cluster.helm(['upgrade', '--install', releaseName, chart, ...where, ...wait, '--values', values, ...chosen]);
}

async function render(...settings: string[]): Promise<KubeObject[]> {
  const chosen = settings.flatMap((setting) => ['--set', setting]);
  const output = await cluster.helm([
    'template',
    'demo',
    chartDir,
    '--namespace',
    'demo',
    '--kube-version',
    '1.37.0',
    // As if the Prometheus Operator were there.
    '--api-versions',
    'monitoring.coreos.com/v1/PodMonitor',
    '--api-versions',
    'monitoring.coreos.com/v1/PrometheusRule',
    ...chosen,
  ]);
  return parseAllDocuments(output)
    .map((document) => document.toJS() as KubeObject | null)
    .filter((object) => object !== null);
}

interface PodSpec {
  containers: { name: string; env?: { name: string; value?: string }[] }[];
  volumes?: { secret?: { secretName?: string } }[];
}

function podOfDeployment(object: KubeObject): PodSpec {
  return (object as KubeObject & { spec: { template: { spec: PodSpec } } }).spec.template.spec;
}

function namesOf(objects: readonly KubeObject[], ...kinds: string[]): string[] {
  return objects
    .filter(({ kind = '' }) => kinds.includes(kind))
    .map(({ kind = '', metadata }) => [kind, metadata.namespace, metadata.name].filter(Boolean).join(' '))
    .sort();
}

describe('rendered', () => {
  test('lint finds nothing', async () => {
    assert.match(await cluster.helm(['lint', '--strict', chartDir]), /1 chart\(s\) linted, 0 chart\(s\) failed/);
  });

  test('for all namespaces: two Deployments, a Service, the CRDs, and ClusterRoles for what is in all namespaces', async () => {
    const objects = await render();
    assert.deepEqual(namesOf(objects, 'Deployment', 'Service', 'CustomResourceDefinition'), [
      'CustomResourceDefinition apikeys.ringmaster.dev',
      'CustomResourceDefinition consolecommands.ringmaster.dev',
      'CustomResourceDefinition instanceconfigurations.ringmaster.dev',
      'CustomResourceDefinition instances.ringmaster.dev',
      'Deployment demo demo-ringmaster-master',
      'Deployment demo demo-ringmaster-operator',
      'Service demo demo-ringmaster-master',
    ]);
    assert.deepEqual(namesOf(objects, 'ClusterRoleBinding', 'RoleBinding'), [
      'ClusterRoleBinding demo-demo-ringmaster-master-nodes',
      'ClusterRoleBinding demo-demo-ringmaster-master-reviews',
      'ClusterRoleBinding demo-ringmaster-master',
      'ClusterRoleBinding demo-ringmaster-operator',
      'RoleBinding demo demo-ringmaster-master',
      'RoleBinding demo demo-ringmaster-operator',
    ]);
  });

  test('for two namespaces: rights in these two and at home, and in the cluster only to ask about tokens and to read nodes', async () => {
    const objects = await render('watchNamespaces={red,blue}');
    assert.deepEqual(namesOf(objects, 'ClusterRoleBinding'), [
      'ClusterRoleBinding demo-demo-ringmaster-master-nodes',
      'ClusterRoleBinding demo-demo-ringmaster-master-reviews',
    ]);
    const without = await render(
      'watchNamespaces={red,blue}',
      'master.kubernetesTokens.enabled=false',
      'master.nodes.enabled=false',
    );
    assert.deepEqual(namesOf(without, 'ClusterRoleBinding'), []);
    assert.doesNotMatch(JSON.stringify(without), /RINGMASTER_TOKEN_AUDIENCE/);
    assert.match(JSON.stringify(without), /"RINGMASTER_NODES_ENABLED","value":"false"/);
    assert.deepEqual(namesOf(objects, 'RoleBinding'), [
      'RoleBinding blue demo-demo-ringmaster-master-instances',
      'RoleBinding blue demo-demo-ringmaster-operator-instances',
      'RoleBinding demo demo-ringmaster-master',
      'RoleBinding demo demo-ringmaster-operator',
      'RoleBinding red demo-demo-ringmaster-master-instances',
      'RoleBinding red demo-demo-ringmaster-operator-instances',
    ]);
    const texts = objects.filter(({ kind }) => kind === 'Deployment').map((object) => JSON.stringify(object));
    for (const text of texts) assert.match(text, /"RINGMASTER_WATCH_NAMESPACES","value":"red,blue"/);
  });

  test('the sidecar and the Docker Engine reach the operator as its environment, and the key reaches the Master as a file', async () => {
    const objects = await render(
      'sidecar.image.digest=sha256:' + '0'.repeat(64),
      'sidecar.resources.limits.memory=96Mi',
      'runtimes.docker.enabled=true',
      'runtimes.docker.group=0',
      'masterKey.existingSecret=mine',
    );
    const [master, operator] = objects
      .filter(({ kind }) => kind === 'Deployment')
      .map((object) => podOfDeployment(object))
      .toSorted((a, b) => ((a.containers[0]?.name ?? '') < (b.containers[0]?.name ?? '') ? -1 : 1));
    const env = Object.fromEntries((operator?.containers[0]?.env ?? []).map(({ name, value }) => [name, value]));
    assert.equal(env.RINGMASTER_SIDECAR_IMAGE, `ringmaster.local/ringmaster-sidecar@sha256:${'0'.repeat(64)}`);
    assert.deepEqual(JSON.parse(env.RINGMASTER_SIDECAR_RESOURCES ?? ''), {
      requests: { cpu: '10m', memory: '72Mi' },
      limits: { memory: '96Mi' },
    });
    assert.equal(env.RINGMASTER_DOCKER_ENABLED, 'true');
    assert.equal(env.RINGMASTER_DOCKER_GROUP, '0');
    assert.equal(env.RINGMASTER_MASTER_KEY_SECRET, 'mine');
    assert.equal(master?.volumes?.[0]?.secret?.secretName, 'mine');
    // A Secret that is there need not be made.
    const rights = objects.filter(
      ({ kind, metadata }) => kind === 'Role' && metadata.name === 'demo-ringmaster-operator',
    );
    assert.match(JSON.stringify(rights), /"resources":\["secrets"\],"resourceNames":\["mine"\],"verbs":\["get"\]/);
  });

  test('with a certificate the Master, its probes, its Service, its Ingress and its PodMonitor all speak TLS, and without one none does', async () => {
    const texts = async (...settings: string[]): Promise<string> => {
      const ingress = ['master.ingress.enabled=true', 'master.ingress.host=ringmaster.test'];
      const objects = await render(...ingress, 'podMonitor.enabled=true', ...settings);
      const about = ['Deployment', 'Service', 'Ingress', 'PodMonitor'];
      return JSON.stringify(
        objects.filter(({ kind = '', metadata }) => about.includes(kind) && /master$/.test(metadata.name)),
      );
    };
    const secure = await texts('master.tls.secretName=cert');
    for (const part of [
      '"name":"RINGMASTER_TLS_CERT_FILE","value":"/etc/ringmaster/tls/tls.crt"',
      '"name":"tls","mountPath":"/etc/ringmaster/tls"',
      '{"name":"tls","secret":{"secretName":"cert",',
      '{"path":"/healthz","port":"https","scheme":"HTTPS"}',
      '{"path":"/readyz","port":"https","scheme":"HTTPS"}',
      '{"name":"https","port":7000,"targetPort":"https","appProtocol":"https"}',
      '"port":{"name":"https"}',
      '"scheme":"https","tlsConfig":{"insecureSkipVerify":true}',
    ])
      assert.ok(secure.includes(part), part);
    assert.ok(!/"(?:name|port|targetPort)":"http"/.test(secure));
    assert.ok(!/https|tls/i.test(await texts()));
  });

  test('the dashboard and the alerts are in their objects as they are in their files', async () => {
    const objects = await render('grafanaDashboard.enabled=true', 'prometheusRule.enabled=true');
    const [map] = objects.filter(({ kind }) => kind === 'ConfigMap') as (KubeObject & {
      data: Record<string, string>;
    })[];
    assert.equal(map?.metadata.labels?.['grafana_dashboard'], '1');
    const read = (name: string): Promise<string> => readFile(join(chartDir, 'monitoring', name), 'utf8');
    assert.deepEqual(JSON.parse(map.data['ringmaster.json'] ?? ''), JSON.parse(await read('dashboard.json')));
    const [rule] = objects.filter(({ kind }) => kind === 'PrometheusRule');
    assert.deepEqual(rule?.spec, parse(await read('alerts.yaml')));
  });

  test('without CRDs and without aggregated roles, for a second release: nothing cluster-wide but its own rights', async () => {
    const objects = await render(
      'crds.install=false',
      'rbac.aggregate.enabled=false',
      'watchNamespaces={red}',
      'master.kubernetesTokens.enabled=false',
      'master.nodes.enabled=false',
      'admission.issuer.enabled=false',
    );
    const clusterWide = objects.filter(({ metadata }) => metadata.namespace === undefined);
    assert.deepEqual(
      clusterWide.map(({ kind }) => kind),
      [],
    );
  });

  test('what scales by sockets has no number of replicas that a Helm upgrade would set back, and keeps its budget', async () => {
    const scaled = await render('master.autoscaling.enabled=true', 'master.replicas=1');
    const window = 'master.autoscaling.scaleDown.stabilizationWindowSeconds=0';
    const hasty = (await render('master.autoscaling.enabled=true', window)).find(
      ({ kind }) => kind === 'HorizontalPodAutoscaler',
    );
    const policies = [{ type: 'Pods', value: 1, periodSeconds: 60 }];
    assert.deepEqual(hasty?.spec?.['behavior'], { scaleDown: { stabilizationWindowSeconds: 0, policies } });
    const [scaler] = scaled.filter(({ kind }) => kind === 'HorizontalPodAutoscaler');
    assert.deepEqual(scaler?.spec?.['metrics'], [
      {
        type: 'Pods',
        pods: {
          metric: { name: 'ringmaster_master_sockets_open' },
          target: { type: 'AverageValue', averageValue: '2000' },
        },
      },
    ]);
    const master = (objects: KubeObject[]): KubeObject | undefined =>
      objects.find(({ kind, metadata }) => kind === 'Deployment' && metadata.name === 'demo-ringmaster-master');
    assert.equal(master(scaled)?.spec?.['replicas'], undefined);
    const budget = 'PodDisruptionBudget demo demo-ringmaster-master';
    assert.ok(namesOf(scaled, 'PodDisruptionBudget').includes(budget));
    const single = await render('master.replicas=1');
    assert.equal(master(single)?.spec?.['replicas'], 1);
    assert.ok(!namesOf(single, 'PodDisruptionBudget').includes(budget));
    assert.deepEqual(namesOf(single, 'HorizontalPodAutoscaler'), []);
  });

  test('the NetworkPolicies let through what docs/security.md lists, and nothing else', async () => {
    assert.deepEqual(namesOf(await render(), 'NetworkPolicy'), []);
    const objects = await render(
      'networkPolicy.enabled=true',
      'watchNamespaces={red}',
      'networkPolicy.apiServer.cidrs={10.0.0.1/32}',
      'networkPolicy.clients[0].podSelector.matchLabels.who=ingress',
      'networkPolicy.metrics[0].podSelector.matchLabels.who=prometheus',
    );
    interface Rule {
      ports: { port: number; endPort?: number; protocol?: string }[];
      from?: unknown[];
      to?: unknown[];
    }
    const paths = Object.fromEntries(
      objects
        .filter(({ kind }) => kind === 'NetworkPolicy')
        .map(({ metadata, spec }) => {
          const {
            policyTypes,
            ingress,
            egress = [],
          } = spec as unknown as Record<'policyTypes', string[]> & Record<'ingress' | 'egress', Rule[] | undefined>;
          const rows = [...(ingress ?? []), ...egress].map(({ ports, from, to }) => {
            const peers = JSON.stringify(from ?? to ?? 'anybody').match(/(?<=":")[^"]+(?=")/g) ?? ['anybody'];
            const which = ports.map(({ port, endPort, protocol = 'TCP' }) => `${protocol} ${port}-${endPort ?? port}`);
            return `${to === undefined ? 'from' : 'to'} ${peers.join(' ')}: ${which.join(' ')}`;
          });
          return [metadata.name, [policyTypes.join(), ...rows]];
        }),
    );
    const api = 'to 10.0.0.1/32: TCP 443-443 TCP 6443-6443';
    const sidecars = 'to ringmaster: TCP 7070-7070';
    const dns = 'to kube-dns: UDP 53-53 TCP 53-53';
    assert.deepEqual(paths, {
      'demo-ringmaster-master': [
        'Ingress,Egress',
        'from ingress prometheus ringmaster demo test: TCP 7000-7000',
        'from ringmaster demo operator: TCP 7001-7001',
        ...[api, sidecars, dns],
      ],
      'demo-ringmaster-operator': [
        'Ingress,Egress',
        'from prometheus: TCP 8080-8080',
        ...[api, sidecars, 'to ringmaster demo master: TCP 7001-7001', dns],
      ],
      'demo-demo-ringmaster-instances': [
        'Ingress',
        'from demo ringmaster demo: TCP 7070-7070',
        'from prometheus: TCP 7071-7071',
        'from anybody: TCP 1-7069 TCP 7072-65535 UDP 1-65535 SCTP 1-65535',
      ],
    });
  });

  test('every object goes through the API server, in both modes', async () => {
    const optional = ['networkPolicy.enabled=true', 'networkPolicy.clients[0].podSelector.matchLabels.a=b'];
    const whole = ['watchNamespaces={e2e-chart}', 'master.autoscaling.enabled=true', ...optional];
    for (const settings of [[], ['watchNamespaces={e2e-chart}'], whole]) {
      const objects = (await render('crds.install=false', ...settings)).filter(({ kind }) => kind !== 'Pod');
      for (const object of objects) if (object.metadata.namespace === 'demo') object.metadata.namespace = 'e2e-chart';
      const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
      await cluster.kubectl(['create', '--dry-run=server', '--validate=strict', '-f', '-'], { input: list });
    }
  });

  test('values that are misspelt or of the wrong kind are refused by their path', async () => {
    const refused: readonly (readonly [string, RegExp])[] = [
      ['operator.replica=2', /'?\/?operator'?: additional properties 'replica' not allowed/],
      ['logLevel=loud', /logLevel/],
      ['master.replicas=many', /master\/replicas/],
      ['watchNamespaces={Red}', /watchNamespaces/],
      ['master.kubernetesTokens.audience=', /kubernetesTokens\/audience/],
      ['master.tls.secretName=Cert', /master\/tls\/secretName/],
      ['runtimes.docker.network=other', /runtimes\/docker\/network/],
      ['runtimes.docker.socketPath=docker.sock', /runtimes\/docker\/socketPath/],
      ['keys[0].name=a,keys[0].permission=ALL,keys[0].tokenSHA256=secret', /tokenSHA256/],
    ];
    for (const [setting, path] of refused)
      assert.match(await failureOf(() => cluster.helm(['template', 'demo', chartDir, '--set', setting])), path);
  });
});

const accounts = { operator: 'ringmaster-operator', master: 'ringmaster-master' } as const;

/** The table of `kubectl auth can-i --list`, a line each: `RESOURCE NAMES VERBS`. */
async function listRights(user: string, inNamespace: string): Promise<string[]> {
  const output = await cluster.kubectl(['auth', 'can-i', '--list', `--as=${user}`, '--namespace', inNamespace]);
  const rows = output.split('\n').map((line) => /^(\S*)\s+(\[.*?\])\s+(\[.*?\])\s+(\[.*?\])$/.exec(line.trimEnd()));
  return rows
    .filter((row) => row !== null)
    .map(
      ([, resource = '', urls = '', names = '', verbs = '']) =>
        `${resource} ${resource === '' ? urls : names} ${verbs}`,
    );
}

/** What an account of ours may do there beyond what every ServiceAccount may. */
async function ownRights(part: keyof typeof accounts, inNamespace: string): Promise<string[]> {
  const anybody = await listRights('system:serviceaccount:default:default', 'default');
  const all = await listRights(`system:serviceaccount:${releaseNamespace}:${accounts[part]}`, inNamespace);
  return all.filter((right) => !anybody.includes(right)).sort();
}

describe('least privilege', () => {
  /** `RESOURCE NAMES VERBS`, beyond what every ServiceAccount may. */
  const rights: Record<keyof typeof accounts, { elsewhere: string[]; atHome: string[] }> = {
    operator: {
      elsewhere: [
        'apikeys.ringmaster.dev [] [get list watch]',
        'apikeys.ringmaster.dev/status [] [patch]',
        'consolecommands.ringmaster.dev [] [get list watch]',
        'consolecommands.ringmaster.dev/status [] [update patch]',
        'events.events.k8s.io [] [create patch]',
        'instanceconfigurations.ringmaster.dev [] [get list watch create update delete]',
        'instanceconfigurations.ringmaster.dev/finalizers [] [update]',
        'instanceconfigurations.ringmaster.dev/status [] [patch]',
        'instances.ringmaster.dev [] [get list watch create update patch delete]',
        'instances.ringmaster.dev/finalizers [] [update]',
        'instances.ringmaster.dev/status [] [patch]',
        'nodes [] [get list watch]',
        'persistentvolumeclaims [] [get create patch]',
        'pods [] [get list watch create patch delete]',
        'pods/attach [] [create get]',
        'pods/log [] [get]',
        'pods/status [] [patch]',
        'secrets [] [create]',
        'services [] [get list watch create patch delete]',
      ],
      atHome: [
        'apikeys.ringmaster.dev [] [get list watch create delete]',
        'configmaps [] [get list watch]',
        'consolecommands.ringmaster.dev [] [get list watch delete]',
        'leases.coordination.k8s.io [] [create]',
        'leases.coordination.k8s.io [ringmaster-operator] [get list watch update patch]',
        'secrets [ringmaster-master-key] [get]',
      ],
    },
    master: {
      elsewhere: [
        'instanceconfigurations.ringmaster.dev [] [get list watch]',
        'instances.ringmaster.dev [] [get list watch]',
        'nodes [] [get list watch]',
        'pods/attach [] [create get]',
        'pods/log [] [get]',
        'subjectaccessreviews.authorization.k8s.io [] [create]',
        'tokenreviews.authentication.k8s.io [] [create]',
      ],
      atHome: [
        'apikeys.ringmaster.dev [] [get list watch]',
        'configmaps [] [get list watch]',
        'consolecommands.ringmaster.dev [] [get list watch create delete]',
      ],
    },
  };

  for (const part of ['operator', 'master'] as const) {
    test(`the ${part} may do exactly what it needs, and nothing else`, async () => {
      const { elsewhere, atHome } = rights[part];
      assert.deepEqual(await ownRights(part, 'default'), elsewhere.toSorted());
      // kubectl puts the verbs on one resource into one row.
      const widened = atHome.map((right) => right.slice(0, right.lastIndexOf('[')));
      const asElsewhere = elsewhere.filter((right) => !widened.includes(right.slice(0, right.lastIndexOf('['))));
      assert.deepEqual(await ownRights(part, releaseNamespace), [...asElsewhere, ...atHome].sort());
    });
  }

  test('neither may read Secrets of others, run commands in pods, or hand out rights', async () => {
    const forbidden = [
      'get secrets',
      'list secrets',
      'create pods --subresource=exec',
      'create rolebindings',
      'delete persistentvolumeclaims',
    ];
    const onlyOperator = [
      'create instances',
      'update instances',
      'delete instances',
      'create instanceconfigurations',
      'delete instanceconfigurations',
      'create apikeys',
    ];
    for (const account of Object.values(accounts)) {
      for (const what of account === accounts.master ? [...forbidden, ...onlyOperator] : forbidden) {
        const as = `--as=system:serviceaccount:${releaseNamespace}:${account}`;
        const ask = cluster.kubectl(['auth', 'can-i', ...what.split(' '), as, ...where]);
        const said = await failureOf(() => ask).catch(() => 'yes');
        assert.equal(said.trim(), 'no', `${account}: ${what}`);
      }
    }
  });

  test('the pod of a program has no token of a ServiceAccount, unless its author asks for one', async () => {
    const stop = { gracePeriodSeconds: 1 };
    const check = 'if [ -e /var/run/secrets/kubernetes.io ]; then echo token; else echo none; fi; sleep 3600';
    await namespace.apply(
      instance('plain', { script: check, stop }),
      instance('through-sidecar', { runtime: 'process', command: ['sh', '-c', check], stop }),
      instance('asking', { script: check, stop, podTemplate: restrictedPod({ automountServiceAccountToken: true }) }),
    );
    for (const [name, said] of [
      ['plain', 'none'],
      ['through-sidecar', 'none'],
      ['asking', 'token'],
    ] as const) {
      await namespace.kubectl(['wait', '--for=condition=Ready', `instance/${name}`, '--timeout=60s']);
      const { status } = await namespace.get<InstanceObject>('instance', name);
      const pod = status?.podName ?? '';
      const log = await poll(`what ${name} sees`, async () => {
        const text = await namespace.kubectl(['logs', pod, '--container=instance']);
        return text.includes('\n') ? text.trim() : undefined;
      });
      assert.equal(log, said, name);
      // Neither has a container of ours in it.
      const tokens = (await namespace.get(`pod`, pod)).spec as { volumes?: { projected?: unknown }[] };
      assert.equal(JSON.stringify(tokens.volumes ?? []).includes('serviceAccountToken'), said === 'token', name);
    }
    await namespace.kubectl(['delete', 'instances', '--all', '--timeout=60s']);
  });

  const read = '[get list watch]';
  const write = '[create delete deletecollection get list patch update watch]';
  const viewers = [
    `instanceconfigurations.ringmaster.dev ${read}`,
    'instanceconfigurations.ringmaster.dev/scale [get]',
    `instanceconfigurations.ringmaster.dev/status ${read}`,
    `instances.ringmaster.dev ${read}`,
    'instances.ringmaster.dev/live-log [get]',
    `instances.ringmaster.dev/status ${read}`,
  ];
  const editors = [
    `instanceconfigurations.ringmaster.dev ${write}`,
    'instanceconfigurations.ringmaster.dev/scale [get patch update]',
    `instanceconfigurations.ringmaster.dev/status ${read}`,
    `instances.ringmaster.dev ${write}`,
    'instances.ringmaster.dev/execute [create]',
    'instances.ringmaster.dev/live-log [get]',
    `instances.ringmaster.dev/status ${read}`,
  ];
  const administrators = [
    `apikeys.ringmaster.dev ${write}`,
    `apikeys.ringmaster.dev/status ${read}`,
    `consolecommands.ringmaster.dev ${write}`,
    `consolecommands.ringmaster.dev/status ${read}`,
    ...editors,
  ];
  for (const [role, rights] of Object.entries({ view: viewers, edit: editors, admin: administrators })) {
    test(`the role ringmaster-${role} is exactly its part of ${role}, which has it too`, async () => {
      for (const clusterRole of [`ringmaster-${role}`, role]) {
        const user = `user-of-${clusterRole}`;
        await namespace.kubectl(['create', 'rolebinding', user, `--clusterrole=${clusterRole}`, `--user=${user}`]);
        const said = await listRights(user, namespace.name);
        const ours = said.filter((right) => right.includes('.ringmaster.dev'));
        // Verbs of several rules come in any order.
        const sorted = ours.map((right) => {
          const [, resource = '', names = '', verbs = ''] = /^(\S+) \[(.*?)\] \[(.*?)\]$/.exec(right) ?? [];
          return `${resource} ${names}[${[...new Set(verbs.split(' '))].sort().join(' ')}]`;
        });
        assert.deepEqual(sorted.sort(), rights.toSorted(), clusterRole);
        if (clusterRole !== role) continue;
        assert.equal(
          said.some((right) => /^secrets .*(?:get|list)/.test(right)),
          role !== 'view',
          'Secrets',
        );
      }
    });
  }

  test('whoever may view, edit or administer a namespace may do so with Instances, and only administrators with ApiKeys and ConsoleCommands', async () => {
    for (const [role, verb, kind, answer] of [
      ['view', 'get', 'instances.ringmaster.dev', 'yes'],
      ['view', 'create', 'instances.ringmaster.dev', 'no'],
      ['view', 'get', 'instances.ringmaster.dev --subresource=live-log', 'yes'],
      ['view', 'create', 'instances.ringmaster.dev --subresource=execute', 'no'],
      ['edit', 'create', 'instances.ringmaster.dev --subresource=execute', 'yes'],
      ['edit', 'create', 'instances.ringmaster.dev', 'yes'],
      ['view', 'get', 'instanceconfigurations.ringmaster.dev', 'yes'],
      ['view', 'update', 'instanceconfigurations.ringmaster.dev --subresource=scale', 'no'],
      ['edit', 'update', 'instanceconfigurations.ringmaster.dev --subresource=scale', 'yes'],
      ['edit', 'create', 'instanceconfigurations.ringmaster.dev', 'yes'],
      ['edit', 'get', 'apikeys.ringmaster.dev', 'no'],
      ['edit', 'create', 'consolecommands.ringmaster.dev', 'no'],
      ['admin', 'create', 'apikeys.ringmaster.dev', 'yes'],
      ['admin', 'create', 'consolecommands.ringmaster.dev', 'yes'],
    ] as const) {
      await namespace
        .kubectl(['create', 'rolebinding', role, `--clusterrole=${role}`, `--user=${role}`])
        .catch(() => 'there already');
      const ask = ['auth', 'can-i', verb, ...kind.split(' '), `--as=${role}`];
      const said = answer === 'yes' ? await namespace.kubectl(ask) : await namespace.kubectlFails(ask);
      assert.equal(said.trim(), answer, `${role}: ${verb} ${kind}`);
    }
  });
});

async function firstLines(options: LiveLogOptions, count: number): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of liveLog(options)) if (lines.push(line) === count) break;
  return lines;
}

describe('on a running system', () => {
  test('helm test passes: the Master answers through its Service', async () => {
    assert.match(await cluster.helm(['test', releaseName, ...where, '--timeout', '60s']), /Phase:\s+Succeeded/);
  });

  test('an upgrade rolls what was changed and nothing else, and brings changed CRDs', async () => {
    const generation = async (name: string): Promise<string> =>
      cluster.kubectl(['get', 'deployment', name, ...where, '--output=jsonpath={.metadata.generation}']);
    const [operator, master] = [await generation('ringmaster-operator'), await generation('ringmaster-master')];
    const changed = join(scratch, 'chart');
    await cp(chartDir, changed, { recursive: true });
    const crd = join(changed, 'templates/crds/instances.yaml');
    const text = await readFile(crd, 'utf8');
    const sentence = 'Container image of the program.';
    assert.ok(text.includes(sentence));
    await writeFile(crd, text.replace(sentence, 'The picture of the program.'));
    await install(changed, 'operator.workers=9');
    assert.equal(Number(await generation('ringmaster-operator')), Number(operator) + 1);
    assert.equal(await generation('ringmaster-master'), master);
    const env = await cluster.kubectl(['get', 'deployment', 'ringmaster-operator', ...where, '--output=json']);
    assert.match(env, /"name": "RINGMASTER_WORKERS",\s+"value": "9"/);
    await poll('the new sentence', async () =>
      /The picture of the program/.test(await cluster.kubectl(['explain', 'instance.spec.image'])) ? true : undefined,
    );
  });

  test('limited to a namespace, by Roles alone: everything works there, nothing elsewhere, and nothing is asked for that is not allowed', async () => {
    const limited = ['master.kubernetesTokens.enabled=false', 'master.nodes.enabled=false'];
    await install(chartDir, `watchNamespaces={${namespace.name}}`, ...limited);
    const bindings = JSON.parse(await cluster.kubectl(['get', 'clusterrolebindings', '--output=json'])) as {
      items: { subjects?: { namespace?: string }[] }[];
    };
    const subjects = bindings.items.flatMap((binding) => binding.subjects ?? []);
    assert.ok(subjects.every((subject) => subject.namespace !== releaseNamespace));
    for (const part of ['operator', 'master'] as const) {
      assert.deepEqual(await ownRights(part, 'default'), []);
      assert.notDeepEqual(await ownRights(part, namespace.name), []);
    }
    // The pods of before, which had more rights, are gone.
    const pods = ['get', 'pods', ...where, '--output=name'];
    await poll('only the new pods', async () => {
      const names = (await cluster.kubectl(pods)).split('\n').filter((name) => name !== '');
      return names.length === 4 ? true : undefined;
    });
    const since = Date.now();
    const outside = await freshNamespace(cluster, 'e2e-chart-outside');
    try {
      await outside.apply(instance('outside'));
      const stop = { gracePeriodSeconds: 1 };
      const script = 'i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.1; done';
      await namespace.apply(
        instance('plain', { script, stop }),
        instance('through-sidecar', { runtime: 'process', command: ['sh', '-c', script], stop }),
      );
      const options = { url: await masterUrl(cluster), token: process.env.RINGMASTER_TOKEN ?? '' };
      for (const name of ['plain', 'through-sidecar']) {
        await namespace.kubectl(['wait', '--for=condition=Ready', `instance/${name}`, '--timeout=60s']);
        const { status } = await namespace.get<InstanceObject>('instance', name);
        assert.equal(status?.state, 'ONLINE');
        const lines = await firstLines({ ...options, id: status.id ?? '' }, 20);
        assert.deepEqual(
          lines,
          Array.from({ length: 20 }, (_, index) => `line ${index + 1}`),
        );
      }
      const run = async (command: string): Promise<string> => {
        const response = await fetch(`${options.url}/api/commands/execute`, {
          method: 'POST',
          headers: { authorization: `Bearer ${options.token}` },
          body: JSON.stringify({ command }),
        });
        return ((await response.json()) as { output: string }).output;
      };
      assert.match(await run('instance list'), /^Instances \(2\):/);
      assert.match(await run('instance stop plain'), /^Stopping /);
      assert.match(await run('cluster nodes'), /namespaces/);
      await namespace.until<InstanceObject>('instance', 'plain', ({ status }) => status?.state === 'STOPPED');
      // What the schema puts there, and nothing more.
      const { status } = await outside.get<InstanceObject>('instance', 'outside');
      assert.deepEqual(status, { observedGeneration: -1 });
    } finally {
      await outside.remove();
      await namespace.kubectl(['delete', 'instances', '--all', '--timeout=60s']);
    }
    const asked = auditSince(cluster, since);
    assert.ok(asked.length > 0);
    const refused = asked.filter(({ responseStatus }) => responseStatus?.code === 403);
    assert.deepEqual(refused, []);
    const elsewhere = asked.filter(
      ({ objectRef }) =>
        objectRef !== undefined && ![namespace.name, releaseNamespace].includes(objectRef.namespace ?? ''),
    );
    assert.deepEqual(
      elsewhere.map(({ verb, requestURI }) => `${verb} ${requestURI}`),
      [],
    );
  });

  test('an uninstall keeps CRDs, Instances, ApiKeys and running programs, and a new install takes them up again', async () => {
    await namespace.apply(instance('kept'));
    await namespace.kubectl(['wait', '--for=condition=Ready', 'instance/kept', '--timeout=60s']);
    const before = await namespace.get<InstanceObject>('instance', 'kept');
    const pod = before.status?.podName ?? '';
    const uid = (await namespace.get('pod', pod)).metadata.uid;

    await cluster.helm(['uninstall', releaseName, ...where, '--wait', '--timeout', '60s']);
    assert.equal((await namespace.get('pod', pod)).metadata.uid, uid);
    assert.equal((await namespace.get('instance', 'kept')).metadata.uid, before.metadata.uid);
    assert.match(await cluster.kubectl(['get', 'apikeys', ...where, '--output=name']), /test-all/);
    assert.equal((await cluster.kubectl(['get', 'deployments', ...where, '--output=name'])).trim(), '');

    await install(chartDir);
    await namespace.patch('kept', { service: { type: 'None' } });
    const now = await namespace.until<InstanceObject>(
      'instance',
      'kept',
      ({ status, metadata }) => status?.observedGeneration === metadata.generation,
    );
    assert.equal(now.status?.id, before.status?.id);
    assert.equal(now.status?.podName, pod);
    assert.equal((await namespace.get('pod', pod)).metadata.uid, uid);
    assert.match(await cluster.kubectl(['explain', 'instance.spec.image']), /Container image of the program/);
  });
});
