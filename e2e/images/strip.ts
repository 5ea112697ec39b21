/**
 * Makes JavaScript of our TypeScript by taking the types out. Node does that by itself when it loads a `.ts` file, but its parser stays in
 * memory, which counts in a sidecar that runs beside every program.
 */
import { stripTypeScriptTypes } from 'node:module';

/** An import at the start of a line, as the formatter leaves it; one that is called; and a file beside the module. */
const patterns = [
  /(^(?:import|export)\b[^'"`;=()]*?)(['"])([^'"\n]+)\2/gm,
  /(\bimport\(\s*)(['"])([^'"\n]+)\2/g,
  /(\bnew URL\(\s*)(['"])([^'"\n]+)\2(?=,\s*import\.meta\.url)/g,
];

/**
 * The same module as JavaScript: line and column numbers stay, and what it imports from `./x.ts` it imports from `./x.js`. Throws a
 * SyntaxError for what is more than types, such as an enum.
 */
export function stripTypes(source: string): string {
  let code = withoutTypes(source);
  for (const pattern of patterns) {
    code = code.replace(pattern, (_match, before: string, quote: string, name: string) => {
      const renamed = isRelative(name) ? name.replace(/\.ts$/, '.js') : name;
      return `${before}${quote}${renamed}${quote}`;
    });
  }
  return code;
}

/** What a TypeScript module needs when it runs: modules, packages, and files that it finds by `import.meta.url`. Types are not among them. */
export function importsOf(source: string): string[] {
  const code = withoutTypes(source);
  const names = patterns.slice(0, 2).flatMap((pattern) => [...code.matchAll(pattern)].map((match) => match[3] ?? ''));
  const [, , besides] = patterns;
  const files = besides === undefined ? [] : [...code.matchAll(besides)].map((match) => beside(match[3] ?? ''));
  return [...new Set([...names, ...files])];
}

/** In `new URL`, unlike in an import, a plain name is a file beside the module. */
function beside(name: string): string {
  return isRelative(name) ? name : `./${name}`;
}

export function isRelative(name: string): boolean {
  return name.startsWith('./') || name.startsWith('../');
}

function withoutTypes(source: string): string {
  const emitWarning = process.emitWarning.bind(process);
  // Node says once that this call may change. That is for us to know, and not for who builds an image.
  process.emitWarning = () => undefined;
  try {
    return stripTypeScriptTypes(source, { mode: 'strip' });
  } finally {
    process.emitWarning = emitWarning;
  }
}
