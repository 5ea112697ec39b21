/** What rest.ts needs from a connection to the API server; http.ts is the real one. */
import type { Readable } from 'node:stream';

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Path and query. */
  readonly path: string;
  readonly contentType?: string;
  readonly body?: string;
  /** No limit on the silence between two chunks of the answer. */
  readonly isStream?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface HttpResponse {
  readonly status: number;
  /** The header as it came. */
  readonly retryAfter: string | undefined;
  /** An error of it that nobody reads is harmless; `for await` throws it. */
  readonly body: Readable;
}

/** One attached container: frames of a channel number and bytes. */
export interface ChannelSocket {
  /** The server understands "this channel is finished" (v5.channel.k8s.io). */
  readonly hasClose: boolean;
  /** Resolves when the bytes were handed to the operating system. */
  send(channel: number, bytes: Uint8Array): Promise<void>;
  /** The server's last word on channel 3; undefined when it closed without one. Never rejects. */
  readonly ended: Promise<object | undefined>;
  /** The close code; 1006 for a broken connection. Never rejects. */
  readonly closed: Promise<number>;
  close(): void;
  terminate(): void;
}

export interface Transport {
  /** Rejects when there is no answer, with the signal's reason when it aborted; any status is an answer. */
  send(request: HttpRequest): Promise<HttpResponse>;
  /** Opens a WebSocket. A refusal is an `ApiError` with the server's own Status. */
  attach(path: string, signal: AbortSignal): Promise<ChannelSocket>;
}
