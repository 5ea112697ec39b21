/** Every command, in the order of the help. */
import { Registry } from '../registry.ts';
import { clusterCommands } from './cluster.ts';
import { configCommands } from './config.ts';
import { create } from './create.ts';
import { exit, help } from './help.ts';
import { instanceCommands } from './instance.ts';
import { keyCommands } from './key.ts';
import { lifecycleCommands } from './lifecycle.ts';
import { nodeCommands } from './node.ts';
import { templateCommands } from './template.ts';

export function createRegistry(): Registry {
  return new Registry([
    ...[...instanceCommands, create, ...lifecycleCommands],
    ...[...configCommands, ...templateCommands, ...clusterCommands, ...keyCommands, ...nodeCommands],
    ...[help, exit],
  ]);
}
