/**
 * Loaded before each test file: property tests play the same histories in every run, so that a red run can be repeated and is red because of a change.
 * `MODEL_SEED=random` looks for new ones, `MODEL_SEED=N` repeats a run, `MODEL_RUNS=N` plays more of them.
 */
import fc from 'fast-check';

const wanted = process.env.MODEL_SEED ?? '1';
if (wanted !== 'random') fc.configureGlobal({ seed: Number(wanted) });
