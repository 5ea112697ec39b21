/** A `Client` that writes only while its process leads. */
import { withSignals } from './abort.ts';
import type { Client } from './client.ts';

/** What a fence needs of a leadership. */
export interface Leading {
  /** Aborts when the leadership is over; writes in flight are aborted with it. */
  readonly signal: AbortSignal;
  isLeading(): boolean;
}

/** A write was refused, or broken off, because another replica may lead by now. */
export class NotLeadingError extends Error {
  constructor(options?: { cause?: unknown }) {
    super('Cannot write to Kubernetes: this replica does not lead', options);
    this.name = 'NotLeadingError';
  }
}

/**
 * Reads go through unchanged; writes throw a `NotLeadingError` when not leading. A write that was on its way when the leadership ended may or
 * may not have been carried out.
 */
export function fence(client: Client, leading: Leading): Client {
  async function write<T>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (!leading.isLeading()) throw new NotLeadingError();
    try {
      return await withSignals([signal, leading.signal], work);
    } catch (error) {
      if (leading.signal.aborted) throw new NotLeadingError({ cause: error });
      throw error;
    }
  }
  return {
    get: (resource, ref, signal) => client.get(resource, ref, signal),
    list: (resource, options) => client.list(resource, options),
    watch: (resource, options) => client.watch(resource, options),
    log: (ref, options) => client.log(ref, options),
    create: (resource, object, signal) => write(signal, (joined) => client.create(resource, object, joined)),
    update: (resource, object, signal) => write(signal, (joined) => client.update(resource, object, joined)),
    updateStatus: (resource, object, signal) =>
      write(signal, (joined) => client.updateStatus(resource, object, joined)),
    mergePatch: (resource, ref, patch, signal) =>
      write(signal, (joined) => client.mergePatch(resource, ref, patch, joined)),
    mergePatchStatus: (resource, ref, patch, signal) =>
      write(signal, (joined) => client.mergePatchStatus(resource, ref, patch, joined)),
    apply: (resource, object, options) =>
      write(options.signal, (signal) => client.apply(resource, object, { ...options, signal })),
    applyStatus: (resource, object, options) =>
      write(options.signal, (signal) => client.applyStatus(resource, object, { ...options, signal })),
    remove: (resource, ref, options) =>
      write(options?.signal, (signal) => client.remove(resource, ref, { ...options, signal })),
    attachStdin: (ref, container, bytes, signal) =>
      write(signal, (joined) => client.attachStdin(ref, container, bytes, joined)),
  };
}
