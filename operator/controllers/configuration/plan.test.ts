/** What the plan promises, as tables, and as properties over random worlds in which each plan is carried out. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Instance, Runtime } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { restartedAtAnnotation } from '../../names.ts';
import { makeConfiguration } from '../../testing/objects.ts';
import { buildInstance, successorName, updateInstance } from './instance.ts';
import type { InstanceView } from './observe.ts';
import { viewInstance } from './observe.ts';
import type { Action, Plan } from './plan.ts';
import { finishedPauseMs, plan } from './plan.ts';

const nowMs = Date.parse('2026-01-01T01:00:00Z');
type State = 'online' | 'creating' | 'stalled' | 'stopped' | 'finished' | 'going';

interface Make {
  readonly state?: State;
  readonly isFloor?: boolean;
  /** Of the template that it has; absent: that of the configuration. */
  readonly image?: string;
  readonly runtime?: Runtime;
  /** Somebody wrote its spec. */
  readonly isForeign?: boolean;
  readonly ageMs?: number;
}

const stateParts: Record<State, { state: string; conditions: object[] }> = {
  online: { state: 'ONLINE', conditions: [{ type: 'Ready', status: 'True', reason: 'Ready' }] },
  creating: { state: 'CREATING', conditions: [{ type: 'Ready', status: 'False', reason: 'PodPending' }] },
  stalled: {
    state: 'OFFLINE',
    conditions: [{ type: 'Stalled', status: 'True', reason: 'CrashLoop', message: 'It ends.' }],
  },
  stopped: { state: 'STOPPED', conditions: [{ type: 'Reconciling', status: 'False', reason: 'Stopped' }] },
  finished: { state: 'STOPPED', conditions: [{ type: 'Reconciling', status: 'False', reason: 'Completed' }] },
  going: { state: 'ONLINE', conditions: [{ type: 'Ready', status: 'True', reason: 'Ready' }] },
};

function make(configuration: InstanceConfiguration, name: string, made: Make = {}): Instance {
  const { state = 'online', isFloor = true, isForeign = false, ageMs = 3_600_000 } = made;
  const { spec } = configuration.spec.template;
  const from = makeConfiguration({
    spec: {
      static: configuration.spec.static,
      ...(configuration.spec.storage && { storage: configuration.spec.storage }),
    },
    template: { ...spec, image: made.image ?? spec.image, runtime: made.runtime ?? spec.runtime },
  });
  const built = buildInstance(from, { name, isFloor });
  return {
    ...built,
    metadata: {
      ...built.metadata,
      ...(isForeign ? { annotations: {} } : {}),
      name,
      uid: `uid-${name}`,
      generation: 1,
      creationTimestamp: new Date(nowMs - ageMs).toISOString(),
      ...(state === 'going' ? { deletionTimestamp: '2026-01-01T00:00:00Z' } : {}),
    },
    spec: { ...built.spec, desiredState: state === 'stopped' ? 'Stopped' : 'Running' },
    status: { observedGeneration: 1, ...stateParts[state] } as NonNullable<Instance['status']>,
  };
}

function planOf(configuration: InstanceConfiguration, all: readonly Instance[]): Plan {
  return plan({ configuration, views: all.map((instance) => viewInstance(instance, configuration)), nowMs });
}

/** Each action in a word or two. */
function told({ actions }: Plan): string[] {
  return actions.map((action) => ('view' in action ? `${action.type} ${action.view.name}` : action.type));
}

function withFloor(minimumServiceCount: number, more: object = {}): InstanceConfiguration {
  return makeConfiguration({ spec: { minimumServiceCount, ...more, template: { spec: { image: 'new' } } } });
}

const floorCases: readonly [string, number, Record<string, Make>, string[]][] = [
  ['missing ones are made', 2, { a: {} }, ['create']],
  ['nothing is done where it is reached', 2, { a: {}, b: {} }, []],
  ['those made by hand count', 2, { a: { isFloor: false }, b: { isForeign: true, isFloor: false } }, []],
  ['those made by hand do not push out those of the floor', 1, { a: {}, b: { isFloor: false } }, []],
  ['one that is not up yet counts: another one would not be there earlier', 1, { a: { state: 'creating' } }, []],
  ['one that is going does not count', 1, { a: { state: 'going' } }, ['create']],
  ['one that was stopped is released, and another is made', 1, { a: { state: 'stopped' } }, ['release a', 'create']],
  ['lowered, those that are not ONLINE go first', 1, { a: { state: 'creating' }, b: {} }, ['remove a']],
  ['lowered, the newest goes first', 1, { a: { ageMs: 60_000 }, b: {} }, ['remove a']],
  ['lowered to nothing, those made by hand stay', 0, { a: { isFloor: false }, b: {} }, ['remove b']],
  ['one that was stopped by hand is left alone', 0, { a: { isFloor: false, state: 'stopped' } }, []],
  ['one that has finished is followed by another, and kept for its log', 1, { a: { state: 'finished' } }, ['create']],
  [
    'of those that have finished as many are kept as the floor has',
    1,
    { a: { state: 'finished' }, b: { state: 'finished', ageMs: 60_000 }, c: {} },
    ['remove a'],
  ],
];
for (const [what, floor, all, expected] of floorCases) {
  test(`plan: of the floor, ${what}`, () => {
    const configuration = withFloor(floor);
    const made = Object.entries(all).map(([name, parts]) => make(configuration, name, parts));
    assert.deepEqual(told(planOf(configuration, made)), expected);
  });
}

