"""As much of a Kubernetes API as kubectl asks to find, patch and watch the chart's workloads.

It is no cluster: it holds the objects that were rendered, and a change of one is carried out when
`settle` is called, as its controller would say in the object's status.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.chart.helm import Manifest

KINDS = {
    "Deployment": ("apps/v1", "deployments"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io/v1", "leaderworkersets"),
    "CustomResourceDefinition": ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
}
TIMEOUT_S = 20.0


class ApiServer:
    """Objects, and every change that was asked for.

    Attributes:
        patches: Path and content of each.
    """

    def __init__(self, objects: list[Manifest]) -> None:
        self.patches: list[tuple[str, Manifest]] = []
        self._objects = {_path(each): each for each in objects if each["kind"] in KINDS}
        self._changed = threading.Condition()
        self._version = 1
        for each in self._objects.values():
            each["metadata"] |= {"generation": 1, "uid": each["metadata"]["name"]}
            if each["kind"] == "StatefulSet":  # what an API fills in
                each["spec"].setdefault("updateStrategy", {"type": "RollingUpdate"})
            _settle(each)

    def settle(self) -> None:
        """All changes so far are carried out."""
        with self._changed:
            self._version += 1
            for each in self._objects.values():
                _settle(each)
                each["metadata"]["resourceVersion"] = str(self._version)
            self._changed.notify_all()

    def answer(self, path: str, query: dict[str, str]) -> Manifest | None:
        """What a GET returns; None for what there is not."""
        if path in ("/api", "/apis"):
            return _groups() if path == "/apis" else {"kind": "APIVersions", "versions": ["v1"]}
        if path.count("/") <= 3 and path.startswith("/api"):
            return _resources(path.removeprefix("/apis/").removeprefix("/api/"))
        if path in self._objects:
            return self._objects[path]
        listed = [self._objects[each] for each in self._objects if _folder(each) == path]
        selected = [each for each in listed if _matches(each, query)]
        if not any(path.endswith(f"/{plural}") for _, plural in KINDS.values()):
            return None
        metadata = {"resourceVersion": str(self._version)}
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": selected}

    def patch(self, path: str, change: Manifest) -> Manifest:
        """Merge, as both kinds of merge do for what has no lists."""
        with self._changed:
            self.patches.append((path, change))
            _merge(self._objects[path], change)
            self._objects[path]["metadata"]["generation"] += 1
        return self._objects[path]

    def watch(self, path: str, query: dict[str, str]) -> Iterator[Manifest]:
        """The objects of a list, once changes are carried out."""
        with self._changed:
            self._changed.wait(TIMEOUT_S)
        for each in (self.answer(path, query) or {"items": []})["items"]:
            yield {"type": "MODIFIED", "object": each}


@contextmanager
def serving(api: ApiServer) -> Iterator[str]:
    """Where it listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            if "sendInitialEvents" in query:  # kubectl then lists and watches
                self._send(422, json.dumps(_failure("Invalid", 422)).encode())
            elif query.get("watch") in ("1", "true"):
                lines = [json.dumps(each) for each in api.watch(url.path, query)]
                self._send(200, "\n".join(lines).encode())
            elif (found := api.answer(url.path, query)) is None:
                self._send(404, json.dumps(_failure("NotFound", 404)).encode())
            else:
                self._send(200, json.dumps(found).encode())

        def do_PATCH(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            found = api.patch(urlsplit(self.path).path, json.loads(content))
            self._send(200, json.dumps(found).encode())

        def log_message(self, *_: Any) -> None:
            pass

        def _send(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _failure(reason: str, code: int) -> Manifest:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": reason,
    }


def _groups() -> Manifest:
    versions = sorted({version for version, _ in KINDS.values()})
    groups = [
        {
            "name": each.partition("/")[0],
            "versions": [{"groupVersion": each, "version": "v1"}],
            "preferredVersion": {"groupVersion": each, "version": "v1"},
        }
        for each in versions
    ]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _resources(version: str) -> Manifest:
    found = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "namespaced": kind != "CustomResourceDefinition",
            "kind": kind,
            "verbs": ["get", "list", "patch", "watch"],
        }
        for kind, (of, plural) in KINDS.items()
        if of == version
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": found}


def _path(manifest: Manifest) -> str:
    version, plural = KINDS[manifest["kind"]]
    namespace = manifest["metadata"].get("namespace")
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{version}{within}/{plural}/{manifest['metadata']['name']}"


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _matches(manifest: Manifest, query: dict[str, str]) -> bool:
    labels = manifest["metadata"].get("labels", {})
    wanted = [each.partition("=") for each in query.get("labelSelector", "").split(",") if each]
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")
    has_labels = all(labels.get(key) == value for key, _, value in wanted)
    return has_labels and name in ("", manifest["metadata"]["name"])


def _merge(into: Manifest, change: Manifest) -> None:
    for key, value in change.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _settle(manifest: Manifest) -> None:
    replicas = manifest.get("spec", {}).get("replicas", 1)
    names = ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas")
    revisions = {"currentRevision": "b", "updateRevision": "b"}
    manifest["status"] = dict.fromkeys(names, replicas) | revisions
    manifest["status"]["observedGeneration"] = manifest["metadata"]["generation"]
