/**
 * The contract between a sidecar and whoever calls it: names, limits, keys. PROTOCOL.md beside this file says what they mean.
 * It is the only file of the sidecar that other parts may import, so it depends on nothing but node:crypto.
 */
import { constants, createHash, createHmac } from 'node:crypto';
import type { Hash } from 'node:crypto';

/**
 * Versions of the contract: `current` is what this code speaks with an equal, `oldest` what it still speaks with others. Each release speaks the
 * version of the one before, so that pods keep the sidecar that they were made with. PROTOCOL.md has the table of versions.
 */
export const protocolVersions: VersionRange = { current: 2, oldest: 1 };

export interface VersionRange {
  readonly current: number;
  readonly oldest: number;
}

/** TCP port of the TLS-PSK server. */
export const defaultPort = 7070;
/** TCP port of the plain HTTP server that answers health, probes and metrics alone: neither a kubelet nor Prometheus speaks TLS-PSK. */
export const defaultHealthPort = 7071;
/** Where the volume that the workload and the sidecar share is mounted, in both containers. */
export const defaultDirectory = '/ringmaster';

/** The one cipher suite and TLS version of both sides. */
export const tlsOptions = {
  ciphers: 'ECDHE-PSK-CHACHA20-POLY1305',
  minVersion: 'TLSv1.2',
  maxVersion: 'TLSv1.2',
  // No certificates are in play: without this, the hundred and more of the public authorities are loaded.
  ca: [] as string[],
} as const;

/** The same of whoever listens. */
export const tlsServerOptions = {
  ...tlsOptions,
  // A ticket would let an old session in without the key.
  secureOptions: constants.SSL_OP_NO_TICKET,
  keepAlive: true,
  noDelay: true,
} as const;

export const paths = {
  log: '/v1/log',
  stdin: '/v1/stdin',
  status: '/v1/status',
  health: '/healthz',
  metrics: '/metrics',
  /** 200 once a line has matched since the workload's present start, else 503. */
  ready: '/readyz',
  /** 200 while the workload runs, else 503. */
  started: '/startedz',
} as const;

/** What a followed log may be asked to change to, in `upgrade`: frames on the connection, as PROTOCOL.md says, instead of a body. */
export const frameProtocol = 'ringmaster-log';
/** In front of each frame: how many bytes it has, most significant first. 0: the end; a byte with the length of the reason follows, and the reason. */
export const frameHeadBytes = 4;

/** Headers, and the trailer that says why a followed stream ended. Lower case, as Node hands them over. All but the first are of `/v1/log`. */
export const headers = {
  /** Of a request: the newest version that the caller speaks. Of every answer but the plain port's: the version that it is in. Absent: 1. */
  protocol: 'ringmaster-protocol',
  /** Which file the offsets belong to; 16 hex digits. It changes only when the file was truncated or replaced. */
  epoch: 'ringmaster-epoch',
  /** The first byte that can still be read; always at the start of a line. */
  firstOffset: 'ringmaster-first-offset',
  /** Offset of the first byte of this body. */
  startOffset: 'ringmaster-start-offset',
  /** Size of the log when the answer began. */
  endOffset: 'ringmaster-end-offset',
  /** Bytes between the offset that was asked for and the start offset: they were reclaimed. */
  gapBytes: 'ringmaster-gap-bytes',
  /** Lines in that gap: exact where the gap begins at a reclaim boundary, an estimate elsewhere. */
  gapLines: 'ringmaster-gap-lines',
  /** Number of the workload's start that the body's first byte belongs to. 0 before the first start, which is no restart: such a body goes on in it. */
  workloadStarts: 'ringmaster-workload-starts',
  endReason: 'ringmaster-end-reason',
} as const;

/**
 * Why a body ended on purpose. `complete`: everything asked for was sent. `stopping`: the sidecar ends, and everything written was sent.
 * `reclaimed`: the reader was overtaken by retention; open again at the own offset to learn the gap. `replaced`: the epoch changed.
 * `restarted`: all bytes of one run of the workload were sent, and it was started anew; open again at the own offset for the next run.
 */
