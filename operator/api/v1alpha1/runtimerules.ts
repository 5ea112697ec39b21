/** What an Instance may not say under one runtime or another, with the sentence that says what to do instead. */
import type { Rule } from './meta.ts';

const isInShell = "self.runtime in ['process', 'screen', 'tmux']";

/** Rules over the whole `spec`. Which pod is made where they hold is in controllers/instance/. */
export const runtimeRules: readonly Rule[] = [
  {
    rule: `!(${isInShell}) || (has(self.command) && size(self.command) > 0)`,
    message:
      'the runtimes process, screen and tmux need command, such as ["/server", "--port=1"]: they start the program themselves and do not know the entry point of the image',
  },
  {
    rule: "self.runtime == 'kubernetes' || !has(self.env) || self.env.all(e, !e.name.startsWith('RINGMASTER_'))",
    message:
      'variables whose name begins with RINGMASTER_ are set by Ringmaster under this runtime: choose another name',
    fieldPath: '.env',
  },
  {
    rule: "self.runtime == 'kubernetes' || !has(self.volumes) || self.volumes.all(v, !v.name.startsWith('ringmaster'))",
    message: 'names of volumes that begin with ringmaster are taken under this runtime: choose another name',
    fieldPath: '.volumes',
  },
  {
    rule: "self.runtime == 'kubernetes' || !has(self.volumeMounts) || self.volumeMounts.all(m, m.mountPath != '/ringmaster' && !m.mountPath.startsWith('/ringmaster/'))",
    message: 'the folder /ringmaster is taken under this runtime: choose another mountPath',
    fieldPath: '.volumeMounts',
  },
  {
    rule: "self.runtime != 'docker' || (!has(self.volumes) && !has(self.volumeMounts))",
    message:
      'the runtime docker has no volumes, because its container does not belong to the pod: remove volumes and volumeMounts, or choose another runtime',
  },
  {
    rule: "self.runtime != 'docker' || !has(self.service) || self.service.type == 'None'",
    message:
      'under the runtime docker there is no Service, because its container does not belong to the pod: remove service and use the address of the node',
    fieldPath: '.service',
  },
  {
    rule: "self.runtime != 'docker' || !has(self.readiness) || has(self.readiness.logPattern)",
    message:
      'under the runtime docker readiness can only be logPattern, because its container does not belong to the pod, where the other probes look',
    fieldPath: '.readiness',
  },
  {
    rule: "self.runtime != 'docker' || !has(self.ports) || self.ports.all(p, !has(p.protocol) || p.protocol != 'SCTP')",
    message: 'under the runtime docker the protocol of a port is TCP or UDP',
    fieldPath: '.ports',
  },
];
