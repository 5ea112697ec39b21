import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { cleanTerminal, endMark } from './terminal.ts';

/** What a terminal makes of a program's output. */
function throughTerminal(bytes: Buffer): Buffer {
  return Buffer.from(bytes.toString('latin1').replaceAll('\n', '\r\n'), 'latin1');
}

const outputs = fc
  .array(
    fc.oneof(
      fc.constantFrom('\r', '\n', '\r\n', '\u001b', '\u001b_ring', '\u001b_ringmaster:end\u001b', 'a'),
      fc.string(),
    ),
  )
  .map((parts) => Buffer.from(parts.join(''), 'utf8'))
  .filter((bytes) => !bytes.includes(endMark));

test('cleanTerminal: gives back what the program wrote, however the bytes are cut', () => {
  fc.assert(
    fc.property(outputs, fc.array(fc.nat(30), { maxLength: 20 }), (written, cuts) => {
      const terminal = Buffer.concat([throughTerminal(written), endMark]);
      const output: Buffer[] = [];
      let held = Buffer.alloc(0);
      let marks = 0;
      let from = 0;
      for (const size of [...cuts, terminal.length]) {
        const cleaned = cleanTerminal(Buffer.concat([held, terminal.subarray(from, from + size)]));
        output.push(...cleaned.output);
        held = Buffer.from(cleaned.held);
        marks += Number(cleaned.hasEndMark);
        from += size;
      }
      assert.deepEqual(Buffer.concat([...output, held]), written);
      assert.equal(marks, 1);
    }),
    { numRuns: 2000 },
  );
});
