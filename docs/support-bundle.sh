#!/bin/sh
# Collects what helps to find a fault of a Ringmaster installation, with kubectl alone:
#   sh docs/support-bundle.sh [-n NAMESPACE] [-r RELEASE] [-o FILE.tar.gz]
# NAMESPACE is the one that Ringmaster is installed in (ringmaster-system), RELEASE the name of the Helm release (ringmaster).
#
# It reads; it changes nothing. It leaves out: Secrets, the logs of programs, their environment, command, arguments and annotations, the lines and the output
# of console commands, and the hashes of tokens. In everything else, what looks like a token is replaced. Look through it before you hand it on all the same.
set -u

namespace=ringmaster-system
release=ringmaster
output=
while getopts n:r:o: option; do
  case $option in
    n) namespace=$OPTARG ;;
    r) release=$OPTARG ;;
    o) output=$OPTARG ;;
    *) echo "Usage: $0 [-n NAMESPACE] [-r RELEASE] [-o FILE.tar.gz]" >&2; exit 2 ;;
  esac
done
name=ringmaster-support-$(date -u +%Y%m%dT%H%M%SZ)
output=${output:-$name.tar.gz}
umask 077
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
folder=$work/$name
mkdir "$folder"

# What looks like a token of ours, a JWT, or what follows "Bearer".
redact() {
  sed -E \
    -e 's/rm_[A-Za-z0-9_-]{8,}/[redacted]/g' \
    -e 's/eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*/[redacted]/g' \
    -e 's/([Bb]earer )[^" ]+/\1[redacted]/g' \
    -e 's/(base64url\.bearer\.authorization\.k8s\.io\.)[A-Za-z0-9_-]+/\1[redacted]/g' \
    -e 's#(://[^:/@ ]*:)[^@/ ]+@#\1[redacted]@#g'
}

# Leaves fields of YAML with all that is in them out, whatever their form: what belongs to a field is indented further, or is an item of its list.
without() {
  awk -v names="$1" '
    BEGIN { count = split(names, list, " "); for (i = 1; i <= count; i++) drop[list[i]] = 1 }
    {
      match($0, /^ */); indent = RLENGTH
      if (skipping && ($0 == "" || indent > depth || (indent == depth && substr($0, indent + 1, 2) == "- "))) next
      skipping = 0
      rest = substr($0, indent + 1)
      while (substr(rest, 1, 2) == "- ") { rest = substr(rest, 3); indent += 2 }
      colon = index(rest, ":")
      key = colon > 0 ? substr(rest, 1, colon - 1) : ""
      if (key in drop) { print substr($0, 1, indent) key ": \"[redacted]\""; skipping = 1; depth = indent } else print
    }'
}

# save FILE COMMAND...: what the command writes, its errors too; it may fail.
save() {
  file=$1
  shift
  { "$@" 2>&1 || echo "failed: $*"; } | redact >"$folder/$file"
}

# resources FILE ARGUMENTS...: objects as YAML, without what may hold secrets of users.
resources() {
  file=$1
  shift
  { kubectl get "$@" -o yaml 2>&1 || echo "failed: kubectl get $*"; } |
    without 'env envFrom args command annotations data stringData binaryData line output result tokenSHA256' |
    redact >"$folder/$file"
}

# Of ours: environment and arguments are settings of the chart and hold no secret; messages say what is wrong.
ours() {
  file=$1
  shift
  { kubectl get "$@" -o yaml 2>&1 || echo "failed: kubectl get $*"; } |
    without 'annotations data stringData binaryData' | redact >"$folder/$file"
}

kubectl version >"$work/reach" 2>&1 || { cat "$work/reach" >&2; exit 1; }

save version.txt kubectl version
save nodes.txt kubectl get nodes -o wide
save crds.txt kubectl get crd -l app.kubernetes.io/part-of=ringmaster \
  -o 'custom-columns=NAME:.metadata.name,VERSIONS:.spec.versions[*].name,STORED:.status.storedVersions[*],CREATED:.metadata.creationTimestamp'
save overview.txt kubectl get pods,deployments,services,leases,poddisruptionbudgets,networkpolicies,horizontalpodautoscalers -n "$namespace" -o wide
ours workloads.yaml deployments,services,endpointslices,leases,poddisruptionbudgets,networkpolicies -n "$namespace"
ours pods.yaml pods -n "$namespace" -l "app.kubernetes.io/instance=$release"
save events.txt kubectl get events -n "$namespace" --sort-by=.lastTimestamp
save rbac.txt kubectl get roles,rolebindings,serviceaccounts -n "$namespace"

save instances.txt kubectl get instances.ringmaster.dev --all-namespaces -o wide
save configurations.txt kubectl get instanceconfigurations.ringmaster.dev --all-namespaces -o wide
save apikeys.txt kubectl get apikeys.ringmaster.dev --all-namespaces
save conditions.txt kubectl get instances.ringmaster.dev,instanceconfigurations.ringmaster.dev --all-namespaces \
  -o 'jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.status.state}{range .status.conditions[*]} {.type}={.status} {.reason}{end}{"\n"}{end}'
resources instances.yaml instances.ringmaster.dev --all-namespaces
resources configurations.yaml instanceconfigurations.ringmaster.dev --all-namespaces
resources commands.yaml consolecommands.ringmaster.dev -n "$namespace"
resources instance-pods.yaml pods --all-namespaces -l app.kubernetes.io/managed-by=ringmaster
save instance-events.txt kubectl get events --all-namespaces --field-selector involvedObject.kind=Instance \
  -o 'custom-columns=LAST:.lastTimestamp,NAMESPACE:.metadata.namespace,NAME:.involvedObject.name,TYPE:.type,REASON:.reason,COUNT:.count'

for pod in $(kubectl get pods -n "$namespace" -l "app.kubernetes.io/instance=$release" -o 'jsonpath={.items[*].metadata.name}'); do
  save "log-$pod.txt" kubectl logs -n "$namespace" "$pod" --tail=20000
  save "log-$pod-previous.txt" kubectl logs -n "$namespace" "$pod" --previous --tail=20000
  # The port of a Master may speak TLS; the operator's never does.
  for target in "http:$pod:8080/proxy/metrics" "http:$pod:7000/proxy/api/metrics" "https:$pod:7000/proxy/api/metrics"; do
    metrics=$(kubectl get --raw "/api/v1/namespaces/$namespace/pods/$target" 2>&1) || continue
    printf '%s\n' "$metrics" | redact >"$folder/metrics-$pod.txt"
    break
  done
done

# The newest fifty sidecars: what they themselves say, not the programs.
kubectl get pods --all-namespaces -l app.kubernetes.io/managed-by=ringmaster --sort-by=.metadata.creationTimestamp \
  -o 'jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.spec.initContainers[*].name}{"\n"}{end}' 2>/dev/null |
  grep ringmaster-sidecar | tail -n 50 | while read -r where pod _; do
  save "sidecar-$where-$pod.txt" kubectl logs -n "$where" "$pod" -c ringmaster-sidecar --tail=2000 </dev/null
done

tar -czf "$output" -C "$work" "$name" || exit 1
echo "$output: $(find "$folder" -type f | wc -l | tr -d ' ') files"
