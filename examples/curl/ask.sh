#!/bin/sh
# Ask about an image in one of the HTTP formats: ask.sh openai http://127.0.0.1:8000 photo.jpg "What is this?" [true]
#
# Formats: openai, tgi, mindie, vllm, triton (MODEL names the model of `glm4v up --model`). `true` streams. The image goes through standard input: an
# argument may not be that long. HEADERS names a file with headers, for an API key: "Authorization: Bearer KEY".
set -eu
format="$1" url="$2" image="$3" question="$4" stream="${5:-false}"
if [ "$stream" = true ]; then generate=generate_stream; else generate=generate; fi
options='"parameters": {"do_sample": false, "max_new_tokens": 64}'

case "$format" in
    openai) path=v1/chat/completions before='"temperature": 0, "messages": [{"role": "user", "content":' after='}]' ;;
    tgi) path="$generate" before='"inputs":' after=", $options" ;;
    mindie) path=infer before='"inputs":' after=", $options" ;;
    vllm) path=generate before='"temperature": 0, "max_tokens": 64, "prompt":' after= ;;
    triton) path="v2/models/${MODEL:-demo_model}/$generate" before='"text_input":' after=", \"parameters\": {\"temperature\": 0}" ;;
    *) echo "unknown format: $format" >&2; exit 2 ;;
esac

{
    printf '{"stream": %s, %s [{"type": "text", "text": "%s"}, ' "$stream" "$before" "$question"
    printf '{"type": "image_url", "image_url": "data:application/octet-stream;base64,'
    base64 <"$image" | tr -d '\n'
    printf '"}]%s}' "$after"
} | curl --silent --show-error --fail-with-body --no-buffer "$url/$path" \
    --header "Content-Type: application/json" ${HEADERS:+--header "@$HEADERS"} --data-binary @-
