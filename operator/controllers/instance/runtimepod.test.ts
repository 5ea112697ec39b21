import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { InstanceSpec } from '../../api/v1alpha1/instance.ts';
import type { Pod } from '../../runtime/client.ts';
import { makeInstance, sidecarContext } from '../../testing/objects.ts';
import { buildPod } from './pod.ts';
import type { SidecarContext } from './sidecarpod.ts';

type PodSpec = NonNullable<Pod['spec']>;
type Container = PodSpec['containers'][number];

function podOf(spec: Partial<InstanceSpec>, context: SidecarContext = sidecarContext): PodSpec {
  const pod = buildPod(makeInstance({ spec }), { id: 'a1b2c3', sequence: 1 }, context).spec;
  assert.ok(pod);
  return pod;
}

function programOf(pod: PodSpec): Container {
  const [program] = pod.containers;
  assert.ok(program);
  assert.equal(pod.containers.length, 1);
  return program;
}

function sidecarOf(pod: PodSpec): Container {
  const [sidecar] = pod.initContainers ?? [];
  assert.ok(sidecar);
  return sidecar;
}

const variables = ({ env = [] }: Container): Record<string, string | undefined> =>
  Object.fromEntries(env.map(({ name, value }) => [name, value]));

const server = { command: ['/server', '--name'], args: ['a b'] };

for (const runtime of ['process', 'screen', 'tmux'] as const) {
  test(`throughSidecar: under ${runtime} the launcher starts the program, with its arguments behind`, () => {
    const program = programOf(podOf({ ...server, runtime }));
    assert.deepEqual(program.command, ['/bin/sh', '/ringmaster/launch.sh', '--', '/server', '--name', 'a b']);
    assert.equal(program.args, undefined);
    assert.equal(program.image, 'example.com/server:1');
    assert.equal(program.stdin, undefined);
    const { RINGMASTER_RUNTIME, RINGMASTER_ID, RINGMASTER_MIRROR } = variables(program);
    assert.deepEqual(
      { RINGMASTER_RUNTIME, RINGMASTER_ID, RINGMASTER_MIRROR },
      {
        RINGMASTER_RUNTIME: runtime,
        RINGMASTER_ID: 'a1b2c3',
        RINGMASTER_MIRROR: 'true',
      },
    );
  });
}

test('throughSidecar: people find the session where its program looks for it', () => {
  assert.equal(variables(programOf(podOf({ ...server, runtime: 'screen' })))['SCREENDIR'], '/ringmaster/run/screen');
  assert.equal(variables(programOf(podOf({ ...server, runtime: 'tmux' })))['TMUX_TMPDIR'], '/ringmaster/run');
});

test('throughSidecar: the launcher stops the program: no hook, twice the grace, and a command that no variable changes', () => {
  const stop = { command: 'say $(HOME) $$', gracePeriodSeconds: 20 };
  const pod = podOf({ ...server, runtime: 'process', stop });
  assert.equal(pod.terminationGracePeriodSeconds, 40);
  const program = programOf(pod);
  assert.equal(program.lifecycle, undefined);
  assert.equal(variables(program)['RINGMASTER_STOP_COMMAND'], 'say $$(HOME) $$$$');
  assert.equal(variables(program)['RINGMASTER_STOP_GRACE_SECONDS'], '20');
  assert.ok(!('RINGMASTER_STOP_COMMAND' in variables(programOf(podOf({ ...server, runtime: 'process' })))));
});

test('throughSidecar: the sidecar is native, starts first, and passes Pod Security "restricted" whatever the template says', () => {
  const podTemplate = { spec: { securityContext: { runAsUser: 0 }, initContainers: [{ name: 'mine', image: 'x' }] } };
  const pod = podOf({ ...server, runtime: 'process', podTemplate });
  assert.deepEqual(
    pod.initContainers?.map(({ name }) => name),
    ['ringmaster-sidecar', 'mine'],
  );
  const sidecar = sidecarOf(pod);
  assert.equal(sidecar.restartPolicy, 'Always');
  assert.deepEqual(sidecar.securityContext, {
    runAsNonRoot: true,
    runAsUser: 65532,
    runAsGroup: 65532,
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
    seccompProfile: { type: 'RuntimeDefault' },
  });
  assert.deepEqual(sidecar.startupProbe?.httpGet, { path: '/healthz', port: 7071 });
  assert.equal(sidecar.readinessProbe, undefined);
  assert.deepEqual(
    sidecar.ports?.map(({ containerPort }) => containerPort),
    [7070, 7071],
  );
  assert.deepEqual(sidecar.resources, { limits: { memory: '128Mi' } });
});

test('throughSidecar: only the sidecar can see the key and its own state', () => {
  const pod = podOf({ ...server, runtime: 'process' });
  const mounts = (container: Container): (string | undefined)[] =>
    (container.volumeMounts ?? []).map(({ name }) => name);
  assert.deepEqual(mounts(programOf(pod)), ['ringmaster']);
  assert.deepEqual(mounts(sidecarOf(pod)), ['ringmaster', 'ringmaster-state', 'ringmaster-key']);
  const key = pod.volumes?.find(({ name }) => name === 'ringmaster-key');
  assert.equal(key?.secret?.secretName, sidecarContext.keySecret);
});

test('throughSidecar: the volume has room for far more than is kept, and no limit where everything is kept', () => {
  const limitOf = (logs: InstanceSpec['logs']): string | undefined =>
    podOf({ ...server, runtime: 'screen', logs }).volumes?.find(({ name }) => name === 'ringmaster')?.emptyDir
      ?.sizeLimit;
  assert.equal(limitOf(undefined), String(192 * 1024 * 1024));
  assert.equal(limitOf({ retainBytes: '1Gi', mirrorToStdout: true }), String(2112 * 1024 * 1024));
  assert.equal(limitOf({ retainBytes: 0, mirrorToStdout: true }), undefined);
});