export type EndReason = 'complete' | 'stopping' | 'reclaimed' | 'replaced' | 'restarted';

/**
 * Last words of the launcher of `docker` (its container's termination message, perhaps behind a fault): nothing of its pod is on the Engine any
 * more. A launcher that ends without them may have left its container there.
 */
export const nothingLeft = 'Nothing of this pod is left on the Docker Engine.';

export const limits = {
  /** Bytes of one line for standard input, without its line end. */
  lineBytesMax: 4096,
  /** Bytes of one `POST /v1/stdin` body. */
  bodyBytesMax: 262_144,
  /** Requests to standard input that may wait behind one another. */
  stdinWaitingMax: 64,
  /** How long a line may wait for room in the pipe. */
  stdinTimeoutMs: 5000,
  /** Largest `tail`. */
  tailLinesMax: 1_000_000,
  headerBytesMax: 8192,
  /** Connections that have shown the key. */
  connectionsMax: 256,
  /** Connections that have not yet shown it; the oldest gives way to a new one. */
  handshakesMax: 128,
  handshakeTimeoutMs: 5000,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  keepAliveTimeoutMs: 60_000,
  /** How long a reader may leave the bytes that it asked for unread. */
  stallTimeoutMs: 120_000,
  /** Idle time after which TCP asks whether the other side still lives. */
  tcpKeepAliveMs: 15_000,
  /** Connections to the plain port; the oldest gives way to a new one, so that nobody keeps the kubelet out. */
  healthConnectionsMax: 32,
  /** Bytes of a line that the pattern for readiness is matched against. */
  matchBytesMax: 16_384,
  /** Size of the compiled pattern: at this size the worst line takes a fifth of a second. */
  patternInstructionsMax: 256,
} as const;

/** Codes in the `code` field of an error body. */
export type SidecarErrorCode =
  | 'BAD_REQUEST'
  | 'PROTOCOL_UNSUPPORTED'
  | 'NOT_FOUND'
  | 'METHOD_NOT_ALLOWED'
  | 'NOT_RUNNING'
  | 'TOO_LARGE'
  | 'OFFSET_BEYOND_END'
  | 'OVERLOADED'
  | 'STDIN_FULL'
  | 'NOT_READY'
  | 'INTERNAL';

/** Exit code of the launcher when the runtime that the Instance names cannot start in its image. */
export const runtimeMissingExitCode = 78;

/** `docker` is served like `process`: its launcher runs in the workload's place and writes the same files. */
export const sidecarRuntimes = ['process', 'screen', 'tmux', 'docker'] as const;
export type SidecarRuntime = (typeof sidecarRuntimes)[number];

/** Body of `GET /v1/status`. */
export interface SidecarStatus {
  readonly runtime: SidecarRuntime;
  readonly workload: {
    /** `waiting`: not started yet. `exited`: ended, also when its container was killed. */
    readonly state: 'waiting' | 'running' | 'exited';
    /** How often the launcher has started, in this pod. */
    readonly starts: number;
    readonly startedAtMs: number | null;
    readonly exitedAtMs: number | null;
    /** As a shell gives it: 128 + n after signal n. Null while it runs, and when nobody was left to write it down. */
    readonly exitCode: number | null;
    readonly signal: string | null;
  };
  /** What keeps the runtime from starting, in one sentence. */
  readonly fault: { readonly reason: 'RuntimeMissing'; readonly message: string } | null;
  readonly log: {
    readonly epoch: string;
    readonly firstOffset: number;
    readonly endOffset: number;
    /** What the file takes on the disk. */
    readonly diskBytes: number;
    readonly retainBytes: number;
    /** `off`: no limit was asked for. `unsupported`: holes cannot be punched here, so everything is kept. */
    readonly retention: 'holes' | 'off' | 'unsupported';
  };
  readonly sidecar: { readonly startedAtMs: number; readonly connections: number; readonly readers: number };
}

