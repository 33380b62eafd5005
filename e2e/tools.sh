#!/usr/bin/env bash
# Makes sure that the tools of the end-to-end tests exist and prints the folder they are in.
#
#   e2e/tools.sh            etcd kubectl kube-apiserver kube-controller-manager helm registry crane
#   e2e/tools.sh --node     the same, with kubelet kube-scheduler kube-proxy
#
# In this order: etcd, kube-apiserver and kubectl from KUBEBUILDER_ASSETS when that is set; the cache; a build from Go
# modules. The cache is LAZARETTO_TOOLS, or a folder under ~/.cache/lazaretto named after the versions below, so another
# version never meets old binaries. A build that is cut short goes on where it stopped; two at once wait for each other.
set -euo pipefail

kubernetes=1.35.4
modules="etcd=go.etcd.io/etcd/server/v3@v3.6.16
helm=helm.sh/helm/v4@v4.3.1:/cmd/helm
registry=github.com/distribution/distribution/v3@v3.1.2:/cmd/registry
crane=github.com/google/go-containerregistry@v0.22.1:/cmd/crane"
# The staging modules of Kubernetes, which its own go.mod replaces by folders that a published module does not have.
staging="api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap
code-generator component-base component-helpers controller-manager cri-api cri-client csi-translation-lib
dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator kube-controller-manager kube-proxy
kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin
sample-controller"

wanted="etcd kubectl kube-apiserver kube-controller-manager helm registry crane"
case "${1:-}" in
  "") ;;
  --node) wanted="$wanted kubelet kube-scheduler kube-proxy" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

say() { printf 'tools: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

key=$(printf '%s\n' "$kubernetes" "$modules" "$staging" | sha256sum | cut -c1-12)
cache=${LAZARETTO_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/lazaretto/tools-$key}
mkdir -p "$cache"; cache=$(cd "$cache" && pwd)

# Which of the wanted tools the developer's own envtest folder has.
assets=${KUBEBUILDER_ASSETS:-}
from_assets() {
  case $1 in etcd | kube-apiserver | kubectl) [ -n "$assets" ] && [ -x "$assets/$1" ] ;; *) false ;; esac
}

missing=""
for tool in $wanted; do from_assets "$tool" || [ -x "$cache/$tool" ] || missing="$missing $tool"; done

first_time() { # how long a build takes on two cores when Go's own build cache is empty
  case $1 in
    kube-apiserver) echo "about 5 min" ;;
    kubectl | helm) echo "about 3 min" ;;
    etcd | registry | kube-controller-manager | kubelet) echo "about 1 min" ;;
    *) echo "less than 1 min" ;;
  esac
}

module_of() { printf '%s\n' "$modules" | sed -n "s|^$1=||p"; }

build() { # tool -> $cache/.building/tool, in a module of its own
  local tool=$1 room="$work/$1" version=k8s.io/component-base/version module at package
  mkdir -p "$room"
  cd "$room"
  module=$(module_of "$tool")
  if [ -z "$module" ]; then
    { echo "module tools/kubernetes"; echo "go 1.26"; echo "godebug default=go1.25"
      echo "require k8s.io/kubernetes v$kubernetes"; echo "replace ("
      for m in $staging; do echo "  k8s.io/$m => k8s.io/$m v0.${kubernetes#1.}"; done; echo ")"; } > go.mod
    go build -mod=mod -trimpath -o "$cache/.building/$tool" -ldflags "-s -w -X $version.gitVersion=v$kubernetes \
-X $version.gitMajor=1 -X $version.gitMinor=35" "k8s.io/kubernetes/cmd/$tool"
  else
    at=${module%%:*}; package=""; [ "$module" = "$at" ] || package=${module#*:}
    printf 'module tools/%s\ngo 1.26\nrequire %s %s\n' "$tool" "${at%@*}" "${at#*@}" > go.mod
    # Not `go mod tidy`: it wants modules that only their tests use.
    go build -mod=mod -trimpath -ldflags "-s -w" -o "$cache/.building/$tool" "${at%@*}$package"
  fi
}

if [ -n "$missing" ]; then
  command -v go >/dev/null || fail "Go is needed to build$missing (or set KUBEBUILDER_ASSETS and LAZARETTO_TOOLS)"
  exec 9> "$cache/.lock"
  flock --nonblock 9 || { say "another run is building in $cache; waiting for it"; flock 9; }
  mkdir -p "$cache/.building"
  work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
  export GOWORK=off GO111MODULE=on
  begun=$SECONDS; count=$(wc -w <<< "$missing"); at=0
  for tool in $missing; do
    at=$((at + 1))
    [ -x "$cache/$tool" ] && continue # the run that held the lock made it
    say "building $tool ($at of $count), $(first_time "$tool") the first time"
    started=$SECONDS
    (build "$tool") > "$cache/$tool.log" 2>&1 9>&- &
    builder=$!
    while kill -0 "$builder" 2>/dev/null; do
      # `wait` cannot be bounded, so the progress line has a clock of its own that ends with the build.
      timeout 30 tail --pid="$builder" -f /dev/null 9>&- || say "building $tool: $((SECONDS - started)) s so far"
    done
    wait "$builder" || { tail -n 20 "$cache/$tool.log" >&2; fail "$tool did not build; see $cache/$tool.log"; }
    mv "$cache/.building/$tool" "$cache/$tool"; rm -f "$cache/$tool.log"
    say "built $tool in $((SECONDS - started)) s, $((SECONDS - begun)) s in all"
  done
  flock --unlock 9
fi

folder=$cache
if [ -n "$assets" ]; then
  # One folder for all: links, so that the caller needs no search path.
  folder=$cache/with-$(printf '%s' "$assets" | sha256sum | cut -c1-12)
  mkdir -p "$folder"
  for tool in $wanted; do
    if from_assets "$tool"; then source=$assets/$tool; else source=$cache/$tool; fi
    ln -sfn "$source" "$folder/.$tool.$$"; mv -f "$folder/.$tool.$$" "$folder/$tool"
  done
fi
printf '%s\n' "$folder"
