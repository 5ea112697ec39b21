/** What the programs of this folder say of themselves: one JSON line each on standard error; standard output stays empty. */

export type Say = (level: 'info' | 'error', message: string, fields?: Record<string, unknown>) => void;

/** `name`: which program it is. */
export function createSay(name: string): Say {
  return (level, message, fields = {}) => {
    process.stderr.write(
      `${JSON.stringify({ level, time: new Date().toISOString(), name, ...fields, msg: message })}\n`,
    );
  };
}
