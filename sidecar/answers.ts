/** Answers of the sidecar's servers that are no log, and what every request is looked at for. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { headers, limits, protocolVersions, versionIn } from './protocol.ts';
import type { SidecarErrorCode } from './protocol.ts';

const statusOf: Record<SidecarErrorCode, number> = {
  BAD_REQUEST: 400,
  PROTOCOL_UNSUPPORTED: 400,
  NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  NOT_RUNNING: 409,
  TOO_LARGE: 413,
  OFFSET_BEYOND_END: 416,
  INTERNAL: 500,
  OVERLOADED: 503,
  NOT_READY: 503,
  STDIN_FULL: 504,
};

/** Answers in the newest version that both sides speak. A caller that is too old is told which it would have to speak. */
export function agreeOnVersion(request: IncomingMessage, response: ServerResponse): boolean {
  const asked = versionIn(request.headers[headers.protocol]);
  const { current, oldest } = protocolVersions;
  if (asked >= oldest) {
    response.setHeader(headers.protocol, Math.min(asked, current));
    return true;
  }
  response.setHeader(headers.protocol, current);
  const spoken = `this sidecar speaks the versions ${oldest} to ${current} of its protocol`;
  sendError(response, 'PROTOCOL_UNSUPPORTED', `Cannot answer: ${spoken}, the caller an older one or none`);
  return false;
}

export function hasMethod(request: IncomingMessage, response: ServerResponse, method: string): boolean {
  if (request.method === method) {
    return true;
  }
  response.setHeader('allow', method);
  sendError(response, 'METHOD_NOT_ALLOWED', `Cannot answer: only ${method} is allowed here`);
  return false;
}

/** The whole body, or undefined when it is too long. */
export async function readBody(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limits.bodyBytesMax) {
      return undefined;
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

export function sendReadiness(response: ServerResponse, reason: string | undefined): void {
  if (reason === undefined) {
    sendText(response, 'ok\n');
  } else {
    sendError(response, 'NOT_READY', reason);
  }
}

export function sendText(response: ServerResponse, text: string): void {
  response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' });
  response.end(text);
}

/** Before the headers it is an answer; after them nothing is left but to cut the connection, which no reader takes for an end. */
export function sendError(response: ServerResponse, code: SidecarErrorCode, error: string, more: object = {}): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  sendJson(response, statusOf[code], { error, code, ...more });
}
