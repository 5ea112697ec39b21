/**
 * The commands of the console by their names: what a line means, and what to write where it means nothing. Pure.
 *
 *   line -> find the command (plurals count) -> split its words -> check options and arguments -> Invocation, or a `UsageFault`
 */
import type { KubernetesObject } from '../../runtime/client.ts';
import { UsageFault } from './fault.ts';
import { splitRaw, splitWords } from './line.ts';
import type { World } from './world.ts';

export const groups = ['instance', 'config', 'template', 'cluster', 'key', 'node', 'help', 'exit'] as const;
export type Group = (typeof groups)[number];

export interface Command {
  readonly group: Group;
  /** Absent: the group is the command. */
  readonly verb?: string;
  /** What follows the names. */
  readonly usage: string;
  readonly summary: string;
  /** Whether it changes anything: it is then claimed first and never runs twice. */
  readonly changes: boolean;
  /** Least and most arguments. */
  readonly arguments: readonly [min: number, max: number];
  /** Names of the options `--name=value` that may stand before the last of the least arguments. */
  readonly options?: readonly string[];
  /** The rest of the line is one last argument, exactly as it was written. */
  readonly isRaw?: boolean;
  readonly run: (context: Context) => Promise<void> | void;
}

export interface Invocation {
  readonly command: Command;
  readonly arguments: readonly string[];
  readonly options: ReadonlyMap<string, string>;
}

export interface Context extends Omit<Invocation, 'command'> {
  readonly world: World;
  readonly registry: Registry;
  /** Ends with the time that a command has, and with the leadership. */
  readonly signal: AbortSignal;
  readonly print: (text: string) => void;
  /** What it did, for programs; the last one counts. */
  readonly setResult: (result: Record<string, unknown>) => void;
  /** An object was changed: whoever gave the command stands in its Events. */
  readonly noteChange: (object: KubernetesObject, what: string) => void;
}

export class Registry {
  readonly #commands = new Map<string, Command>();

  constructor(commands: readonly Command[]) {
    for (const command of commands) this.#commands.set(nameOf(command), command);
  }

  /** Throws a `UsageFault`. */
  parse(line: string): Invocation {
    const [group = '', verb = ''] = splitRaw(line, 2).words;
    const raw = this.#find(group, verb);
    if (raw?.isRaw === true) return parseRaw(raw, line);
    const words = wordsOf(line);
    const [name = ''] = words;
    const command = this.#find(name, words[1] ?? '');
    if (command === undefined) throw this.#unknown(words);
    return parseArguments(command, words.slice(command.verb === undefined ? 1 : 2));
  }

  /** The commands of a group, in the order of their registration; a plural is its group. */
  commandsOf(group: string): readonly Command[] {
    const singular = singularOf(group);
    return [...this.#commands.values()].filter((command) => command.group === singular);
  }

  #find(group: string, verb: string): Command | undefined {
    const singular = singularOf(group);
    return this.#commands.get(singular) ?? this.#commands.get(`${singular} ${verb}`);
  }

  #unknown([group = '', verb]: readonly string[]): UsageFault {
    const commands = this.commandsOf(group);
    if (group === '') return new UsageFault('Empty command. Type "help" for a list of commands.', []);
    if (commands.length === 0) {
      return new UsageFault(`Unknown command: ${group}. Type "help" for a list of commands.`, []);
    }
    const usage = commands.map((command) => `Usage: ${usageOf(command)}`);
    const what = verb === undefined ? `Incomplete command: ${group}` : `Unknown command: ${group} ${verb}`;
    return new UsageFault(`${what}. Type "help ${singularOf(group)}" for a list of its commands.`, usage);
  }
}

export function nameOf({ group, verb }: Command): string {
  return verb === undefined ? group : `${group} ${verb}`;
}

export function usageOf(command: Command): string {
  return command.usage === '' ? nameOf(command) : `${nameOf(command)} ${command.usage}`;
}

function singularOf(group: string): string {
  const plural = groups.find((known) => known !== 'help' && known !== 'exit' && group === `${known}s`);
  return plural ?? group;
}

function wordsOf(line: string): string[] {
  try {
    return splitWords(line);
  } catch (error) {
    if (error instanceof RangeError) throw new UsageFault(`Malformed command: ${error.message}`, []);
    throw error;
  }
}

function parseRaw(command: Command, line: string): Invocation {
  const [min] = command.arguments;
  const { words, rest } = splitRaw(line, min + 1);
  if (words.length < min + 1 || rest === '') throw misuse(command, 'an argument is missing');
  return { command, arguments: [...words.slice(2), rest], options: new Map() };
}

function parseArguments(command: Command, words: readonly string[]): Invocation {
  const [min, max] = command.arguments;
  const options = new Map<string, string>();
  const given: string[] = [];
  let isPlain = command.options === undefined;
  for (const word of words) {
    // What comes after is somebody else's: the command of a program has options of its own.
    if (given.length >= min) isPlain ||= max === Infinity;
    if (!isPlain && word === '--') isPlain = true;
    else if (!isPlain && word.startsWith('--')) setOption(command, options, word);
    else given.push(word);
  }
  if (given.length < min) throw misuse(command, 'an argument is missing');
  if (given.length > max) throw misuse(command, 'there are too many arguments');
  return { command, arguments: given, options };
}

function setOption(command: Command, options: Map<string, string>, word: string): void {
  const [, name = '', value] = /^--([^=]*)(?:=(.*))?$/s.exec(word) ?? [];
  if (command.options?.includes(name) !== true) throw misuse(command, `there is no option --${name}`);
  if (value === undefined || value === '') throw misuse(command, `option --${name} needs a value: --${name}=…`);
  if (options.has(name)) throw misuse(command, `option --${name} is given twice`);
  options.set(name, value);
}

/** The command was found, and cannot be done with these arguments. */
export function misuse(command: Command, why: string): UsageFault {
  return new UsageFault(`Malformed command "${nameOf(command)}": ${why}`, [`Usage: ${usageOf(command)}`]);
}
