"""Strict JSON schemas of objects that Kubernetes does not define itself.

Those of KEDA and LeaderWorkerSet are made from their own definitions (CRDs). Of the others the
chart uses a few fields, which are written down here from their reference documentation.
"""

from functools import cache
from typing import Any

import yaml

from tests.reference import REFERENCE

Schema = dict[str, Any]

_FILES = {"ScaledObject": "scaledobject.yaml", "LeaderWorkerSet": "lws.yaml"}
_TEXT: Schema = {"type": "string"}
_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def closed(properties: Schema, *required: str) -> Schema:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


def many(items: Schema) -> Schema:
    """A list with at least one element."""
    return {"type": "array", "items": items, "minItems": 1}


_LABELS: Schema = {"type": "object", "additionalProperties": _TEXT}
_PARENT = closed({"name": _NAME, "namespace": _NAME, "sectionName": _NAME, "port": _PORT}, "name")
_BACKENDS = many(closed({"name": _NAME, "port": _PORT}, "name", "port"))
_DURATION: Schema = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def _route(**rule: Schema) -> Schema:
    rules = many(closed({"backendRefs": _BACKENDS, **rule}, "backendRefs"))
    return closed({"parentRefs": many(_PARENT), "hostnames": many(_TEXT), "rules": rules}, "rules")


# https://gateway-api.sigs.k8s.io/reference/spec/, /api-types/grpcroute/ (it has no timeouts),
# https://prometheus-operator.dev/docs/api-reference/api/,
# https://keda.sh/docs/latest/concepts/authentication/
WRITTEN: dict[tuple[str, str], Schema] = {
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): _route(),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _route(
        timeouts=closed({"request": _DURATION, "backendRequest": _DURATION})
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        {
            "selector": closed({"matchLabels": _LABELS}, "matchLabels"),
            "namespaceSelector": closed({"matchNames": many(_NAME)}),
            "podTargetLabels": many(_TEXT),
            "endpoints": many(closed({"port": _NAME, "interval": _DURATION}, "port")),
        },
        "selector",
        "endpoints",
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(
        {
            "groups": many(
                closed(
                    {
                        "name": _TEXT,
                        "rules": many(
                            closed(
                                {
                                    "alert": {"type": "string", "pattern": "^[A-Z][A-Za-z0-9]+$"},
                                    "expr": _TEXT,
                                    "for": _DURATION,
                                    "labels": _LABELS,
                                    "annotations": _LABELS,
                                },
                                "alert",
                                "expr",
                            )
                        ),
                    },
                    "name",
                    "rules",
                )
            )
        },
        "groups",
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): closed(
        {
            "env": many(
                closed({"parameter": _TEXT, "name": _TEXT, "containerName": _NAME}, "name")
            ),
            "secretTargetRef": many(
                closed(
                    {"parameter": _TEXT, "name": _NAME, "key": _TEXT}, "parameter", "name", "key"
                )
            ),
        }
    ),
}


@cache
def defined(kind: str) -> Schema:
    """The specification of a kind as its definition has it, without room for unknown fields."""
    path = REFERENCE.parent / "crds" / _FILES[kind]
    [version] = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["versions"]
    schema: Schema = _strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return schema


def _strict(node: Any) -> Any:
    """OpenAPI as JSON schema: closed objects, and numbers where text or number is allowed."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _strict(value) for key, value in node.items()}
    if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return found
