#!/bin/sh
# Change the NPU's code in small ways, one at a time, and see whether its tests notice.
#
#   tools/mutate-npu.sh SOC [MUTANT...]     SOC is Ascend910B3 or Ascend310P3; mutants may be patterns
#
# mutmut makes the changes in a copy of the tree, in lines that the tests reach, and runs the tests that reach the
# changed function. It takes an hour on one core, and is not part of continuous integration. An interrupted run
# goes on where it was. `make mutate-npu` runs both chips and prints what became of the mutants; docs/ascend-mutants.md
# has the last results.
set -eu
cd "$(dirname "$0")/.."

soc="$1"
shift
venv="$PWD/.venv-npu"
tools/test-npu.sh --prepare
"$venv/bin/python" -m pip install --disable-pip-version-check -q mutmut==3.8.1

case "$soc" in
Ascend910B3) not="nz_attention" only="*" ;;
Ascend310P3) not="none" only="nz_attention full_attention linear device decoder" ;; # the rest is alike
*) echo "SOC is Ascend910B3 or Ascend310P3" >&2 && exit 2 ;;
esac
work="$PWD/.mutation/$soc" # not in the environment, whose lines coverage does not count
mkdir -p "$work"
git ls-files -z | tar --null -cf - -T - | tar -xf - -C "$work"
printf 'torch\ntorch_npu\n' >"$work/preload.txt" # imported once; every mutant is a fork
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
    list only_mutate $(for each in $only; do echo "glm4v/device/npu/$each.py"; done)
    list do_not_mutate "glm4v/device/npu/$not.py"
    # Left out: what runs in processes of its own, whose lines mutmut does not see, and the tests of the tests.
    list pytest_add_cli_args_test_selection tests/unit/device/npu tests/npu \
        $(for each in check device_faults engine system tensor_parallel; do echo "--ignore=tests/npu/test_$each.py"; done)
    list pytest_add_cli_args -p no:cacheprovider
    echo "mutate_only_covered_lines = true"
    echo "process_isolation = forkserver"
    echo "forkserver_warmup = import"
    echo "preload_modules_file = preload.txt"
    echo "use_git_change_detection = false"
} >"$work/setup.cfg"
cd "$work"
export LD_LIBRARY_PATH="$venv/pretend" ASCEND_LAUNCH_BLOCKING=1 TORCH_DEVICE_BACKEND_AUTOLOAD=0 OMP_NUM_THREADS=1
export PRETEND_NPU="$soc"
exec nice "$venv/bin/mutmut" run --max-children 1 "$@"
