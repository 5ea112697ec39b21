/** Instance ids: six characters, drawn from the uid, so that drawing again after a crash gives the same one. Pure. */
import { createHash } from 'node:crypto';

const alphabet = '0123456789abcdefghijklmnopqrstuvwxyz';
const length = 6;
/** 36^6 ids: at 5,000 Instances a draw collides with chance 2.3e-6 each; a hundred draws never all do. */
const drawsMax = 100;

export function isInstanceId(text: string): boolean {
  return /^[0-9a-z]{6}$/.test(text);
}

/** The first draw for `uid` that nobody has. Throws when all draws are taken, which only a bug can cause. */
export function allocateId(uid: string, isTaken: (id: string) => boolean): string {
  for (let draw = 0; draw < drawsMax; draw += 1) {
    const id = drawId(uid, draw);
    if (!isTaken(id)) return id;
  }
  throw new RangeError(`Cannot allocate an instance id: ${drawsMax} draws for "${uid}" are all taken`);
}

function drawId(uid: string, draw: number): string {
  const digest = createHash('sha256').update(`${uid}/${draw}`).digest();
  // 48 bits onto 36^6 (31 bits): the bias is below one in 100,000.
  let value = digest.readUIntBE(0, 6);
  let id = '';
  for (let position = 0; position < length; position += 1) {
    id += alphabet.charAt(value % alphabet.length);
    value = Math.floor(value / alphabet.length);
  }
  return id;
}
