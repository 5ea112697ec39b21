/** The API server that integration tests run against. They need one: without it they fail, they are never skipped. */
import { randomBytes } from 'node:crypto';
import { createSilentLogger } from '../log.ts';
import type { Client, Namespace, Resource } from '../runtime/client.ts';
import { connect } from '../runtime/http.ts';

export const namespaces: Resource<Namespace> = {
  apiVersion: 'v1',
  kind: 'Namespace',
  plural: 'namespaces',
  namespaced: false,
};

export interface TestServer {
  readonly client: Client;
  /** Another connection, as another process would have it. */
  readonly connectAgain: () => Client;
  /** Makes a namespace of its own; `await using` deletes it. */
  readonly makeNamespace: () => Promise<{ name: string } & AsyncDisposable>;
}

/** Throws one clear line when the environment names no API server. */
export function connectToTestServer(env: NodeJS.ProcessEnv): TestServer {
  const kubeconfigPath = env['RINGMASTER_TEST_KUBECONFIG'];
  if (kubeconfigPath === undefined || kubeconfigPath === '') {
    throw new Error('Cannot run integration tests: RINGMASTER_TEST_KUBECONFIG names no kubeconfig file');
  }
  const connectAgain = (): Client => connect({ kubeconfigPath, log: createSilentLogger() }).client;
  const client = connectAgain();
  return {
    client,
    connectAgain,
    makeNamespace: async () => {
      const name = `it-${randomBytes(4).toString('hex')}`;
      await client.create(namespaces, { metadata: { name } });
      return { name, [Symbol.asyncDispose]: () => client.remove(namespaces, { name }) };
    },
  };
}

/** Resolves when `check` passes; rejects with its last failure when the time is up. For real servers, which tell nobody when they are done. */
export async function eventually(timeoutMs: number, check: () => void | Promise<void>): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    try {
      await check();
      return;
    } catch (error) {
      if (performance.now() > endMs) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
