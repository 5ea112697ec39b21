{{- define "ringmaster.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* First part of every name. 50 characters leave room for what follows in the 63 of a Service. */}}
{{- define "ringmaster.fullname" -}}
{{- $name := include "ringmaster.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/*
The templates below that speak of one component take a list: the root, and "operator" or "master".
*/}}
{{- define "ringmaster.componentName" -}}
{{- printf "%s-%s" (include "ringmaster.fullname" (first .)) (last .) }}
{{- end }}

{{- define "ringmaster.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ringmaster.name" (first .) }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{- define "ringmaster.labels" -}}
{{- $root := first . -}}
{{ include "ringmaster.selectorLabels" . }}
app.kubernetes.io/part-of: ringmaster
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ringmaster.serviceAccountName" -}}
{{- $account := (get (first .).Values (last .)).serviceAccount }}
{{- if $account.create }}
{{- default (include "ringmaster.componentName" .) $account.name }}
{{- else }}
{{- required (printf "%s.serviceAccount.create is off: set %s.serviceAccount.name to one that exists" (last .) (last .)) $account.name }}
{{- end }}
{{- end }}

{{- define "ringmaster.serviceAccount" -}}
{{- $root := first . }}
{{- $account := (get $root.Values (last .)).serviceAccount }}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "ringmaster.serviceAccountName" . }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "ringmaster.labels" . | nindent 4 }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
# The Deployment asks for its token; another pod under this account gets none unless it asks too.
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- define "ringmaster.image" -}}
{{- include "ringmaster.imageName" (list . .Values.image) }}
{{- end }}

{{/* Takes a list: the root, and repository, tag and digest. */}}
{{- define "ringmaster.imageName" -}}
{{- $root := first . }}
{{- with last . }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $root.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ringmaster.masterKeySecret" -}}
{{- default (printf "%s-master-key" (include "ringmaster.fullname" .)) .Values.masterKey.existingSecret }}
{{- end }}

{{/* What the Master's port speaks, which is also the port's name. */}}
{{- define "ringmaster.masterScheme" -}}
{{- if .Values.master.tls.secretName }}https{{ else }}http{{ end }}
{{- end }}

{{- define "ringmaster.leaseName" -}}
{{- default (include "ringmaster.componentName" (list . "operator")) .Values.operator.leaseName }}
{{- end }}

{{/* Pod Security "restricted". */}}
{{- define "ringmaster.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "ringmaster.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}

{{/* Metadata of a component's pods. No versions: a new chart alone must not restart them. */}}
{{- define "ringmaster.podMetadata" -}}
{{- $component := get (first .).Values (last .) -}}
labels:
  {{- /* Last one wins where a key comes twice: a label of the user must not take a pod out of its selector. */}}
  {{- mergeOverwrite dict ($component.podLabels | default dict) (include "ringmaster.selectorLabels" . | fromYaml) | toYaml | nindent 2 }}
{{- with $component.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Everything in a component's pod that is not its container. */}}
{{- define "ringmaster.podSpec" -}}
{{- $root := first . }}
{{- $component := get $root.Values (last .) -}}
serviceAccountName: {{ include "ringmaster.serviceAccountName" . }}
automountServiceAccountToken: true
# A Service called "ringmaster" would otherwise set RINGMASTER_PORT to an address.
enableServiceLinks: false
securityContext:
  {{- include "ringmaster.podSecurityContext" $root | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $component.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    # A preference: one node must be enough.
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "ringmaster.selectorLabels" $ | nindent 8 }}
    matchLabelKeys:
      - pod-template-hash
  {{- end }}
{{- end }}

{{/* Environment that the operator and the Master share. */}}
{{- define "ringmaster.env" -}}
- name: RINGMASTER_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: RINGMASTER_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: RINGMASTER_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- end }}

{{/*
Rights on what is in the namespaces of Instances: a ClusterRole where all are watched, a Role in each of them otherwise.
Takes a list: the root, the component, and the rules as text.
*/}}
{{- define "ringmaster.instanceRights" -}}
{{- $root := first . }}
{{- $component := index . 1 }}
{{- $rules := last . }}
{{- $name := include "ringmaster.componentName" (list $root $component) }}
{{- if $root.Values.watchNamespaces }}
{{- range $namespace := $root.Values.watchNamespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  {{- /* Another release may watch the same namespace, and our own namespace may be among them: its Role has the plain name. */}}
  name: {{ printf "%s-%s-instances" $root.Release.Namespace $name }}
  namespace: {{ $namespace }}
  labels:
    {{- include "ringmaster.labels" (list $root $component) | nindent 4 }}
rules:
  {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ printf "%s-%s-instances" $root.Release.Namespace $name }}
  namespace: {{ $namespace }}
  labels:
    {{- include "ringmaster.labels" (list $root $component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ printf "%s-%s-instances" $root.Release.Namespace $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "ringmaster.serviceAccountName" (list $root $component) }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- else }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $name }}
  labels:
    {{- include "ringmaster.labels" (list $root $component) | nindent 4 }}
rules:
  {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  labels:
    {{- include "ringmaster.labels" (list $root $component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "ringmaster.serviceAccountName" (list $root $component) }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- end }}

{{/* Rights in the release's own namespace. Takes the same list. */}}
{{- define "ringmaster.releaseRights" -}}
{{- $root := first . }}
{{- $component := index . 1 }}
{{- $name := include "ringmaster.componentName" (list $root $component) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "ringmaster.labels" (list $root $component) | nindent 4 }}
rules:
  {{- last . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "ringmaster.labels" (list $root $component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "ringmaster.serviceAccountName" (list $root $component) }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}

{{/* Voluntary disruptions take one replica at a time. */}}
{{- define "ringmaster.disruptionBudget" -}}
{{- $root := first . }}
{{- $component := get $root.Values (last .) }}
{{- $scaling := $component.autoscaling | default dict }}
{{- if gt (int ($scaling.enabled | default false | ternary $scaling.minReplicas $component.replicas)) 1 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "ringmaster.componentName" . }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "ringmaster.labels" . | nindent 4 }}
spec:
  minAvailable: 1
  # A replica that is not ready serves nobody: it must not keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "ringmaster.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}
