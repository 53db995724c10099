#!/bin/sh
# Generate the committed stubs from protos/ into the folder $1 (default: the checkout itself).
# Uses the oldest supported grpcio-tools, so that every newer protobuf runtime can import them.
set -eu
cd "$(dirname "$0")/.."
out="${1:-.}"
bin="${VENV:-.venv}/bin"
mypy="--plugin=protoc-gen-mypy=$bin/protoc-gen-mypy --mypy_out=quiet:$out"
grpc="--plugin=protoc-gen-mypy_grpc=$bin/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:$out"
# shellcheck disable=SC2086
"$bin/python" -m grpc_tools.protoc -I protos --python_out="$out" $mypy $(find protos -name '*.proto')
# shellcheck disable=SC2086
"$bin/python" -m grpc_tools.protoc -I protos --grpc_python_out="$out" $grpc $(find protos -name "*.proto" -exec grep -l "^service " {} +)
