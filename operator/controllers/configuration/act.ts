/** Carries out what plan.ts decided, up to the first refusal: what the API server says no to once, it is not asked again a thousand times. */
import { instances } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { messageOf } from '../../errors.ts';
import { configurationLabel, floorLabel } from '../../names.ts';
import type { Reason } from '../../names.ts';
import type { Client, ObjectMeta } from '../../runtime/client.ts';
import { ApiError, isReason } from '../../runtime/client.ts';
import type { EventSink } from '../instance/act.ts';
import { Refused } from '../instance/refused.ts';
import { buildClaim, persistentVolumeClaims, shouldGrow } from './claim.ts';
import { buildInstance, randomName, updateInstance } from './instance.ts';
import type { InstanceView } from './observe.ts';
import type { Action } from './plan.ts';

/** An Event names so many Instances; of the others it says how many there are. */
const namesMax = 5;

export interface Refusal {
  readonly reason: Reason;
  readonly message: string;
}

export interface ActorOptions {
  readonly client: Client;
  readonly events: EventSink;
  /** An integer from 0 up to the bound, exclusive. */
  readonly random?: ((bound: number) => number) | undefined;
}

type Done = Map<Reason, string[]>;

interface Context {
  readonly configuration: InstanceConfiguration;
  readonly done: Done;
  readonly signal: AbortSignal;
}

export class Actor {
  readonly #options: ActorOptions;

  constructor(options: ActorOptions) {
    this.#options = options;
  }

  /** What the API server refused, if it did; anything else that fails is thrown, and tried again. What was done is said in Events either way. */
  async act(
    configuration: InstanceConfiguration,
    actions: readonly Action[],
    signal: AbortSignal,
  ): Promise<Refusal | undefined> {
    const done: Done = new Map();
    try {
      for (const action of actions) {
        const refusal = await this.#attempt(action, { configuration, done, signal });
        if (refusal !== undefined) return refusal;
      }
      return undefined;
    } finally {
      this.#report(configuration, done);
    }
  }

