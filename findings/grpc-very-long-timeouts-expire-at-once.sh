#!/usr/bin/env bash
# grpcio 1.85.3 and 1.75.1: a timeout above about 7.4e9 seconds, infinity and "not a number" expire at once.
#
# One would expect: a longer timeout waits at least as long as a shorter one, and infinity waits for ever, as None does.
# Seen on 2026-11-29 (Python 3.11, Linux x86-64), sync and asyncio alike: up to 4e9 s the call is answered, and the server
# sees a deadline of at most 97 200 000 s (27 000 hours). From 9e9 s on, for math.inf and for nan, the call ends with
# DEADLINE_EXCEEDED before it is sent: deadline and clock are added in nanoseconds of 64 bits.
# Who meets it: whoever turns "no limit" into a large number or into infinity.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"

cat >"$work/seen.py" <<'PYTHON'
import asyncio
import sys
from concurrent import futures

import grpc
import grpc.aio

SHORT = (1e5, 1e8, 4e9)
LONG = (9e9, 1e12, 1e18, float("inf"), float("nan"))


def handlers(method):
    return (grpc.method_handlers_generic_handler("t.T", {"Left": grpc.unary_unary_rpc_method_handler(method)}),)


def sync_results():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(handlers(lambda _, context: str(context.time_remaining()).encode()))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for timeout in SHORT + LONG:
            try:
                yield float(channel.unary_unary("/t.T/Left")(b"", timeout=timeout))
            except grpc.RpcError as error:
                yield error.code().name
    server.stop(0).wait()


async def aio_results():
    async def left(_, context):
        return str(context.time_remaining()).encode()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(left))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    found = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for timeout in SHORT + LONG:
            try:
                found.append(float(await channel.unary_unary("/t.T/Left")(b"", timeout=timeout)))
            except grpc.aio.AioRpcError as error:
                found.append(error.code().name)
    await server.stop(0)
    return found


for name, results in (("sync", list(sync_results())), ("asyncio", asyncio.run(aio_results()))):
    for timeout, result in zip(SHORT + LONG, results):
        print(f"grpcio {grpc.__version__}, {name}: timeout {timeout:g} s -> {result}")
    answered, ended = results[: len(SHORT)], results[len(SHORT) :]
    as_stated = all(isinstance(r, float) and 0.9e5 < r <= 97_200_000 for r in answered)
    if not as_stated or any(r != "DEADLINE_EXCEEDED" for r in ended):
        sys.exit(f"changed: {name}: {results}")
PYTHON

for version in 1.85.3 1.75.1; do
    "$work/venv/bin/python" -m pip install -q --disable-pip-version-check "grpcio==$version"
    "$work/venv/bin/python" "$work/seen.py"
done
echo "as stated"
