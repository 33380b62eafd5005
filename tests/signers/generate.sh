#!/usr/bin/env bash
# Signs the fixtures of tests/fixtures/proof anew, with implementations that are not ours. Keys that are there stay.
#
#   tests/signers/generate.sh [FOLDER]
#
# Needs Go 1.26, and Node 20.17 with npm. The tests need neither: what is made here is committed.
set -euo pipefail
folder=$(realpath -m "${1:-"$(dirname "$0")/../fixtures/proof"}")
cd "$(dirname "$0")"

echo "== sigstore-go signs and verifies"
(cd go && go run . "$folder")
echo "== @sigstore/sign signs, @sigstore/verify verifies"
(cd js && npm ci --silent --no-audit --no-fund && node sign.js "$folder")
echo "== sigstore-go verifies what @sigstore/sign signed"
(cd go && go run . --check "$folder")
