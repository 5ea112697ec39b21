/** The guides on the real cluster: every command of every page, and what the pages show for them. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, test } from 'node:test';
import WebSocket from 'ws';
import type { Cluster } from './cluster/cluster.ts';
import { ensurePackages } from './cluster/packages.ts';
import { waitUntil } from './cluster/wait.ts';
import { Reader, readGuide } from './guide.ts';
import { testCluster } from './harness.ts';

const root = join(import.meta.dirname, '..');
const requirements = [
  { need: 'bash', debian: 'bash' },
  { need: 'curl', debian: 'curl' },
  { need: 'script', debian: 'bsdutils' },
  { need: '/usr/sbin/nginx', debian: 'nginx' },
  { need: 'chromium', debian: 'chromium' },
];
const browserTimeoutMs = 60_000;

let cluster: Cluster;

before(async () => {
  await ensurePackages(() => undefined, requirements);
  cluster = await testCluster();
});

const guides = readdirSync(join(root, 'docs/guides')).filter((name) => name !== 'README.md');
const pages = [...guides.map((name) => `docs/guides/${name}`), 'docs/upgrade.md'];

for (const page of pages.sort()) {
  test(`${page}: its commands do what it shows`, { timeout: 300_000 }, async () => {
    const text = await readFile(join(root, page), 'utf8');
    assert.ok(readGuide(text).some(({ kind }) => kind === 'commands'));
    const { kubeconfig, binDir } = cluster;
    const reader = await Reader.open({ page, kubeconfig, binDir, env: cluster.env() });
    try {
      await reader.follow((what) => byHand(what, reader));
    } finally {
      await reader.close();
      await removeNamespaces(text);
    }
  });
}

/** What a page that failed half-way left. */
async function removeNamespaces(text: string): Promise<void> {
  for (const [, namespace = ''] of text.matchAll(/kubectl create namespace (\S+)/g)) {
    await cluster.kubectl(['delete', 'namespace', namespace, '--ignore-not-found', '--wait=false']);
  }
}

async function byHand(what: string, reader: Reader): Promise<void> {
  assert.equal(what, 'page.html');
  const read = async (name: string): Promise<string> => (await reader.run(`echo "${name}"`)).trim();
  const entries = {
    url: await read('${RINGMASTER_URL/http/ws}'),
    id: await read('$ID'),
    token: await read('$RINGMASTER_TOKEN'),
  };
  await using browser = await Browser.open(join(reader.folder, 'page.html'), join(reader.folder, 'browser'));
  const fill = Object.entries(entries).map(
    ([name, value]) =>
      `document.getElementById('form').elements[${JSON.stringify(name)}].value = ${JSON.stringify(value)};`,
  );
  await waitUntil({
    what: 'the page to be loaded',
    timeoutMs: browserTimeoutMs,
    // The empty page before it is complete as well.
    check: async () =>
      (await browser.evaluate(`document.readyState === 'complete' && document.getElementById('form') !== null`)) ===
      true,
  });
  await browser.evaluate(`${fill.join('')} document.querySelector('button').click();`);
  let shown = '';
  await waitUntil({
    what: 'three lines in the page',
    timeoutMs: browserTimeoutMs,
    check: async () => {
      shown = String(await browser.evaluate(`document.getElementById('log').textContent`));
      return shown.split('\n').length > 3;
    },
  });
  assert.match(shown, /^<b>frame 1<\/b>\n<b>frame 2<\/b>\n<b>frame 3<\/b>\n/);
}

/** A real Chromium with one page open, driven by its DevTools protocol. */
class Browser {
  readonly #socket: WebSocket;
  readonly #close: () => Promise<void>;
  #calls = 0;

  private constructor(socket: WebSocket, close: () => Promise<void>) {
    this.#socket = socket;
    this.#close = close;
  }

  static async open(page: string, profile: string): Promise<Browser> {
    const child = spawn(
      'chromium',
      [
        '--headless',
        // Its own sandbox does not work for root.
        '--no-sandbox',
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--disable-background-networking',
        '--disable-component-update',
        '--no-first-run',
        '--remote-debugging-port=0',
        `--user-data-dir=${profile}`,
        `file://${page}`,
      ],
      { detached: true, stdio: 'ignore' },
    );
    const ended = once(child, 'close');
    const kill = async (): Promise<void> => {
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
      await ended;
    };
    try {
      const socket = new WebSocket(await debuggerUrl(profile));
      await once(socket, 'open');
      return new Browser(socket, kill);
    } catch (error) {
      await kill();
      throw error;
    }
  }

  /** The value of an expression in the page. Throws what it throws. */
  async evaluate(expression: string): Promise<unknown> {
    const id = ++this.#calls;
    this.#socket.send(JSON.stringify({ id, method: 'Runtime.evaluate', params: { expression, returnByValue: true } }));
    for (;;) {
      const [data] = (await once(this.#socket, 'message')) as [Buffer];
      const answer = JSON.parse(data.toString()) as {
        id?: number;
        result?: { result?: { value?: unknown }; exceptionDetails?: unknown };
      };
      if (answer.id !== id) continue;
      assert.equal(answer.result?.exceptionDetails, undefined, JSON.stringify(answer.result));
      return answer.result?.result?.value;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.terminate();
    await this.#close();
  }
}

/** Where the page of a browser that just starts can be driven. */
async function debuggerUrl(profile: string): Promise<string> {
  let url: string | undefined;
  await waitUntil({
    what: 'Chromium to open its page',
    timeoutMs: browserTimeoutMs,
    check: async () => {
      const [port] = (await readFile(join(profile, 'DevToolsActivePort'), 'utf8').catch(() => '')).split('\n');
      if (port === undefined || port === '') return false;
      const list = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as {
        type: string;
        url: string;
        webSocketDebuggerUrl: string;
      }[];
      url = list.find((target) => target.type === 'page' && target.url.endsWith('/page.html'))?.webSocketDebuggerUrl;
      return url !== undefined;
    },
  });
  return url ?? '';
}
