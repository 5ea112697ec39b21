import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testToken } from '../operator/testing/master.ts';
import { startMasterWorld } from '../operator/testing/masterworld.ts';
import { hunt, installSchemathesis } from './schemathesis.ts';

test('openapi: whatever is sent, no call answers with a 5xx or with something that the document does not say', async (context) => {
  const program = await installSchemathesis((line) => {
    context.diagnostic(line);
  });
  await using master = await startMasterWorld();
  const url = `http://127.0.0.1:${master.port}`;
  assert.equal(await hunt({ program, url, token: testToken, examples: 4 }), '');
});