/** `msg` of the JSON line on the sidecar's standard error that holds a `LogSeal`. */
export const sealMessage = 'Log sealed';

/** What the sidecar says of the log when nothing can be written to it any more: by it, a copy from elsewhere is known for what it is. */
export interface LogSeal {
  readonly epoch: string;
  /** Size of the log. */
  readonly end: number;
  /** The newest two starts of the workload, in rising order: number, and offset in the log. */
  readonly runs: readonly (readonly [starts: number, offset: number])[];
  /** Where the first block begins; not always the start of a line. */
  readonly from: number;
  /** Blocks without a space between, up to the end, none across a start: bytes, and checksum. */
  readonly blocks: readonly (readonly [bytes: number, checksum: string])[];
}

/** Takes the bytes of a block; `checksumOf` ends it. */
export function beginChecksum(): Hash {
  return createHash('sha256');
}

/** 96 bits, as text. */
export function checksumOf(hash: Hash): string {
  return hash.digest('base64url').slice(0, 16);
}

/** Variables of the program that puts template files into a working directory. */
export const templateVariables = {
  /** Folder of the volume that has the working directory in it. */
  root: 'RINGMASTER_TEMPLATE_ROOT',
  /** With a number from 0 behind: a `TemplateSource` as JSON. One variable each, because Linux has a limit for the length of one. */
  source: 'RINGMASTER_TEMPLATE_',
  /** With a key behind: what replaces `%KEY%`. */
  value: 'RINGMASTER_VALUE_',
  /** What tells the Instance from others on the same volume. */
  mark: 'RINGMASTER_ID',
} as const;

/** The files of one ConfigMap, and where they go. */
export interface TemplateSource {
  /** Of the ConfigMap. */
  readonly name: string;
  /** Where its files are mounted. */
  readonly files: string;
  /** The folder for them, relative to the root; without `..`. */
  readonly path: string;
  /** The same as the program sees it, for messages. */
  readonly folder: string;
  /** Files in which values are put. */
  readonly replaceIn: readonly string[];
}

/** What `headers.protocol` says: 1 where it is absent, as in the first release, which had none; NaN where it is no version. */
export function versionIn(header: string | string[] | undefined): number {
  if (header === undefined) {
    return 1;
  }
  return typeof header === 'string' && /^\d{1,4}$/.test(header) ? Number(header) : NaN;
}

/** Why a sidecar whose newest version is `newest` has none in common with a caller of `range`; undefined: it has one. It speaks the one before its newest too. */
export function versionFault(
  newest: number,
  range: VersionRange = protocolVersions,
): 'too old' | 'too new' | undefined {
  if (newest < range.oldest) return 'too old';
  return newest - 1 > range.current ? 'too new' : undefined;
}

/** Both sides of such a fault, in words that a sentence goes on with. */
export function versionWords(newest: number, { current, oldest }: VersionRange = protocolVersions): string {
  const spoken = oldest === current ? `${current}` : `${oldest} to ${current}`;
  return `its sidecar speaks protocol ${newest}, this Ringmaster ${spoken}`;
}

/** The PSK identity of an Instance's sidecar. */
export function identityOf(instanceUid: string): string {
  return instanceUid;
}

/** The PSK of an Instance's sidecar: HMAC-SHA256(master key, Instance uid), 32 bytes. The master key must have at least 32 bytes. */
export function deriveKey(masterKey: Uint8Array, instanceUid: string): Buffer {
  if (masterKey.length < 32) {
    throw new RangeError(`Cannot derive a sidecar key: the master key has ${masterKey.length} bytes, fewer than 32`);
  }
  if (instanceUid === '') {
    throw new RangeError('Cannot derive a sidecar key: the Instance uid is empty');
  }
  return createHmac('sha256', masterKey).update(instanceUid, 'utf8').digest();
}
