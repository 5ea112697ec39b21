/** `Instance`: one long-running interactive program. What to run is in `spec`; where it runs and how it is, in `status`. */
import { z } from 'zod';
import { apiVersion } from '../../names.ts';
import type { Metadata } from './meta.ts';
import {
  anyObject,
  conditions,
  dnsLabel,
  int32,
  int64,
  intOrString,
  listMap,
  matching,
  quantity,
  stringMap,
  withRules,
} from './meta.ts';

export const runtimes = ['kubernetes'] as const;
export type Runtime = (typeof runtimes)[number];

export const states = ['CREATING', 'ONLINE', 'OFFLINE', 'STOPPED'] as const;
export type State = (typeof states)[number];

const keyRef = (
  what: string,
): z.ZodObject<{ name: z.ZodString; key: z.ZodString; optional: z.ZodOptional<z.ZodBoolean> }> =>
  z.object({
    name: z.string().min(1).max(253).describe(`Name of the ${what}.`),
    key: z.string().min(1).max(253).describe(`Key in the ${what}.`),
    optional: z.boolean().optional().describe(`Whether the program may start when the ${what} or its key is missing.`),
  });

const nameRef = (what: string): z.ZodObject<{ name: z.ZodString; optional: z.ZodOptional<z.ZodBoolean> }> =>
  z.object({
    name: z.string().min(1).max(253).describe(`Name of the ${what}.`),
    optional: z.boolean().optional().describe(`Whether the program may start when the ${what} is missing.`),
  });

const valueFrom = withRules(
  z.object({
    secretKeyRef: keyRef('Secret').optional().describe('A key of a Secret in the same namespace.'),
    configMapKeyRef: keyRef('ConfigMap').optional().describe('A key of a ConfigMap in the same namespace.'),
    fieldRef: z
      .object({
        fieldPath: z.string().min(1).max(253).describe('A field of the pod, such as status.podIP or metadata.name.'),
        apiVersion: z.string().max(64).optional().describe('API version of the field path; v1 if absent.'),
      })
      .optional()
      .describe('A field of the pod.'),
  }),
  {
    rule: '[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].filter(x, x).size() == 1',
    message: 'valueFrom needs exactly one of secretKeyRef, configMapKeyRef and fieldRef',
  },
);

const envVar = withRules(
  z
    .object({
      name: matching(
        /^[-._a-zA-Z][-._a-zA-Z0-9]*$/,
        'use letters, digits, hyphens, dots and underscores, and no digit first',
      )
        .min(1)
        .max(253)
        .describe('Name of the environment variable.'),
      value: z
        .string()
        .max(32768)
        .optional()
        .describe('Its value. $(NAME) refers to a variable above; $$(NAME) writes it literally.'),
      valueFrom: valueFrom.optional().describe('Where its value comes from instead.'),
    })
    .describe('An environment variable.'),
  { rule: '!(has(self.value) && has(self.valueFrom))', message: 'give value or valueFrom, not both' },
);

const envFrom = withRules(
  z
    .object({
      prefix: z.string().max(253).optional().describe('Put before each key.'),
      configMapRef: nameRef('ConfigMap').optional().describe('Every key of this ConfigMap becomes a variable.'),
      secretRef: nameRef('Secret').optional().describe('Every key of this Secret becomes a variable.'),
    })
    .describe('A source of many environment variables.'),
  {
    rule: 'has(self.configMapRef) != has(self.secretRef)',
    message: 'envFrom needs exactly one of configMapRef and secretRef',
  },
);

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
    protocol: z.enum(['TCP', 'UDP', 'SCTP']).default('TCP').describe('Its protocol.'),
    hostPort: int32
      .min(1)
      .max(65535)
      .optional()
      .describe('Also open it on the address of the node. Two such Instances cannot share a node.'),
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

const resources = withRules(
  z
    .object({
      requests: z
        .record(z.string().max(253), quantity)
        .meta({ maxProperties: 16 })
        .optional()
        .describe('What the scheduler sets aside: cpu, memory, and so on.'),
      limits: z
        .record(z.string().max(253), quantity)
        .meta({ maxProperties: 16 })
        .optional()
        .describe('What the program may use at most.'),
    })
    .describe('CPU and memory of the program.'),
  {
    rule: '!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)',
    message: 'a request may not be larger than the limit of the same resource',
  },
);

