"""Sampling parameters of the formats of MindIE, TGI, Triton and vLLM, as options of a request.

In these formats a parameter that is not sent is off, whatever the checkpoint's own defaults are.
"""

from collections.abc import Mapping

from gateway.doors.http.fields import MAX_INT64, POSITIVE, Fields, Interval
from glm4v.client.options import GenerateOptions
from glm4v.errors import InvalidRequest

# Where a format allows any value above 0, ours is the upper bound: 10.
MINDIE_NUMBERS = {
    "temperature": Interval(0.0, 10.0, above=True),
    "top_p": Interval(0.0, 1.0, above=True, below=True),
    "typical_p": Interval(0.0, 1.0, above=True),
    "repetition_penalty": Interval(0.0, 10.0, above=True),
}
MINDIE_INTEGERS = {
    "top_k": POSITIVE,
    "seed": Interval(0, MAX_INT64),
    "priority": Interval(1, 5),
}
_RANDOM = ("temperature", "top_k", "top_p", "typical_p")  # a request that sets one wants sampling


def read_sampling(
    fields: Fields, numbers: Mapping[str, Interval], integers: Mapping[str, Interval]
) -> GenerateOptions:
    """The parameters that are set. Raises InvalidRequest."""
    options = GenerateOptions(repetition_penalty=1.0)
    for name, allowed in numbers.items():
        if (number := fields.number(name, allowed)) is not None:
            options[name] = number  # type: ignore[literal-required]
    for name, allowed in integers.items():
        if (integer := fields.integer(name, allowed)) is not None:
            options[name] = integer  # type: ignore[literal-required]
    return options


def wants_sampling(options: GenerateOptions) -> bool:
    """Whether a parameter is set that only sampling has."""
    return any(name in options for name in _RANDOM)


def fill_neutral(options: GenerateOptions, *, do_sample: bool) -> None:
    """Switch off what is not set; without `do_sample` the most probable token is chosen."""
    options["temperature"] = options.get("temperature", 1.0) if do_sample else 0.0
    options.setdefault("top_p", 1.0)
    options.setdefault("top_k", 0)
    options.setdefault("typical_p", 1.0)
    options.setdefault("min_p", 0.0)


def refuse(fields: Fields, reasons: Mapping[str, str]) -> None:
    """Refuse what this server cannot do, where it is asked for: neither null nor false."""
    for name, reason in reasons.items():
        if fields.value(name) not in (None, False):
            raise InvalidRequest(f"{name} is not supported: {reason}; leave it out")
