#!/usr/bin/env bash
# Builds the final stage of the Dockerfile with buildah and runs the program inside it, with no registry but this machine:
# the finished binary takes the place of the build stage, and the files of this machine's libc6, libgcc-s1 and
# ca-certificates packages that of the distroless base.
#
#   e2e/image.sh [BINARY]     by default target/debug/lazaretto
#
# Needs root and Debian's package buildah. Where they are missing it says so and passes, unless REQUIRE_IMAGE=1.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
binary=${1:-${CARGO_TARGET_DIR:-$root/target}/debug/lazaretto}

cannot() {
  echo "image: NOT CHECKED: $*" >&2
  [ "${REQUIRE_IMAGE:-}" = 1 ] && exit 1
  exit 0
}
[ -x "$binary" ] || { echo "image: $binary is not there; cargo build makes it" >&2; exit 1; }
command -v buildah > /dev/null || cannot "buildah is missing (apt-get install --no-install-recommends buildah)"
command -v dpkg > /dev/null || cannot "the base image is made from the files of Debian's packages, and this is not Debian"
[ "$(id -u)" = 0 ] || cannot "buildah's chroot isolation needs root"

work=$(mktemp -d "${TMPDIR:-/tmp}/lazaretto-image.XXXXXX")
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
trap 'rm -rf "$work"' EXIT
say() { printf 'image: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

say "base from libc6, libgcc-s1, ca-certificates"
mkdir -p "$work/base/etc/ssl/certs" "$work/base/tmp" "$work/out"
dpkg -L libc6 libgcc-s1 | grep -E '^(/usr)?/lib(64|32)?/' | while read -r file; do
  [ -d "$file" ] && [ ! -L "$file" ] || printf '%s\n' "${file#/}"
done | tar -C / -c --files-from=- | tar -C "$work/base" -x
cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/" ||
  cannot "this machine has no ca-certificates"
printf 'nonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n' > "$work/base/etc/passwd"
base=$(buildah from scratch)
buildah copy --quiet "$base" "$work/base" / > /dev/null
buildah commit --quiet "$base" localhost/base:1 > /dev/null

say "final stage of the Dockerfile"
mkdir "$work/out/out"
cp "$binary" "$work/out/out/lazaretto"
buildah bud --quiet --isolation chroot --build-arg RUNTIME=localhost/base:1 --build-context "build=$work/out" \
  --pull-never --tag localhost/lazaretto:test --file "$root/Dockerfile" "$root" > /dev/null

config=$(buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' \
  localhost/lazaretto:test)
[ "$config" = "65532:65532 [/usr/local/bin/lazaretto] [serve]" ] || fail "unexpected configuration: $config"

say "running it as its own user"
container=$(buildah from --pull-never localhost/lazaretto:test)
said=$(buildah run --isolation chroot "$container" -- /usr/local/bin/lazaretto --version)
expected=$("$binary" --version)
[ "$said" = "$expected" ] || fail "inside the image it said '$said', outside '$expected'"
[[ $said == "lazaretto "* ]] || fail "--version said '$said'"
say "ok: $said"
