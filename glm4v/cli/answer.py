"""What `--json` prints, the same for every way to get an answer."""

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
    """A whole answer as one JSON object; `logprobs` only where they were asked for."""
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
    """One object for each token; null for a token that nothing predicts."""
    return [
        {**_logprob(each.chosen), "top": [_logprob(rival) for rival in each.top]}
        if each.HasField("chosen")
        else None
        for each in logprobs
    ]


def print_object(answer: dict[str, object]) -> None:
    """One line on standard output; where that takes no Unicode, what it lacks is escaped."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json.dumps(answer, ensure_ascii=not is_unicode))


def summary(finished: pb.Finished) -> str:
    """Tokens, seconds, tokens a second, time to the first token, whether the answer is cut off."""
    count, timings = finished.usage.completion_tokens, finished.timings
    is_cut = finished.reason == pb.FINISH_REASON_LENGTH
    end = ", cut off by max_tokens or the context's end" if is_cut else ""
    rate = f", {(count - 1) / timings.decode_s:.1f} tokens/s" if timings.decode_s else ""
    return (
        f"{count} tokens in {timings.total_s:.2f} s{rate}, "
        f"first token after {timings.time_to_first_token_s:.2f} s{end}"
    )


def _logprob(entry: pb.Logprob) -> dict[str, object]:
    return {"token_id": entry.token_id, "logprob": entry.logprob}
