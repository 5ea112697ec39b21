import type { Reason } from '../../names.ts';

/** Something that stays as it is until somebody acts: it becomes a condition, and is looked at again now and then. */
export class Refused extends Error {
  readonly reason: Reason;

  constructor(reason: Reason, message: string, options?: { cause: unknown }) {
    super(message, options);
    this.name = 'Refused';
    this.reason = reason;
  }
}
