/** `ConsoleCommand`: one line of the console, run once by the operator's loop. Kept for a while as the record of who did what. */
import { z } from 'zod';
import { apiVersion } from '../../names.ts';
import type { Metadata } from './meta.ts';
import { anyObject, conditions, int32, int64, matching, withRules } from './meta.ts';

export const commandPhases = ['Running', 'Succeeded', 'Failed'] as const;
export type CommandPhase = (typeof commandPhases)[number];

/** Bounds of `status.output`: what a command prints beyond them is dropped, and `truncated` says so. */
export const outputLinesMax = 10_000;
export const outputBytesMax = 524_288;

export const consoleCommandSpec = withRules(
  z
    .object({
      line: matching(/^[^\r\n\x00]+$/, 'write one line, without line breaks, such as instance list')
        .min(1)
        .max(65_536)
        .describe('The command line, such as instance list. At most 65536 characters.'),
      session: z
        .string()
        .max(63)
        .optional()
        .describe('The console session that it belongs to; set by the Master, for people who read the records.'),
      issuedBy: z
        .object({
          kind: z.enum(['ApiKey', 'User']).describe('ApiKey: name is that of an ApiKey. User: a user of Kubernetes.'),
          name: z.string().min(1).max(512).describe('Its name.'),
        })
        .optional()
        .describe(
          'Who gave the command. Only the Master may name somebody else than the author: by hand, leave it out.',
        ),
      ttlSecondsAfterFinished: int32
        .min(0)
        .max(604_800)
        .default(300)
        .describe('Seconds from its end until it is deleted.'),
    })
    .describe('The command.'),
  { rule: 'self == oldSelf', message: 'a command cannot be changed: create another one' },
);
export type ConsoleCommandSpec = z.infer<typeof consoleCommandSpec>;

export const consoleCommandStatus = z
  .object({
    phase: z
      .enum(commandPhases)
      .optional()
      .describe('Running: it may have acted. Succeeded and Failed: it has ended. Absent: it has not been taken yet.'),
    claimedBy: z.string().max(512).optional().describe('The operator that runs it, or ran it.'),
    startedAt: z.iso.datetime().optional().describe('When it was taken.'),
    finishedAt: z.iso.datetime().optional().describe('When it ended.'),
    exitCode: int32.optional().describe('0: it did what it says. 1: it failed. 2: the line was not understood.'),
    output: z
      .array(z.string().max(1_048_576))
      .max(outputLinesMax)
      .optional()
      .describe(
        'What it printed, in pieces of one line or more, with line breaks between lines; it grows while the command runs.',
      ),
    truncated: z.boolean().optional().describe('Whether it printed more than fits.'),
    result: anyObject.optional().describe('What it did, for programs; which fields there are depends on the command.'),
    observedGeneration: int64.optional().describe('The generation of the spec that this status speaks of.'),
    conditions: conditions.optional(),
  })
  .describe('What came of it.');
export type ConsoleCommandStatus = z.infer<typeof consoleCommandStatus>;

export interface ConsoleCommand {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
  spec: ConsoleCommandSpec;
  status?: ConsoleCommandStatus;
}

/** The lines of pieces of `status.output`. */
export function linesOf(pieces: readonly string[]): string[] {
  return pieces.flatMap((piece) => piece.split('\n'));
}

export const consoleCommands: {
  apiVersion: string;
  kind: string;
  plural: string;
  namespaced: boolean;
  object?: ConsoleCommand;
} = { apiVersion, kind: 'ConsoleCommand', plural: 'consolecommands', namespaced: true };
