/**
 * The pod of a program that runs through a sidecar: every runtime but `kubernetes`. Pure.
 *
 * The sidecar is a native one: it is there before the program and ends after it. It serves the log and the standard input, which the two share as
 * files in the volume `ringmaster`. Under process, screen and tmux the container of the program is the Instance's own image, started by the launcher
 * that the sidecar puts into the volume. Under docker it is our image: a launcher that runs the Instance's image in the Docker Engine of the node.
 */
import { defaultDirectory } from '../../../sidecar/protocol.ts';
import type { Instance, Runtime } from '../../api/v1alpha1/instance.ts';
import { dockerLauncher } from './dockerpod.ts';
import type { Json, SidecarContext } from './sidecarpod.ts';
import { literal, logSettings, sharedMount, sidecar, sidecarVolumes } from './sidecarpod.ts';

/** The pod spec for `instance`, from the one that it would have under `kubernetes`, whose first container is the program's. */
export function throughSidecar(plain: Json & { containers: Json[] }, options: ThroughSidecarOptions): Json {
  const { instance, context } = options;
  const { runtime } = instance.spec;
  const program = plain.containers[0] ?? {};
  const shared = { ...plain, initContainers: [sidecar(instance, context)] };
  const volumes = [...((plain['volumes'] as Json[] | undefined) ?? []), ...sidecarVolumes(instance.spec, context)];
  if (runtime !== 'docker') return { ...shared, volumes, containers: [launched(program, options)] };
  const docker = dockerLauncher(program, { ...options, variables: launcherVariables(options) });
  return {
    ...shared,
    securityContext: { ...(plain['securityContext'] as Json), ...docker.securityContext },
    volumes: [...volumes, docker.volume],
    containers: [docker.container],
  };
}

export interface ThroughSidecarOptions {
  readonly instance: Instance;
  readonly id: string;
  readonly graceSeconds: number;
  readonly context: SidecarContext;
}

function launched(program: Json, options: ThroughSidecarOptions): Json {
  const { command = [], args = [], runtime } = options.instance.spec;
  const sessions: Partial<Record<Runtime, Json[]>> = {
    // For whoever attaches with kubectl exec; without them neither program finds the session.
    screen: [{ name: 'SCREENDIR', value: `${defaultDirectory}/run/screen` }],
    tmux: [{ name: 'TMUX_TMPDIR', value: `${defaultDirectory}/run` }],
  };
  const given = program['env'] as Json[];
  const session = (sessions[runtime] ?? []).filter(({ name }) => !given.some((variable) => variable['name'] === name));
  // Standard input is the launcher's pipe, and the launcher writes the stop command.
  const ours = ['stdin', 'lifecycle', 'args'];
  const rest = Object.fromEntries(Object.entries(program).filter(([key]) => !ours.includes(key)));
  return {
    ...rest,
    command: ['/bin/sh', `${defaultDirectory}/launch.sh`, '--', ...command, ...args],
    env: [...given, ...session, ...launcherVariables(options)],
    volumeMounts: [...((program['volumeMounts'] as Json[] | undefined) ?? []), sharedMount],
  };
}

/** What every launcher reads. */
function launcherVariables({ instance, id, graceSeconds }: ThroughSidecarOptions): Json[] {
  const { spec } = instance;
  const stop = spec.stop?.command;
  return [
    { name: 'RINGMASTER_DIR', value: defaultDirectory },
    { name: 'RINGMASTER_RUNTIME', value: spec.runtime },
    { name: 'RINGMASTER_ID', value: id },
    { name: 'RINGMASTER_MIRROR', value: String(logSettings(spec).mirrorToStdout) },
    { name: 'RINGMASTER_STOP_GRACE_SECONDS', value: String(graceSeconds) },
    ...(stop === undefined ? [] : [{ name: 'RINGMASTER_STOP_COMMAND', value: literal(stop) }]),
  ];
}
