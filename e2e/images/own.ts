/**
 * What our own two images are: the programs in them and how they are started. `images.ts` builds them from local files; the Dockerfiles beside build the
 * same where there is a registry, and a test compares.
 */
import type { ImageSpec } from './oci.ts';
import type { ProgramSpec } from './program.ts';

/** The user of every program in our images; has no name outside of them. */
export const userId = 65532;

export interface OwnImage extends Omit<ImageSpec, 'layers' | 'tag'> {
  readonly program: Omit<ProgramSpec, 'root'>;
  /** Programs of the machine, or of the base image, that ours start. */
  readonly tools: readonly string[];
}

export const ownImages = {
  /** The operator and the Master: `node operator/main.ts` or `node operator/master.ts` in `/app`, as the chart says. */
  ringmaster: {
    repository: 'ringmaster.local/ringmaster',
    program: { entries: ['operator/main.ts', 'operator/master.ts'] },
    tools: [],
    env: { NODE_ENV: 'production' },
    workingDir: '/app',
    user: String(userId),
    entrypoint: ['/usr/local/bin/node'],
    cmd: ['operator/main.ts'],
    labels: {
      'org.opencontainers.image.title': 'ringmaster',
      'org.opencontainers.image.description': 'The operator and the Master of Ringmaster',
    },
  },
  /** The sidecar, the launcher of the docker runtime, and what puts template files into place, as JavaScript. */
  sidecar: {
    repository: 'ringmaster.local/ringmaster-sidecar',
    program: {
      entries: ['sidecar/main.ts', 'sidecar/docker/main.ts', 'sidecar/docker/cleanup.ts', 'sidecar/templates.ts'],
      strip: true,
    },
    tools: ['mkfifo', 'fallocate'],
    // It runs once a program: fewer threads, and fewer arenas of the C library, are megabytes each.
    env: { NODE_ENV: 'production', MALLOC_ARENA_MAX: '1', UV_THREADPOOL_SIZE: '2' },
    workingDir: '/app',
    user: String(userId),
    entrypoint: ['/usr/local/bin/node', '--max-semi-space-size=1', '--v8-pool-size=1', '/app/sidecar/main.js'],
    labels: {
      'org.opencontainers.image.title': 'ringmaster-sidecar',
      'org.opencontainers.image.description': 'The sidecar of Ringmaster in the pods of Instances',
    },
  },
} as const satisfies Record<string, OwnImage>;

export type OwnImageName = keyof typeof ownImages;