const volume = withRules(
  z
    .object({
      name: dnsLabel.describe('Name of the volume, for volumeMounts.'),
      emptyDir: z
        .object({
          medium: z.enum(['', 'Memory']).optional().describe('Memory: keep it in RAM.'),
          sizeLimit: quantity.optional().describe('How much it may hold; the pod is evicted above it.'),
        })
        .optional()
        .describe('An empty folder that lives as long as the pod.'),
      persistentVolumeClaim: z
        .object({
          claimName: z.string().min(1).max(253).describe('Name of the claim, in the same namespace.'),
          readOnly: z.boolean().optional().describe('Mount it read-only.'),
        })
        .optional()
        .describe('A volume that outlives the pod.'),
      configMap: z
        .object({
          name: z.string().min(1).max(253).describe('Name of the ConfigMap.'),
          optional: z.boolean().optional().describe('Whether it may be missing.'),
          defaultMode: int32
            .min(0)
            .max(511)
            .optional()
            .describe('Mode of the files, as a decimal number (420 is 0644).'),
        })
        .optional()
        .describe('The keys of a ConfigMap as files.'),
      secret: z
        .object({
          secretName: z.string().min(1).max(253).describe('Name of the Secret.'),
          optional: z.boolean().optional().describe('Whether it may be missing.'),
          defaultMode: int32
            .min(0)
            .max(511)
            .optional()
            .describe('Mode of the files, as a decimal number (256 is 0400).'),
        })
        .optional()
        .describe('The keys of a Secret as files.'),
    })
    .describe('A volume. Kinds that are not listed here go into podTemplate.spec.volumes.'),
  {
    rule: '[has(self.emptyDir), has(self.persistentVolumeClaim), has(self.configMap), has(self.secret)].filter(x, x).size() == 1',
    message:
      'a volume needs exactly one of emptyDir, persistentVolumeClaim, configMap and secret; other kinds go into podTemplate.spec.volumes',
  },
);

const volumeMount = z
  .object({
    name: dnsLabel.describe('Name of the volume.'),
    mountPath: matching(/^\/[^:]*$/, 'write an absolute path without a colon, such as /data')
      .min(1)
      .max(1024)
      .describe('Where it appears; an absolute path.'),
    subPath: z.string().max(1024).optional().describe('Mount this path inside the volume instead of its root.'),
    readOnly: z.boolean().optional().describe('Mount it read-only.'),
  })
  .describe('Where a volume appears in the file system of the program.');

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
    rule: '[has(self.exec), has(self.httpGet), has(self.tcpSocket)].filter(x, x).size() == 1',
    message: 'readiness needs exactly one of exec, httpGet and tcpSocket',
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
      }).describe('What the program runs under. kubernetes: a container, as given.'),
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
        .describe('Secrets in the same namespace with the registry credentials.'),
      command: z
        .array(z.string().max(32768))
        .max(64)
        .optional()
        .describe('The program (the entry point of the image if absent). No shell is involved.'),
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
      podTemplate: podTemplate.optional(),
    })
    .describe('What to run, and how.'),
  {
    rule: '!has(self.volumeMounts) || has(self.podTemplate) || self.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name))',
    message: 'every volumeMounts[].name must be the name of one of the volumes',
    fieldPath: '.volumeMounts',
  },
  {
    rule: '!has(self.ports) || self.ports.all(p, self.ports.exists_one(q, q.port == p.port && q.protocol == p.protocol))',
    message: 'two ports may not have the same number and protocol',
    fieldPath: '.ports',
  },
  {
    rule: "!has(self.service) || self.service.type == 'None' || (has(self.ports) && size(self.ports) > 0)",
    message: 'a service needs at least one entry in ports',
    fieldPath: '.service',
  },
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
      hostAddress: z
        .string()
        .max(253)
        .optional()
        .describe('The address under which the primary port is reachable: the pod, or the node where hostPort is set.'),
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
