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
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

install_debian() {
    command -v apt-get >/dev/null || { say "$1; install it and try again"; exit 1; }
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "$1; run as root: apt-get install python3 python3-venv"; exit 1; }
        as_root="sudo"
    fi
    say "$1; installing python3 and python3-venv"
    $as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -qq -y --no-install-recommends \
        python3 python3-venv ca-certificates >/dev/null
}

command -v "$python" >/dev/null || install_debian "there is no $python"
is_new_enough || { say "$("$python" -V 2>&1) is too old: Python 3.10 or newer is needed (PYTHON=... names one)"; exit 1; }
"$python" -c 'import ensurepip, venv' 2>/dev/null || install_debian "$python cannot make virtual environments"

if [ ! -f "$stamp" ] || ! cmp -s pyproject.toml "$stamp"; then
    say "making $venv (torch and other wheels are downloaded once; a minute or two)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check -q --progress-bar on -e '.[dev]'
    cp pyproject.toml "$stamp"
    say "done"
fi
