import assert from 'node:assert/strict';
import { test } from 'node:test';
import { masterEnvironment, operatorEnvironment, readEnvironment } from './environment.ts';

const least = { RINGMASTER_NAMESPACE: 'ringmaster-system', POD_NAME: 'ringmaster-0' };

test('readEnvironment: the least that is needed gets every default', () => {
  const settings = readEnvironment(operatorEnvironment, least);
  assert.deepEqual(settings.RINGMASTER_WATCH_NAMESPACES, []);
  assert.equal(settings.RINGMASTER_HEALTH_PORT, 8080);
  assert.equal(settings.RINGMASTER_WORKERS, 8);
});

test('readEnvironment: namespaces are a comma list, blanks and empty parts do not count', () => {
  const settings = readEnvironment(operatorEnvironment, { ...least, RINGMASTER_WATCH_NAMESPACES: 'games, bots,,' });
  assert.deepEqual(settings.RINGMASTER_WATCH_NAMESPACES, ['games', 'bots']);
});

test('readEnvironment: every wrong variable is named at once', () => {
  assert.throws(
    () => readEnvironment(masterEnvironment, { RINGMASTER_PORT: '99999', RINGMASTER_LOG_LEVEL: 'loud', POD_NAME: '' }),
    (error: Error) =>
      ['RINGMASTER_PORT', 'RINGMASTER_LOG_LEVEL', 'RINGMASTER_NAMESPACE', 'POD_NAME'].every((name) =>
        error.message.includes(name),
      ),
  );
});

test('readEnvironment: sidecars and docker have defaults that need nothing from the cluster', () => {
  const settings = readEnvironment(operatorEnvironment, least);
  assert.equal(settings.RINGMASTER_SIDECAR_IMAGE, undefined);
  assert.equal(settings.RINGMASTER_DOCKER_ENABLED, false);
  assert.equal(settings.RINGMASTER_DOCKER_GROUP, undefined);
  assert.deepEqual(settings.RINGMASTER_SIDECAR_RESOURCES.limits, { memory: '128Mi' });
});

test('readEnvironment: the resources of the sidecar are JSON, and what is not is refused with an example', () => {
  const given = { ...least, RINGMASTER_SIDECAR_RESOURCES: '{"limits":{"cpu":"1"}}', RINGMASTER_DOCKER_ENABLED: 'true' };
  const settings = readEnvironment(operatorEnvironment, given);
  assert.deepEqual(settings.RINGMASTER_SIDECAR_RESOURCES, { limits: { cpu: '1' } });
  assert.equal(settings.RINGMASTER_DOCKER_ENABLED, true);
  for (const wrong of ['64Mi', '[]', '7']) {
    assert.throws(
      () => readEnvironment(operatorEnvironment, { ...least, RINGMASTER_SIDECAR_RESOURCES: wrong }),
      /RINGMASTER_SIDECAR_RESOURCES.*write an object in JSON/,
    );
  }
});
