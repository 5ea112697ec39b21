/** The runner of the guides, on pages of our own: what it takes for a step, and what it does not let pass. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isAsShown, Reader, readGuide } from './guide.ts';

const fence = '```';

async function follow(page: string): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-page-'));
  try {
    const [path, kubeconfig] = [join(folder, 'page.md'), join(folder, 'kubeconfig')];
    await writeFile(path, page);
    await writeFile(kubeconfig, '');
    const reader = await Reader.open({ page: path, kubeconfig, binDir: '/nowhere', env: { GREETING: 'hello' } });
    const done: string[] = [];
    try {
      await reader.follow(async (name) => {
        done.push(`${name}: ${await reader.run('echo "$NAME"')}`);
      });
    } finally {
      await reader.close();
    }
    return done;
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('readGuide: files, commands with what they show, and terminals, in order; other code is for reading', () => {
  const page = `# Title
${fence}yaml
# lobby.yaml
kind: Instance
${fence}

${fence}sh
echo one
${fence}

${fence}text
one
${fence}

${fence}sh terminal
cat
${fence}

<!-- terminal: [["type", "a"]] -->

${fence}html
<!-- page.html -->
<p>
${fence}

${fence}js
only.read();
${fence}

<!-- person: look -->
`;
  assert.deepEqual(readGuide(page), [
    { kind: 'file', name: 'lobby.yaml', content: '# lobby.yaml\nkind: Instance\n' },
    { kind: 'commands', text: 'echo one\n', expected: 'one\n' },
    { kind: 'terminal', text: 'cat\n', steps: [['type', 'a']] },
    { kind: 'file', name: 'page.html', content: '<!-- page.html -->\n<p>\n' },
    { kind: 'person', name: 'look' },
  ]);
});

test('readGuide: a result of nothing, and a terminal that nobody types into, are faults of the page', () => {
  assert.throws(() => readGuide(`${fence}text\nx\n${fence}\n`), /follows no commands/);
  assert.throws(
    () => readGuide(`${fence}sh\nls\n${fence}\nWords.\n${fence}text\nx\n${fence}\n`),
    /follows no commands/,
  );
  assert.throws(() => readGuide(`${fence}sh terminal\nls\n${fence}\n`), /Nothing says what is typed/);
});

test('isAsShown: only the sign for any text stands for any text', () => {
  assert.ok(isAsShown('a.c\n', 'a.c\n\n'));
  assert.ok(!isAsShown('a.c\n', 'abc\n'));
  assert.ok(isAsShown('NAME   ID\nlobby  …  ONLINE\n', 'NAME   ID\nlobby  a1b2c3  ONLINE\n'));
  assert.ok(!isAsShown('lobby  …\n', 'other\nlobby  a\n'));
  assert.ok(isAsShown('first\n…\nlast\n', 'first\nlast\n'));
  assert.ok(isAsShown('first\n…\nlast\n', 'first\n1\n2\nlast\n'));
  assert.ok(!isAsShown('first\n…\nlast\n', 'first\n1\nlast\nmore\n'));
});

test('Reader: one shell for all commands, with the files of the page and a terminal', async () => {
  const done = await follow(`
${fence}yaml
# words.yaml
a: 1
${fence}

${fence}sh
NAME=world
cat words.yaml; echo "$GREETING $NAME" >&2
${fence}

${fence}text
# words.yaml
a: 1
hello world
${fence}

${fence}sh terminal
tty >/dev/null && read -r line && echo "$NAME heard $line"
${fence}

<!-- terminal: [["type", "you\\n"], ["until", "world heard you"]] -->

<!-- person: look -->

${fence}sh
cd /
pwd
${fence}

${fence}text
/
${fence}
`);
  assert.deepEqual(done, ['look: world\n']);
});

test('Reader: a command that fails, another result, and a terminal that shows something else fail the page', async () => {
  await assert.rejects(
    follow(`${fence}sh\necho before; false\necho after\n${fence}\n`),
    /failed:[^]*wrote:\nbefore\n$/,
  );
  await assert.rejects(
    follow(`${fence}sh\necho a\n${fence}\n\n${fence}text\nb\n${fence}\n`),
    /shows:\nb\n[^]*is:\na\n/,
  );
  await assert.rejects(follow(`${fence}sh terminal\nfalse\n${fence}\n\n<!-- terminal: [] -->\n`), /failed/);
});
