#!/usr/bin/env bash
# langchain-openai 1.7.4 with openai 3.57.0: a prompt that is too long is no ContextOverflowError, though the error says so.
#
# One would expect: a server that answers 400 with OpenAI's own error object, "code": "context_length_exceeded", makes ChatOpenAI
# raise ContextOverflowError, on which callers shorten the conversation. langchain-openai looks for exactly that code.
# Seen on 2026-11-30 (Python 3.11, Linux x86-64): it looks for the code in str(error). With openai 2.54.0 that text is the whole
# body, and the code is found; with openai 3.57.0 it is "Error code: 400 - MESSAGE" alone, and ChatOpenAI raises
# OpenAIInvalidRequestError. langchain-openai allows both. With the words "prompt is too long" in the message both are found.
# Who meets it: servers that speak OpenAI's API with messages of their own, and whoever trims conversations by that error.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
python="$work/venv/bin/python"

cat >"$work/seen.py" <<'PYTHON'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI

message = ""


class Refuses(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        error = {"message": message, "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
        body = json.dumps({"error": error}).encode()
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
threading.Thread(target=server.serve_forever, daemon=True).start()
chat = ChatOpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", model="m", max_retries=0)


def is_overflow(text):
    global message
    message = text
    try:
        chat.invoke("hello")
    except ContextOverflowError:
        return True
    except openai.BadRequestError as error:
        print("  raised", type(error).__name__, "-", str(error)[:100])
        return False


code, words = is_overflow("600 tokens do not fit"), is_overflow("the prompt is too long: 600 tokens")
print("openai", openai.__version__, "by its code:", code, "by its words:", words)
sys.exit([code, words] != json.loads(sys.argv[1]))
PYTHON

export LANGSMITH_TRACING=false NO_PROXY=127.0.0.1
install() { "$python" -m pip -q --disable-pip-version-check install "langchain-openai==1.7.4" "openai==$1"; }
install 2.54.0
"$python" "$work/seen.py" "[true, true]"
install 3.57.0
"$python" "$work/seen.py" "[false, true]"
