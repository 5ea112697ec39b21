/**
 * The Master's side of the sidecar's protocol (sidecar/PROTOCOL.md): HTTP over TLS with a pre-shared key.
 *
 * A followed log comes in frames where the sidecar has them, which cost less for each line than the body of an answer; an older one answers with that.
 * A log stream has a connection of its own, so that one that nobody reads holds up nothing. Calls share kept connections, one pool for each
 * instance, given up before the sidecar would: a call must not meet a connection that the other side is just closing, because a line that may
 * or may not have been typed cannot be sent again. The kernel asks after quiet connections, so a peer that is gone ends them in 13 s at most.
 *
 * Nothing here retries, except with another master key: that is the caller's loop. A refusal is a `SidecarError`, a sidecar that is too old or too new a `SidecarVersionError`,
 * everything else is a plain error of the network.
 */
import { Agent } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { frameProtocol, headers, paths, protocolVersions, versionIn, versionWords } from '../../sidecar/protocol.ts';
import type { SidecarErrorCode, SidecarStatus, VersionRange } from '../../sidecar/protocol.ts';
import { BodyBytes, FrameBytes } from './bytes.ts';
import { sendCall, sidecarTimeouts, SidecarUnreachableError } from './call.ts';
import type { Call, CallAnswer, SidecarAddress } from './call.ts';
import type { MasterKey } from './masterkey.ts';

export { sidecarTimeouts, SidecarUnreachableError } from './call.ts';
export type { SidecarAddress } from './call.ts';

/** What to read: from a byte on, or the last lines. */
export type LogRange = ({ readonly offset: number } | { readonly tail: number }) & { readonly follow: boolean };

/** An opened log. */
export interface SidecarLog {
  readonly epoch: string;
  /** Offset of the first byte of `bytes`. */
  readonly startOffset: number;
  /** Size of the log when the answer began. */
  readonly endOffset: number;
  /** Which run of the workload `bytes` are of, from 1: a followed body never holds those of two. */
  readonly run: number;
  /** Bytes and lines between the offset asked for and the start: they cannot be had any more. Undefined: nobody knows how many lines. */
  readonly gapBytes: number;
  readonly gapLines: number | undefined;
  /** Of a tail: there were lines, and none of them can be had. */
  readonly isLost?: boolean;
  /** As they arrive, and no faster than they are taken. Ends when the sidecar ends the answer; throws when the connection breaks. */
  readonly bytes: AsyncIterable<Buffer>;
  /**
   * From now on, a piece that comes while a `next` of `bytes` waits is first offered to `take`, in the turn that brought it. True: it was taken, and
   * `next` goes on waiting. Absent where that cannot be.
   */
  onPiece?(take: (chunk: Buffer) => boolean): void;
  /** Once `bytes` has ended: why. Undefined: it was cut. A word of a newer sidecar that is unknown here is given as it is. */
  readonly endReason: string | undefined;
  close(): void;
}

/** A sidecar that answers only when it is asked, and never out of turn. Each call rejects with the signal's reason when it aborts. */
export interface SidecarClient {
  /** Resolves with the headers. */
  openLog(at: SidecarAddress, range: LogRange, signal: AbortSignal): Promise<SidecarLog>;
  /** Resolves when all lines are in the pipe. After any other error than a `SidecarError` it is unknown whether they are. */
  writeStdin(at: SidecarAddress, lines: Uint8Array, signal?: AbortSignal): Promise<void>;
  status(at: SidecarAddress, signal?: AbortSignal): Promise<SidecarStatus>;
  /** Gives the kept connections up. */
  close(): void;
}

/** The sidecar answered, with an error. */
export class SidecarError extends Error {
  readonly status: number;
  readonly code: SidecarErrorCode | undefined;
  /** Of standard input: lines that were taken whole before the fault. */
  readonly linesWritten: number;
  /** Of the log: which one it is, and where it ends; undefined where the answer did not say. */
  readonly epoch: string | undefined;
  readonly endOffset: number | undefined;

