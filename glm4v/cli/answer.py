"""The JSON output of `--json`, and the summary line."""

import json
import sys
from collections.abc import Sequence

import typer

from glm4v.v1 import inference_pb2 as pb

_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


def answer_object(
    *,
    request_id: str,
    input_ids: Sequence[int],
    token_ids: Sequence[int],
    text: str,
    finished: pb.Finished,
    logprobs: Sequence[pb.TokenLogprobs] | None = None,
) -> dict[str, object]:
    """A complete answer as a JSON object; `logprobs` only if requested."""
    usage, timings = finished.usage, finished.timings
    answer: dict[str, object] = {
        "request_id": request_id,
        "input_ids": list(input_ids),
        "token_ids": list(token_ids),
        "text": text,
        "finish_reason": _REASONS[finished.reason],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "image_tokens": usage.image_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "timings": {
            "vision_s": timings.vision_s,
            "time_to_first_token_s": timings.time_to_first_token_s,
            "decode_s": timings.decode_s,
            "total_s": timings.total_s,
        },
    }
    if logprobs is not None:
        answer["logprobs"] = logprob_objects(logprobs)
    return answer


def logprob_objects(logprobs: Sequence[pb.TokenLogprobs]) -> list[dict[str, object] | None]:
    """One object for each token; null for a token without a prediction."""
    return [
        {**_logprob(each.chosen), "top": [_logprob(alternative) for alternative in each.top]}
        if each.HasField("chosen")
        else None
        for each in logprobs
    ]


def print_object(answer: dict[str, object]) -> None:
    """Print the object as one line; escape non-ASCII text if standard output is not Unicode."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json.dumps(answer, ensure_ascii=not is_unicode))


def summary(finished: pb.Finished) -> str:
    """Tokens, seconds, tokens per second, time to first token, and whether it was truncated."""
    count, timings = finished.usage.completion_tokens, finished.timings
    is_truncated = finished.reason == pb.FINISH_REASON_LENGTH
    end = ", truncated at max_tokens or the end of the context" if is_truncated else ""
    rate = f", {(count - 1) / timings.decode_s:.1f} tokens/s" if timings.decode_s else ""
    return (
        f"{count} tokens in {timings.total_s:.2f} s{rate}, "
        f"first token after {timings.time_to_first_token_s:.2f} s{end}"
    )


def _logprob(entry: pb.Logprob) -> dict[str, object]:
    return {"token_id": entry.token_id, "logprob": entry.logprob}
