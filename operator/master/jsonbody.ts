/** The body of a request: read within a bound, and held to the schema that the OpenAPI document shows. */
import type { IncomingMessage } from 'node:http';
import type { z } from 'zod';
import type { Refusal } from './refusal.ts';
import { badRequest } from './refusal.ts';

/** The whole body, or 413 as soon as it is known to be larger. Rejects when the client goes in the middle of it. */
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

function tooLarge(bytesMax: number): Refusal {
  return {
    status: 413,
    error: `The body is too large: at most ${bytesMax} bytes`,
    // The rest of the body is not waited for.
    headers: { Connection: 'close' },
  };
}

/** PURE: the JSON object of a body, whatever its `Content-Type` says. `example` is what the client is told to write. */
export function parseObject(
  body: Buffer | Refusal,
  example: string,
): { readonly object: Readonly<Record<string, unknown>> } | Refusal {
  if ('status' in body) return body;
  const value = parseJson(body);
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { object: { ...value } };
  return badRequest(`Malformed body: it is a JSON object, ${example}`);
}

/** PURE: the body as the schema has it, or what is wrong with the first field that is not. The schema is a strict object. */
export function parseBody<Shape extends z.core.$ZodLooseShape>(
  body: Buffer | Refusal,
  schema: z.ZodObject<Shape, z.core.$strict>,
  example: string,
): { readonly value: z.infer<typeof schema> } | Refusal {
  const parsed = parseObject(body, example);
  if ('status' in parsed) return parsed;
  const result = schema.safeParse(parsed.object);
  return result.success ? { value: result.data } : faultOf(result.error, Object.keys(schema.shape));
}

function faultOf(error: z.ZodError, known: readonly string[]): Refusal {
  const stray = error.issues.find(({ code }) => code === 'unrecognized_keys');
  if (stray !== undefined && 'keys' in stray) {
    const [name = ''] = stray.keys;
    const verb = known.length === 1 ? 'is' : 'are';
    return badRequest(`Unknown field "${name.slice(0, 40)}" in the body: known ${verb} ${known.join(', ')}`);
  }
  const [issue] = error.issues;
  return badRequest(`Malformed "${issue?.path.join('.') ?? ''}" in the body: ${issue?.message ?? 'it is not valid'}`);
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    // Not UTF-8 or not JSON: undefined is no object, and the caller says so.
    return undefined;
  }
}
