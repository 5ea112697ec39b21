import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testToken } from '../operator/testing/master.ts';
import { startMasterWorld } from '../operator/testing/masterworld.ts';
import { findSchemathesis, hunt } from './schemathesis.ts';

/** Answered by the console, which this Master has none of. */
const console = ['openConsole', 'executeCommand'];

test('openapi: whatever is sent, no call answers with a 5xx or with something that the document does not say', async (context) => {
  const program = await findSchemathesis((line) => {
    context.diagnostic(line);
  });
  if (program === undefined) {
    context.skip('schemathesis cannot be had');
    return;
  }
  await using master = await startMasterWorld();
  const url = `http://127.0.0.1:${master.port}`;
  assert.equal(await hunt({ program, url, token: testToken, examples: 4, exclude: console }), '');
});