test('throughSidecar: what is kept and mirrored arrives at the sidecar and at the launcher', () => {
  const pod = podOf({ ...server, runtime: 'process', logs: { retainBytes: '1500m', mirrorToStdout: false } });
  assert.equal(variables(sidecarOf(pod))['RINGMASTER_RETAIN_BYTES'], '2');
  assert.equal(variables(programOf(pod))['RINGMASTER_MIRROR'], 'false');
});

test('throughSidecar: a pattern is matched by the sidecar, and other probes stay with the program', () => {
  const times = { periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 };
  const matched = podOf({ ...server, runtime: 'process', readiness: { logPattern: 'Done$(X)', ...times } });
  assert.deepEqual(sidecarOf(matched).readinessProbe?.httpGet, { path: '/readyz', port: 7071 });
  assert.equal(variables(sidecarOf(matched))['RINGMASTER_READY_PATTERN'], 'Done$$(X)');
  assert.equal(matched.readinessGates, undefined);
  const probed = podOf({ ...server, runtime: 'process', readiness: { tcpSocket: { port: 1 }, ...times } });
  assert.deepEqual(programOf(probed).readinessProbe?.tcpSocket, { port: 1 });
  assert.equal(sidecarOf(probed).readinessProbe, undefined);
});

const docker: Partial<InstanceSpec> = {
  ...server,
  runtime: 'docker',
  image: 'example.com/game',
  workingDir: '/data',
  env: [{ name: 'A', value: '1' }],
  ports: [
    { name: 'game', port: 25565, protocol: 'TCP' },
    { name: 'query', port: 1, protocol: 'UDP', hostPort: 30000 },
  ],
  resources: { requests: { memory: '1Gi' }, limits: { memory: '2Gi', cpu: '500m', 'example.com/gpu': 1 } },
  stop: { gracePeriodSeconds: 20 },
};

test('dockerLauncher: our image runs, and what the Engine is to run is in one variable', () => {
  const pod = podOf(docker);
  const program = programOf(pod);
  assert.equal(program.image, 'example.com/sidecar:1');
  assert.deepEqual(program.command, ['node', '/app/sidecar/docker/main.js']);
  assert.equal(program.ports, undefined);
  assert.equal(program.workingDir, undefined);
  const given = variables(program);
  assert.equal(given['A'], '1');
  assert.equal(given['RINGMASTER_INSTANCE_UID'], 'uid-lobby');
  assert.deepEqual(JSON.parse(given['RINGMASTER_DOCKER_SPEC'] ?? ''), {
    image: 'example.com/game',
    command: ['/server', '--name'],
    args: ['a b'],
    workingDir: '/data',
    ports: [
      { port: 25565, protocol: 'TCP', hostPort: 25565 },
      { port: 1, protocol: 'UDP', hostPort: 30000 },
    ],
    memoryBytes: 2 * 1024 ** 3,
    nanoCpus: 500_000_000,
    network: 'bridge',
    pull: 'Always',
  });
});

test('dockerLauncher: the container counts as started with the program, however long that takes; no other launcher is asked', () => {
  const probe = programOf(podOf(docker)).startupProbe;
  assert.deepEqual(probe?.httpGet, { path: '/startedz', port: 7071 });
  assert.equal(probe.failureThreshold, 2_147_483_647);
  for (const runtime of ['process', 'screen', 'tmux'] as const) {
    assert.equal(programOf(podOf({ ...server, runtime })).startupProbe, undefined);
  }
});

test('dockerLauncher: the pod sets the share of the program aside, and has time to take its container away', () => {
  const pod = podOf(docker);
  assert.deepEqual(programOf(pod).resources, { requests: { memory: '1Gi', cpu: '500m' } });
  assert.equal(pod.terminationGracePeriodSeconds, 30);
});

test('dockerLauncher: the socket belongs to root, or to a group that nobody in particular joins', () => {
  const asRoot = podOf(docker);
  assert.equal(programOf(asRoot).securityContext?.runAsUser, 0);
  const socket = asRoot.volumes?.find(({ name }) => name === 'ringmaster-docker');
  assert.deepEqual(socket?.hostPath, { path: '/var/run', type: 'Directory' });
  const { settings } = sidecarContext;
  const inGroup = podOf(docker, {
    ...sidecarContext,
    settings: { ...settings, docker: { ...settings.docker, groupId: 998 } },
  });
  assert.equal(programOf(inGroup).securityContext?.runAsUser, 65532);
  assert.deepEqual(inGroup.securityContext?.supplementalGroups, [998]);
  assert.equal(inGroup.securityContext.seccompProfile?.type, 'RuntimeDefault');
});

test('dockerLauncher: an image is pulled when Kubernetes would pull it', () => {
  const pullOf = (spec: Partial<InstanceSpec>): unknown => {
    const text = variables(programOf(podOf({ ...docker, ...spec })))['RINGMASTER_DOCKER_SPEC'] ?? '';
    return (JSON.parse(text) as { pull: unknown }).pull;
  };
  assert.equal(pullOf({ image: 'localhost:5000/game' }), 'Always');
  assert.equal(pullOf({ image: 'game:latest' }), 'Always');
  assert.equal(pullOf({ image: 'localhost:5000/game:1' }), 'IfNotPresent');
  assert.equal(pullOf({ image: 'game@sha256:0' }), 'IfNotPresent');
  assert.equal(pullOf({ image: 'game', imagePullPolicy: 'Never' }), 'Never');
});
