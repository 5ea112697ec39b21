/** `Instance`: one long-running interactive program. What to run is in `spec`; where it runs and how it is, in `status`. */
import { z } from 'zod';
import { apiVersion } from '../../names.ts';
import { properties, templateRules, templates } from './filetemplates.ts';
import type { Metadata } from './meta.ts';
import {
  anyObject,
  conditions,
  int32,
  int64,
  intOrString,
  listMap,
  matching,
  quantity,
  stringMap,
  withRules,
} from './meta.ts';
import { envFrom, envVar, resources, volume, volumeMount } from './podparts.ts';
import { runtimeRules } from './runtimerules.ts';

/** `kubernetes` runs the container as it is given; the others run through a sidecar in the pod. */
export const runtimes = ['kubernetes', 'process', 'screen', 'tmux', 'docker'] as const;
export type Runtime = (typeof runtimes)[number];

export const states = ['CREATING', 'ONLINE', 'OFFLINE', 'STOPPED'] as const;
export type State = (typeof states)[number];

export const protocolDefault = 'TCP';

const port = z
  .object({
    name: matching(
      /^([a-z0-9]+-)*[a-z0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*$/,
      'use lower-case letters, digits and single hyphens, with at least one letter, such as game',
    )
      .min(1)
      .max(15)
      .describe('Name of the port, unique in the Instance; at most 15 lower-case letters, digits and hyphens.'),
    port: int32.min(1).max(65535).describe('The port that the program listens on.'),
    // No default in the schema: kubectl apply compares lists as a whole, and would take one inside of an item for a change each time.
    protocol: z.enum(['TCP', 'UDP', 'SCTP']).optional().describe(`Its protocol; absent: ${protocolDefault}.`),
    hostPort: int32
      .min(1)
      .max(65535)
      .optional()
      .describe(
        'Also open it on the address of the node. Two such Instances cannot share a node. Under the runtime docker every port is opened there; absent, under its own number.',
      ),
  })
  .describe('A port that the program listens on.');

const service = z
  .object({
    type: z
      .enum(['ClusterIP', 'NodePort', 'LoadBalancer', 'None'])
      .default('ClusterIP')
      .describe('Kind of the Service that is made for the ports, under the name of the Instance. None: no Service.'),
    annotations: stringMap.optional().describe('Annotations of the Service, for load balancers and DNS.'),
  })
  .describe('The Service in front of the ports. It exists while there are ports.');

const readiness = withRules(
  z
    .object({
      exec: z
        .object({
          command: z
            .array(z.string().max(4096))
            .min(1)
            .max(64)
            .describe('The command; exit code 0 means ready. No shell is involved.'),
        })
        .optional()
        .describe('Ready when a command in the container succeeds.'),
      httpGet: z
        .object({
          path: z.string().max(2048).optional().describe('Path of the request.'),
          port: intOrString.describe('Port number, or the name of one of the ports.'),
          scheme: z.enum(['HTTP', 'HTTPS']).optional().describe('HTTP or HTTPS.'),
        })
        .optional()
        .describe('Ready when an HTTP GET answers 200 to 399.'),
      tcpSocket: z
        .object({ port: intOrString.describe('Port number, or the name of one of the ports.') })
        .optional()
        .describe('Ready when a TCP connection opens.'),
      logPattern: withRules(
        matching(/^[^\r\n\x00]+$/, 'write a pattern for one line, without line breaks')
          .min(1)
          .max(1024),
        {
          // The API server reads patterns as RE2 does; what it cannot read, it says before the sentence.
          rule: "''.matches(self) ? true : true",
          message:
            'write readiness.logPattern as a regular expression in RE2 syntax, such as Done \\(; a literal ( needs a backslash',
        },
      )
        .optional()
        .describe(
          'Ready when a line of the log matches this regular expression (RE2 syntax) somewhere, such as Done \\(. Escape sequences are left out, and only the first 16 KiB of a line count. A program that is started again has to print such a line again. The times and thresholds below do not count here.',
        ),
      initialDelaySeconds: int32
        .min(0)
        .max(3600)
        .optional()
        .describe('Seconds from the start of the container to the first look.'),
      periodSeconds: int32.min(1).max(3600).default(5).describe('Seconds between two looks.'),
      timeoutSeconds: int32.min(1).max(600).default(1).describe('Seconds after which one look has failed.'),
      failureThreshold: int32.min(1).max(1000).default(3).describe('Failed looks in a row that make it not ready.'),
    })
    .describe('When the program counts as ready (ONLINE). Absent: as soon as it runs.'),
  {
    rule: '[has(self.exec), has(self.httpGet), has(self.tcpSocket), has(self.logPattern)].filter(x, x).size() == 1',
    message: 'readiness needs exactly one of exec, httpGet, tcpSocket and logPattern',
  },
);

const stop = z
  .object({
    command: matching(/^[^\r\n\x00]+$/, 'write one line, without line breaks')
      .min(1)
      .max(4096)
      .optional()
      .describe(
        'A line that is written to the standard input of the program to stop it, such as stop. It then has gracePeriodSeconds to end by itself before SIGTERM is sent.',
      ),
    gracePeriodSeconds: int64
      .min(1)
      .max(3600)
      .default(30)
      .describe('Seconds from SIGTERM to SIGKILL, and, where there is a command, as many from the command to SIGTERM.'),
  })
  .describe('How the program is stopped.');

const logs = withRules(
  z
    .object({
      retainBytes: quantity
        .default('64Mi')
        .describe(
          'How much of the log is kept at least, from its end; a little more stays on the disk. 0 keeps everything, without a limit.',
        ),
      mirrorToStdout: z
        .boolean()
        .default(true)
        .describe(
          'Whether each line also goes to the standard output of the container: for kubectl logs, log collectors, and whoever reads the log after the program has finished.',
        ),
    })
    .describe(
      'How the log is kept, under every runtime but kubernetes: there the kubelet keeps the log and rotates it by its own setting (containerLogMaxSize), and nothing here has an effect.',
    ),
  {
    rule: "!isQuantity(string(self.retainBytes)) || quantity(string(self.retainBytes)).compareTo(quantity('0')) >= 0 && quantity(string(self.retainBytes)).compareTo(quantity('1Ti')) <= 0",
    message: 'write a quantity of bytes from 0, which keeps everything, to 1Ti',
    fieldPath: '.retainBytes',
  },
);

const podTemplate = z
  .object({
    metadata: z
      .object({
        labels: stringMap.optional().describe('Labels that the pod gets besides ours.'),
        annotations: stringMap.optional().describe('Annotations that the pod gets besides ours.'),
      })
      .optional()
      .describe('Labels and annotations of the pod.'),
    spec: anyObject
      .optional()
      .describe(
        'Any field of a PodSpec (kubectl explain pod.spec), laid over the pod that Ringmaster makes. Containers, volumes and variables merge by name; the program runs in the container instance.',
      ),
  })
  .describe('An overlay on the pod: node selection, security context, service account, more containers.');

export const instanceSpec = withRules(
  z
    .object({
      runtime: withRules(z.enum(runtimes).default('kubernetes'), {
        rule: 'self == oldSelf',
        message: 'runtime cannot be changed: delete the Instance and create it again with the other runtime',
      }).describe(
        'What the program runs under. kubernetes: a container, as given. process: a container whose log and standard input a sidecar in the pod serves; it keeps more of the log. screen, tmux: the same in a session that people can attach to; the image needs screen or tmux. docker: a container of the Docker Engine of the node, if the operator allows it.',
      ),
      image: matching(/^\S+$/, 'write the name of an image without blanks, such as example.com/server:1.2')
        .min(1)
        .max(512)
        .describe('Container image of the program.'),
      imagePullPolicy: z
        .enum(['Always', 'IfNotPresent', 'Never'])
        .optional()
        .describe('When the image is pulled; as in a pod.'),
      imagePullSecrets: listMap(
        z.object({ name: z.string().min(1).max(253).describe('Name of the Secret.') }),
        ['name'],
        16,
      )
        .optional()
        .describe(
          'Secrets in the same namespace with the registry credentials. Under the runtime docker the Engine pulls the image, with credentials of its own.',
        ),
      command: z
        .array(z.string().max(32768))
        .max(64)
        .optional()
        .describe(
          'The program (the entry point of the image if absent). No shell is involved. Required under the runtimes process, screen and tmux.',
        ),
      args: z
        .array(z.string().max(32768))
        .max(256)
        .optional()
        .describe('Its arguments (those of the image if absent).'),
      workingDir: matching(/^\//, 'write an absolute path, such as /data')
        .max(1024)
        .optional()
        .describe('Folder in which it starts; an absolute path.'),
      env: listMap(envVar, ['name'], 256).optional().describe('Environment variables.'),
      envFrom: z.array(envFrom).max(32).optional().describe('Environment variables from whole ConfigMaps and Secrets.'),
      ports: listMap(port, ['name'], 32)
        .optional()
        .describe('Ports that the program listens on. The first is the primary one, shown in lists.'),
      service: service.optional(),
      resources: resources.optional(),
      volumes: listMap(volume, ['name'], 32).optional().describe('Volumes of the pod.'),
      volumeMounts: listMap(volumeMount, ['mountPath'], 64).optional().describe('Where they appear.'),
      templates: templates.optional(),
      properties: properties.optional(),
      desiredState: z
        .enum(['Running', 'Stopped'])
        .default('Running')
        .describe('Whether the program should run. Stopped ends it gracefully and keeps the Instance and its id.'),
      restartPolicy: z
        .enum(['Always', 'OnFailure', 'Never'])
        .default('Always')
        .describe(
          'Whether the program is started again when it ends: always, only after a failure, or never. Repeated failures are retried ever more slowly.',
        ),
      stop: stop.optional(),
      readiness: readiness.optional(),
      logs: logs.optional(),
      podTemplate: podTemplate.optional(),
    })
    .describe('What to run, and how.'),
  {
    rule: '!has(self.volumeMounts) || has(self.podTemplate) || self.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name))',
    message: 'every volumeMounts[].name must be the name of one of the volumes',
    fieldPath: '.volumeMounts',
  },
  {
    // In this form the API server can tell what it costs at most; with a value in place of the absent one it cannot, and refuses it.
    rule: `!has(self.ports) || self.ports.all(p, self.ports.exists_one(q, q.port == p.port && (has(q.protocol) && q.protocol != '${protocolDefault}' ? has(p.protocol) && p.protocol == q.protocol : !has(p.protocol) || p.protocol == '${protocolDefault}')))`,
    message: 'two ports may not have the same number and protocol',
    fieldPath: '.ports',
  },
  {
    rule: "!has(self.service) || self.service.type == 'None' || (has(self.ports) && size(self.ports) > 0)",
    message: 'a service needs at least one entry in ports',
    fieldPath: '.service',
  },
  ...runtimeRules,
  ...templateRules,
);
export type InstanceSpec = z.infer<typeof instanceSpec>;

export const instanceStatus = withRules(
  z
    .object({
      id: withRules(
        z
          .string()
          .length(6)
          .regex(/^[0-9a-z]{6}$/),
        { rule: 'self == oldSelf', message: 'the id of an Instance never changes' },
      )
        .optional()
        .describe('The six characters under which the Master API knows this Instance. Given once, never changed.'),
      state: z
        .enum(states)
        .optional()
        .describe(
          'CREATING: accepted, not yet serving. ONLINE: ready. OFFLINE: should run, but its pod is unreachable or crashing. STOPPED: stopped on purpose, or finished.',
        ),
      podName: z.string().max(253).optional().describe('The pod that runs the program, or ran it last.'),
      restartedAt: z
        .string()
        .max(256)
        .optional()
        .describe('The value of the annotation ringmaster.dev/restarted-at that this pod was made for.'),
      podSequence: int64.min(0).optional().describe('How many pods this Instance has had.'),
      endingPodSequence: int64
        .min(0)
        .optional()
        .describe('The newest of them whose program will not be started again, because the pod is going or has ended.'),
      unstartedPodSequence: int64
        .min(0)
        .optional()
        .describe('The newest of them that went before its program had run at all.'),
      nodeName: z.string().max(253).optional().describe('The node that it runs on.'),
      podIP: z
        .string()
        .max(64)
        .optional()
        .describe('The address of its pod, while a program runs in it; the Master reaches the sidecar there.'),
      hostAddress: z
        .string()
        .max(253)
        .optional()
        .describe(
          'The address under which the primary port is reachable: the pod, or the node where hostPort is set or the runtime is docker.',
        ),
      port: int32.min(0).max(65535).optional().describe('The primary port at that address.'),
      restarts: int32.min(0).optional().describe('How often the program was started again in its present pod.'),
      observedGeneration: int64.optional().describe('The generation of the spec that this status speaks of.'),
      conditions: conditions.optional(),
    })
    .describe('How it is.'),
  { rule: '!has(oldSelf.id) || has(self.id)', message: 'the id of an Instance cannot be removed' },
);
export type InstanceStatus = z.infer<typeof instanceStatus>;

export interface Instance {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
  spec: InstanceSpec;
  status?: InstanceStatus;
}

export const instances: { apiVersion: string; kind: string; plural: string; namespaced: boolean; object?: Instance } = {
  apiVersion,
  kind: 'Instance',
  plural: 'instances',
  namespaced: true,
};
