#!/bin/sh
# For deploy/Dockerfile: install what extras of the project ask for, without the project itself.
# Usage: install-packages.sh ACCELERATOR EXTRA...; ACCELERATOR is cpu, cuda, npu, or none for an image without PyTorch.
set -eu
accelerator="$1"
shift

export PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
case "$accelerator" in
npu) set -- "$@" npu ;;
cpu | cuda | none) ;;
*)
    echo "ACCELERATOR is cpu, cuda or npu, not '$accelerator'" >&2
    exit 2
    ;;
esac
requirements=/tmp/requirements.txt
python tools/requirements.py "$@" >"$requirements"
case "$accelerator" in
cpu | npu) python tools/install.py -r "$requirements" ;; # PyTorch's CPU build where it can be had
*) python -m pip install -q -r "$requirements" ;;         # PyPI's PyTorch has CUDA
esac
rm "$requirements"
python -m pip uninstall -q -y uv pip
