#!/bin/sh
# Make .venv with everything that runs and tests the project; does nothing when it is up to date.
# On Debian and Ubuntu the interpreter's own packages are installed when they are missing.
set -eu
cd "$(dirname "$0")/.."

venv="${VENV:-.venv}"
python="${PYTHON:-python3}"
stamp="$venv/.made-from"

say() { printf '%s\n' "setup: $*" >&2; }

is_new_enough() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

install_python() { # REASON
    tools/apt-install.sh "$1" python3 python3-venv ca-certificates
}

command -v "$python" >/dev/null || install_python "there is no $python"
is_new_enough || { say "$("$python" -V 2>&1) is too old: Python 3.11 or newer is needed (PYTHON=... names one)"; exit 1; }
"$python" -c 'import ensurepip, venv' 2>/dev/null || install_python "$python cannot make virtual environments"

if [ ! -f "$stamp" ] || ! cmp -s pyproject.toml "$stamp"; then
    say "making $venv (a minute or two; wheels are downloaded once)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check -q 'pip>=24' # older ones cannot plan
    "$venv/bin/python" tools/install.py
    cp pyproject.toml "$stamp"
    say "done"
fi