test('plan: a program that ended at once is followed by the next one only after a pause', () => {
  const configuration = withFloor(1);
  const decided = planOf(configuration, [make(configuration, 'a', { state: 'finished', ageMs: 10_000 })]);
  assert.deepEqual(told(decided), []);
  assert.equal(decided.requeueAfterMs, finishedPauseMs - 10_000);
});

test('plan: Instances of a deleted configuration of the same name do not count', () => {
  const configuration = withFloor(1);
  const again = { ...configuration, metadata: { ...configuration.metadata, uid: 'uid-again' } };
  assert.deepEqual(told(planOf(again, [make(configuration, 'a')])), ['create']);
});

const old = { image: 'old' };
const rolloutCases: readonly [string, object, Record<string, Make>, string[]][] = [
  ['one at a time', {}, { a: old, b: old, c: old }, ['update a']],
  ['as many as may be away', { maxUnavailable: 2 }, { a: old, b: old, c: old }, ['update a', 'update b']],
  ['a percentage is rounded down', { maxUnavailable: '70%' }, { a: old, b: old, c: old }, ['update a', 'update b']],
  ['a small percentage is one', { maxUnavailable: '1%' }, { a: old, b: old, c: old }, ['update a']],
  ['waits until the changed one is ONLINE', {}, { a: { state: 'creating' }, b: old, c: old }, []],
  ['goes on when it is', {}, { a: {}, b: old, c: old }, ['update b']],
  ['stops when a changed one is stalled', { maxUnavailable: 2 }, { a: { state: 'stalled' }, b: old, c: old }, []],
  [
    'one that is away anyway is changed at once',
    {},
    { a: old, b: { ...old, state: 'stalled' }, c: { state: 'creating' } },
    ['update b'],
  ],
  ['reaches those made by hand', {}, { a: { ...old, isFloor: false }, b: {}, c: {} }, ['update a']],
  ['leaves alone what somebody wrote', {}, { a: { ...old, isFloor: false, isForeign: true }, b: {}, c: {} }, []],
  [
    'changes a stopped one without starting it, and the others beside it',
    {},
    { a: { ...old, isFloor: false, state: 'stopped' }, b: { ...old }, c: {}, d: {} },
    ['update a', 'update b'],
  ],
  ['another runtime replaces', {}, { a: { ...old, runtime: 'docker' }, b: {}, c: {} }, ['replace a']],
];
for (const [what, updateStrategy, all, expected] of rolloutCases) {
  test(`plan: a roll-out, ${what}`, () => {
    const configuration = withFloor(3, { updateStrategy });
    const made = Object.entries(all).map(([name, parts]) => make(configuration, name, parts));
    assert.deepEqual(told(planOf(configuration, made)), expected);
  });
}

test('plan: a roll-out waits for Instances that are being made for the floor', () => {
  const configuration = withFloor(3);
  assert.deepEqual(told(planOf(configuration, [make(configuration, 'a', old), make(configuration, 'b', old)])), [
    'create',
  ]);
});

test('plan: one that was asked to restart is away until its status says so', () => {
  const configuration = withFloor(2);
  const first = make(configuration, 'a');
  const annotations = { ...first.metadata.annotations, [restartedAtAnnotation]: 'now' };
  const asked = { ...first, metadata: { ...first.metadata, annotations } };
  assert.deepEqual(told(planOf(configuration, [asked, make(configuration, 'b', old)])), []);
  const done = { ...asked, status: { ...asked.status, restartedAt: 'now' } };
  assert.deepEqual(told(planOf(configuration, [done, make(configuration, 'b', old)])), ['update b']);
});

test('plan: after a crash between making a successor and removing its predecessor, the pair counts as one', () => {
  const configuration = withFloor(1);
  const successor = successorName('lobby', 'uid-a');
  const pair = [
    make(configuration, 'a', { ...old, runtime: 'docker' }),
    make(configuration, successor, { state: 'creating' }),
  ];
  assert.deepEqual(told(planOf(configuration, pair)), ['remove a']);
});

