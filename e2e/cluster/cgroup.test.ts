import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHierarchies } from './cgroup.ts';
import { mountsBelow } from './mounts.ts';

const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`;

const unified = `30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
`;

test('parseHierarchies: a hybrid machine has v1 controllers beside a v2 tree', () => {
  assert.deepEqual(parseHierarchies(hybrid), [
    { root: '/sys/fs/cgroup/cpu,cpuacct', version: 1, controllers: ['cpu', 'cpuacct'] },
    { root: '/sys/fs/cgroup/cpuset', version: 1, controllers: ['cpuset'] },
    { root: '/sys/fs/cgroup/systemd', version: 1, controllers: ['name=systemd'] },
    { root: '/sys/fs/cgroup/unified', version: 2, controllers: [] },
  ]);
});

test('parseHierarchies: a v2 machine has one', () => {
  assert.deepEqual(parseHierarchies(unified), [{ root: '/sys/fs/cgroup', version: 2, controllers: [] }]);
});

test('mountsBelow: deepest first, blanks unescaped, and no folder that only begins alike', () => {
  const mountinfo = [
    '50 1 0:1 / /state/a rw - tmpfs tmpfs rw',
    '51 50 0:2 / /state/a/b\\040c rw - tmpfs tmpfs rw',
    '52 1 0:3 / /state2/a rw - tmpfs tmpfs rw',
    '53 1 0:4 / / rw - ext4 /dev/vda rw',
  ].join('\n');
  assert.deepEqual(mountsBelow(mountinfo, '/state'), ['/state/a/b c', '/state/a']);
});
