/** `instance`: starting, stopping, restarting, killing, deleting one, and the state that somebody else reports of it. */
import type { Instance } from '../../../api/v1alpha1/instance.ts';
import { instances, states } from '../../../api/v1alpha1/instance.ts';
import {
  lastHeartbeatAnnotation,
  reportedStateAnnotation,
  restartedAtAnnotation,
  stopCommandSentAnnotation,
} from '../../../names.ts';
import { isReason, pods } from '../../../runtime/client.ts';
import { keyOf } from '../../../runtime/informer.ts';
import { setDesiredState, setRestartedAt } from '../desired.ts';
import { CommandFault } from '../fault.ts';
import { findInstance } from '../find.ts';
import { inResult, note, removeNoted } from '../note.ts';
import { misuse } from '../registry.ts';
import type { Command, Context } from '../registry.ts';
import { idOf } from './instance.ts';

/** A container that is to end gets a second before it is killed; with 0 the pod would leave the API while its program may still run. */
const killGraceSeconds = 1;

const start: Command = {
  group: 'instance',
  verb: 'start',
  usage: '<id>',
  summary: 'Starts an Instance that is stopped.',
  changes: true,
  arguments: [1, 1],
  run: (context) => setState(context, 'Running'),
};

const stop: Command = {
  group: 'instance',
  verb: 'stop',
  usage: '<id>',
  summary: 'Stops an Instance gracefully; it keeps its id and can be started again.',
  changes: true,
  arguments: [1, 1],
  run: (context) => setState(context, 'Stopped'),
};

const restart: Command = {
  group: 'instance',
  verb: 'restart',
  usage: '<id>',
  summary: 'Stops an Instance gracefully and starts it again, under the same id. One that is stopped is started.',
  changes: true,
  arguments: [1, 1],
  async run(context) {
    const { world, signal } = context;
    const instance = findInstance(world, context.arguments[0] ?? '');
    const restartedAt = new Date(world.clock.now()).toISOString();
    const others = await setRestartedAt(world.client, instance, { restartedAt, signal });
    const notes = note(context, others, {
      what: `the annotation ${restartedAtAnnotation}`,
      risk: 'which may set it back and so restart the Instance once more',
    });
    if (instance.spec.desiredState === 'Stopped') notes.push(...(await changeState(context, instance, 'Running')));
    say(context, instance, { verb: 'restart', text: 'Restarting', notes });
  },
};

const kill: Command = {
  group: 'instance',
  verb: 'kill',
  usage: '<id>',
  summary: 'Ends the program at once, without its stop command, and leaves the Instance stopped.',
  changes: true,
  arguments: [1, 1],
  async run(context) {
    const instance = findInstance(context.world, context.arguments[0] ?? '');
    const name = instance.status?.podName;
    // The pod first: a graceful stop that has begun cannot be cut short under every runtime.
    if (name !== undefined) await killPod(context, { namespace: instance.metadata.namespace ?? '', name });
    const notes = await changeState(context, instance, 'Stopped');
    say(context, instance, { verb: 'kill', text: 'Killed', notes });
  },
};

const remove: Command = {
  group: 'instance',
  verb: 'delete',
  usage: '<id>',
  summary: 'Stops an Instance gracefully and deletes it, with its id.',
  changes: true,
  arguments: [1, 1],
  async run(context) {
    const instance = findInstance(context.world, context.arguments[0] ?? '');
    const what = `Instance ${keyOf(instance.metadata)}`;
    const notes = await removeNoted(context, instances, { object: instance, what });
    say(context, instance, { verb: 'delete', text: 'Deleting', notes });
  },
};

const report: Command = {
  group: 'instance',
  verb: 'state',
  usage: '<id> <STATE> <lastHeartbeatMs>',
  summary: 'Records a heartbeat from outside: the state that it reports, and when (milliseconds since 1970).',
  changes: true,
  arguments: [3, 3],
  async run(context) {
    const [word = '', state = '', heartbeat = ''] = context.arguments;
    if (!states.some((known) => known === state)) throw misuse(report, `the state is one of ${states.join(', ')}`);
    if (!/^\d{1,15}$/.test(heartbeat)) throw misuse(report, 'the heartbeat is in whole milliseconds since 1970');
    const instance = findInstance(context.world, word);
    // No Event: a heartbeat is no news.
    await annotate(context, instance, { [reportedStateAnnotation]: state, [lastHeartbeatAnnotation]: heartbeat });
    context.print(`Recorded ${idOf(instance)} ${state} ${heartbeat}`);
    context.setResult({ id: idOf(instance), state, lastHeartbeat: Number(heartbeat) });
  },
};

export const lifecycleCommands: readonly Command[] = [start, stop, restart, kill, remove, report];

async function setState(context: Context, desiredState: 'Running' | 'Stopped'): Promise<void> {
  const instance = findInstance(context.world, context.arguments[0] ?? '');
  const notes = await changeState(context, instance, desiredState);
  const [verb, text] = desiredState === 'Running' ? ['start', 'Starting'] : ['stop', 'Stopping'];
  say(context, instance, { verb, text, notes });
}

/** What there is to say of it. */
async function changeState(
  context: Context,
  instance: Instance,
  desiredState: 'Running' | 'Stopped',
): Promise<string[]> {
  const { world, signal } = context;
  const others = await setDesiredState(world.client, instance, { desiredState, signal });
  return note(context, others, { what: 'spec.desiredState', risk: 'which may set it back' });
}

function say(
  context: Context,
  instance: Instance,
  { verb, text, notes = [] }: { verb: string; text: string; notes?: readonly string[] },
): void {
  const id = idOf(instance);
  context.noteChange(instance, `instance ${verb} ${id}`);
  context.print(`${text} ${id}`);
  const { name, namespace, uid } = instance.metadata;
  context.setResult({ id, name, namespace, uid, ...inResult(notes) });
}

/** Throws a `CommandFault` when the Instance is gone or was made again. */
async function annotate(
  { world, signal }: Context,
  instance: Instance,
  annotations: Record<string, string>,
): Promise<void> {
  const { name, namespace = '', uid } = instance.metadata;
  try {
    await world.client.mergePatch(instances, { namespace, name }, { metadata: { uid, annotations } }, signal);
  } catch (error) {
    if (!isReason(error, 'Conflict', 'NotFound')) throw error;
    throw new CommandFault(`Instance ${name} is gone, or was made again meanwhile`, 409);
  }
}

async function killPod({ world, signal }: Context, ref: { namespace: string; name: string }): Promise<void> {
  // The stop command counts as sent: nobody writes it.
  const mark = { [stopCommandSentAnnotation]: new Date(world.clock.now()).toISOString() };
  try {
    await world.client.mergePatch(pods, ref, { metadata: { annotations: mark } }, signal);
  } catch (error) {
    if (isReason(error, 'NotFound')) return;
    throw error;
  }
  await world.client.remove(pods, ref, { gracePeriodSeconds: killGraceSeconds, signal });
}