const storage = { size: '1Gi', mountPath: '/data' };
const staticCases: readonly [string, object, Record<string, Make>, string[]][] = [
  ['is made with its volume', { minimumServiceCount: 1, storage }, {}, ['ensure-claim', 'create']],
  ['is not made where the floor is 0', { storage }, {}, []],
  ['made by hand stays where the floor is 0', {}, { lobby: { isFloor: false } }, []],
  ['made for the floor goes when it is lowered', {}, { lobby: {} }, ['remove lobby']],
  ['is not made twice while the old one goes', { minimumServiceCount: 1 }, { lobby: { state: 'going' } }, []],
  ['that was stopped stays, and no other is made', { minimumServiceCount: 1 }, { lobby: { state: 'stopped' } }, []],
  ['that has finished stays, and no other is made', { minimumServiceCount: 1 }, { lobby: { state: 'finished' } }, []],
  ['is changed in place', { minimumServiceCount: 1 }, { lobby: old }, ['update lobby']],
  [
    'of another runtime goes, to be made again',
    { minimumServiceCount: 1 },
    { lobby: { ...old, runtime: 'docker' } },
    ['remove lobby'],
  ],
  [
    'alone stays of those from before it was static',
    { minimumServiceCount: 1 },
    { lobby: {}, b: {}, c: { isFloor: false } },
    ['remove b'],
  ],
];
for (const [what, spec, all, expected] of staticCases) {
  test(`plan: the Instance of a static configuration, ${what}`, () => {
    const fresh = withFloor(0, { static: true, ...spec });
    const configuration = { ...fresh, status: { observedGeneration: 1 } };
    const made = Object.entries(all).map(([name, parts]) => make(configuration, name, parts));
    assert.deepEqual(told(planOf(configuration, made)), expected);
  });
}

test('plan: a static Instance of another runtime that was made by hand is not deleted, and that is said', () => {
  const configuration = withFloor(0, { static: true });
  const decided = planOf(configuration, [make(configuration, 'lobby', { runtime: 'docker', isFloor: false })]);
  assert.deepEqual(told(decided), []);
  assert.equal(decided.fault?.reason, 'InstanceConflict');
});

test('plan: of a static configuration the claim is looked at when it may be missing, grew, or was refused', () => {
  const fresh = withFloor(1, { static: true, storage });
  const at = (state: State, status: InstanceConfiguration['status']): string[] => {
    const configuration = { ...fresh, ...(status === undefined ? {} : { status }) };
    return told(planOf(configuration, [make(configuration, 'lobby', { state })]));
  };
  assert.deepEqual(at('online', { observedGeneration: 1 }), []);
  assert.deepEqual(at('creating', { observedGeneration: 1 }), ['ensure-claim']);
  assert.deepEqual(at('online', { observedGeneration: 0 }), ['ensure-claim']);
  const condition = { type: 'Stalled', status: 'True', message: '', lastTransitionTime: '' } as const;
  const refused = [{ ...condition, reason: 'StorageRejected' }];
  assert.deepEqual(at('online', { observedGeneration: 1, conditions: refused }), ['ensure-claim']);
});

// Properties.

const anyMake = fc.record({
  state: fc.constantFrom<State>('online', 'online', 'online', 'creating', 'stalled', 'stopped', 'finished', 'going'),
  isFloor: fc.boolean(),
  image: fc.constantFrom('old', 'new'),
  runtime: fc.constantFrom<Runtime>('kubernetes', 'kubernetes', 'kubernetes', 'docker'),
  isForeign: fc.boolean(),
  ageMs: fc.integer({ min: 0, max: 100_000 }),
});
const anyWorld = fc.record({
  floor: fc.integer({ min: 0, max: 6 }),
  maxUnavailable: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constantFrom('10%', '34%', '50%', '100%')),
  makes: fc.array(anyMake, { maxLength: 10 }),
});

interface World {
  readonly configuration: InstanceConfiguration;
  readonly all: readonly Instance[];
}

function worldOf({ floor, maxUnavailable, makes }: { floor: number; maxUnavailable: unknown; makes: Make[] }): World {
  const configuration = withFloor(floor, { updateStrategy: { maxUnavailable } });
  return { configuration, all: makes.map((parts, index) => make(configuration, `i-${index}`, parts)) };
}