  constructor(response: IncomingMessage, body: ErrorBody) {
    super(body.error ?? `The sidecar answered with status ${response.statusCode ?? 0}`);
    this.name = 'SidecarError';
    this.status = response.statusCode ?? 0;
    this.code = body.code;
    this.linesWritten = Number.isSafeInteger(body.linesWritten) ? (body.linesWritten ?? 0) : 0;
    this.epoch = epochOf(response);
    this.endOffset = numberOf(response, headers.endOffset);
  }
}

/** The two sides have no version of the protocol in common. Its message ends a sentence that begins with what cannot be done. */
export class SidecarVersionError extends Error {
  /** A sidecar that is too old does not know that: it has done what it was asked. */
  readonly mayHaveActed: boolean;

  constructor(version: number, range: VersionRange) {
    super(`${versionWords(version, range)}: restart the instance`);
    this.name = 'SidecarVersionError';
    this.mayHaveActed = version < range.oldest;
  }
}

/** Somebody listens there and broke the handshake off, as a sidecar does that has another key. */
function isKeyRefusal(error: unknown): boolean {
  if (!(error instanceof SidecarUnreachableError)) return false;
  const { code = '' } = error;
  // EPROTO: an alert, as long as it came in time.
  return ['EPROTO', 'ECONNRESET'].includes(code) || code.startsWith('ERR_SSL_');
}

interface ErrorBody {
  readonly error?: string;
  readonly code?: SidecarErrorCode;
  readonly linesWritten?: number;
}

export interface SidecarClientOptions {
  readonly masterKey: MasterKey;
  readonly timeouts?: Partial<typeof sidecarTimeouts>;
  /** What is spoken; the protocol's if absent. */
  readonly versions?: VersionRange;
}

/** Bodies of answers that are no log. */
const answerBytesMax = 64 * 1024;
/** Calls to one sidecar at the same time; more wait. */
const callsMax = 4;

/** Opens nothing yet. */
export function createSidecarClient(options: SidecarClientOptions): SidecarClient {
  const timeouts = { ...sidecarTimeouts, ...options.timeouts };
  // A session that is taken up again would let an old key in.
  const shared = {
    maxCachedSessions: 0,
    keepAliveMsecs: timeouts.tcpKeepAliveMs,
    // There is no certificate to look at: the key proves who answers. Given with a call, it would make Node keep no connection.
    checkServerIdentity: () => undefined,
  };
  const streams = new Agent({ ...shared, keepAlive: false });
  const calls = new Agent({
    ...shared,
    keepAlive: true,
    maxSockets: callsMax,
    maxFreeSockets: 1,
    timeout: timeouts.idleMs,
  });
  const versions = options.versions ?? protocolVersions;
  const send = async (call: Omit<Call, 'key' | 'timeouts' | 'version'>): Promise<CallAnswer> => {
    let refusal: unknown;
    // A pod keeps the key that it was made with: while the master key is being replaced, some have one and some the other.
    for (const key of await options.masterKey.read()) {
      try {
        return acceptVersion(await sendCall({ ...call, key, timeouts, version: versions.current }), versions);
      } catch (error) {
        if (!isKeyRefusal(error)) throw error;
        refusal = error;
      }
    }
    throw refusal;
  };
  return {
    async openLog(at, range, signal) {
      const query = 'tail' in range ? `tail=${range.tail}` : `offset=${range.offset}`;
      const path = `${paths.log}?${query}&follow=${String(range.follow)}`;
      const timeoutMs = timeouts.headersMs;
      // A sidecar that does not know them passes this over, and answers with a body.
      const upgrade = range.follow ? { upgrade: frameProtocol } : {};
      return await toLog(await send({ at, method: 'GET', path, agent: streams, ...upgrade, signal, timeoutMs }));
    },
    async writeStdin(at, lines, signal) {
      const call = { at, method: 'POST', path: paths.stdin, agent: calls, body: lines };
      const limit = withLimit(signal, timeouts.stdinMs);
      await readAnswer((await send({ ...call, signal: limit, timeoutMs: timeouts.stdinMs })).response);
    },
    async status(at, signal) {
      const call = { at, method: 'GET', path: paths.status, agent: calls };
      const limit = withLimit(signal, timeouts.statusMs);
      const { response } = await send({ ...call, signal: limit, timeoutMs: timeouts.statusMs });
      return JSON.parse(await readAnswer(response)) as SidecarStatus;
    },
    close() {
      streams.destroy();
      calls.destroy();
    },
  };
}

