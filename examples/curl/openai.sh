#!/bin/sh
# Ask about a image over OpenAI's chat API: openai.sh http://127.0.0.1:8000 photo.jpg "What is this?" [true]
# `true` streams. The image goes through standard input: an argument may not be that long. HEADERS names a
# file with headers, for an API key: "Authorization: Bearer KEY".
set -eu
url="$1" image="$2" question="$3" stream="${4:-false}"

{
    printf '{"temperature": 0, "stream": %s, "messages": [{"role": "user", "content": [' "$stream"
    printf '{"type": "text", "text": "%s"}, {"type": "image_url", "image_url": {"url": "data:application/octet-stream;base64,' "$question"
    base64 <"$image" | tr -d '\n'
    printf '"}}]}]}'
} | curl --silent --show-error --fail-with-body --no-buffer "$url/v1/chat/completions" \
    --header "Content-Type: application/json" ${HEADERS:+--header "@$HEADERS"} --data-binary @-
