import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerName, createOptions, readSettings, withTag } from './spec.ts';

const env = {
  RINGMASTER_ID: 'lobby',
  RINGMASTER_INSTANCE_UID: 'b6a1e0f4-0000-4000-8000-000000000001',
  RINGMASTER_POD_UID: 'c7a1e0f4-0000-4000-8000-000000000002',
};

function settingsOf(spec: Record<string, unknown>, more: NodeJS.ProcessEnv = {}): ReturnType<typeof readSettings> {
  const full = { image: 'example.test/game:1', network: 'bridge', pull: 'IfNotPresent', ...spec };
  return readSettings({ ...env, ...more, RINGMASTER_DOCKER_SPEC: JSON.stringify(full) });
}

test("readSettings: the workload gets the Instance's variables and none of the launcher's or the cluster's", () => {
  const own = {
    PATH: '/bin',
    HOME: '/',
    HOSTNAME: 'pod',
    NODE_ENV: 'production',
    KUBERNETES_PORT: 'tcp',
    UV_THREADPOOL_SIZE: '2',
  };
  const settings = settingsOf({}, { ...own, MALLOC_ARENA_MAX: '2', GREETING: 'a=b $c', EMPTY: '', PATHS: 'kept' });
  assert.deepEqual(settings.environment, ['GREETING=a=b $c', 'EMPTY=', 'PATHS=kept']);
});

test('readSettings: what is missing or wrong is named', () => {
  assert.throws(() => readSettings({ ...env }), /RINGMASTER_DOCKER_SPEC is not set/);
  assert.throws(() => readSettings({ ...env, RINGMASTER_DOCKER_SPEC: '{' }), /RINGMASTER_DOCKER_SPEC: it is not JSON/);
  assert.throws(() => settingsOf({ network: 'overlay' }), /network/);
  assert.throws(() => settingsOf({ ports: [{ port: 0, protocol: 'TCP' }] }), /ports\.0\.port/);
  assert.throws(() => settingsOf({ privileged: true }), /privileged/);
  assert.throws(
    () => settingsOf({}, { RINGMASTER_STOP_GRACE_SECONDS: 'soon' }),
    /RINGMASTER_STOP_GRACE_SECONDS is "soon"/,
  );
});

test('createOptions: command and args mean what they mean in a pod, and limits are passed on', () => {
  const options = createOptions(
    settingsOf({ command: ['/game', '-x'], args: ['a b'], workingDir: '/data', memoryBytes: 64e6, nanoCpus: 5e8 }),
  );
  assert.deepEqual([options.Entrypoint, options.Cmd, options.WorkingDir], [['/game', '-x'], ['a b'], '/data']);
  assert.deepEqual([options.HostConfig?.Memory, options.HostConfig?.NanoCpus], [64e6, 5e8]);
  assert.deepEqual(
    [options.Tty, options.OpenStdin, options.StdinOnce, options.HostConfig?.Init],
    [false, true, false, true],
  );
  assert.equal(options.name, 'ringmaster-lobby-c7a1e0f4');
  const plain = createOptions(settingsOf({}));
  assert.ok(!('Entrypoint' in plain) && !('Cmd' in plain), "the image's own stay");
});

test('createOptions: ports are published on a bridge and nowhere else', () => {
  const ports = [
    { port: 25565, protocol: 'TCP' },
    { port: 19132, protocol: 'UDP', hostPort: 30000 },
  ];
  const bridge = createOptions(settingsOf({ ports }));
  assert.deepEqual(bridge.HostConfig?.PortBindings, {
    '25565/tcp': [{ HostPort: '25565' }],
    '19132/udp': [{ HostPort: '30000' }],
  });
  assert.deepEqual(bridge.ExposedPorts, { '25565/tcp': {}, '19132/udp': {} });
  for (const network of ['host', 'none']) {
    assert.deepEqual(createOptions(settingsOf({ ports, network })).HostConfig?.PortBindings, {});
  }
});

test('withTag: a pull names one image', () => {
  assert.equal(withTag('localhost:5000/game'), 'localhost:5000/game:latest');
  assert.equal(withTag('localhost:5000/game:1'), 'localhost:5000/game:1');
  assert.equal(withTag('game@sha256:abc'), 'game@sha256:abc');
});

test('containerName: one name per pod', () => {
  assert.notEqual(containerName({ id: 'a', podUid: '11111111-x' }), containerName({ id: 'a', podUid: '22222222-x' }));
});
