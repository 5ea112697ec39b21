/** Work for a client that may go before it is done. */
import type { Response } from 'express';

/** A signal that aborts when the client's connection closes, or has closed already. Call `release` when the work is over. */
export function signalOfClient(response: Response): { readonly signal: AbortSignal; readonly release: () => void } {
  const abort = new AbortController();
  const onClose = (): void => {
    abort.abort(new Error('The client has gone'));
  };
  response.once('close', onClose);
  if (response.destroyed) onClose();
  return {
    signal: abort.signal,
    release: () => {
      response.off('close', onClose);
    },
  };
}
