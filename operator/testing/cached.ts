/** A cache of objects that a test fills. */
import type { Cached } from '../master/ports.ts';

export interface FakeCache<T> extends Cached<T> {
  hasSynced: boolean;
  /** Adds or replaces. */
  put(key: string, object: T): void;
  remove(key: string): void;
}

export function createFakeCache<T>(objects: Readonly<Record<string, T>> = {}): FakeCache<T> {
  const present = new Map(Object.entries(objects));
  const handlers = new Set<() => void>();
  const tell = (): void => {
    for (const handler of handlers) handler();
  };
  return {
    hasSynced: true,
    list: () => [...present.values()],
    onChange(handler) {
      handlers.add(handler);
      return () => {
        handlers.delete(handler);
      };
    },
    put(key, object) {
      present.set(key, object);
      tell();
    },
    remove(key) {
      present.delete(key);
      tell();
    },
  };
}
