/** Masters and sidecars of this release and of the one before, each with each: both are real, the earlier ones from the clone's history. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { extractPreviousRelease, previousReleaseFault } from '../../e2e/previous-release.ts';
import type { PreviousTree } from '../../e2e/previous-release.ts';
import { headers, protocolVersions } from '../../sidecar/protocol.ts';
import type { VersionRange } from '../../sidecar/protocol.ts';
import { Rig, until } from '../../sidecar/testing/rig.ts';
import { OperatorError } from '../errors.ts';
import { createSilentLogger } from '../log.ts';
import { createSidecarLogSource } from '../logs/sources/sidecar.ts';
import { noTarget } from '../logs/target.ts';
import { systemClock } from '../runtime/clock.ts';
import { createSidecarClient, SidecarVersionError } from './client.ts';
import type { SidecarClient } from './client.ts';

const key = Buffer.alloc(32, 7);
const masterKey = { read: () => Promise.resolve([key]) };
const { current } = protocolVersions;

/** Why those that need the release before are left out; undefined: they are not. */
const skip = await previousReleaseFault();

let previous: PreviousTree;

before(async () => {
  if (skip === undefined) previous = await extractPreviousRelease();
});

after(async () => {
  if (skip === undefined) await previous.remove();
});

async function previousClient(): Promise<SidecarClient> {
  const module = (await import(join(previous.folder, 'operator/sidecar/client.ts'))) as {
    // It knew one key at a time.
    createSidecarClient: (options: { masterKey: { read: () => Promise<Buffer> } }) => SidecarClient;
  };
  assert.notEqual(module.createSidecarClient, createSidecarClient);
  return module.createSidecarClient({ masterKey: { read: () => Promise.resolve(key) } });
}

async function withPair(
  client: SidecarClient,
  sidecar: 'own' | 'previous',
  body: (rig: Rig) => Promise<void>,
): Promise<void> {
  const rig = await (sidecar === 'own'
    ? Rig.create('process')
    : Rig.create('process', {}, join(previous.folder, 'sidecar')));
  try {
    await body(rig);
  } finally {
    client.close();
    await rig.close();
  }
}

/** All that a Master does with a sidecar. */
async function exercise(client: SidecarClient, rig: Rig): Promise<void> {
  const at = { host: '127.0.0.1', port: rig.port, instanceUid: rig.uid };
  rig.launch(['sh'], ['cat']);
  await until(async () => (await client.status(at)).workload.state === 'running', 'a workload');
  const log = await client.openLog(at, { offset: 0, follow: true }, new AbortController().signal);
  await client.writeStdin(at, Buffer.from('one\ntwo\n'));
  let text = '';
  for await (const chunk of log.bytes) {
    text += chunk.toString();
    if (text.endsWith('two\n')) break;
  }
  assert.equal(text, 'one\ntwo\n');
  log.close();
  const rest = await client.openLog(at, { offset: 4, follow: false }, new AbortController().signal);
  const chunks: Buffer[] = [];
  for await (const chunk of rest.bytes) chunks.push(chunk);
  assert.equal(Buffer.concat(chunks).toString(), 'two\n');
  assert.equal((await client.status(at)).log.endOffset, 8);
}

test(
  'versions: this Master works with the sidecar of the release before, which says no version',
  { skip },
  async () => {
    const client = createSidecarClient({ masterKey });
    await withPair(client, 'previous', async (rig) => {
      assert.equal((await rig.call('GET', '/v1/status')).headers[headers.protocol], undefined);
      await exercise(client, rig);
    });
  },
);

test(
  'versions: the Master of the release before works with this sidecar, which answers in its version',
  { skip },
  async () => {
    const client = await previousClient();
    await withPair(client, 'own', (rig) => exercise(client, rig));
  },
);

