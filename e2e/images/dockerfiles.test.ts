/**
 * The Dockerfiles, built by a real Docker. There is no registry to take their base from: an image with the same Node, npm and a shell takes its place, by
 * the argument with which a release pins the base. npm works as the Dockerfiles say, and finds what it asks for in its cache.
 */
import assert from 'node:assert/strict';
import { createWriteStream } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { after, before, test } from 'node:test';
import { defaultCacheDir } from '../cluster/settings.ts';
import { CommandError, run } from '../cluster/command.ts';
import { ensurePackages, imageRequirements } from '../cluster/packages.ts';
import { DockerEngine, dockerRequirements } from '../docker-engine.ts';
import { nodeBaseImage, ringmasterImage, sidecarImage } from './images.ts';
import type { Image } from './oci.ts';
import { ownImages, userId } from './own.ts';
import type { OwnImageName } from './own.ts';

const root = join(import.meta.dirname, '../..');
const names = Object.keys(ownImages) as OwnImageName[];

let folder: string;
let engine: DockerEngine;
let base: Image;
let own: Record<OwnImageName, Image>;

before(async () => {
  await ensurePackages(
    () => undefined,
    [...imageRequirements, ...dockerRequirements, { need: 'docker', debian: 'docker.io' }],
  );
  folder = await mkdtemp(join(tmpdir(), 'ringmaster-dockerfiles-'));
  base = await nodeBaseImage({ cacheDir: folder, ...(await fillNpmCache()) });
  own = { ringmaster: await ringmasterImage(), sidecar: await sidecarImage() };
  engine = await DockerEngine.create({ liveRestore: false, images: [base, ...Object.values(own)] });
});

after(async () => {
  await engine.close();
  await rm(folder, { recursive: true });
});

/** All that the Dockerfiles install, fetched by npm as on any machine, and kept until the lockfile is another. */
async function fillNpmCache(): Promise<{ npm: string; npmCache: string }> {
  const npmCache = join(defaultCacheDir(), 'npm');
  const filledFor = join(npmCache, 'package-lock.json');
  const lockfile = await readFile(join(root, 'package-lock.json'), 'utf8');
  if ((await readFile(filledFor, 'utf8').catch(() => '')) !== lockfile) {
    const clone = join(folder, 'clone');
    await mkdir(clone);
    for (const name of ['package.json', 'package-lock.json', '.npmrc']) await cp(join(root, name), join(clone, name));
    const options = ['--omit=dev', '--omit=optional', '--ignore-scripts', `--cache=${npmCache}`];
    await run('npm', ['ci', ...options], { cwd: clone });
    await writeFile(filledFor, lockfile);
  }
  const program = await realpath((await run('sh', ['-c', 'command -v npm'])).trim());
  return { npm: join(dirname(program), '..'), npmCache };
}

/** The command line of Docker, on our Engine. */
async function docker(args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const ours = { DOCKER_HOST: `unix://${engine.socketPath}`, DOCKER_CONFIG: folder };
  return run('docker', args, { cwd: root, env: { ...ours, ...env } });
}

/** Runs a program of an image that cannot start without settings; gives what it says. */
async function refusalOf(image: string, args: readonly string[], options: readonly string[] = []): Promise<string> {
  const ended = await docker(['run', '--rm', '--network=none', ...options, image, ...args]).catch(
    (error: unknown) => error,
  );
  assert.ok(ended instanceof CommandError, String(ended));
  return ended.output;
}

/** Mode, owner, size and path of everything below /app, and the checksums of the files. */
async function listApp(image: string): Promise<string[]> {
  const container = engine.docker.getContainer((await docker(['create', image])).trim());
  const target = await mkdtemp(join(folder, 'app-'));
  const tar = `${target}.tar`;
  await pipeline(await container.getArchive({ path: '/app' }), createWriteStream(tar));
  await container.remove();
  await run('tar', ['-xf', tar, '-C', target]);
  const entries = await run('tar', ['--numeric-owner', '-tvf', tar]);
  const sums = await run('sh', ['-c', 'find . -type f -exec sha256sum {} +'], { cwd: target });
  const withoutTime = entries.replaceAll(/ \d{4}-\d\d-\d\d \d\d:\d\d /g, ' ').replaceAll(/ +/g, ' ');
  return [...withoutTime.trim().split('\n'), ...sums.trim().split('\n')].sort();
}

interface Config {
  readonly Entrypoint: string[] | null;
  readonly Cmd: string[] | null;
  readonly User: string;
  readonly WorkingDir: string;
  readonly Env: string[];
  readonly Labels: Record<string, string>;
}

async function configOf(image: string): Promise<Config> {
  const { Entrypoint, Cmd, User, WorkingDir, Env, Labels } = (await engine.docker.getImage(image).inspect())
    .Config as Config;
  // Where programs are is the base's.
  return { Entrypoint, Cmd, User, WorkingDir, Env: Env.filter((each) => !each.startsWith('PATH=')).sort(), Labels };
}

for (const name of names) {
  test(`dockerfiles: ${name}.Dockerfile builds, and has the files and settings of the image from local files`, async () => {
    const file = `e2e/images/${name}.Dockerfile`;
    const build = [
      'build',
      '--network=none',
      '-f',
      file,
      '-t',
      `built-${name}`,
      '--build-arg',
      `NODE_IMAGE=${base.name}`,
    ];
    await docker([...build, '.'], { DOCKER_BUILDKIT: '0' });
    const [built, ours] = [await listApp(`built-${name}`), await listApp(own[name].name)];
    assert.ok(built.length > 100);
    const [inBuilt, inOurs] = [new Set(built), new Set(ours)];
    assert.deepEqual(
      { more: built.filter((line) => !inOurs.has(line)), missing: ours.filter((line) => !inBuilt.has(line)) },
      { more: [], missing: [] },
    );
    assert.deepEqual(await configOf(`built-${name}`), await configOf(own[name].name));
  });
}

test('dockerfiles: the programs start as nobody in particular, with a root file system that cannot be written', async () => {
  const wrongEnvironment = /Cannot start: the environment is wrong: /;
  assert.match(await refusalOf('built-ringmaster', []), wrongEnvironment);
  assert.match(await refusalOf('built-ringmaster', ['operator/master.ts']), wrongEnvironment);
  assert.match(await refusalOf('built-sidecar', []), /RINGMASTER_[A-Z_]+/);
  const program = (path: string): Promise<string> =>
    refusalOf('built-sidecar', [path], ['--read-only', '--entrypoint=node']);
  assert.match(await program('sidecar/docker/main.js'), /Cannot start: RINGMASTER_ID is not set/);
  assert.match(await program('sidecar/docker/cleanup.js'), /Cannot start: RINGMASTER_POD_UID is not set/);
  for (const name of names) {
    const script = 'console.log(process.getuid(), process.version)';
    const said = await docker(['run', '--rm', '--network=none', '--entrypoint=node', `built-${name}`, '-e', script]);
    assert.equal(said.trim(), `${String(userId)} ${process.version}`);
  }
});
