#!/bin/sh
# Install what some tests need beyond the virtual environment (tests/needs.py lists it): packages of Debian or
# Ubuntu, the clients, the proxies, the kernel for notebooks, Helm and checkov that PyPI has, what the TypeScript
# example depends on, and the drawings of the demo model.
set -eu
cd "$(dirname "$0")/.."

python="${VENV:-.venv}/bin/python"
missing=""
for package in $("$python" -m tests.needs); do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
# shellcheck disable=SC2086 # one word a package
[ -z "$missing" ] || tools/apt-install.sh "some tests need more" $missing
"$python" -m pip install -q --disable-pip-version-check -e '.[clients,notebooks,proxies]'
# TGI's client needs a huggingface_hub below 1.0, and does not say that it needs requests.
[ -x .venv-text-generation/bin/python ] || "$python" -m venv .venv-text-generation
.venv-text-generation/bin/python -m pip install -q --disable-pip-version-check 'text-generation>=0.7' requests
(cd examples/typescript && npm install --silent --no-audit --no-fund --no-package-lock)
"$python" tools/kubernetes.py --policies
"$python" -m recipes.demo_model.sources
