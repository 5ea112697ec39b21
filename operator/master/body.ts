/** The bodies of calls that carry a command. */
import type { IncomingMessage } from 'node:http';
import type { Refusal } from './refusal.ts';
import { badRequest } from './refusal.ts';

/** All bytes of the body, or 413 for one that is too large; the rest of such a one is not waited for. Rejects when the client goes before its end. */
export async function readBody(request: IncomingMessage, bytesMax: number): Promise<Buffer | Refusal> {
  const chunks: Buffer[] = [];
  let size = 0;
  if (Number(request.headers['content-length'] ?? 0) > bytesMax) return tooLarge(bytesMax);
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > bytesMax) return tooLarge(bytesMax);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** PURE: the one field of a body `{"command":"…"}`, or what is wrong with it. What the command may be is the caller's to check. */
export function readCommandField(body: Buffer | Refusal): string | Refusal {
  if ('status' in body) return body;
  const value = parseJson(body);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return badRequest('Malformed body: it is a JSON object, {"command":"…"}');
  }
  const stray = Object.keys(value).find((name) => name !== 'command');
  if (stray !== undefined) return badRequest(`Unknown field "${stray.slice(0, 40)}" in the body: known is command`);
  const { command } = value as { command?: unknown };
  return typeof command === 'string' ? command : badRequest('Malformed "command" in the body: it is a string');
}

function tooLarge(bytesMax: number): Refusal {
  return {
    status: 413,
    error: `The body is too large: at most ${bytesMax} bytes`,
    headers: { Connection: 'close' },
  };
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    // Not UTF-8 or not JSON: undefined is no object, and the caller says so.
    return undefined;
  }
}
