/** A client of the Master's sockets, as a script would write one: the `ws` package and nothing of ours. */
import WebSocket from 'ws';

export interface LiveLogOptions {
  readonly url: string;
  readonly token: string;
  readonly id: string;
  /** Like `?tail=10`. */
  readonly query?: string;
  /** Without a frame for so long it throws. */
  readonly timeoutMs?: number;
}

/** The frames of a live log. Ends when the socket closes with 1000; throws on any other end, an HTTP refusal included. */
export async function* liveLog(options: LiveLogOptions): AsyncGenerator<string, void, undefined> {
  const { url, token, id, query = '', timeoutMs = 30_000 } = options;
  const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/api/instances/${id}/live-log${query}`, {
    headers: { authorization: `Bearer ${token}` },
    skipUTF8Validation: false,
  });
  const waiting: string[] = [];
  let end: { code: number; reason: string } | Error | undefined;
  let wake = (): void => undefined;
  socket.on('message', (data: Buffer, isBinary) => {
    waiting.push(isBinary ? `(binary frame of ${data.length} bytes)` : data.toString());
    wake();
  });
  socket.on('unexpected-response', (_, response) => {
    end = new Error(`HTTP ${response.statusCode ?? 0} instead of 101`);
    socket.terminate();
    wake();
  });
  socket.on('error', (error) => {
    end ??= error;
    wake();
  });
  socket.on('close', (code, reason) => {
    end ??= { code, reason: reason.toString() };
    wake();
  });
  const nextEvent = async (): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    wake = () => {
      resolve(undefined);
    };
    const timer = setTimeout(() => {
      reject(new Error(`No frame for ${timeoutMs} ms`));
    }, timeoutMs);
    await promise.finally(() => {
      clearTimeout(timer);
    });
  };
  try {
    while (end === undefined || waiting.length > 0) {
      while (waiting.length > 0) yield waiting.shift() ?? '';
      if (end === undefined) await nextEvent();
    }
    if (end instanceof Error) throw end;
    if (end.code !== 1000) throw new Error(`The socket closed with ${end.code} "${end.reason}"`);
  } finally {
    socket.terminate();
  }
}