  async #attempt(action: Action, context: Context): Promise<Refusal | undefined> {
    try {
      await this.#perform(action, context);
      return undefined;
    } catch (error) {
      const refusal = refusalOf(error, action);
      if (refusal === undefined) throw error;
      return refusal;
    }
  }

  async #perform(action: Action, context: Context): Promise<void> {
    const { configuration, signal } = context;
    switch (action.type) {
      case 'ensure-claim':
        await this.#ensureClaim(context);
        return;
      case 'create':
        await this.#create(context, action.name);
        return;
      case 'update':
        await this.#options.client.update(instances, updateInstance(action.view.instance, configuration), signal);
        note(context, 'InstancesUpdated', action.view.name);
        return;
      case 'replace':
        await this.#replace(context, action.view, action.successor);
        return;
      case 'remove':
        await this.#remove(context, action.view);
        note(context, action.because === 'replaced' ? 'InstancesReplaced' : 'InstancesRemoved', action.view.name);
        return;
      case 'release':
        await this.#release(context, action.view);
        return;
    }
  }

  async #create(context: Context, fixedName: string | undefined): Promise<void> {
    const { configuration, signal } = context;
    const name = fixedName ?? randomName(configuration.metadata.name, this.#options.random);
    const instance = buildInstance(configuration, { name, isFloor: true });
    try {
      await this.#options.client.create(instances, instance, signal);
    } catch (error) {
      // Under a random name, another try draws another one.
      if (!isReason(error, 'AlreadyExists') || fixedName === undefined) throw error;
      throw conflict(name, error);
    }
    note(context, 'InstancesCreated', name);
  }

  /** The new one first: a crash in between leaves a pair, which the next pass knows by their names. */
  async #replace(context: Context, view: InstanceView, successor: string): Promise<void> {
    const { configuration, signal } = context;
    const { client } = this.#options;
    const { name, namespace = '' } = configuration.metadata;
    try {
      const instance = buildInstance(configuration, { name: successor, isFloor: view.isFloor });
      await client.create(instances, instance, signal);
    } catch (error) {
      if (!isReason(error, 'AlreadyExists')) throw error;
      const present = await client.get(instances, { namespace, name: successor }, signal);
      if (present?.metadata.labels?.[configurationLabel] !== name) throw conflict(successor, error);
    }
    await this.#remove(context, view);
    note(context, 'InstancesReplaced', view.name);
  }

  async #remove({ configuration, signal }: Context, { name, uid }: InstanceView): Promise<void> {
    const { namespace = '' } = configuration.metadata;
    await this.#options.client.remove(instances, { namespace, name }, { uid, signal });
  }

  async #release(context: Context, { instance, name, uid }: InstanceView): Promise<void> {
    const { namespace = '', resourceVersion, ownerReferences = [] } = instance.metadata as ObjectMeta;
    const owners = ownerReferences.filter((owner) => owner.uid !== context.configuration.metadata.uid);
    const metadata = { uid, resourceVersion, labels: { [floorLabel]: null }, ownerReferences: owners };
    await this.#options.client.mergePatch(instances, { namespace, name }, { metadata }, context.signal);
    note(context, 'InstancesReleased', name);
  }

  async #ensureClaim(context: Context): Promise<void> {
    const { client } = this.#options;
    const claim = buildClaim(context.configuration);
    if (claim === undefined) return;
    const { name, namespace = '' } = claim.metadata;
    const present = await client.get(persistentVolumeClaims, { namespace, name }, context.signal);
    if (present === undefined) {
      await client.create(persistentVolumeClaims, claim, context.signal);
      note(context, 'StorageCreated', name);
    } else if (shouldGrow(present, claim)) {
      const patch = { spec: { resources: claim.spec.resources } };
      await client.mergePatch(persistentVolumeClaims, { namespace, name }, patch, context.signal);
    }
  }

  #report(configuration: InstanceConfiguration, done: Done): void {
    for (const [reason, names] of done) {
      const { verb, what } = sentences[reason] ?? { verb: 'Changed', what: 'Instance' };
      const more = names.length > namesMax ? ` and ${names.length - namesMax} more` : '';
      const listed = names.slice(0, namesMax).map((name) => `"${name}"`);
      const note = `${verb} ${names.length === 1 ? what : `${names.length} ${what}s`} ${listed.join(', ')}${more}.`;
      this.#options.events.record(configuration, { type: 'Normal', reason, action: 'Reconcile', note });
    }
  }
}

const sentences: Partial<Record<Reason, { verb: string; what: string }>> = {
  InstancesCreated: { verb: 'Made', what: 'Instance' },
  InstancesUpdated: { verb: 'Gave the present template to', what: 'Instance' },
  InstancesReplaced: { verb: 'Replaced', what: 'Instance' },
  InstancesRemoved: { verb: 'Removed', what: 'Instance' },
  InstancesReleased: { verb: 'Kept, outside of the minimum, what somebody stopped:', what: 'Instance' },
  StorageCreated: { verb: 'Made', what: 'PersistentVolumeClaim' },
};

function note({ done }: Context, reason: Reason, name: string): void {
  done.set(reason, [...(done.get(reason) ?? []), name]);
}

function conflict(name: string, cause: unknown): Refused {
  const message = `Instance "${name}" exists and is not of this configuration: delete it, or rename one of them`;
  return new Refused('InstanceConflict', message, { cause });
}

/** What the API server says no to until somebody acts; undefined for what is worth another try at once. */
function refusalOf(error: unknown, action: Action): Refusal | undefined {
  if (error instanceof Refused) return { reason: error.reason, message: `${error.message}.` };
  if (!(error instanceof ApiError) || ![400, 403, 422].includes(error.code)) return undefined;
  if (action.type === 'ensure-claim') {
    return {
      reason: 'StorageRejected',
      message: `The API server refuses the PersistentVolumeClaim: ${messageOf(error)}`,
    };
  }
  return { reason: 'InstanceRejected', message: `The API server refuses the Instance: ${messageOf(error)}` };
}
