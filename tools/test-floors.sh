#!/bin/sh
# Run tests with the oldest version of each package that pyproject.toml allows: those that the
# arguments name, or the unit, parity and integration tests.
# With --prepare the environment is made and nothing is run.
# PyPI's torch of that age comes with CUDA: some 3 GB are downloaded, once.
set -eu
cd "$(dirname "$0")/.."

floors=".venv-floors"
uv="${VENV:-.venv}/bin/uv"
if [ ! -f "$floors/.made-from" ] || ! cmp -s pyproject.toml "$floors/.made-from"; then
    "$uv" venv -q --clear --python "${VENV:-.venv}/bin/python" "$floors"
    "$uv" pip install --python "$floors/bin/python" --resolution lowest-direct -e '.[dev]'
    "$uv" pip install -q --python "$floors/bin/python" pip # for tests; it and what it brings must not come first
    "$floors/bin/python" -m tools.floors
    cp pyproject.toml "$floors/.made-from"
fi
[ "${1-}" != --prepare ] || exit 0
[ $# -gt 0 ] || set -- tests/unit tests/parity tests/integration
"$floors/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
