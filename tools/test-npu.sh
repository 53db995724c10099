#!/bin/sh
# Run the tests of the NPU's code on a pretend device, once as each chip; docs/ascend.md says what they prove.
# With --prepare the environment is made and nothing is run.
# The environment is one of its own, since a torch_npu fits one PyTorch alone; gcc compiles the device.
set -eu
cd "$(dirname "$0")/.."

venv=".venv-npu"
python="$venv/bin/python"
libraries="$venv/pretend"

command -v gcc >/dev/null || tools/apt-install.sh "the pretend NPU is compiled" gcc libc6-dev
if [ ! -f "$venv/.made-from" ] || ! cat pyproject.toml "$0" | cmp -s - "$venv/.made-from"; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$python" -m pip install --disable-pip-version-check -q 'pip>=24'
    "$python" tools/install.py torch-npu==2.13.0 -e '.[gateway,worker]' \
        'httpx>=0.27' 'pytest>=8.3' 'pytest-asyncio>=1.5' 'pytest-timeout>=2.3'
    cat pyproject.toml "$0" >"$venv/.made-from"
fi
"$python" -m tests.npu.pretend.libraries "$libraries"
[ "${1-}" != --prepare ] || exit 0

export LD_LIBRARY_PATH="$libraries" ASCEND_LAUNCH_BLOCKING=1 TORCH_DEVICE_BACKEND_AUTOLOAD=0 OMP_NUM_THREADS=1
faults="tests/npu/test_device_faults.py" # whole systems that mostly wait
run() { # NAME SOC TEST...
    name="$1" PRETEND_NPU="$2"
    export PRETEND_NPU
    shift 2
    "$python" -m pytest -q -p no:cacheprovider --durations 5 "$@" >"$venv/$name.log" 2>&1
}
run Ascend910B3 Ascend910B3 tests/npu --ignore "$faults" &
first=$!
run faults Ascend910B3 "$faults" &
second=$!
failed=""
run Ascend310P3 Ascend310P3 tests/npu || failed="Ascend310P3"
wait "$first" || failed="Ascend910B3 $failed"
wait "$second" || failed="faults $failed"
cat "$venv/Ascend910B3.log" "$venv/faults.log" "$venv/Ascend310P3.log"
[ -z "$failed" ] || { echo "failed: $failed" >&2; exit 1; }
