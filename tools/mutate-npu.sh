#!/bin/sh
# Change the NPU's code in small ways, one at a time, and see whether its tests notice.
#
#   tools/mutate-npu.sh SOC [--seed N] [--sample N] [--again] [MUTANT...]     SOC is Ascend910B3 or Ascend310P3
#
# mutmut makes the changes in a copy of the tree, in lines that the tests reach; tools/mutation tries them in a random
# order, each in a fork of one process, with the tests that reach the changed function. All of them take half an hour
# on one idle core; it is not part of continuous integration. An interrupted run goes on where it was, and results are
# kept as long as the changed function is the same. `make mutate-npu` runs both chips and prints what became of the
# mutants; docs/ascend-mutants.md has the last results.
set -eu
cd "$(dirname "$0")/.."

soc="$1"
shift
venv="$PWD/.venv-npu"
tools/test-npu.sh --prepare
"$venv/bin/python" -m pip install --disable-pip-version-check -q mutmut==3.8.1

case "$soc" in
Ascend910B3) not="nz_attention" ;; # imports it, and never runs it
Ascend310P3) not="none" ;;
*) echo "SOC is Ascend910B3 or Ascend310P3" >&2 && exit 2 ;;
esac
work="$PWD/.mutation/$soc" # not in the environment, whose lines coverage does not count
mkdir -p "$work"
git ls-files -z | tar --null -cf - -T - | tar -xf - -C "$work"
printf 'torch\ntorch_npu\n' >"$work/preload.txt"
list() { # NAME VALUE...
    echo "$1 ="
    shift
    printf '    %s\n' "$@"
}
set -f
{
    echo "[mutmut]"
    list source_paths glm4v
    list also_copy bench gateway lm_worker offline protos vision_worker
    list only_mutate "glm4v/device/npu/*.py"
    list do_not_mutate "glm4v/device/npu/$not.py"
    # Left out: what runs in processes of its own, whose lines mutmut does not see, and the tests of the tests.
    left_out="check device_faults engine int8_system planted_int8 system tensor_parallel"
    list pytest_add_cli_args_test_selection tests/unit/device/npu tests/npu \
        $(for each in $left_out; do echo "--ignore=tests/npu/test_$each.py"; done)
    list pytest_add_cli_args -p no:cacheprovider
    echo "mutate_only_covered_lines = true"
    echo "process_isolation = forkserver"
    echo "forkserver_warmup = import"
    echo "preload_modules_file = preload.txt"
    echo "use_git_change_detection = false"
} >"$work/setup.cfg"
set +f
cd "$work"
export LD_LIBRARY_PATH="$venv/pretend" ASCEND_LAUNCH_BLOCKING=1 TORCH_DEVICE_BACKEND_AUTOLOAD=0 OMP_NUM_THREADS=1
export PRETEND_NPU="$soc"
# mutmut makes the mutants, and measures which tests reach them, before it runs one of them; anew after a change of
# code or tests.
sum="$(cat setup.cfg glm4v/device/npu/*.py tests/unit/device/npu/*.py tests/npu/*.py tests/npu/pretend/* | cksum)"
if [ ! -f made-from ] || [ "$(cat made-from)" != "$sum" ]; then
    rm -rf mutants made-from
    nice "$venv/bin/mutmut" run --max-children 1 "glm4v.device.npu.package.*_1"
    echo "$sum" >made-from
fi
exec nice "$venv/bin/python" -m tools.mutation "$@"
