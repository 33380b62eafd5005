#!/usr/bin/env bash
# The story of one image, on a real API server with the chart installed by helm: pushed, refused, released, admitted.
#
#   e2e/demo.sh          tells it, then ends everything that it started
#   KEEP=1 e2e/demo.sh   leaves it running, and says how to look around and how to stop it
#
# LAZARETTO_BINARY is the program to run instead of a build of this tree.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); root=$(dirname "$here")
namespace=lazaretto-system

bold=""; plain=""; [ -t 1 ] && { bold=$'\e[1m'; plain=$'\e[0m'; }
chapter() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
show() { # command...: as one would type it, and what it says
  local line="" word
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./:=,@-]*) word="'$word'" ;; esac
    line="$line $word"
  done
  printf '%s$%s%s\n' "$bold" "$line" "$plain"
  "$@" 2>&1
}
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

tools=$("$here/tools.sh")
if [ -z "${LAZARETTO_BINARY:-}" ]; then
  echo "Building lazaretto; the first time takes some minutes."
  (cd "$root" && cargo build --locked --bin lazaretto)
  LAZARETTO_BINARY=${CARGO_TARGET_DIR:-$root/target}/debug/lazaretto
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/lazaretto-demo.XXXXXX"); dir=$(cd "$dir" && pwd -P); cd "$dir"
mkdir bin; ln -s "$LAZARETTO_BINARY" bin/lazaretto
export PATH=$dir/bin:$tools:$PATH

finish() {
  local status=$?
  trap - EXIT
  if [ "$status" -ne 0 ]; then
    for log in replica registry; do [ -e $log.log ] && { echo "--- the end of $log.log:"; tail -n 15 $log.log; } >&2; done
  fi
  if [ "${KEEP:-}" = 1 ] && [ "$status" -eq 0 ]; then
    chapter "It is all still running"
    printf 'Look around:  export KUBECONFIG=%q PATH=%q:$PATH\n' "$dir/kubeconfig" "$dir/bin:$tools"
    printf 'Logs:         %s\n' "$dir"
    printf 'Stop it:      %q --stop %q && rm -r %q\n' "$here/control-plane.sh" "$dir" "$dir"
    exit
  fi
  cd /
  "$here/control-plane.sh" --stop "$dir"
  if [ "$status" -eq 0 ]; then rm -rf "$dir"; else echo "demo: logs are in $dir" >&2; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

start() { # name command...: ended by control-plane.sh --stop, as the control plane is
  local name=$1; shift
  setsid "$@" > "$name.log" 2>&1 < /dev/null & echo $! > "$name.pid"
  disown # or the shell would tell of its end
}
# `await "what" command...`: until it succeeds, for a minute at most; standard output is dropped.
await() {
  local what=$1 error=""; shift
  for _ in $(seq 240); do
    error=$("$@" 2>&1) && return
    sleep 0.25
  done
  fail "$what: not within a minute; last: $error"
}
answers() { (exec 3<> "/dev/tcp/$1/$2") 2>/dev/null; }

chapter "A control plane: etcd, kube-apiserver, kube-controller-manager"
"$here/control-plane.sh" "$dir" > /dev/null
export KUBECONFIG=$dir/kubeconfig HOME=$dir # from here on no cache and no configuration of the developer's own
show kubectl version

chapter "A registry, and an image that a build has just pushed"
for port in $(seq 5000 5099); do answers 127.0.0.1 "$port" || break; done
printf 'version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: images}, delete: {enabled: true}}\nhttp: {addr: "127.0.0.1:%s"}\n' \
  "$port" > registry.yml
OTEL_TRACES_EXPORTER=none start registry "$tools/registry" serve registry.yml
await "the registry answers" answers 127.0.0.1 "$port"
image=localhost:$port/shop/checkout:1.0
mkdir layer; echo "checkout 1.0" > layer/app; tar -C layer -cf layer.tar app
show crane append --insecure --oci-empty-base --new_layer layer.tar --new_tag "$image"
digest=$(crane digest --insecure "$image")
pinned=localhost:$port/shop/checkout@$digest

chapter "Lazaretto, installed by helm"
# The Service's port is 443, unless only root may listen on that.
port443=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null || echo 1024)
values=(); [ "$(id -u)" = 0 ] || [ "$port443" -le 443 ] || values=(--set webhook.servicePort=8443)
show helm install lazaretto "$root/charts/lazaretto" --namespace $namespace --create-namespace --hide-notes "${values[@]}"

# There is no kubelet to start the Deployment's pods, so one process stands in for them: with a pod's name, the chart's
# arguments and its ServiceAccount's rights. It listens where the webhook's Service is.
get() { kubectl get --namespace $namespace "$1" -o "jsonpath=$2"; }
account=$(get deployment/lazaretto '{.spec.template.spec.serviceAccountName}')
webhook=$(get service/lazaretto-webhook '{.spec.clusterIP}:{.spec.ports[0].port}')
admin=${webhook%:*}:8080
pod() { get pods '{.items[0].metadata.name}'; }
await "the Deployment has pods" pod
readarray -t arguments < <(get deployment/lazaretto '{range .spec.template.spec.containers[0].args[*]}{@}{"\n"}{end}' |
  sed -e "s/\$(POD_NAME)/$(pod)/; s/\$(POD_NAMESPACE)/$namespace/" -e '/^--webhook-address=/d; /^--admin-address=/d; /^$/d')
sed "s/token: .*}}/token: $(kubectl create token "$account" --namespace $namespace --duration 24h)}}/" kubeconfig > replica.kubeconfig
start replica env POD_NAME="$(pod)" POD_NAMESPACE=$namespace KUBECONFIG=replica.kubeconfig \
  lazaretto "${arguments[@]}" --webhook-address="$webhook" --admin-address="$admin"
ready() { kill -0 "$(cat replica.pid)" && kubectl get --raw /readyz --server "http://$admin"; }
await "the replica is ready" ready
show kubectl get pods --namespace $namespace
echo "There is no kubelet: a process with a pod's name, arguments and rights stands in for them."

chapter "The policy: nothing starts before it is released from quarantine"
cat > policy.yaml <<END
apiVersion: lazaretto.dev/v1alpha1
kind: Registry
metadata: {name: demo}
spec:
  hosts: ["localhost:$port"]
  plainHTTP: true                # it is on this machine
  quarantine: {provider: Managed} # Lazaretto keeps the flag for this registry
---
apiVersion: lazaretto.dev/v1alpha1
kind: QuarantinePolicy
metadata: {name: all-images}
spec:
  require: {released: Deny}
END
show cat policy.yaml
show kubectl apply -f policy.yaml
show kubectl wait --for=condition=Ready --timeout=60s registry/demo quarantinepolicy/all-images
# The API server takes a webhook up some moments after its entry is written.
refused() { ! kubectl run probe --image=registry.invalid/probe:1 --dry-run=server; }
await "the API server asks the webhook" refused

chapter "A pod with the new image is refused"
show kubectl run checkout --image "$image" && fail "the pod should have been refused"

chapter "Somebody who may releases it"
show lazaretto quarantine list
show lazaretto quarantine show "$pinned"
show lazaretto quarantine release "$pinned" --reason "scanned, nothing found"

chapter "The same pod is admitted"
await "the pod is admitted" kubectl run checkout --image "$image" --dry-run=server
show kubectl run checkout --image "$image"

chapter "What is written about it"
show kubectl get imagestatuses
show lazaretto quarantine show "$pinned"
show kubectl get events
chapter "And the audit lines in the log"
show grep '"target":"audit"' replica.log
