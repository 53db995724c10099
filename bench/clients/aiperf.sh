#!/bin/sh
# Measure a server over OpenAI's chat API with aiperf: aiperf.sh http://127.0.0.1:8000 MODEL [REQUESTS [CONCURRENCY]]
#
# 224 x 224 images and 60 letters each, answers of 32 tokens, streamed. HF_HUB_OFFLINE must not be set: with it aiperf 0.13.0
# refuses a folder as --tokenizer.
set -eu
. "$(dirname "$0")/venv.sh"
in_venv aiperf==0.13.0
env -u HF_HUB_OFFLINE "$work/venv/bin/aiperf" profile --url "$1" --model "$2" --endpoint-type chat --streaming \
    --tokenizer "$work/tokenizer" --use-server-token-count --request-count "${3:-24}" --concurrency "${4:-4}" \
    --synthetic-input-tokens-mean 60 --image-width-mean 224 --image-height-mean 224 \
    --output-tokens-mean 32 --extra-inputs ignore_eos:true --random-seed 1 --ui none --artifact-dir "$work/out"
