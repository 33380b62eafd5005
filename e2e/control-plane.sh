#!/usr/bin/env bash
# etcd, kube-apiserver and kube-controller-manager as ordinary processes on loopback, without root.
#
#   e2e/control-plane.sh DIR          starts them; DIR gets kubeconfig, logs and *.pid; prints what to export
#   e2e/control-plane.sh --stop DIR   ends every process that has left its *.pid in DIR
#
# The cluster has a 127.x.0.0/16 of its own: x is 1, or the next that is free, or LAZARETTO_NET (`127.7`). Services get
# cluster IPs in its lower half, and all of 127.0.0.0/8 is local: a program that listens on a Service's cluster IP *is*
# that Service to the API server. There is no kubelet, so pods stay Pending.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = --stop ]; then
  dir=$(cd "${2:?a folder}" && pwd -P)
  for file in "$dir"/*.pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    # The number may be somebody else's by now: ours work in this folder.
    [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$dir" ] || { rm "$file"; continue; }
    kill "$pid" 2>/dev/null || true
    timeout 5 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
    rm "$file"
  done
  exit
fi

mkdir -p "${1:?a folder to work in}"
cd "$1"; dir=$(pwd -P)
tools=$("$here/tools.sh")

taken() { (exec 3<> "/dev/tcp/$1.128.1/6443") 2>/dev/null; }
net=${LAZARETTO_NET:-}
if [ -z "$net" ]; then
  for x in $(seq 1 50); do taken "127.$x" || { net=127.$x; break; }; done
fi
ip=$net.128.1

openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
openssl ec -in accounts.key -pubout -out accounts.pub 2>/dev/null
token=$(openssl rand -hex 16)
(umask 077; echo "$token,admin,admin,system:masters" > tokens.csv)

start() { # name command...
  local name=$1; shift
  setsid "$@" > "$name.log" 2>&1 < /dev/null & echo $! > "$name.pid"
}
ended() { echo "control plane: $1 has ended:" >&2; tail -n 20 "$1.log" >&2; "$here/control-plane.sh" --stop "$dir"; exit 1; }

start etcd "$tools/etcd" --data-dir=etcd --unsafe-no-fsync --log-level=warn --name=lab \
  --listen-client-urls="http://$ip:2379" --advertise-client-urls="http://$ip:2379" \
  --listen-peer-urls="http://$ip:2380" --initial-advertise-peer-urls="http://$ip:2380" \
  --initial-cluster="lab=http://$ip:2380"
start kube-apiserver "$tools/kube-apiserver" --etcd-servers="http://$ip:2379" --cert-dir=certificates \
  --bind-address="$ip" --secure-port=6443 --external-hostname="$ip" --endpoint-reconciler-type=none \
  --service-cluster-ip-range="$net.0.0/17" --enable-aggregator-routing=false \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --token-auth-file=tokens.csv \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=accounts.pub \
  --service-account-signing-key-file=accounts.key --allow-privileged

(umask 077; cat > kubeconfig <<END
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://$ip:6443", certificate-authority: "$dir/certificates/apiserver.crt"}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: lab, context: {cluster: lab, user: admin}}]
current-context: lab
END
)
export KUBECONFIG=$dir/kubeconfig
for _ in $(seq 240); do
  [ "$("$tools/kubectl" get --raw=/readyz 2>/dev/null || true)" = ok ] && break
  for part in etcd kube-apiserver; do kill -0 "$(cat $part.pid)" 2>/dev/null || ended $part; done
  sleep 0.25
done
[ "$("$tools/kubectl" get --raw=/readyz || true)" = ok ] || ended kube-apiserver

start kube-controller-manager "$tools/kube-controller-manager" --kubeconfig=kubeconfig --bind-address="$ip" \
  --service-account-private-key-file=accounts.key --root-ca-file=certificates/apiserver.crt \
  --use-service-account-credentials --leader-elect=false
for _ in $(seq 240); do
  "$tools/kubectl" get serviceaccount default >/dev/null 2>&1 && break
  kill -0 "$(cat kube-controller-manager.pid)" 2>/dev/null || ended kube-controller-manager
  sleep 0.25
done
"$tools/kubectl" get serviceaccount default >/dev/null || ended kube-controller-manager
printf 'export KUBECONFIG=%q PATH=%q:$PATH\n' "$KUBECONFIG" "$tools"
