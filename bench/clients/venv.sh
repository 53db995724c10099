# Sourced by the scripts beside it: a virtual environment for one run of a benchmark, and a tokenizer.
#
#   in_venv PACKAGE==VERSION...   installs them below $work; $work/venv/bin has their commands, $work/tokenizer the tokenizer

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
here="$(cd "$(dirname "$0")" && pwd)"

in_venv() {
    "${PYTHON:-python3}" -m venv "$work/venv"
    "$work/venv/bin/pip" install -q --disable-pip-version-check "$@"
    "$work/venv/bin/python" "$here/byte_tokenizer.py" "$work/tokenizer"
}
