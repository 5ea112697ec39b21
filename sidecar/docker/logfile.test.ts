import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { CopiedLog } from './logfile.ts';

async function withVolume(body: (directory: string, open: () => CopiedLog) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'docker-log-'));
  const logs: CopiedLog[] = [];
  try {
    mkdirSync(join(directory, 'run'));
    writeFileSync(join(directory, 'log'), 'earlier\n');
    await body(directory, () => {
      const log = new CopiedLog(directory, () => undefined);
      logs.push(log);
      return log;
    });
  } finally {
    logs.forEach((log) => {
      log.close();
    });
    rmSync(directory, { recursive: true });
  }
}

test("CopiedLog: a successor knows how much was copied, without the launcher's own lines", async () => {
  await withVolume(async (_directory, open) => {
    const log = open();
    log.begin('one');
    await log.append(Buffer.from('half a li'), undefined);
    await log.say('something is odd');
    await log.append(Buffer.from('ne\n'), undefined);
    const next = open();
    assert.equal(await next.resume('another'), false);
    assert.equal(await next.resume('one'), true);
    assert.deepEqual(next.position, { copiedBytes: 12, anchor: undefined });
  });
});

test('CopiedLog: a line of its own that a kill cut short is finished', async () => {
  await withVolume(async (directory, open) => {
    open().begin('one');
    const state = {
      container: 'one',
      startOffset: 8,
      ownBytes: 0,
      pending: { offset: 12, text: '[ringmaster] whole line\n' },
    };
    appendFileSync(join(directory, 'log'), 'abc\n[ringm');
    writeFileSync(join(directory, 'run/docker.json'), JSON.stringify(state));
    const log = open();
    assert.equal(await log.resume('one'), true);
    assert.equal(readFileSync(join(directory, 'log'), 'utf8'), 'earlier\nabc\n[ringmaster] whole line\n');
    assert.equal(log.position.copiedBytes, 4);
  });
});

test('CopiedLog: an anchor whose bytes are not in the file yet is not kept', async () => {
  await withVolume(async (_directory, open) => {
    const log = open();
    log.begin('one');
    const anchor = { copiedBytes: 4, stamp: 's', stream: 'stdout', crc: 1 } as const;
    log.keepAnchor(anchor);
    assert.equal(log.position.anchor, undefined);
    await log.append(Buffer.from('abc\n'), undefined);
    log.keepAnchor(anchor);
    assert.deepEqual(log.position, { copiedBytes: 4, anchor });
  });
});

test('CopiedLog: a state that somebody spoilt counts as none, and a link in place of the log is refused', async () => {
  await withVolume(async (directory, open) => {
    const log = open();
    log.begin('one');
    writeFileSync(join(directory, 'run/docker.json'), '{"container":"one"');
    assert.equal(await log.resume('one'), false);
    rmSync(join(directory, 'log'));
    symlinkSync('/dev/null', join(directory, 'log'));
    assert.throws(open, /ELOOP/);
  });
});
