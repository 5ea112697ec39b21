import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/** Imports that one place alone may have, so that replacing a library touches one file or folder. */
const owned = [
  { name: '@kubernetes/client-node', message: 'Only operator/runtime/client.ts talks to the library: use its Client.' },
  { name: 'undici', message: 'Only operator/runtime/client.ts opens HTTP connections to Kubernetes.' },
  { name: 'prom-client', message: 'Metrics are declared in operator/metrics.ts.' },
  { name: 'ws', message: 'Sockets live in operator/master/.' },
  { name: 'express', message: 'HTTP routes live in operator/master/.' },
  { name: 'dockerode', message: 'Only sidecar/docker/engine.ts talks to the Docker Engine.', allowTypeImports: true },
  { name: 'express-ws', message: 'HTTP routes live in operator/master/.' },
];

/** `files` must not import from the folders and files in `forbidden`; of the owned libraries they may use those in `owns`. */
function layer({ files, forbidden = [], owns = [] }) {
  return {
    files,
    ignores: ['**/*.test.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          paths: owned.filter((entry) => !owns.includes(entry.name)),
          patterns: forbidden.map((name) => ({
            group: [`**/${name}`, `**/${name}/**`],
            message: 'Imports point downwards: main -> master -> controllers, logs -> runtime, api -> errors, names.',
          })),
        },
      ],
    },
  };
}

const upper = ['main.ts', 'master.ts'];

export default defineConfig(
  { ignores: ['node_modules/', '.ringmaster/', 'charts/', 'eslint.config.mjs'] },
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      '@typescript-eslint/explicit-function-return-type': ['error', { allowExpressions: true }],
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            { from: 'package', package: 'node:test', name: ['test', 'suite', 'describe', 'it'] },
          ],
        },
      ],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      // The rule counts each `?.` and `??`, and every field of a Kubernetes object is optional: 20 here is 10 of branches.
      complexity: ['error', { max: 20, variant: 'modified' }],
      'max-depth': ['error', 3],
      'max-params': ['error', 4],
      'max-lines-per-function': ['error', { max: 70, skipBlankLines: true, skipComments: true }],
      'max-lines': ['error', { max: 400, skipBlankLines: true, skipComments: true }],
      'no-console': 'error',
      eqeqeq: 'error',
      'no-restricted-imports': ['error', { paths: owned }],
    },
  },
  layer({ files: ['operator/api/**'], forbidden: [...upper, 'master', 'controllers', 'logs', 'runtime'] }),
  layer({
    files: ['operator/runtime/**'],
    forbidden: [...upper, 'master', 'controllers', 'logs', 'api'],
    owns: [],
  }),
  layer({
    // client-node's own attach loses refusals and may end this process's standard output.
    files: ['operator/runtime/channel.ts'],
    forbidden: [...upper, 'master', 'controllers', 'logs', 'api'],
    owns: ['ws'],
  }),
  layer({
    files: ['operator/runtime/client.ts', 'operator/runtime/http.ts'],
    forbidden: [...upper, 'master', 'controllers', 'logs', 'api'],
    owns: ['@kubernetes/client-node', 'undici'],
  }),
  layer({
    // The one place that speaks the sidecar's protocol.
    files: ['operator/sidecar/**'],
    forbidden: [...upper, 'master', 'controllers', 'logs', 'api'],
  }),
  layer({ files: ['operator/answers/**'], forbidden: [...upper, 'master', 'controllers', 'logs'] }),
  layer({ files: ['operator/controllers/**'], forbidden: [...upper, 'master', 'logs'] }),
  layer({ files: ['operator/logs/**'], forbidden: [...upper, 'master', 'controllers'] }),
  layer({ files: ['operator/master/**'], forbidden: [...upper, 'controllers'], owns: ['ws', 'express', 'express-ws'] }),
  // The sidecar runs beside strangers' programs and knows nothing of the operator.
  layer({ files: ['sidecar/**'], forbidden: ['operator'] }),
  layer({
    files: ['sidecar/docker/engine.ts'],
    forbidden: ['operator'],
    owns: ['dockerode'],
  }),
  layer({ files: ['operator/metrics.ts'], owns: ['prom-client'] }),
  {
    // Tests talk to real parts with the real libraries, print tables, and are tables themselves.
    files: ['**/*.test.ts', 'e2e/**', 'operator/generate.ts'],
    rules: {
      'no-restricted-imports': 'off',
      'max-lines': 'off',
      'max-lines-per-function': 'off',
      'no-console': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off',
    },
  },
);