test('versions: the newest that both sides speak is agreed on; whoever is too old is told', async () => {
  await withPair(createSidecarClient({ masterKey }), 'own', async (rig) => {
    const ask = async (version: string | undefined, path = '/v1/status'): ReturnType<Rig['call']> =>
      rig.call('GET', path, undefined, version === undefined ? {} : { [headers.protocol]: version });
    const cases: [asked: string | undefined, answered: number][] = [
      [undefined, 1],
      ['1', 1],
      [String(current), current],
      [String(current + 1), current],
      ['9999', current],
    ];
    for (const [asked, answered] of cases) {
      const answer = await ask(asked);
      assert.equal(answer.status, 200, asked);
      assert.equal(answer.headers[headers.protocol], String(answered), asked);
    }
    for (const asked of ['0', '-1', 'two', '', '1.5', '2, 2']) {
      const answer = await ask(asked);
      assert.equal(answer.status, 400, asked);
      assert.equal(answer.headers[headers.protocol], String(current), asked);
      assert.match(answer.body, /"code":"PROTOCOL_UNSUPPORTED"/, asked);
      assert.match(answer.body, /versions 1 to 2 of its protocol/, asked);
    }
    // Errors say the version too, and headers that nobody knows are passed over.
    assert.equal((await ask('2', '/v1/nothing')).headers[headers.protocol], '2');
    assert.equal((await rig.call('GET', '/v1/status', undefined, { 'ringmaster-later': 'x' })).status, 200);
    // Those who ask the plain port know no versions.
    const plain = await fetch(`http://127.0.0.1:${rig.healthPort}/healthz`, { headers: { [headers.protocol]: '0' } });
    assert.equal(plain.status, 200);
  });
});

const later: VersionRange = { current: current + 1, oldest: current };

test(
  'versions: a Master two releases ahead refuses the sidecar with a sentence, for each call and each reader',
  { skip },
  async () => {
    const client = createSidecarClient({ masterKey, versions: later });
    const sentence = 'its sidecar speaks protocol 1, this Ringmaster 2 to 3: restart the instance';
    await withPair(client, 'previous', async (rig) => {
      const at = { host: '127.0.0.1', port: rig.port, instanceUid: rig.uid };
      const isRefused = (error: unknown): boolean =>
        error instanceof SidecarVersionError && error.message === sentence && error.mayHaveActed;
      await assert.rejects(client.status(at), isRefused);
      await assert.rejects(client.writeStdin(at, Buffer.from('x\n')), isRefused);
      await assert.rejects(client.openLog(at, { tail: 1, follow: true }, new AbortController().signal), isRefused);
      const target = { ...noTarget, namespace: 'games', podName: 'game-1', podIP: '127.0.0.1', podSequence: 1 };
      const source = createSidecarLogSource({
        client,
        target: { current: () => target, changed: () => new Promise(() => undefined) },
        instanceUid: rig.uid,
        clock: systemClock,
        random: Math.random,
        log: createSilentLogger(),
        port: rig.port,
      });
      const isSaid = (error: unknown): boolean =>
        error instanceof OperatorError &&
        error.code === 'LOG_SOURCE_UNAVAILABLE' &&
        error.message === `Cannot read the log: ${sentence}`;
      await assert.rejects(source.tail(10, new AbortController().signal), isSaid);
      const events = source.open({ tail: 10 }, AbortSignal.timeout(10_000));
      await assert.rejects(events[Symbol.asyncIterator]().next(), isSaid);
      // Within the 123 bytes of a close frame.
      assert.ok(Buffer.byteLength(`Cannot read the log: ${sentence}`) <= 123);
    });
    const next = createSidecarClient({ masterKey, versions: later });
    await withPair(next, 'own', (rig) => exercise(next, rig));
  },
);

test('versions: a sidecar two releases ahead refuses before it does anything', async () => {
  const client = createSidecarClient({ masterKey, versions: { current: 0, oldest: 0 } });
  await withPair(client, 'own', async (rig) => {
    rig.launch(['sh'], ['cat']);
    await until(async () => (await rig.status()).workload.state === 'running', 'a workload');
    const at = { host: '127.0.0.1', port: rig.port, instanceUid: rig.uid };
    await assert.rejects(client.writeStdin(at, Buffer.from('x\n')), (error) => {
      const sentence = 'its sidecar speaks protocol 2, this Ringmaster 0: restart the instance';
      return error instanceof SidecarVersionError && error.message === sentence && !error.mayHaveActed;
    });
    await rig.call('POST', '/v1/stdin', 'y\n');
    await until(async () => (await rig.logFile()).length > 0, 'what was typed');
    assert.equal((await rig.logFile()).toString(), 'y\n');
  });
});
