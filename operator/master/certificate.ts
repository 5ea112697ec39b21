/**
 * The certificate that the Master serves TLS with, from two files that may be replaced at any time: the kubelet does so when the Secret changes, by
 * swapping one link of the folder.
 *
 * A change is seen at once by watching the folders, and at the latest after `pollMs` by looking. A new pair counts when it has been read in one piece and
 * fits together; until then the old one goes on being served, and the log and the metrics say what is wrong with the new one.
 */
import { X509Certificate, createPrivateKey } from 'node:crypto';
import { watch } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { createSecureContext } from 'node:tls';
import { messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { TlsMetrics } from '../metrics.ts';
import type { Timers } from './ports.ts';

/** A certificate, with the chain that was beside it, and its key; both as PEM, and known to fit. */
export interface Certificate {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly notAfterMs: number;
  /** SHA-256, for people to compare. */
  readonly fingerprint: string;
}

/** What a server needs: the certificate of now, and to hear of the next one. */
export interface CertificateSource {
  readonly current: Certificate;
  /** Calls for each new certificate, until the returned function is called. */
  onChange(listener: (certificate: Certificate) => void): () => void;
}

export interface CertificateOptions {
  readonly certFile: string;
  readonly keyFile: string;
  readonly log: Logger;
  readonly metrics: TlsMetrics;
  readonly clock: Timers;
}

/** For file systems that tell no changes, and for a machine that has no watches left. */
const pollMs = 30_000;
/** Two files that are copied one after the other are looked at when both are there. */
const settleMs = 250;
const readTriesMax = 3;

/** Reads the pair for the first time. Rejects, with the paths and the reason and nothing of the key, if it cannot be used. */
export async function openCertificate(options: CertificateOptions): Promise<CertificateStore> {
  const pair = await readPair(options);
  return new CertificateStore(options, pair.version, checkPair(options, pair));
}

export class CertificateStore implements CertificateSource {
  readonly #options: CertificateOptions;
  readonly #listeners = new Set<(certificate: Certificate) => void>();
  #current: Certificate;
  /** Of the files as they were read last, good or not; empty if they could not be. */
  #version: string;
  /** Why they cannot be used; said once. */
  #fault: string | undefined;
  #checking: Promise<void> = Promise.resolve();
  #cancelSettle: (() => void) | undefined;

  constructor(options: CertificateOptions, version: string, current: Certificate) {
    this.#options = options;
    this.#version = version;
    this.#current = current;
    this.#note(current);
  }

  get current(): Certificate {
    return this.#current;
  }

  onChange(listener: (certificate: Certificate) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Looks for changes until the signal aborts. Keeps no process alive. */
  follow(signal: AbortSignal): void {
    const { certFile, keyFile } = this.#options;
    for (const folder of new Set([dirname(certFile), dirname(keyFile)])) this.#watch(folder, signal);
    this.#poll(signal);
    signal.addEventListener('abort', () => this.#cancelSettle?.());
  }

  /** Looks at the files now, after any look that is under way. Never rejects. */
  check(): Promise<void> {
    this.#checking = this.#checking.then(() => this.#look());
    return this.#checking;
  }

  #watch(folder: string, signal: AbortSignal): void {
    const { log } = this.#options;
    const watchOnError = (error: unknown): void => {
      log.warn({ err: error, folder }, `Cannot watch the certificate: a new one is seen within ${pollMs / 1_000} s`);
    };
    try {
      const watcher = watch(folder, { persistent: false, signal });
      watcher.on('change', () => {
        this.#settle();
      });
      watcher.on('error', watchOnError);
    } catch (error) {
      watchOnError(error);
    }
  }

  #settle(): void {
    this.#cancelSettle ??= this.#options.clock.after(settleMs, () => {
      this.#cancelSettle = undefined;
      void this.check();
    });
  }

  #poll(signal: AbortSignal): void {
    const cancel = this.#options.clock.after(pollMs, () => {
      signal.removeEventListener('abort', cancel);
      if (signal.aborted) return;
      void this.check();
      this.#poll(signal);
    });
    signal.addEventListener('abort', cancel, { once: true });
  }

  async #look(): Promise<void> {
    try {
      const pair = await this.#readChanged();
      if (pair !== undefined) this.#take(checkPair(this.#options, pair));
    } catch (error) {
      this.#refuse(messageOf(error));
    }
  }

  /** Undefined if they are those that were read last. A pair that was refused is not looked at again before it changes. */
  async #readChanged(): Promise<Pair | undefined> {
    try {
      if ((await versionOf(this.#options)) === this.#version) return undefined;
      const pair = await readPair(this.#options);
      this.#version = pair.version;
      this.#fault = undefined;
      return pair;
    } catch (error) {
      this.#version = '';
      throw error;
    }
  }

  #refuse(reason: string): void {
    const { log, metrics } = this.#options;
    metrics.certificateIsStale.set(1);
    if (reason === this.#fault) return;
    this.#fault = reason;
    metrics.certificateReloads.inc({ result: 'failed' });
    log.error({ reason }, 'Cannot use the new certificate: the old one is served until there is a good one');
  }

  #take(certificate: Certificate): void {
    const { log, metrics } = this.#options;
    metrics.certificateIsStale.set(0);
    if (certificate.cert.equals(this.#current.cert) && certificate.key.equals(this.#current.key)) return;
    this.#current = certificate;
    metrics.certificateReloads.inc({ result: 'ok' });
    this.#note(certificate);
    const { fingerprint, notAfterMs } = certificate;
    log.info({ fingerprint, notAfter: new Date(notAfterMs).toISOString() }, 'Serving a new certificate');
    for (const listener of this.#listeners) listener(certificate);
  }

  #note({ notAfterMs }: Certificate): void {
    this.#options.metrics.certificateNotAfter.set(notAfterMs / 1_000);
    if (notAfterMs < this.#options.clock.nowMs()) this.#options.log.error('The certificate that is served has expired');
  }
}

interface Files {
  readonly certFile: string;
  readonly keyFile: string;
}

interface Pair {
  readonly version: string;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Both files of the same moment: a swap between the two reads would give the certificate of one pair and the key of another. */
async function readPair(files: Files): Promise<Pair> {
  for (let tries = 0; tries < readTriesMax; tries++) {
    const version = await versionOf(files);
    const [cert, key] = await Promise.all([readFile(files.certFile), readFile(files.keyFile)]);
    if ((await versionOf(files)) === version) return { version, cert, key };
  }
  throw new Error(`"${files.certFile}" and "${files.keyFile}" do not stop changing`);
}

/** Changes with either file, and with the link that leads to it. */
async function versionOf({ certFile, keyFile }: Files): Promise<string> {
  const found = await Promise.all([certFile, keyFile].map((file) => stat(file)));
  return found.map(({ ino, size, mtimeMs, ctimeMs }) => [ino, size, mtimeMs, ctimeMs].join('/')).join(' ');
}

/** Throws if a handshake with it could not work. */
function checkPair({ certFile, keyFile }: Files, { cert, key }: Pair): Certificate {
  try {
    const certificate = new X509Certificate(cert);
    if (!certificate.checkPrivateKey(createPrivateKey(key))) throw new Error('they do not belong together');
    createSecureContext({ cert, key });
    return { cert, key, notAfterMs: certificate.validToDate.getTime(), fingerprint: certificate.fingerprint256 };
  } catch (error) {
    const what = `Cannot use the certificate in "${certFile}" with the key in "${keyFile}"`;
    throw new Error(`${what}: ${messageOf(error)}`, { cause: error });
  }
}
