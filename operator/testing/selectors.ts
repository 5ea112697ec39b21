/** Label and field selectors as the API server understands them, for the fake. */
import type { KubernetesObject } from '../runtime/client.ts';

type Requirement = (labels: Readonly<Record<string, string>>) => boolean;

export interface Selection {
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
}

/** A predicate for one list or watch. Throws a `SyntaxError` for what the API server would refuse. */
export function compileSelection(selection: Selection): (object: KubernetesObject) => boolean {
  const requirements = splitOutside(selection.labelSelector ?? '').map(compileRequirement);
  const fields = splitOutside(selection.fieldSelector ?? '').map(compileField);
  return (object) =>
    (selection.namespace === undefined || object.metadata.namespace === selection.namespace) &&
    requirements.every((matches) => matches(object.metadata.labels ?? {})) &&
    fields.every((matches) => matches(object));
}

/** At commas outside parentheses. */
function splitOutside(text: string): string[] {
  return text
    .split(/,(?![^(]*\))/)
    .map((part) => part.trim())
    .filter((part) => part !== '');
}

function compileRequirement(text: string): Requirement {
  const set = /^(\S+)\s+(in|notin)\s+\(([^)]*)\)$/.exec(text);
  if (set !== null) {
    const [, key = '', operator, list = ''] = set;
    const values = list.split(',').map((value) => value.trim());
    const isIn: Requirement = (labels) => labels[key] !== undefined && values.includes(labels[key]);
    return operator === 'in' ? isIn : (labels) => !isIn(labels);
  }
  const equality = /^([^!=\s]+)\s*(==|=|!=)\s*([^!=\s]*)$/.exec(text);
  if (equality !== null) {
    const [, key = '', operator, value] = equality;
    return operator === '!=' ? (labels) => labels[key] !== value : (labels) => labels[key] === value;
  }
  if (/^![^!=\s]+$/.test(text)) return (labels) => labels[text.slice(1)] === undefined;
  if (/^[^!=\s]+$/.test(text)) return (labels) => labels[text] !== undefined;
  throw new SyntaxError(`Cannot parse label selector: "${text}"`);
}

function compileField(text: string): (object: KubernetesObject) => boolean {
  const match = /^([^!=\s]+)\s*(==|=|!=)\s*(.*)$/.exec(text);
  if (match === null) throw new SyntaxError(`Cannot parse field selector: "${text}"`);
  const [, path = '', operator, value] = match;
  return (object) => (readPath(object, path) === value) === (operator !== '!=');
}

function readPath(object: KubernetesObject, path: string): string {
  let value: unknown = object;
  for (const name of path.split('.')) value = (value as Record<string, unknown> | undefined)?.[name];
  return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
}
