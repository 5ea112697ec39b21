/** The OpenAPI document, and whether the Masters of a real cluster keep to it: PROTOCOL.md section 5. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openApiDocument } from '../operator/master/openapi.ts';
import { call, enterWorld } from './live-harness.ts';
import type { World } from './live-harness.ts';
import { hunt, installSchemathesis } from './schemathesis.ts';

let world: World;

before(async () => {
  world = await enterWorld();
});

after(() => world.leave());

test('openapi: the document is open, and is the one that the code makes', async () => {
  const { status, json } = await call(world.url, '/api/openapi.json');
  assert.equal(status, 200);
  assert.deepEqual(json, JSON.parse(JSON.stringify(openApiDocument())));
});

test('openapi: whatever is sent, no call answers with a 5xx or with something that the document does not say', async (context) => {
  const program = await installSchemathesis((line) => {
    context.diagnostic(line);
  });
  // Configurations of any kind would be run: a thousand Instances at once are among those that are tried.
  const exclude = ['putConfiguration'];
  assert.equal(await hunt({ program, url: world.url, token: world.token, examples: 10, exclude }), '');
});
