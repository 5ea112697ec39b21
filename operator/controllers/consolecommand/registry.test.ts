import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createRegistry } from './commands/all.ts';
import { UsageFault } from './fault.ts';
import { nameOf } from './registry.ts';

const registry = createRegistry();

test('Registry: a plural means its group', () => {
  for (const [line, name] of [
    ['instances list', 'instance list'],
    ['configs show x', 'config show'],
    ['keys list', 'key list'],
    ['nodes info', 'node info'],
    ['templates list', 'template list'],
  ] as const) {
    assert.equal(nameOf(registry.parse(line).command), name);
  }
});

test('Registry: any line is a command or a usage fault, and nothing else is thrown', () => {
  const word = fc.constantFrom('instance', 'config', 'create', 'list', '--image=x', '--', '"', "'", '\\', 'help', 'a');
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string({ unit: 'binary' }),
        fc.array(word).map((words) => words.join(' ')),
      ),
      (line) => {
        try {
          registry.parse(line);
        } catch (error) {
          assert.ok(error instanceof UsageFault, String(error));
        }
      },
    ),
  );
});

test('Registry: options stand before the command of the program, which keeps its own', () => {
  const { options, arguments: given } = registry.parse('config create lobby process --image=a:1 ./run --port=1 "b c"');
  assert.deepEqual([...options], [['image', 'a:1']]);
  assert.deepEqual(given, ['lobby', 'process', './run', '--port=1', 'b c']);
});

test('Registry: malformed input is answered with what is wrong and the usage', () => {
  const fault = (line: string): { message: string; usage: readonly string[] } => {
    try {
      registry.parse(line);
    } catch (error) {
      if (error instanceof UsageFault) return { message: error.message, usage: error.usage };
    }
    throw new Error(`"${line}" was understood`);
  };
  assert.equal(fault('nonsense').message, 'Unknown command: nonsense. Type "help" for a list of commands.');
  assert.deepEqual(fault('instance stop').usage, ['Usage: instance stop <id>']);
  assert.match(fault('key create a ALL --tok=1').message, /no option --tok/);
  assert.match(fault('config show "x').message, /a quote is not closed/);
  assert.ok(fault('instance').usage.length > 5);
  assert.match(fault('instance list more').message, /too many arguments/);
});
