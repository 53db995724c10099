#!/bin/sh
# Measure a server over OpenAI's chat API with guidellm: guidellm.sh http://127.0.0.1:8000 MODEL [REQUESTS [CONCURRENCY]]
#
# 224 x 224 images and 60 letters each, answers of 32 tokens, streamed. Images need guidellm's extra `vision`: without it
# version 0.8.1 leaves out every request that has one, and waits for ever.
set -eu
. "$(dirname "$0")/venv.sh"
in_venv "guidellm[vision]==0.8.1"
"$work/venv/bin/guidellm" run --disable-progress \
    --backend "kind=openai_http,target=$1,model=$2,request_format=/v1/chat/completions" \
    --data kind=synthetic_text,prompt_tokens=60,output_tokens=32 \
    --data kind=synthetic_image,width=224,height=224,content=noise \
    --tokenizer "kind=hf_auto,model=$work/tokenizer" \
    --profile "kind=concurrent,streams=${4:-4}" --constraint "kind=max_requests,count=${3:-24}" --output kind=console
