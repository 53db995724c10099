#!/bin/sh
# Run the short form of the tests with the oldest version of each package that pyproject.toml allows.
# PyPI's torch of that age comes with CUDA: some 3 GB are downloaded, once.
set -eu
cd "$(dirname "$0")/.."

floors=".venv-floors"
uv="${VENV:-.venv}/bin/uv"
if [ ! -f "$floors/.made-from" ] || ! cmp -s pyproject.toml "$floors/.made-from"; then
    "$uv" venv -q --clear --seed --python "${VENV:-.venv}/bin/python" "$floors"
    "$uv" pip install --python "$floors/bin/python" --resolution lowest-direct -e '.[dev]'
    cp pyproject.toml "$floors/.made-from"
fi
"$floors/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/unit tests/parity tests/integration
