"""`helm test` and the notes ask the gateway as it wants to be asked: with TLS, key, certificate."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
import trustme

from tests.chart.helm import (
    CHART,
    NAMESPACE,
    NEWEST_HELM,
    RELEASE,
    Manifest,
    pod_specs,
    render,
    scenario_file,
)
from tests.chart.pods import ForkServer, Node, Pod
from tests.scripted_gateway import ScriptedGateway, serving
from tools.kubernetes import program

pytestmark = [pytest.mark.needs_helm, pytest.mark.timeout(60)]

KEY = "glm4v-0123456789abcdef"
CALLER_KEY = "--set=helmTest.apiKeySecret=caller,helmTest.apiKeyKey=its"
CALLER_CERTIFICATE = "--set=helmTest.clientCertificateSecret=client"


def ask_pod(objects: list[Manifest]) -> Manifest | None:
    """The specification of the pod of `helm test`."""
    found = [pod_specs(each)[0] for each in objects if each["kind"] == "Pod"]
    assert len(found) <= 1
    return found[0] if found else None


async def asked(spec: Manifest, folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> int:
    """Run the pod; its exit code."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    names = {f"{RELEASE}-glm4v-gateway": "127.0.0.1"}
    pod = Pod(Node(ForkServer(), folder, names, [], secrets, {}, path), "ask", spec)
    code = await pod.run_once()
    assert code == 0, pod.log
    return code


async def test_the_pod_sends_the_key_of_a_caller(tmp_path: Path) -> None:
    gateway = ScriptedGateway([0])
    with serving(gateway) as (target, _):
        port = f"--set=gateway.service.port={target.rpartition(':')[2]}"
        spec = ask_pod(render("keys", CALLER_KEY, port))
        assert spec is not None
        await asked(spec, tmp_path, {"caller": {"its": f"{KEY}\n"}})
    assert {each.get("authorization") for each in gateway.metadata} == {f"Bearer {KEY}"}


async def test_the_pod_trusts_the_gateway_and_shows_a_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, caller = authority.issue_cert("glm4v.example"), authority.issue_cert("caller")
    pem = authority.cert_pem.bytes()
    pair = (server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair], pem, require_client_auth=True)
    secrets = {
        "glm4v-tls": {"ca.crt": pem.decode()},
        "client": {
            "tls.crt": caller.cert_chain_pems[0].bytes().decode(),
            "tls.key": caller.private_key_pem.bytes().decode(),
        },
    }
    with serving(ScriptedGateway([0]), credentials=credentials) as (target, _):
        name = "gateway.tls.serverName=glm4v.example"
        port = f"--set=gateway.service.port={target.rpartition(':')[2]},{name}"
        spec = ask_pod(render("external-redis", CALLER_CERTIFICATE, port))
        assert spec is not None
        await asked(spec, tmp_path, secrets)


def test_the_name_that_is_expected_is_that_of_the_service() -> None:
    spec = ask_pod(render("external-redis", CALLER_CERTIFICATE))
    assert spec is not None
    expected = f"--tls-server-name={RELEASE}-glm4v-gateway.{NAMESPACE}.svc"
    assert expected in spec["containers"][0]["args"]


@pytest.mark.parametrize("scenario", ["keys", "external-redis"])
def test_without_a_way_in_there_is_no_pod_and_the_notes_say_so(scenario: str) -> None:
    assert ask_pod(render(scenario)) is None
    missing = {"keys": "apiKeySecret", "external-redis": "clientCertificateSecret"}[scenario]
    assert f"For `helm test`, set helmTest.{missing}." in notes(scenario)


def notes(scenario: str, *options: str) -> str:
    """What `helm install` prints at its end; the older Helm wants a cluster for that."""
    done = subprocess.run(
        [
            program("helm", NEWEST_HELM), "install", RELEASE, str(CHART), "--dry-run=client",
            "--namespace", NAMESPACE, "--values", str(scenario_file(scenario)), *options,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "KUBECONFIG": os.devnull},
    )  # fmt: skip
    return done.stdout.partition("NOTES:")[2]


def commands(text: str, name: str) -> list[str]:
    """The commands of the notes that call a program."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line.startswith(f"{name} ")]


@pytest.mark.parametrize(
    ("scenario", "options", "files"),
    [
        ("default", (), []),
        ("keys", (CALLER_KEY,), ["my-key"]),
        ("external-redis", (CALLER_CERTIFICATE,), ["ca.crt", "client.crt", "client.key"]),
    ],
)
def test_the_commands_of_the_notes_fetch_what_they_use(
    scenario: str, options: tuple[str, ...], files: list[str], tmp_path: Path
) -> None:
    """A stand-in for kubectl prints the name of the Secret, encoded as its values are."""
    text = notes(scenario, *options)
    assert f"helm test {RELEASE}" in text
    (tmp_path / "kubectl").write_text('#!/bin/sh\necho "of $5" | base64\n')
    (tmp_path / "kubectl").chmod(0o700)
    fetching = commands(text, f"kubectl -n {NAMESPACE} get")
    script = "\n".join(["set -e", f"cd {tmp_path}", *fetching])
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", "-c", script], check=True, timeout=10, env={"PATH": path})
    made = {each.name for each in tmp_path.iterdir()} - {"kubectl"}
    assert sorted(made) == files
    [ask] = commands(text, "glm4v ask")
    for name in files:
        assert f" {name}" in ask
        assert (tmp_path / name).read_text().startswith("of ")
