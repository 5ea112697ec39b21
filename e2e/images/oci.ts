/**
 * Builds OCI images from local files, without a daemon, a registry or root. Layers are not compressed: their digest is their diff id, and
 * an import skips the gunzip. Layers and images are kept under a key of their inputs, so that what did not change costs next to nothing.
 */
import { createHash } from 'node:crypto';
import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Writable } from 'node:stream';
import type { LayerSpec } from './layer.ts';
import { layerEntries, layerKey } from './layer.ts';
import type { TarEntry } from './tar.ts';
import { writeTar } from './tar.ts';

/** Images of one repository that are kept as files. */
const imagesKeptMax = 4;

export interface ImageSpec {
  /** Name without a tag. A dot before the first slash keeps Kubernetes from reading it as one of docker.io. */
  repository: string;
  /** Default: the first characters of the digest, so that a changed image has a new name. */
  tag?: string;
  /** The part that changes least comes first. */
  layers: LayerSpec[];
  env?: Record<string, string>;
  workingDir?: string;
  user?: string;
  entrypoint?: string[];
  /** Arguments of the entrypoint where a container gives none. */
  cmd?: string[];
  labels?: Record<string, string>;
}

export interface Image {
  /** What a pod's `image` says. */
  name: string;
  repository: string;
  tag: string;
  /** Digest of the manifest. */
  digest: string;
  /** An OCI layout as a tar file, which `ctr images import` and `docker load` read. */
  tar: string;
}

/** Builds an image below `cacheDir`. The same inputs give the same digest on every machine of one architecture. */
export async function buildImage(spec: ImageSpec, cacheDir: string): Promise<Image> {
  const layers: Blob[] = [];
  for (const layer of spec.layers) layers.push(await buildLayer(layer, cacheDir));
  const config = jsonBlob(imageConfig(spec, layers), mediaTypes.config);
  const manifest = jsonBlob(
    {
      schemaVersion: 2,
      mediaType: mediaTypes.manifest,
      config: descriptor(config),
      layers: layers.map(descriptor),
    },
    mediaTypes.manifest,
  );
  const { repository } = spec;
  const tag = spec.tag ?? manifest.digest.slice(0, 12);
  const name = `${repository}:${tag}`;
  const dir = join(cacheDir, 'images', repository.replaceAll('/', '_'));
  const tar = join(dir, `${manifest.digest.slice(0, 24)}.tar`);
  const image = { name, repository, tag, digest: `sha256:${manifest.digest}`, tar };
  if (existsSync(tar)) return image;
  await mkdir(dir, { recursive: true });
  await writeImage(image, [config, manifest, ...layers]);
  await removeOldest(dir);
  return image;
}

const mediaTypes = {
  config: 'application/vnd.oci.image.config.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
} as const;

/** Content under its digest (hex): in memory, or in a file. */
interface Blob {
  mediaType: string;
  digest: string;
  sizeBytes: number;
  content: Buffer | { file: string };
}

/** Go's names of architectures, which OCI uses. */
function architecture(): string {
  return process.arch === 'x64' ? 'amd64' : process.arch;
}

