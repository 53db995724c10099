#!/bin/sh
# Measure a server over OpenAI's chat API with evalscope: evalscope.sh http://127.0.0.1:8000 MODEL [REQUESTS [CONCURRENCY]]
#
# 224 x 224 images and 60 letters each, answers of 32 tokens, streamed.
set -eu
. "$(dirname "$0")/venv.sh"
in_venv "evalscope[perf]==1.14.1"
"$work/venv/bin/evalscope" perf --url "$1/v1/chat/completions" --model "$2" --api openai --stream \
    --tokenizer-path "$work/tokenizer" --number "${3:-24}" --parallel "${4:-4}" \
    --dataset random_vl --min-prompt-length 60 --max-prompt-length 60 --prefix-length 0 \
    --image-num 1 --image-width 224 --image-height 224 --image-format RGB \
    --max-tokens 32 --min-tokens 32 --extra-args '{"ignore_eos": true}' --seed 1 --outputs-dir "$work/out" --no-timestamp
