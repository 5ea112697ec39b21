/** From an error answer, whatever its form, to an `ApiError`. */
import type { Readable } from 'node:stream';
import { ApiError } from './client.ts';
import type { Status } from './client.ts';
import type { HttpResponse } from './transport.ts';

/** More of an error body is not read. */
const errorBodyBytesMax = 64 * 1024;
const messageCharsMax = 1024;

/** Kubernetes' own words, for servers and proxies that do not say them. */
const reasonByCode: Readonly<Record<number, string>> = {
  400: 'BadRequest',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'NotFound',
  405: 'MethodNotAllowed',
  406: 'NotAcceptable',
  409: 'Conflict',
  410: 'Expired',
  413: 'RequestEntityTooLarge',
  415: 'UnsupportedMediaType',
  422: 'Invalid',
  429: 'TooManyRequests',
  500: 'InternalError',
  503: 'ServiceUnavailable',
  504: 'Timeout',
};

/** Reads the rest of the answer. A body that breaks off still gives an `ApiError`, with what had come. */
export async function readApiError(response: HttpResponse): Promise<ApiError> {
  const text = await readText(response.body, errorBodyBytesMax);
  return toApiError(response.status, text, parseRetryAfter(response.retryAfter, Date.now()));
}

/** `text` is a Status as JSON, or anything else. */
export function toApiError(code: number, text: string, retryAfterMs?: number): ApiError {
  return new ApiError(toStatus(code, parseObject(text) ?? {}, text), retryAfterMs);
}

/** Fills in what a Status object lacks. */
export function toStatus(code: number, body: Partial<Status>, text = ''): Status {
  const isStatus = typeof body.message === 'string' || typeof body.reason === 'string';
  const reason = body.reason === undefined || body.reason === '' ? reasonByCode[code] : body.reason;
  const message = isStatus ? (body.message ?? '') : text.trim().slice(0, messageCharsMax);
  return {
    code: typeof body.code === 'number' && body.code > 0 ? body.code : code,
    reason: reason ?? 'Unknown',
    message: message === '' ? `The API server answered with status ${code}` : message,
    ...(body.details === undefined ? {} : { details: body.details }),
  };
}

/** Seconds or an HTTP date, as milliseconds from `nowMs` on. */
export function parseRetryAfter(value: string | undefined, nowMs: number): number | undefined {
  if (value === undefined || value.trim() === '') return undefined;
  const seconds = Number(value);
  const delayMs = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(value) - nowMs;
  return Number.isFinite(delayMs) ? Math.max(delayMs, 0) : undefined;
}

async function readText(body: Readable, bytesMax: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= bytesMax) break;
    }
  } catch {
    // The status code says enough: what is missing is only the explanation.
  }
  return Buffer.concat(chunks).toString('utf8', 0, bytesMax);
}

function parseObject(text: string): Partial<Status> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    // Proxies and the kubelet answer in plain text.
    return undefined;
  }
}