/** Carries a plan out on the list, as the API server would. */
function carryOut({ configuration, all }: World, actions: readonly Action[], round: number): Instance[] {
  const next = new Map(all.map((instance) => [instance.metadata.name, instance]));
  for (const [index, action] of actions.entries()) {
    if (action.type === 'create') {
      const name = `made-${round}-${index}`;
      next.set(name, make(configuration, name, { state: 'creating', ageMs: 0 }));
    } else if (action.type === 'update') {
      const { instance } = action.view;
      const metadata = { ...updateInstance(instance, configuration).metadata, generation: 2 + round };
      next.set(action.view.name, { ...updateInstance(instance, configuration), metadata });
    } else if (action.type === 'replace') {
      const { isFloor } = action.view;
      next.set(action.successor, make(configuration, action.successor, { state: 'creating', isFloor, ageMs: 0 }));
      next.delete(action.view.name);
    } else if (action.type === 'remove') {
      next.delete(action.view.name);
    } else if (action.type === 'release') {
      const { instance } = action.view;
      const { labels } = make(configuration, action.view.name, { isFloor: false }).metadata;
      next.set(action.view.name, { ...instance, metadata: { ...instance.metadata, ...(labels && { labels }) } });
    }
  }
  return [...next.values()];
}

/** Every program that should run comes up. */
function comeUp({ configuration, all }: World): Instance[] {
  return all
    .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
    .map((instance) => {
      if (viewInstance(instance, configuration).phase !== 'active') return instance;
      const { generation = 0 } = instance.metadata;
      const status = { observedGeneration: generation, ...stateParts.online } as NonNullable<Instance['status']>;
      return { ...instance, status };
    });
}

const isFollowing = (view: InstanceView): boolean => view.phase === 'active' && view.hash !== undefined;

test('plan: property: what somebody made is removed only after its successor was made, and what somebody wrote is never touched', () => {
  fc.assert(
    fc.property(anyWorld, (given) => {
      const { configuration, all } = worldOf(given);
      for (const action of planOf(configuration, all).actions) {
        if (!('view' in action)) continue;
        if (action.type === 'remove' && action.because !== 'replaced') assert.ok(action.view.isFloor);
        if (action.type === 'update' || action.type === 'replace') assert.ok(action.view.hash !== undefined);
      }
    }),
  );
});

test('plan: property: a roll-out never takes more away than may be away, besides those that are away already', () => {
  fc.assert(
    fc.property(anyWorld, (given) => {
      const { configuration, all } = worldOf(given);
      const views = all.map((instance) => viewInstance(instance, configuration));
      const { actions } = planOf(configuration, all);
      const removed = new Set(actions.flatMap((action) => (action.type === 'remove' ? [action.view.name] : [])));
      const taken = actions.filter(
        (action) =>
          (action.type === 'update' || action.type === 'replace') &&
          action.view.isAvailable &&
          action.view.phase === 'active',
      ).length;
      const followers = views.filter((view) => isFollowing(view) && !removed.has(view.name));
      const away = followers.filter(({ isAvailable }) => !isAvailable).length;
      const missing = actions.filter(({ type }) => type === 'create').length;
      const { maxUnavailable } = given;
      const total = followers.length + missing;
      const allowed =
        typeof maxUnavailable === 'number'
          ? maxUnavailable
          : Math.max(1, Math.floor((total * Number.parseInt(maxUnavailable, 10)) / 100));
      assert.ok(taken === 0 || taken + away + missing <= allowed, `${taken} + ${away} + ${missing} > ${allowed}`);
    }),
  );
});

test('plan: property: where programs come up, the floor is reached, every follower gets the template, and then nothing is done any more', () => {
  fc.assert(
    fc.property(anyWorld, (given) => {
      const { configuration, all: first } = worldOf(given);
      const mine = first.filter((instance) => {
        const view = viewInstance(instance, configuration);
        return !view.isFloor && view.phase !== 'going' && view.hash === undefined;
      });
      let all: readonly Instance[] = first;
      for (let round = 0; round < 30; round += 1) {
        const { actions } = planOf(configuration, all);
        all = comeUp({ configuration, all: carryOut({ configuration, all }, actions, round) });
      }
      const decided = planOf(configuration, all);
      assert.deepEqual(told(decided), []);
      assert.equal(decided.counts.outdated, 0);
      const active = all.map((one) => viewInstance(one, configuration)).filter(({ phase }) => phase === 'active');
      const floorMade = active.filter(({ isFloor }) => isFloor).length;
      const holding = (decided.requeueAfterMs ?? 0) > 0;
      assert.ok(holding || active.length >= given.floor, `${active.length} < ${given.floor}`);
      assert.ok(floorMade <= given.floor);
      for (const { metadata } of mine) assert.ok(all.some((one) => one.metadata.name === metadata.name));
    }),
    { numRuns: 60 },
  );
});
