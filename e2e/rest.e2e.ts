/** The plain HTTP calls on a real cluster: PROTOCOL.md section 5. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  applyInstances,
  call,
  createKey,
  enterWorld,
  eventually,
  masters,
  numberWriter,
  openSocket,
  shellProgram,
  Tally,
} from './live-harness.ts';
import type { Answer, World } from './live-harness.ts';

let world: World;
const names = ['plain', 'silent', 'writer', 'finished', 'homeless'] as const;
let ids: Record<(typeof names)[number], string>;

before(async () => {
  world = await enterWorld();
  ids = await applyInstances(world, {
    plain: {
      ...shellProgram('i=0; while [ $i -lt 1500 ]; do i=$((i+1)); echo "line $i"; done; exec sleep 1000'),
      ports: [{ name: 'game', port: 25565 }],
      resources: { requests: { cpu: '10m' }, limits: { cpu: '250m', memory: '64Mi' } },
    },
    silent: shellProgram('exec sleep 1000'),
    writer: numberWriter(world, { lines: 20_000, perSecond: 1_000 }),
    finished: { ...shellProgram('echo one; echo; echo "three é"'), restartPolicy: 'Never' },
    homeless: { ...shellProgram('exec sleep 1000'), podTemplate: { spec: { nodeSelector: { nowhere: 'yes' } } } },
  });
  await world.kubectl(['wait', '--for=condition=Ready', 'instance/plain', 'instance/silent', '--timeout=60s']);
  await world.kubectl(['wait', '--for=jsonpath={.status.state}=STOPPED', 'instance/finished', '--timeout=60s']);
});

after(() => world.leave());

async function get(path: string, token: string | undefined = world.token): Promise<Answer> {
  return call(world.url, path, token === '' ? {} : { token });
}

test('rest: ping is open and says which node and cluster answers', async () => {
  const { status, json } = await get('/api/ping', '');
  assert.equal(status, 200);
  const { nodeId, ...rest } = json as Record<string, unknown>;
  assert.deepEqual(rest, { status: 'ok', clusterName: 'ringmaster', master: true });
  const nodes = await world.kubectl(['get', 'nodes', '-o', 'jsonpath={.items[*].metadata.name}']);
  assert.ok(nodes.split(' ').includes(String(nodeId)), `nodeId "${String(nodeId)}" is one of ${nodes}`);
});

test('rest: metrics are open and every line is in the Prometheus text format, ours among them', async () => {
  const { status, text, headers } = await get('/api/metrics', '');
  assert.equal(status, 200);
  assert.match(headers.get('content-type') ?? '', /^text\/plain/);
  const sample =
    /^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*")*\})? (?:[-+]?[\d.]+(?:e[-+]?\d+)?|NaN|[-+]Inf)$/;
  const comment = /^# (HELP|TYPE) [a-zA-Z_:][a-zA-Z0-9_:]* .+$/;
  const lines = text.split('\n').filter((line) => line !== '');
  const strange = lines.filter((line) => !sample.test(line) && !comment.test(line));
  assert.deepEqual(strange, []);
  for (const name of [
    'process_cpu_seconds_total',
    'nodejs_eventloop_lag_seconds',
    'ringmaster_master_sockets_open',
    'ringmaster_master_lines_sent_total',
    'ringmaster_hub_upstreams_open',
    'ringmaster_http_requests_total',
    'ringmaster_kubernetes_requests_total',
    'ringmaster_reflector_relists_total',
  ]) {
    assert.ok(
      lines.some((line) => line.startsWith(`# TYPE ${name} `)),
      name,
    );
  }
});

test('rest: instances are listed and shown as kubectl sees them', async () => {
  const list = await get('/api/instances');
  assert.equal(list.status, 200);
  const mine = (list.json as Record<string, unknown>[]).filter(({ namespace }) => namespace === world.namespace);
  assert.deepEqual(mine.map(({ name }) => name).sort(), [...names].sort());
  const { status, json } = await get(`/api/instances/${ids.plain}`);
  assert.equal(status, 200);
  const pod = JSON.parse(
    await world.kubectl(['get', 'pods', '-l', `ringmaster.dev/id=${ids.plain}`, '-o', 'json']),
  ) as {
    items: { spec: { nodeName: string }; status: { podIP: string } }[];
  };
  const { lastHeartbeat, ...info } = json as Record<string, unknown>;
  assert.deepEqual(info, {
    id: ids.plain,
    name: 'plain',
    namespace: world.namespace,
    configurationName: null,
    wrapperNodeId: pod.items[0]?.spec.nodeName,
    hostAddress: pod.items[0]?.status.podIP,
    allocatedPort: 25565,
    state: 'ONLINE',
    processPid: null,
    allocatedRamMB: 64,
    allocatedCpu: 25,
    runtime: 'kubernetes',
    restarts: 0,
  });
  assert.ok(Math.abs(Date.now() - Number(lastHeartbeat)) < 600_000);
  assert.deepEqual(
    json,
    mine.find(({ name }) => name === 'plain'),
  );
  const stateOf = (wanted: string): unknown => mine.find(({ name }) => name === wanted)?.['state'];
  assert.deepEqual([stateOf('finished'), stateOf('homeless')], ['STOPPED', 'CREATING']);
});

interface Logs {
  instanceId: string;
  lines: string[];
  totalLines: number;
  nextCursor: string;
}

async function logs(id: string, query = ''): Promise<Logs> {
  const { status, json, text } = await get(`/api/instances/${id}/logs${query}`);
  assert.equal(status, 200, text);
  const answer = json as Logs;
  assert.equal(answer.instanceId, id);
  assert.equal(answer.totalLines, answer.lines.length);
  return answer;
}

const numbered = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, index) => `line ${from + index}`);

test('rest: logs gives the last lines, 100 if not said, 1 to 1000 if said', async () => {
  await eventually('all lines to be written', async () => (await logs(ids.plain, '?lines=1')).lines[0] === 'line 1500');
  assert.deepEqual((await logs(ids.plain)).lines, numbered(1_401, 1_500));
  assert.deepEqual((await logs(ids.plain, '?lines=1')).lines, numbered(1_500, 1_500));
  assert.deepEqual((await logs(ids.plain, '?lines=1000')).lines, numbered(501, 1_500));
  for (const lines of ['0', '1001', '-1', '1.5', 'all', '']) {
    const { status, json } = await get(`/api/instances/${ids.plain}/logs?lines=${lines}`);
    assert.equal(status, 400, lines);
    assert.match((json as { error: string }).error, /"lines".*1 to 1000/);
  }
});

test('rest: logs of an instance without lines, and of one without a pod that runs, is an empty list', async () => {
  for (const id of [ids.silent, ids.homeless]) {
    const { lines, totalLines } = await logs(id);
    assert.deepEqual({ lines, totalLines }, { lines: [], totalLines: 0 });
  }
});

test('rest: logs of a finished instance are its lines, blank ones too', async () => {
  assert.deepEqual((await logs(ids.finished)).lines, ['one', '', 'three é']);
});

test('rest: nextCursor opens the live log just after the last line, on either replica', async () => {
  for (const { url } of await masters(world)) {
    const { lines, nextCursor } = await logs(ids.writer, '?lines=50');
    const tally = new Tally();
    for (const line of lines) tally.note(Number.parseInt(line, 10));
    const socket = await openSocket(world, {
      ...{ url, id: ids.writer, query: `?cursor=${encodeURIComponent(nextCursor)}` },
      onFrame: (text) => {
        tally.note(Number.parseInt(text, 10));
      },
    });
    await socket.until('1000 lines', () => tally.received >= 1_000);
    socket.terminate();
    tally.check(url, tally.last);
    assert.equal(tally.first, tally.last - tally.received + 1);
  }
});

test('rest: nextCursor of an instance without lines gives its first ones', async () => {
  const { nextCursor } = await logs(ids.silent);
  const socket = await openSocket(world, {
    ...{ id: ids.silent, query: `?cursor=${encodeURIComponent(nextCursor)}` },
  });
  const pod = await world.kubectl(['get', 'instance', 'silent', '-o', 'jsonpath={.status.podName}']);
  await world.kubectl(['exec', pod, '--', 'sh', '-c', 'echo spoken >/proc/1/fd/1']);
  await socket.untilFrames(1);
  assert.deepEqual(socket.frames, ['spoken']);
  socket.terminate();
});

test('rest: without a token, and with a PUBLIC one, everything but the open calls is the same 401', async () => {
  const paths = [
    '/api/instances',
    `/api/instances/${ids.plain}`,
    `/api/instances/${ids.plain}/logs`,
    '/api/nothing',
    '/api',
  ];
  for (const path of paths) {
    for (const token of ['', world.publicToken, 'nobody']) {
      const { status, text, headers } = await get(path, token);
      const seen = { status, text, authenticate: headers.get('www-authenticate') };
      assert.deepEqual(
        seen,
        { status: 401, text: '{"error":"Unauthorized"}', authenticate: 'Bearer' },
        `${path} ${token}`,
      );
    }
  }
});

test('rest: other paths, methods and ids are told apart as JSON', async () => {
  const cases: [string, string, number, string][] = [
    ['GET', '/api/nothing', 404, 'Not found'],
    ['GET', '/api/instances/', 404, 'Not found'],
    ['GET', '/api/instances/zzzzzz', 404, 'Instance not found'],
    ['GET', '/api/instances/zzzzzz/logs', 404, 'Instance not found'],
    ['GET', '/api/instances/ABC', 400, 'Malformed instance id: it is six characters of 0-9 and a-z'],
    ['GET', '/api/instances/%ff', 400, 'Malformed request'],
    ['POST', '/api/ping', 405, 'Method not allowed'],
    ['DELETE', `/api/instances/${ids.plain}/logs`, 405, 'Method not allowed'],
    ['GET', `/api/instances/${ids.plain}/live-log`, 426, 'This is a WebSocket: ask for an upgrade'],
  ];
  for (const [method, path, status, error] of cases) {
    const answer = await call(world.url, path, { method, token: world.token });
    assert.deepEqual([answer.status, answer.json], [status, { error }], `${method} ${path}`);
    if (status === 405) assert.equal(answer.headers.get('allow'), 'GET, HEAD');
  }
  const head = await call(world.url, '/api/instances', { method: 'HEAD', token: world.token });
  assert.deepEqual([head.status, head.text], [200, '']);
});

test('rest: a PUBLIC key has 100 calls in 60 s, whatever it asks for; others are not touched', async () => {
  const [{ url }] = await masters(world);
  const token = await createKey(world, 'e2e-visitor', { permission: 'PUBLIC' });
  const other = await createKey(world, 'e2e-neighbour', { permission: 'PUBLIC' });
  const limited = async (): Promise<Answer> => call(url, '/api/ping', { token });
  // It counts from its first call, which is the first one after the replica has seen the key; until then its calls are nobody's.
  let last = await limited();
  let granted = 0;
  for (; last.status === 200 && granted < 1_000; granted += 1) {
    last = await (granted % 2 === 0 ? limited() : call(url, '/api/instances', { token })).then((answer) =>
      answer.status === 401 ? { ...answer, status: 200 } : answer,
    );
  }
  assert.ok(granted >= 100 && granted < 1_000, `${granted} calls were answered`);
  assert.equal(last.status, 429);
  const { error, retryAfterMs } = last.json as { error: string; retryAfterMs: number };
  assert.equal(error, `Rate limit exceeded. Retry after ${retryAfterMs}ms.`);
  assert.ok(retryAfterMs > 0 && retryAfterMs <= 60_000);
  assert.equal(last.headers.get('retry-after'), String(Math.ceil(retryAfterMs / 1_000)));
  assert.equal((await call(url, '/api/ping', { token: other })).status, 200);
  assert.equal((await call(url, '/api/ping')).status, 200);
  assert.equal((await call(url, '/api/instances', { token: world.token })).status, 200);
});
