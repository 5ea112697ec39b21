import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSilentLogger } from '../log.ts';
import { createSidecarClient } from '../sidecar/client.ts';
import { FakeClock } from '../testing/clock.ts';
import { LogServer } from '../testing/logserver.ts';
import { createSources } from './sources.ts';

function sourcesFor(runtime: string | undefined, hasKey: boolean): ReturnType<typeof createSources> {
  const server = new LogServer();
  const key = { read: () => Promise.resolve([Buffer.alloc(32)]) };
  return createSources({
    client: server.client,
    sidecars: hasKey ? createSidecarClient({ masterKey: key }) : undefined,
    directory: { watchTarget: () => server.target, runtimeOf: () => runtime },
    clock: new FakeClock(),
    random: () => 0.5,
    log: createSilentLogger(),
    observerFor: () => ({}),
  });
}

/** The cursor of an instance without lines says whose it is. */
async function cursorOf(runtime: string | undefined): Promise<string> {
  const source = sourcesFor(runtime, true)('uid-1');
  return (await source.tail(1, new AbortController().signal)).cursor;
}

test('sources: the runtime decides; one that is not known any more is read as kubernetes', async () => {
  assert.match(await cursorOf('kubernetes'), /^k1\./);
  assert.match(await cursorOf(undefined), /^k1\./);
  for (const runtime of ['process', 'screen', 'tmux', 'docker']) {
    assert.match(await cursorOf(runtime), /^s1\./);
  }
});

test('sources: without a key only kubernetes is served, and the others say so', () => {
  assert.ok(sourcesFor('kubernetes', false)('uid-1'));
  assert.throws(() => sourcesFor('process', false)('uid-1'), { code: 'LOG_SOURCE_UNAVAILABLE', status: 503 });
});
