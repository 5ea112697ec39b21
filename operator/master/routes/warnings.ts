/** What a command has to say beside that it did what it was told, in headers of the answer to a call. */
import type { Response } from 'express';
import type { CommandResult } from '../runline.ts';

/** One header `Warning` for each of the result's notes. */
export function appendWarnings(response: Response, result: CommandResult): void {
  for (const note of notesOf(result)) response.append('Warning', warningOf(note));
}

/** PURE: whatever else is in there. */
function notesOf({ notes }: CommandResult): string[] {
  return Array.isArray(notes) ? notes.filter((note) => typeof note === 'string') : [];
}

/** PURE: as the API server writes what does not keep a call from being done (RFC 9111, 5.5); a header holds no other characters. */
function warningOf(note: string): string {
  return `299 ringmaster "${note.replaceAll(/[^\x20-\x7e]/g, '?').replaceAll(/["\\]/g, String.raw`\$&`)}"`;
}
