import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OperatorError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { createSilentLogger } from '../log.ts';
import type { LogTarget } from '../logs/target.ts';
import { ApiError } from '../runtime/client.ts';
import { SidecarUnreachableError, SidecarVersionError } from '../sidecar/client.ts';
import { createStdinWriter } from './stdin.ts';

const running: LogTarget = {
  namespace: 'games',
  podName: 'lobby-1',
  podIP: '10.0.0.7',
  podSequence: 1,
  restarts: 0,
  endingPodSequence: 0,
  unstartedPodSequence: 0,
  isFinished: false,
};

interface Scene {
  readonly runtime?: string | undefined;
  readonly target?: Partial<LogTarget>;
  readonly attachFault?: Error;
  readonly sidecarFault?: Error;
  readonly hasKey?: boolean;
}

async function type(scene: Scene): Promise<string[]> {
  const calls: string[] = [];
  const { attachFault, sidecarFault } = scene;
  const write = createStdinWriter({
    client: {
      attachStdin: (pod, container, bytes) => {
        calls.push(`${pod.namespace}/${pod.name}/${container} ${Buffer.from(bytes).toString()}`);
        return attachFault === undefined ? Promise.resolve() : Promise.reject(attachFault);
      },
    },
    sidecars:
      scene.hasKey === false
        ? undefined
        : {
            writeStdin: (at, bytes) => {
              calls.push(`${at.host} ${at.instanceUid} ${Buffer.from(bytes).toString()}`);
              return sidecarFault === undefined ? Promise.resolve() : Promise.reject(sidecarFault);
            },
          },
    directory: {
      watchTarget: () => ({ current: () => ({ ...running, ...scene.target }) }),
      runtimeOf: () => ('runtime' in scene ? scene.runtime : 'process'),
    },
    log: createSilentLogger(),
  });
  await write('uid-1', Buffer.from('say hi\n'));
  return calls;
}

function apiError(code: number, message: string): ApiError {
  return new ApiError({ code, reason: 'x', message });
}

test('stdin: the runtime decides the way', async () => {
  assert.deepEqual(await type({}), ['10.0.0.7 uid-1 say hi\n']);
  assert.deepEqual(await type({ runtime: 'kubernetes' }), ['games/lobby-1/instance say hi\n']);
});

const unreachable = new SidecarUnreachableError({ host: '10.0.0.7', instanceUid: 'uid-1' }, new Error('refused'));
const faults: [title: string, scene: Scene, code: ErrorCode][] = [
  ['a finished instance', { target: { isFinished: true } }, 'NOT_RUNNING'],
  ['an instance without a pod', { target: { podName: undefined } }, 'NOT_RUNNING'],
  ['a pod without an address', { target: { podIP: undefined } }, 'NOT_RUNNING'],
  ['an instance that is gone', { runtime: undefined }, 'NOT_RUNNING'],
  ['no key', { hasKey: false }, 'STDIN_UNAVAILABLE'],
  ['a sidecar that is not there', { sidecarFault: unreachable }, 'STDIN_UNAVAILABLE'],
  ['a connection that breaks', { sidecarFault: new Error('socket hang up') }, 'STDIN_UNCERTAIN'],
  [
    'a sidecar that is too new',
    { sidecarFault: new SidecarVersionError(3, { current: 1, oldest: 1 }) },
    'STDIN_UNAVAILABLE',
  ],
  [
    'a sidecar that is too old, and has typed it',
    { sidecarFault: new SidecarVersionError(1, { current: 3, oldest: 2 }) },
    'STDIN_UNCERTAIN',
  ],
  ['no such pod', { runtime: 'kubernetes', attachFault: apiError(404, 'pods "x" not found') }, 'NOT_RUNNING'],
  [
    'a container that has ended',
    {
      runtime: 'kubernetes',
      attachFault: apiError(500, 'error attaching to container: container not found ("instance")'),
    },
    'NOT_RUNNING',
  ],
  ['no right to attach', { runtime: 'kubernetes', attachFault: apiError(403, 'forbidden') }, 'STDIN_UNAVAILABLE'],
  [
    'an attach that breaks',
    { runtime: 'kubernetes', attachFault: new Error('closed with code 1006') },
    'STDIN_UNCERTAIN',
  ],
];

for (const [title, scene, code] of faults) {
  test(`stdin: ${title} is ${code}`, async () => {
    await assert.rejects(type(scene), (error) => error instanceof OperatorError && error.code === code);
  });
}