function imageConfig(spec: ImageSpec, layers: readonly Blob[]): unknown {
  const env = { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin', ...spec.env };
  return {
    architecture: architecture(),
    os: 'linux',
    config: {
      Env: Object.entries(env).map(([key, value]) => `${key}=${value}`),
      WorkingDir: spec.workingDir ?? '/',
      ...(spec.entrypoint === undefined ? {} : { Entrypoint: spec.entrypoint }),
      ...(spec.cmd === undefined ? {} : { Cmd: spec.cmd }),
      ...(spec.user === undefined ? {} : { User: spec.user }),
      ...(spec.labels === undefined ? {} : { Labels: spec.labels }),
    },
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${layer.digest}`) },
  };
}

function jsonBlob(value: unknown, mediaType: string): Blob {
  const content = Buffer.from(JSON.stringify(value));
  const digest = createHash('sha256').update(content).digest('hex');
  return { mediaType, digest, sizeBytes: content.length, content };
}

function descriptor(blob: Blob): { mediaType: string; digest: string; size: number } {
  return { mediaType: blob.mediaType, digest: `sha256:${blob.digest}`, size: blob.sizeBytes };
}

async function buildLayer(spec: LayerSpec, cacheDir: string): Promise<Blob> {
  const entries = await layerEntries(spec);
  const dir = join(cacheDir, 'layers');
  await mkdir(dir, { recursive: true });
  const record = join(dir, `${await layerKey(entries)}.digest`);
  const known = await readKnownLayer(dir, record);
  if (known !== undefined) return known;
  const temporary = join(dir, temporaryName());
  const digest = await writeLayer(entries, temporary);
  const file = join(dir, `${digest}.tar`);
  await rename(temporary, file);
  await writeFile(record, digest);
  return layerBlob(file, digest);
}

async function readKnownLayer(dir: string, record: string): Promise<Blob | undefined> {
  if (!existsSync(record)) return undefined;
  const digest = await readFile(record, 'utf8');
  const file = join(dir, `${digest}.tar`);
  // An interrupted run can leave a record that is empty.
  if (digest === '' || !existsSync(file)) return undefined;
  return layerBlob(file, digest);
}

async function layerBlob(file: string, digest: string): Promise<Blob> {
  return { mediaType: mediaTypes.layer, digest, sizeBytes: (await stat(file)).size, content: { file } };
}

async function writeLayer(entries: readonly TarEntry[], file: string): Promise<string> {
  const hash = createHash('sha256');
  const output = createWriteStream(file);
  const tee = new Writable({
    highWaterMark: 4 << 20,
    write(chunk: Buffer, _encoding, done): void {
      hash.update(chunk);
      output.write(chunk, done);
    },
    final(done): void {
      output.end(done);
    },
  });
  await writeTar(entries, tee);
  return hash.digest('hex');
}

async function writeImage(image: Image, blobs: readonly Blob[]): Promise<void> {
  const manifest = blobs.find((blob) => `sha256:${blob.digest}` === image.digest);
  if (manifest === undefined) throw new RangeError('an image has a manifest');
  const index = {
    schemaVersion: 2,
    manifests: [
      {
        ...descriptor(manifest),
        platform: { architecture: architecture(), os: 'linux' },
        // The first is the name that containerd files it under, whole.
        annotations: { 'io.containerd.image.name': image.name, 'org.opencontainers.image.ref.name': image.tag },
      },
    ],
  };
  const entries: TarEntry[] = [
    { kind: 'content', name: 'oci-layout', mode: 0o644, content: Buffer.from('{"imageLayoutVersion":"1.0.0"}') },
    { kind: 'content', name: 'index.json', mode: 0o644, content: Buffer.from(JSON.stringify(index)) },
    ...blobs.map(blobEntry),
  ];
  const temporary = join(dirname(image.tar), temporaryName());
  try {
    await writeTar(entries, createWriteStream(temporary));
    await rename(temporary, image.tar);
  } finally {
    await rm(temporary, { force: true });
  }
}

function blobEntry(blob: Blob): TarEntry {
  const name = `blobs/sha256/${blob.digest}`;
  if (Buffer.isBuffer(blob.content)) return { kind: 'content', name, mode: 0o644, content: blob.content };
  return { kind: 'file', name, mode: 0o644, source: blob.content.file, sizeBytes: blob.sizeBytes };
}

/** Each change of the operator makes an image of its own, each with Node in it: only the newest few are kept. */
async function removeOldest(dir: string): Promise<void> {
  const files = (await readdir(dir)).filter((name) => name.endsWith('.tar')).map((name) => join(dir, name));
  const dated = await Promise.all(files.map(async (file) => ({ file, atMs: (await stat(file)).mtimeMs })));
  const oldest = dated.sort((a, b) => b.atMs - a.atMs).slice(imagesKeptMax);
  await Promise.all(oldest.map(({ file }) => rm(file, { force: true })));
}

function temporaryName(): string {
  return `.${String(process.pid)}-${String(process.hrtime.bigint())}.tmp`;
}
