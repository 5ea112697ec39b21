/**
 * Writes tar archives whose bytes depend on nothing but names, modes and contents: time 0, owner 0, the order that they are given in.
 * That is what makes the digest of a layer the same on every machine.
 */
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { Writable } from 'node:stream';

const blockBytes = 512;
const nameBytesMax = 100;

/** One entry; `name` has no leading slash. The content is given, or read from `source`, which must have exactly `sizeBytes`. */
export type TarEntry =
  | { kind: 'directory'; name: string; mode: number }
  | { kind: 'link'; name: string; to: string }
  | { kind: 'content'; name: string; mode: number; content: Buffer }
  | { kind: 'file'; name: string; mode: number; source: string; sizeBytes: number };

/** Writes the entries, the end mark, and ends `output`. A file that changed its size since it was listed is an error. */
export async function writeTar(entries: Iterable<TarEntry>, output: Writable): Promise<void> {
  await pipeline(tarChunks(entries), output);
}

async function* tarChunks(entries: Iterable<TarEntry>): AsyncGenerator<Buffer> {
  for (const entry of entries) {
    yield* header(entry);
    if (entry.kind === 'content') {
      yield entry.content;
      yield padding(entry.content.length);
    } else if (entry.kind === 'file') {
      yield* fileChunks(entry.source, entry.sizeBytes);
      yield padding(entry.sizeBytes);
    }
  }
  yield Buffer.alloc(2 * blockBytes);
}

async function* fileChunks(source: string, sizeBytes: number): AsyncGenerator<Buffer> {
  let readBytes = 0;
  for await (const chunk of createReadStream(source, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    readBytes += chunk.length;
    yield chunk;
  }
  if (readBytes !== sizeBytes) throw new Error(`Cannot archive "${source}": it changed while it was read`);
}

function* header(entry: TarEntry): Generator<Buffer> {
  const name = Buffer.from(entry.kind === 'directory' ? `${entry.name}/` : entry.name);
  const to = Buffer.from(entry.kind === 'link' ? entry.to : '');
  // GNU's extension for long names: an entry that holds the name comes first.
  if (name.length > nameBytesMax) yield* longName('L', name);
  if (to.length > nameBytesMax) yield* longName('K', to);
  yield headerBlock({ name, to, type: typeFlags[entry.kind], mode: modeOf(entry), sizeBytes: sizeOf(entry) });
}

const typeFlags = { directory: '5', link: '2', content: '0', file: '0' } as const;

function* longName(type: 'L' | 'K', text: Buffer): Generator<Buffer> {
  const content = Buffer.concat([text, Buffer.alloc(1)]);
  const name = Buffer.from('././@LongLink');
  yield headerBlock({ name, to: Buffer.alloc(0), type, mode: 0o644, sizeBytes: content.length });
  yield content;
  yield padding(content.length);
}

function headerBlock(fields: { name: Buffer; to: Buffer; type: string; mode: number; sizeBytes: number }): Buffer {
  const block = Buffer.alloc(blockBytes);
  fields.name.copy(block, 0, 0, nameBytesMax);
  octal(block, { at: 100, digits: 7, value: fields.mode });
  octal(block, { at: 108, digits: 7, value: 0 });
  octal(block, { at: 116, digits: 7, value: 0 });
  octal(block, { at: 124, digits: 11, value: fields.sizeBytes });
  octal(block, { at: 136, digits: 11, value: 0 });
  block.fill(' ', 148, 156);
  block.write(fields.type, 156);
  fields.to.copy(block, 157, 0, nameBytesMax);
  block.write('ustar  ', 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  octal(block, { at: 148, digits: 6, value: sum });
  block[154] = 0;
  return block;
}

function octal(block: Buffer, { at, digits, value }: { at: number; digits: number; value: number }): void {
  block.write(value.toString(8).padStart(digits, '0'), at);
}

function padding(sizeBytes: number): Buffer {
  return Buffer.alloc((blockBytes - (sizeBytes % blockBytes)) % blockBytes);
}

function modeOf(entry: TarEntry): number {
  return entry.kind === 'link' ? 0o777 : entry.mode;
}

function sizeOf(entry: TarEntry): number {
  if (entry.kind === 'content') return entry.content.length;
  return entry.kind === 'file' ? entry.sizeBytes : 0;
}
