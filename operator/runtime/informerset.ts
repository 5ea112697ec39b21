/** One cache over several namespaces: an informer for each, seen as one. With no namespaces, one informer over the whole cluster. */
import type { KubernetesObject } from './client.ts';
import { worstOf } from './contact.ts';
import type { ContactState } from './contact.ts';
import { Informer, refOf } from './informer.ts';
import type { ChangeHandler, InformerOptions } from './informer.ts';

export class InformerSet<T extends KubernetesObject> {
  /** By namespace; under `''` the one that watches all. */
  readonly #informers: ReadonlyMap<string, Informer<T>>;

  /** `namespaces` empty: the whole cluster. `options.scope.namespace` is set for each. */
  constructor(options: InformerOptions<T>, namespaces: readonly string[]) {
    const scopes = namespaces.length === 0 ? [''] : [...new Set(namespaces)];
    this.#informers = new Map(
      scopes.map((namespace) => {
        const scope = namespace === '' ? options.scope : { ...options.scope, namespace };
        return [namespace, new Informer({ ...options, ...(scope === undefined ? {} : { scope }) })];
      }),
    );
  }

  /** Lists and watches until `signal` aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([...this.#informers.values()].map((informer) => informer.run(signal)));
  }

  get hasSynced(): boolean {
    return [...this.#informers.values()].every((informer) => informer.hasSynced);
  }

  /** Of the one that is worst off. */
  get contact(): ContactState {
    return worstOf([...this.#informers.values()].map(({ contact }) => contact));
  }

  async whenSynced(signal: AbortSignal): Promise<void> {
    await Promise.all([...this.#informers.values()].map((informer) => informer.whenSynced(signal)));
  }

  get(key: string): T | undefined {
    const { namespace = '' } = refOf(key);
    return (this.#informers.get(namespace) ?? this.#informers.get(''))?.get(key);
  }

  list(): readonly T[] {
    return [...this.#informers.values()].flatMap((informer) => informer.list());
  }

  byIndex(index: string, value: string): readonly T[] {
    return [...this.#informers.values()].flatMap((informer) => informer.byIndex(index, value));
  }

  onChange(handler: ChangeHandler<T>): () => void {
    const removers = [...this.#informers.values()].map((informer) => informer.onChange(handler));
    return () => {
      for (const remove of removers) remove();
    };
  }
}
