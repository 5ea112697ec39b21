/**
 * The certificates and kubeconfigs of a cluster, made once and kept with its state. P-256 keys: an RSA key can take a second to find.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.ts';
import type { ClusterSettings } from './settings.ts';
import { nodeAddress } from './settings.ts';

const validDays = '3650';

interface Certificate {
  name: string;
  /** In openssl's form: `/O=group/CN=user`. */
  subject: string;
  usage?: 'clientAuth' | 'serverAuth';
  alternativeNames?: string[];
  /** Name of the certificate that signs it; a certificate without is its own authority. */
  signedBy?: string;
}

/** Folder of the cluster's keys, certificates and component kubeconfigs. */
export function pkiDir(settings: ClusterSettings): string {
  return join(settings.stateDir, 'pki');
}

/** Makes what is missing, for these nodes. */
export async function ensurePki(settings: ClusterSettings, nodes: readonly number[]): Promise<void> {
  const dir = pkiDir(settings);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await Promise.all([...authorities.map((authority) => ensureCertificate(dir, authority)), ensureTokenKey(dir)]);
  const certificates = [
    ...controlPlaneCertificates(settings),
    ...nodes.flatMap((node) => nodeCertificates(settings, node)),
  ];
  await Promise.all(certificates.map((certificate) => ensureCertificate(dir, certificate)));
}

/** Writes a kubeconfig for the user whose certificate is `user`. JSON, which every reader of YAML takes. */
export async function writeKubeconfig(
  settings: ClusterSettings,
  { user, server, file }: { user: string; server: string; file: string },
): Promise<void> {
  const dir = pkiDir(settings);
  const base64 = async (name: string): Promise<string> => (await readFile(join(dir, name))).toString('base64');
  const context = settings.cgroup;
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: context, cluster: { server, 'certificate-authority-data': await base64('ca.crt') } }],
    users: [
      {
        name: `${context}-${user}`,
        user: {
          'client-certificate-data': await base64(`${user}.crt`),
          'client-key-data': await base64(`${user}.key`),
        },
      },
    ],
    contexts: [{ name: context, context: { cluster: context, user: `${context}-${user}` } }],
    'current-context': context,
  };
  await writeFile(file, JSON.stringify(config, undefined, 2), { mode: 0o600 });
}

const authorities: Certificate[] = [
  { name: 'ca', subject: '/CN=kubernetes-ca' },
  { name: 'front-proxy-ca', subject: '/CN=front-proxy-ca' },
];

function controlPlaneCertificates({ nodeNet, serviceNet }: ClusterSettings): Certificate[] {
  const names = ['localhost', 'kubernetes', 'kubernetes.default', 'kubernetes.default.svc'];
  const service = 'kubernetes.default.svc.cluster.local';
  const addresses = ['127.0.0.1', `${nodeNet}.1`, `${serviceNet}.0.1`];
  const alternativeNames = [...[...names, service].map((name) => `DNS:${name}`), ...addresses.map((ip) => `IP:${ip}`)];
  const client = { usage: 'clientAuth', signedBy: 'ca' } as const;
  return [
    { name: 'apiserver', subject: '/CN=kube-apiserver', usage: 'serverAuth', signedBy: 'ca', alternativeNames },
    // Shown to the kubelets, for logs, exec and port-forward.
    { name: 'apiserver-kubelet-client', subject: '/O=system:masters/CN=kube-apiserver-kubelet-client', ...client },
    // Shown to aggregated API servers.
    {
      name: 'front-proxy-client',
      subject: '/CN=front-proxy-client',
      usage: 'clientAuth',
      signedBy: 'front-proxy-ca',
    },
    { name: 'admin', subject: '/O=system:masters/CN=admin', ...client },
    { name: 'controller-manager', subject: '/CN=system:kube-controller-manager', ...client },
    { name: 'scheduler', subject: '/CN=system:kube-scheduler', ...client },
    { name: 'proxy', subject: '/CN=system:kube-proxy', ...client },
  ];
}

function nodeCertificates(settings: ClusterSettings, node: number): Certificate[] {
  const name = `node${String(node)}`;
  // The Node authorizer knows a node by exactly this user and group.
  const subject = `/O=system:nodes/CN=system:node:${name}`;
  const alternativeNames = [`DNS:${name}`, `IP:${nodeAddress(settings, node)}`, 'IP:127.0.0.1'];
  return [
    { name, subject, usage: 'clientAuth', signedBy: 'ca' },
    { name: `${name}-serving`, subject, usage: 'serverAuth', signedBy: 'ca', alternativeNames },
  ];
}

async function ensureCertificate(dir: string, certificate: Certificate): Promise<void> {
  const { name, subject, signedBy } = certificate;
  const file = join(dir, `${name}.crt`);
  if (existsSync(file)) return;
  const config = join(dir, `${name}.cnf`);
  await writeFile(config, opensslConfig(certificate));
  const sign =
    signedBy === undefined ? [] : ['-CA', join(dir, `${signedBy}.crt`), '-CAkey', join(dir, `${signedBy}.key`)];
  const newKey = [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-noenc',
    '-keyout',
    join(dir, `${name}.key`),
  ];
  const request = ['req', '-x509', '-config', config, '-subj', subject, '-days', validDays];
  // Renamed when it is whole: an interrupted start must not leave half of one under its name.
  await run('openssl', [...request, ...newKey, ...sign, '-out', `${file}.new`]);
  await rename(`${file}.new`, file);
  await rm(config);
}

function opensslConfig({ usage, alternativeNames, signedBy }: Certificate): string {
  const extensions =
    signedBy === undefined
      ? ['basicConstraints = critical,CA:TRUE', 'keyUsage = critical,keyCertSign,cRLSign,digitalSignature']
      : ['basicConstraints = critical,CA:FALSE', 'keyUsage = critical,digitalSignature'];
  if (usage !== undefined) extensions.push(`extendedKeyUsage = ${usage}`);
  if (alternativeNames !== undefined) extensions.push(`subjectAltName = ${alternativeNames.join(',')}`);
  const request = ['[req]', 'distinguished_name = name', 'x509_extensions = extensions', '[name]', '[extensions]'];
  return [...request, ...extensions, ''].join('\n');
}

/** Signs the tokens of service accounts. */
async function ensureTokenKey(dir: string): Promise<void> {
  const key = join(dir, 'sa.key');
  if (existsSync(join(dir, 'sa.pub'))) return;
  await run('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', key]);
  await run('openssl', ['ec', '-in', key, '-pubout', '-out', join(dir, 'sa.pub.new')]);
  await rename(join(dir, 'sa.pub.new'), join(dir, 'sa.pub'));
}
