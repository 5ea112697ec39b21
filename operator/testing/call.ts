/** Plain HTTP calls to a Master under test, with what is asserted of their answers. */
import { testToken } from './master.ts';
import type { TestMaster } from './master.ts';

export interface CallOptions {
  readonly method?: string;
  /** None if empty. */
  readonly token?: string;
  /** Sent as it is if it is text, else as JSON. */
  readonly body?: unknown;
  readonly signal?: AbortSignal;
}

export interface CallAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** Undefined where there is no body. */
  readonly json: unknown;
}

export async function callMaster(master: TestMaster, path: string, options: CallOptions = {}): Promise<CallAnswer> {
  const { method = 'GET', token = testToken, body, signal } = options;
  const response = await fetch(`http://127.0.0.1:${master.port}${path}`, {
    method,
    headers: { connection: 'close', ...(token === '' ? {} : { authorization: `Bearer ${token}` }) },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: text === '' ? undefined : JSON.parse(text) };
}