async function toLog({ response, upgraded }: CallAnswer): Promise<SidecarLog> {
  // An error that comes while nobody reads must not end the process; whoever reads gets it all the same.
  response.on('error', () => undefined);
  if (upgraded === undefined && response.statusCode !== 200) {
    await readAnswer(response);
    throw new Error(`Cannot read the log: the sidecar answered with status ${response.statusCode ?? 0}`);
  }
  const epoch = epochOf(response);
  const startOffset = numberOf(response, headers.startOffset);
  if (epoch === undefined || startOffset === undefined) {
    cut({ response, upgraded });
    throw new Error('Cannot read the log: the answer does not say where it begins');
  }
  const body =
    upgraded === undefined ? new BodyBytes(response) : new FrameBytes(upgraded.socket, upgraded.head, upgraded.tap);
  return {
    epoch,
    startOffset,
    endOffset: numberOf(response, headers.endOffset) ?? startOffset,
    // Before the first start there are no bytes, so what comes is of the first.
    run: Math.max(numberOf(response, headers.workloadStarts) ?? 1, 1),
    gapBytes: numberOf(response, headers.gapBytes) ?? 0,
    gapLines: numberOf(response, headers.gapLines) ?? 0,
    bytes: body,
    onPiece(take) {
      body.onPiece = take;
    },
    get endReason() {
      return body.reason;
    },
    close() {
      cut({ response, upgraded });
    },
  };
}

/** The whole body. Rejects with a `SidecarError` unless the status is 200. */
async function readAnswer(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > answerBytesMax) {
      throw new Error(`Cannot read the sidecar's answer: it has more than ${answerBytesMax} bytes`);
    }
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString('utf8');
  if (response.statusCode !== 200) {
    throw new SidecarError(response, parseError(text));
  }
  return text;
}

function parseError(text: string): ErrorBody {
  try {
    const body: unknown = JSON.parse(text);
    return typeof body === 'object' && body !== null ? body : {};
  } catch {
    // Something else than our sidecar answered; its status says enough.
    return {};
  }
}

function epochOf(response: IncomingMessage): string | undefined {
  const value = response.headers[headers.epoch];
  return typeof value === 'string' && /^[0-9a-f]{16}$/.test(value) ? value : undefined;
}

function numberOf(response: IncomingMessage, name: string): number | undefined {
  const value = response.headers[name];
  return typeof value === 'string' && /^\d{1,16}$/.test(value) ? Number(value) : undefined;
}

function withLimit(signal: AbortSignal | undefined, timeoutMs: number): AbortSignal {
  const limit = AbortSignal.timeout(timeoutMs);
  return signal === undefined ? limit : AbortSignal.any([signal, limit]);
}

function cut({ response, upgraded }: CallAnswer): void {
  if (upgraded === undefined) {
    response.destroy();
  } else {
    upgraded.socket.destroy();
  }
}

/** The answer, unless it is in a version that is not spoken here. */
function acceptVersion(answer: CallAnswer, versions: VersionRange): CallAnswer {
  const { response } = answer;
  const version = versionIn(response.headers[headers.protocol]);
  if (version >= versions.oldest && version <= versions.current) {
    return answer;
  }
  response.on('error', ignoreAfterRefusal);
  cut(answer);
  throw new SidecarVersionError(version, versions);
}

function ignoreAfterRefusal(): void {
  // The answer was given up on purpose; how it ended does not matter any more.
}
