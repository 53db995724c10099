#!/bin/sh
# Fail when the committed stubs are not those of protos/.
set -eu
cd "$(dirname "$0")/.."
fresh="$(mktemp -d)"
trap 'rm -rf "$fresh"' EXIT
tools/protos.sh "$fresh"
stale=0
for file in $(cd "$fresh" && find . -name '*_pb2*'); do
    cmp -s "$file" "$fresh/$file" || { echo "stale: $file (run: make protos)" >&2; stale=1; }
done
exit "$stale"
