/** What a live-log upgrade asks for, read from its URL and headers. Pure. */
import type { IncomingMessage } from 'node:http';
import type { Start } from '../logs/source.ts';
import type { Format } from './frames.ts';
import type { Refusal } from './refusal.ts';
import { badRequest } from './refusal.ts';

/** Route of the live log for express-ws; `livePath` is its exact counterpart. */
export const liveRoute = '/api/instances/:id/live-log';
const livePath = /^\/api\/instances\/([^/]+)\/live-log$/;
const idPattern = /^[0-9a-z]{6}$/;

export const tailLinesDefault = 1_000;
export const tailLinesMax = 10_000;
const cursorPattern = /^[\x21-\x7e]{1,1024}$/;

/** The plain frames under a name, for browsers: they need a subprotocol beside the one that carries the token. */
export const plainProtocol = 'ringmaster.live-log.v1';
export const jsonProtocol = 'ringmaster.live-log.v1+json';

export interface LiveQuery {
  readonly start: Start;
  readonly isAnsiStripped: boolean;
}

export const malformedId: Refusal = badRequest('Malformed instance id: it is six characters of 0-9 and a-z');

export function isInstanceId(id: string): boolean {
  return idPattern.test(id);
}

/** The id as it stands in the path of a live log, malformed or not; undefined for any other path. */
export function liveIdOf(url: string): string | undefined {
  return livePath.exec(splitUrl(url).path)?.[1];
}

/** The parameters; each at most once, none that is not known, so that a typing error is noticed and not taken for the default. */
export function readLiveQuery(url: string): LiveQuery | Refusal {
  const parameters = readParameters(url, ['tail', 'cursor', 'ansi']);
  if ('status' in parameters) return parameters;
  const { tail, cursor, ansi } = parameters.values;
  if (ansi !== undefined && ansi !== 'strip')
    return badRequest('Malformed query parameter "ansi": only "strip" is known');
  if (tail !== undefined && cursor !== undefined) {
    return badRequest('Conflicting query parameters "tail" and "cursor": a cursor says where to start');
  }
  const start = readStart(tail, cursor);
  return 'status' in start ? start : { start, isAnsiStripped: ansi === 'strip' };
}

/** The number of a decimal parameter within bounds; undefined if it is anything else. */
export function readInteger(text: string, min: number, max: number): number | undefined {
  if (!/^\d{1,9}$/.test(text)) return undefined;
  const value = Number(text);
  return value >= min && value <= max ? value : undefined;
}

/** The query as a record of the known parameters, or why it is not one. */
export function readParameters(
  url: string,
  known: readonly string[],
): { readonly values: Readonly<Record<string, string | undefined>> } | Refusal {
  const values: Record<string, string> = {};
  for (const [name, value] of new URLSearchParams(splitUrl(url).query)) {
    if (!known.includes(name)) {
      return badRequest(`Unknown query parameter ${JSON.stringify(name.slice(0, 32))}: known are ${known.join(', ')}`);
    }
    if (values[name] !== undefined) return badRequest(`Repeated query parameter "${name}"`);
    values[name] = value;
  }
  return { values };
}

/** The offered subprotocols, in the client's order. */
export function offeredProtocols(request: IncomingMessage): string[] {
  const header = request.headers['sec-websocket-protocol'];
  if (header === undefined) return [];
  return header.split(',').map((name) => name.trim());
}

/** The first offered protocol that exists here; undefined: none, and the answer names none (RFC 6455, 4.2.2). */
export function chooseProtocol(offered: readonly string[]): string | undefined {
  return offered.find((name) => name === jsonProtocol || name === plainProtocol);
}

export function formatOf(protocol: string | undefined, query: LiveQuery): Format {
  return { isJson: protocol === jsonProtocol, isAnsiStripped: query.isAnsiStripped };
}

function readStart(tail: string | undefined, cursor: string | undefined): Start | Refusal {
  if (cursor !== undefined) {
    return cursorPattern.test(cursor) ? { after: cursor } : badRequest('Malformed query parameter "cursor"');
  }
  if (tail === undefined) return { tail: tailLinesDefault };
  const lines = readInteger(tail, 0, tailLinesMax);
  if (lines === undefined) {
    return badRequest(`Malformed query parameter "tail": it is a whole number from 0 to ${tailLinesMax}`);
  }
  return { tail: lines };
}

/** A request's target in its two parts; the query is empty where there is none. */
export function splitUrl(url: string): { path: string; query: string } {
  const mark = url.indexOf('?');
  return mark < 0 ? { path: url, query: '' } : { path: url.slice(0, mark), query: url.slice(mark + 1) };
}
