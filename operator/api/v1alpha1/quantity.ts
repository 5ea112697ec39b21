/** Kubernetes quantities (`500m`, `1Gi`, `2e3`) as numbers. Pure. */

const suffixes: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** In the base unit (cores, bytes). Throws RangeError on what is no quantity; the API server admits none. */
export function parseQuantity(quantity: string | number): number {
  if (typeof quantity === 'number') return quantity;
  const match = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?$/.exec(quantity);
  if (match === null) throw new RangeError(`Cannot read quantity "${quantity}": write it like 500m, 2 or 1Gi`);
  const [, digits = '0', suffix = '', exponent = '0'] = match;
  return Number(digits) * (suffixes[suffix] ?? 1) * 10 ** Number(exponent);
}
