/** Certificates that `openssl` makes for a test, in a folder of its own. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A certificate and its key as files, and as PEM. */
export interface TestPair {
  readonly certFile: string;
  readonly keyFile: string;
  readonly cert: string;
  readonly key: string;
}

export interface CertificateShop extends AsyncDisposable {
  readonly folder: string;
  /** Signs those that it issues; clients trust it. */
  readonly authority: TestPair;
  /** For `DNS:…` and `IP:…`, and `localhost` if there are none. */
  issue(name: string, alternativeNames?: readonly string[]): Promise<TestPair>;
}

export async function openCertificateShop(): Promise<CertificateShop> {
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-certificates-'));
  const authority = await create(folder, 'authority', []);
  const { certFile, keyFile } = authority;
  return {
    folder,
    authority,
    issue: (name, alternativeNames = ['DNS:localhost', 'IP:127.0.0.1']) =>
      create(folder, name, [
        ...['-CA', certFile, '-CAkey', keyFile, '-addext', 'basicConstraints=critical,CA:FALSE'],
        ...['-addext', `subjectAltName=${alternativeNames.join(',')}`],
      ]),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
  };
}

async function create(folder: string, name: string, more: readonly string[]): Promise<TestPair> {
  const [certFile, keyFile] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)];
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc', '-keyout', keyFile];
  await run('openssl', ['req', '-x509', ...newKey, '-subj', `/CN=${name}`, '-days', '30', ...more, '-out', certFile]);
  return { certFile, keyFile, cert: await readFile(certFile, 'utf8'), key: await readFile(keyFile, 'utf8') };
}
