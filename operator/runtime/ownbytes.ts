/**
 * Bytes that are kept for a while, in a buffer of their own. PURE.
 *
 * Node cuts small buffers (`Buffer.from`, `Buffer.concat`, `Buffer.allocUnsafe`) out of slabs of 64 KiB, and each of them keeps its whole slab alive. A ring with
 * a few hundred short lines held megabytes by that.
 */
export function ownBytes(parts: readonly Uint8Array[]): Buffer {
  const bytes = Buffer.allocUnsafeSlow(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
