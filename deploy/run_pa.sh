#!/usr/bin/env bash
# MindIE's run_pa.sh for GLM-4V, over the commands of glm4v; docs/guide.md has more.
set -euo pipefail

usage() {
  cat >&2 <<'END'
usage: run_pa.sh --run|--performance|--precision WEIGHT [IMAGE_DIR [MAX_BATCH [MAX_INPUT [MAX_OUTPUT]]]]

  --run          a question about each image of IMAGE_DIR
  --performance  the image in IMAGE_DIR in batches of 1 to MAX_BATCH, with MAX_OUTPUT tokens to each answer
  --precision    a caption of each image of IMAGE_DIR, in predict_result.json

  WEIGHT         folder of the checkpoint
  IMAGE_DIR      folder of images; /home/data/images/ by default
  MAX_BATCH      questions at once; 1 by default, 10 for --performance
  MAX_INPUT      most tokens of a prompt, its image included; 2048 by default; not for --performance
  MAX_OUTPUT     most tokens of an answer; 256 by default

  --question TEXT   (--run) about the first image, the second one, …; the last one about all others;
                    (--precision) about each image
  --questions FILE  (--run) the same from a file, one a line
  --csv FILE, --csv-dialect mindie|tidy, --plot FILE   (--performance) see glm4v bench offline --help

ASCEND_RT_VISIBLE_DEVICES lists the devices; the language model is divided among them.
END
}

fail() {
  echo "run_pa.sh: $1" >&2
  usage
  exit 2
}

note() { echo "run_pa.sh: $1" >&2; }

number() { # NAME VALUE
  [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || fail "$1 is '$2'; a whole number from 1 to 99999 is needed"
}

mode='' positional=() options=()
while (($#)); do
  case $1 in
    --run | --performance | --precision)
      [[ -z $mode ]] || fail "$mode and $1: one of them at a time"
      mode=$1
      ;;
    -trust_remote_code | --trust_remote_code)
      note "$1 is not needed: code in a checkpoint is never run"
      ;;
    --question | --questions | --csv | --csv-dialect | --plot)
      (($# > 1)) || fail "$1 needs a value"
      options+=("$1" "$2")
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) fail "unknown option $1; --run, --performance and --precision are accepted" ;;
    *) positional+=("$1") ;;
  esac
  shift
done

[[ -n $mode ]] || fail "--run, --performance or --precision is missing"
((${#positional[@]} >= 1)) || fail "WEIGHT, the folder of the checkpoint, is missing"
((${#positional[@]} <= 5)) || fail "${#positional[@]} arguments, the sixth is '${positional[5]}'; at most 5 are accepted"
weight=${positional[0]}
images=${positional[1]:-/home/data/images/}
if [[ $mode == --performance ]]; then batch=10; else batch=1; fi
batch=${positional[2]:-$batch}
max_input=${positional[3]:-2048}
max_output=${positional[4]:-256}
number MAX_BATCH "$batch"
number MAX_INPUT "$max_input"
number MAX_OUTPUT "$max_output"

# One rank for each device, as torchrun would start them.
devices=${ASCEND_RT_VISIBLE_DEVICES:-0}
[[ $devices =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "ASCEND_RT_VISIBLE_DEVICES is '$devices'; numbers with commas between them are needed, such as 0,1"
commas=${devices//[!,]/}
world_size=$((${#commas} + 1))

port=${MASTER_PORT:-20030}
[[ $port =~ ^[0-9]{1,5}$ ]] && ((10#$port >= 20000 && 10#$port <= 20050)) || fail "MASTER_PORT is '$port'; 20000 to 20050 is accepted, 20030 is the default"
[[ -z ${MASTER_PORT:-} ]] || note "MASTER_PORT has no effect: the ranks of one host meet in a file"

for name in TASK_QUEUE_ENABLE INF_NAN_MODE_ENABLE; do
  [[ -z ${!name+set} ]] || note "$name=${!name} is handed on to torch_npu"
done
for name in ATB_OPERATION_EXECUTE_ASYNC ATB_CONVERT_NCHW_TO_ND ATB_CONTEXT_WORKSPACE_SIZE \
  ATB_LAYER_INTERNAL_TENSOR_REUSE ATB_WORKSPACE_MEM_ALLOC_GLOBAL LCCL_ENABLE_FALLBACK TP_WORLD_SIZE; do
  [[ -z ${!name+set} ]] || note "$name=${!name} has no effect on glm4v"
done

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
glm4v=$(command -v glm4v || command -v "$checkout/.venv/bin/glm4v" || true)
[[ -n $glm4v ]] || { note "glm4v is not installed; run make setup, or pip install 'glm4v-serve[gateway,worker]'"; exit 2; }

common=("$images" --model "$weight" --max-tokens "$max_output" --tensor-parallel "$world_size")
if [[ $mode == --run ]]; then
  exec "$glm4v" batch "${common[@]}" --batch "$batch" --max-input "$max_input" ${options[@]+"${options[@]}"}
elif [[ $mode == --precision ]]; then
  exec "$glm4v" precision predict "${common[@]}" --batch "$batch" --max-input "$max_input" \
    --out predict_result.json ${options[@]+"${options[@]}"}
fi
sizes=()
for ((size = 1; size <= batch; size++)); do sizes+=(--batch "$size"); done
exec "$glm4v" bench offline "${common[@]}" "${sizes[@]}" ${options[@]+"${options[@]}"}
