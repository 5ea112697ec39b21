/** What `npm test` prints of a run: a line for each test, everything about a failure, the names of what failed once more, and the counts. */
import type { EventData } from 'node:test';

type TestEvent =
  | { type: 'test:pass'; data: EventData.TestPass }
  | { type: 'test:fail'; data: EventData.TestFail }
  | { type: 'test:stdout' | 'test:stderr'; data: { message: string } };

export default async function* report(source: AsyncIterable<TestEvent>): AsyncGenerator<string, void> {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const slow: { name: string; ms: number }[] = [];
  const failed: string[] = [];
  for await (const event of source) {
    if (event.type === 'test:stdout' || event.type === 'test:stderr') {
      yield event.data.message;
      continue;
    }
    if (!isResult(event)) continue;
    const { name, details, file } = event.data;
    if (details.type === 'suite') continue;
    const ms = details.duration_ms;
    if (event.data.skip !== undefined && event.data.skip !== false) {
      counts.skipped += 1;
      yield `skip  ${name}\n`;
    } else if (event.type === 'test:fail') {
      counts.failed += 1;
      failed.push(`${name}: ${rootOf(event.data.details.error).message.split('\n', 1)[0] ?? ''}`);
      yield `FAIL  ${name} (${ms.toFixed(0)} ms)  ${file ?? ''}\n${describe(event.data.details.error)}\n`;
    } else {
      counts.passed += 1;
      if (file?.endsWith('.e2e.ts') === true) yield `ok    ${name} (${(ms / 1000).toFixed(1)} s)\n`;
      else slow.push({ name, ms });
    }
  }
  for (const { name, ms } of slow.sort((a, b) => b.ms - a.ms).slice(0, 3))
    yield `slow  ${name} (${(ms / 1000).toFixed(1)} s)\n`;
  for (const name of failed) yield `failed  ${name}\n`;
  yield `counts: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`;
}

function isResult(event: TestEvent): event is TestEvent & { type: 'test:pass' | 'test:fail' } {
  // The runner also reports beginnings, plans and diagnostics, which the type above leaves out.
  return ['test:pass', 'test:fail'].includes(event.type);
}

/** What the test threw; the runner wraps it. */
function rootOf(error: Error): Error {
  return error.cause instanceof Error ? error.cause : error;
}

function describe(error: Error): string {
  const root = rootOf(error);
  return (root.stack ?? root.message).replaceAll(/^/gm, '      ');
}
