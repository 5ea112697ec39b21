/** `help` and `exit`. */
import { UsageFault } from '../fault.ts';
import { groups, nameOf, usageOf } from '../registry.ts';
import type { Command, Context } from '../registry.ts';

export const help: Command = {
  group: 'help',
  usage: '[command]',
  summary: 'Lists the commands, or tells how one is written.',
  changes: false,
  arguments: [0, 2],
  run(context) {
    const [group, verb] = context.arguments;
    if (group === undefined) context.print(`Available commands: ${groups.join(', ')}`);
    else explain(context, group, verb);
  },
};

export const exit: Command = {
  group: 'exit',
  usage: '',
  summary: 'Closes this console session. Nothing else ends.',
  changes: false,
  arguments: [0, 0],
  run(context) {
    // The Master closes its sessions by itself; a command that comes here has none.
    context.print('There is no session to close');
  },
};

function explain(context: Context, group: string, verb: string | undefined): void {
  const commands = context.registry.commandsOf(group);
  const wanted = verb === undefined ? commands : commands.filter((command) => command.verb === verb);
  if (wanted.length === 0) {
    const what = verb === undefined ? group : `${group} ${verb}`;
    throw new UsageFault(`Unknown command: ${what}. Type "help" for a list of commands.`, []);
  }
  for (const command of wanted) context.print(`${usageOf(command)} - ${command.summary}`);
  context.setResult({ commands: wanted.map((command) => ({ name: nameOf(command), usage: usageOf(command) })) });
}
