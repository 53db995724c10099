"""Environment variables that a platform sets because another service is named `glm4v…`.

Kubernetes sets variables for every Service of a namespace in every pod, and Docker for linked
containers. A Service `glm4v-gateway` gives GLM4V_GATEWAY_SERVICE_HOST, GLM4V_GATEWAY_PORT and more,
which have our prefix and are no settings. They are recognized by name and value together, so that a
misspelt setting is still an error.

Sources: Kubernetes, "Discovering services: environment variables"; Docker, "Legacy container
links".
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address

_ALIAS = r"(?P<alias>GLM4V(?:_[A-Z0-9_]+?)?)"
_PORT = _ALIAS + r"_PORT_[0-9]+_(?:TCP|UDP|SCTP)"
_PROTOCOLS = ("tcp", "udp", "sctp")
_URL = re.compile(r"(?P<protocol>[a-z]+)://(?P<host>.+):(?P<port>[0-9]+)")

_Environment = Mapping[str, str]


def is_service_link(name: str, environment: _Environment) -> bool:
    """Whether a variable of this environment is such a link and not a misspelt setting."""
    return any(
        (form := pattern.fullmatch(name)) and fits(form["alias"], environment[name], environment)
        for pattern, fits in _FORMS
    )


def may_be_service_link(name: str) -> bool:
    """Whether a link may have this name; then no setting may."""
    return any(pattern.fullmatch(name) for pattern, _ in _FORMS)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 2**16


def _is_url(text: str) -> bool:
    parts = _URL.fullmatch(text)
    return bool(
        parts
        and parts["protocol"] in _PROTOCOLS
        and _is_address(parts["host"].removeprefix("[").removesuffix("]"))
        and _is_port(parts["port"])
    )


def _is_service(alias: str, environment: _Environment) -> bool:
    """Kubernetes sets host and port of a service; one alone was not set by it."""
    return _is_address(environment.get(f"{alias}_SERVICE_HOST", "")) and _is_port(
        environment.get(f"{alias}_SERVICE_PORT", "")
    )


def _is_container(alias: str, environment: _Environment) -> bool:
    """Docker sets the name of a link to /CONTAINER/ALIAS."""
    parts = environment.get(f"{alias}_NAME", "").split("/")
    return len(parts) == 3 and parts[0] == "" and parts[2].upper().replace("-", "_") == alias


_FORMS = tuple(
    (re.compile(pattern), fits)
    for pattern, fits in (
        (_ALIAS + "_SERVICE_HOST", lambda alias, _, all_: _is_service(alias, all_)),
        (
            _ALIAS + "_SERVICE_PORT(?:_[A-Z0-9_]+)?",
            lambda alias, value, all_: _is_port(value) and _is_service(alias, all_),
        ),
        (_ALIAS + "_PORT", lambda _, value, __: _is_url(value)),
        (_PORT + "(?:_START|_END)?", lambda _, value, __: _is_url(value)),
        (_PORT + "_PORT(?:_START|_END)?", lambda _, value, __: _is_port(value)),
        (_PORT + "_PROTO", lambda _, value, __: value in _PROTOCOLS),
        (_PORT + "_ADDR", lambda _, value, __: _is_address(value)),
        (_ALIAS + "_NAME", lambda alias, _, all_: _is_container(alias, all_)),
        (_ALIAS + "_ENV_.+", lambda alias, _, all_: _is_container(alias, all_)),
    )
)
