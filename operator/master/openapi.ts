/** The OpenAPI 3.1 document of all calls: `operations` says what there is, schemas.ts what bodies look like. Pure. */
import { z } from 'zod';
import { operations } from './operations.ts';
import type { Operation } from './operations.ts';
import { parameters, schemas } from './operations.ts';

/** Of the calls, not of the program: the first number changes when a client must. */
const apiVersion = '1.0.0';

type Json = Readonly<Record<string, unknown>>;

export function openApiDocument(): Json {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of operations) {
    const item = (paths[operation.path] ??= {});
    item[operation.method.toLowerCase()] = toOperation(operation);
  }
  return {
    openapi: '3.1.1',
    info: {
      title: 'Ringmaster Master API',
      version: apiVersion,
      description:
        'Instances, their logs, their configurations and the console. What is behind a WebSocket is said in operator/master/PROTOCOL.md.',
      license: { name: 'UNLICENSED' },
    },
    security: [{ token: [] }],
    paths,
    components: {
      securitySchemes: {
        token: {
          type: 'http',
          scheme: 'bearer',
          description:
            'The token of an ApiKey with permission ALL, or a token of Kubernetes whose user has the right to the call.',
        },
      },
      schemas: Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, toSchema(schema)])),
      parameters: Object.fromEntries(
        Object.entries(parameters).map(([name, { schema, ...rest }]) => [name, { ...rest, schema: toSchema(schema) }]),
      ),
    },
  };
}

function toOperation({ id, summary, tag, access, uses, body, answers }: Operation): Json {
  return {
    operationId: id,
    summary,
    tags: [tag],
    ...(access === 'open' ? { security: [] } : {}),
    ...(access === 'PUBLIC' ? { description: 'Also with a token of permission PUBLIC.' } : {}),
    ...(uses === undefined ? {} : { parameters: uses.map((name) => ({ $ref: `#/components/parameters/${name}` })) }),
    ...(body === undefined ? {} : { requestBody: { required: true, content: jsonOf(body) } }),
    responses: Object.fromEntries(
      Object.entries(allAnswers(answers, access)).map(([code, answer]) => [code, toAnswer(code, answer)]),
    ),
  };
}

/** Those of the operation, and those that every call of its kind may have. */
function allAnswers(answers: Operation['answers'], access: Operation['access']): Operation['answers'] {
  const limited = { 429: { says: 'Too many calls with this PUBLIC key.', schema: 'RateError' } } as const;
  const guarded = {
    400: { says: 'The request is malformed; the error says what is wrong.' },
    401: { says: 'No token, or none that counts or may do this.' },
    503: { says: 'Not now: try again after Retry-After.' },
  } as const;
  return { ...(access === 'open' ? limited : { ...guarded, ...limited }), ...answers };
}

function toAnswer(code: string, { says, schema, content, isList }: Operation['answers'][number]): Json {
  const isError = Number(code) >= 400;
  const named = schema ?? (isError ? 'Error' : undefined);
  const headers = headersOf(code);
  return {
    description: says,
    ...(headers === undefined ? {} : { headers }),
    ...(content === undefined ? {} : { content: { [content]: { schema: { type: 'string' } } } }),
    ...(named === undefined ? {} : { content: jsonOf(named, isList) }),
  };
}

function headersOf(code: string): Json | undefined {
  if (code === '401') return { 'WWW-Authenticate': { required: true, schema: { type: 'string', const: 'Bearer' } } };
  if (code === '429') return { 'Retry-After': retryAfter(true) };
  if (code === '503') return { 'Retry-After': retryAfter(false) };
  return undefined;
}

function retryAfter(required: boolean): Json {
  return { required, description: 'Seconds.', schema: { type: 'integer', minimum: 0 } };
}

function jsonOf(name: string, isList = false): Json {
  const one = { $ref: `#/components/schemas/${name}` };
  return { 'application/json': { schema: isList ? { type: 'array', items: one } : one } };
}

/** What a client may send. */
function toSchema(schema: z.ZodType): Json {
  return withoutOurMarks(z.toJSONSchema(schema, { io: 'input', reused: 'inline' })) as Json;
}

/** Notes for the API server and for the generator of the CRDs say nothing here. */
function withoutOurMarks(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutOurMarks);
  if (typeof value !== 'object' || value === null) return value;
  const kept = Object.entries(value).filter(([key]) => key !== '$schema' && !key.startsWith('x-'));
  return Object.fromEntries(kept.map(([key, part]) => [key, withoutOurMarks(part)]));
}
