import assert from 'node:assert/strict';
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createSilentLogger } from '../log.ts';
import { createMetrics } from '../metrics.ts';
import { openCertificateShop } from '../testing/certificates.ts';
import type { CertificateShop, TestPair } from '../testing/certificates.ts';
import { createFakeTimers } from '../testing/timers.ts';
import { openCertificate } from './certificate.ts';
import type { CertificateOptions } from './certificate.ts';
import { systemTimers } from './ports.ts';
import type { Timers } from './ports.ts';

type Written = Pick<TestPair, 'cert' | 'key'>;

/** A folder as the kubelet mounts a Secret: the files are links into `..data`, which is one link that is swapped. */
class Mount {
  readonly folder: string;
  #count = 0;

  constructor(folder: string) {
    this.folder = folder;
  }

  get certFile(): string {
    return join(this.folder, 'tls.crt');
  }

  get keyFile(): string {
    return join(this.folder, 'tls.key');
  }

  static async create({ folder }: CertificateShop, first: Written): Promise<Mount> {
    const mount = new Mount(join(folder, 'mount'));
    await mkdir(mount.folder);
    await mount.swap(first);
    for (const file of [mount.certFile, mount.keyFile]) await symlink(file.replace('mount/', 'mount/..data/'), file);
    return mount;
  }

  async swap({ cert, key }: Written): Promise<void> {
    const [old, next] = [`..version-${this.#count}`, `..version-${++this.#count}`];
    const at = (name: string): string => join(this.folder, name);
    await mkdir(at(next));
    await writeFile(join(at(next), 'tls.crt'), cert);
    await writeFile(join(at(next), 'tls.key'), key);
    await symlink(next, at('..data_tmp'));
    await rename(at('..data_tmp'), at('..data'));
    await rm(at(old), { recursive: true, force: true });
  }
}

function optionsFor({ certFile, keyFile }: Mount, clock: Timers = createFakeTimers()): CertificateOptions {
  return { certFile, keyFile, log: createSilentLogger(), metrics: createMetrics(), clock };
}

async function reloads({ metrics }: CertificateOptions): Promise<Record<string, number>> {
  const { values } = await metrics.certificateReloads.get();
  const counts = values.map(({ labels, value }): [string, number] => [String(labels.result), value]);
  const stale = (await metrics.certificateIsStale.get()).values[0]?.value ?? -1;
  return { ...Object.fromEntries(counts), stale };
}

test('certificate: a swap as the kubelet does it is seen by watching, without a look from outside', async () => {
  await using shop = await openCertificateShop();
  const [one, two] = [await shop.issue('one'), await shop.issue('two')];
  const mount = await Mount.create(shop, one);
  const store = await openCertificate(optionsFor(mount, systemTimers));
  assert.equal(store.current.cert.toString(), one.cert);
  const stop = new AbortController();
  store.follow(stop.signal);
  const { promise, resolve } = Promise.withResolvers<string>();
  store.onChange(({ cert }) => {
    resolve(cert.toString());
  });
  const alive = setTimeout(() => undefined, 10_000);
  await mount.swap(two);
  assert.equal(await promise, two.cert);
  clearTimeout(alive);
  stop.abort();
});

test('certificate: where nothing is watched a look now and then finds the new pair; the same pair again is no change', async () => {
  await using shop = await openCertificateShop();
  const [one, two] = [await shop.issue('one'), await shop.issue('two')];
  const mount = await Mount.create(shop, one);
  const timers = createFakeTimers();
  const options = optionsFor(mount, timers);
  const store = await openCertificate(options);
  const seen: string[] = [];
  const stopListening = store.onChange(({ cert }) => seen.push(cert.toString()));
  await mount.swap(one);
  await store.check();
  assert.deepEqual(seen, []);
  await mount.swap(two);
  const stop = new AbortController();
  store.follow(stop.signal);
  timers.advance(30_000);
  await store.check();
  assert.deepEqual(seen, [two.cert]);
  assert.deepEqual(await reloads(options), { ok: 1, stale: 0 });
  stop.abort();
  assert.equal(timers.pendingCount, 0);
  stopListening();
  await mount.swap(one);
  await store.check();
  assert.equal(store.current.cert.toString(), one.cert);
  assert.equal(seen.length, 1);
});

test('certificate: whatever is wrong with a new pair, the old one stays, and it is said once', async (context) => {
  await using shop = await openCertificateShop();
  const [one, two] = [await shop.issue('one'), await shop.issue('two')];
  const mount = await Mount.create(shop, one);
  const options = optionsFor(mount);
  const store = await openCertificate(options);
  const broken: Record<string, Written> = {
    'the key of another': { cert: two.cert, key: one.key },
    'an empty certificate': { cert: '', key: two.key },
    'an empty key': { cert: two.cert, key: '' },
    'half of a certificate': { cert: two.cert.slice(0, 200), key: two.key },
    'no PEM at all': { cert: 'hello', key: 'world' },
    'a broken chain behind it': { cert: two.cert + two.cert.slice(0, 200), key: two.key },
  };
  let failed = 0;
  for (const [title, pair] of Object.entries(broken)) {
    await context.test(title, async () => {
      await mount.swap(pair);
      await store.check();
      await store.check();
      failed += 1;
      assert.deepEqual(await reloads(options), { failed, stale: 1 });
      assert.equal(store.current.cert.toString(), one.cert);
    });
  }
  await mount.swap(two);
  await store.check();
  assert.deepEqual(await reloads(options), { ok: 1, failed, stale: 0 });
  assert.equal(store.current.cert.toString(), two.cert);
});

test('certificate: files that are gone are said once, and are taken up when they are back', async () => {
  await using shop = await openCertificateShop();
  const one = await shop.issue('one');
  const mount = await Mount.create(shop, one);
  const options = optionsFor(mount);
  const store = await openCertificate(options);
  await rename(mount.keyFile, `${mount.keyFile}.away`);
  await store.check();
  await store.check();
  assert.deepEqual(await reloads(options), { failed: 1, stale: 1 });
  await rename(`${mount.keyFile}.away`, mount.keyFile);
  await store.check();
  assert.deepEqual(await reloads(options), { failed: 1, stale: 0 });
});

test('certificate: a first pair that cannot be used ends the start, with the paths and nothing of the key', async () => {
  await using shop = await openCertificateShop();
  const [one, two] = [await shop.issue('one'), await shop.issue('two')];
  const mount = await Mount.create(shop, { cert: one.cert, key: two.key });
  await assert.rejects(openCertificate(optionsFor(mount)), ({ message }: Error) => {
    assert.ok(message.includes(mount.certFile) && message.includes(mount.keyFile), message);
    assert.match(message, /do not belong together$/);
    assert.ok(!message.includes(two.key.slice(30, 60)));
    return true;
  });
});
