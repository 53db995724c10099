"""Journal entries of one choice to events.

Text, counts and times come from the journal only, so all readers of a journal get the same.
"""

from collections.abc import Sequence

from gateway.text.detokenizer import Detokenizer
from gateway.text.tokenizer import Tokenizer
from glm4v.broker.choices import first_choice
from glm4v.broker.entries import Event
from glm4v.errors import Cancelled, DeadlinePassed, Glm4vError, InvalidRequest, by_code
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api

_SUCCESSES: Sequence["pb.EndKind.ValueType"] = (
    pb.END_KIND_STOP_TOKEN,
    pb.END_KIND_STOP_STRING,
    pb.END_KIND_LENGTH,
    pb.END_KIND_COMPLETE,
)


class EventBuilder:
    """Builds the events of one choice for one reader.

    Args:
        job: The job of the choice.
        tokenizer: Of the model that `job` was made for.
        image_tokens: Tokens that an image takes in the language model's context.
        choice: Index under which the reader knows the choice.
        token_offset: Tokens that the reader has received already; they are not reported again.
    """

    def __init__(
        self,
        job: pb.Job,
        tokenizer: Tokenizer,
        *,
        image_tokens: int,
        choice: int = 0,
        token_offset: int = 0,
    ) -> None:
        self._job = job
        self._choice = choice
        self._image_tokens = image_tokens if job.image_digest else 0
        self._offset = token_offset
        stop_ids = frozenset(job.stop_token_ids)

        def text_of(token_id: int) -> bytes:
            """The bytes of a token. A stop token adds no text, as a stop string adds none."""
            return b"" if token_id in stop_ids else tokenizer.token_bytes(token_id)

        header_id = job.header_id if job.HasField("header_id") else None
        self._detokenizer = Detokenizer(text_of, job.stop, header_id=header_id)
        self._tokens = 0  # up to and including the one that completed a stop string
        self._stage = api.STAGE_RUNNING if token_offset else api.STAGE_QUEUED
        self._first_token_ms = 0
        self._last_token_ms = 0
        self._is_encoding = False
        self._vision_ms = 0
        self._logprob_sum = 0.0

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer; later tokens are ignored."""
        stopped = self._detokenizer.stopped
        return stopped.stop_string if stopped else None

    @property
    def token_count(self) -> int:
        """Tokens of the answer so far."""
        return self._tokens

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the tokens so far, if the journal has log-probabilities."""
        return self._logprob_sum / max(self._tokens, 1)

    @property
    def stage(self) -> "api.Stage.ValueType":
        """The last stage that was reported."""
        return self._stage

    def to_events(self, entry: Event) -> Sequence[api.GenerationEvent]:
        """The events of an entry after the first; none if the reader has received its tokens.

        Raises the errors of `finished`.
        """
        if isinstance(entry, pb.JournalTokens):
            delta = self._delta(entry)
            if not entry.prompt_logprobs or self._offset:
                return delta
            prompt = api.PromptLogprobs(tokens=entry.prompt_logprobs)
            return (api.GenerationEvent(prompt_logprobs=prompt, choice=self._choice), *delta)
        if isinstance(entry, pb.JournalStage):
            return self._progress(entry)
        assert isinstance(entry, pb.JournalEnd), "only the first entry of a journal is `accepted`"
        return (self.finished(entry),)

    def finished(self, end: pb.JournalEnd) -> api.GenerationEvent:
        """The last event.

        Raises the error that ended the request, and InvalidRequest if `token_offset` exceeds the
        length of the answer.
        """
        finished = api.Finished()
        if not is_success(end):
            raise _error(end, self._job)
        if self._offset > self._tokens:
            raise InvalidRequest(
                f"token_offsets[{self._choice}] is {self._offset}, the answer has {self._tokens} "
                f"tokens; 0 to {self._tokens} is allowed"
            )
        # The worker may have written another end before a gateway found the stop string.
        if self.stop_string is not None:
            finished.reason = api.FINISH_REASON_STOP
            finished.stop_string = self.stop_string
        elif end.kind == pb.END_KIND_STOP_TOKEN:
            finished.reason = api.FINISH_REASON_STOP
            finished.stop_token_id = end.stop_token_id
        elif end.kind == pb.END_KIND_COMPLETE:
            finished.reason = api.FINISH_REASON_STOP
        else:
            finished.reason = api.FINISH_REASON_LENGTH
        finished.text = self._detokenizer.finish()
        finished.usage.prompt_tokens = len(self._job.prompt_ids)
        finished.usage.image_tokens = self._image_tokens
        finished.usage.completion_tokens = self._tokens
        self._fill_timings(finished.timings, end)
        return api.GenerationEvent(finished=finished, choice=self._choice)

    def _progress(self, entry: pb.JournalStage) -> Sequence[api.GenerationEvent]:
        """A stage, unless the reader has received tokens after it."""
        if entry.stage == api.STAGE_ENCODING:
            self._is_encoding = True
        elif self._is_encoding and entry.stage == api.STAGE_QUEUED:  # the image is encoded
            self._is_encoding = False
            self._vision_ms = entry.at_ms - self._job.accepted_ms
        if self._tokens < self._offset:
            return ()
        self._stage = entry.stage
        progress = api.Progress(stage=entry.stage)
        return (api.GenerationEvent(progress=progress, choice=self._choice),)

    def _delta(self, entry: pb.JournalTokens) -> Sequence[api.GenerationEvent]:
        """The tokens that the reader has not received, and the text that they make final."""
        if self._detokenizer.stopped or not entry.ids:
            return ()
        first = self._tokens
        known = min(max(self._offset - first, 0), len(entry.ids))
        if known:
            self._detokenizer.push(entry.ids[:known])
        text = self._detokenizer.push(entry.ids[known:])
        stopped = self._detokenizer.stopped
        self._tokens = stopped.tokens_used if stopped else first + len(entry.ids)
        self._first_token_ms = self._first_token_ms or entry.at_ms
        self._last_token_ms = entry.at_ms
        used = self._tokens - first
        if entry.logprobs:
            self._logprob_sum += sum(each.chosen.logprob for each in entry.logprobs[:used])
        if used <= known:
            return ()
        self._stage = api.STAGE_RUNNING
        delta = api.Delta(
            first_index=first + known,
            token_ids=entry.ids[known:used],
            text=text,
            logprobs=entry.logprobs[known:used] if self._job.want_logprobs else (),
        )
        return (api.GenerationEvent(delta=delta, choice=self._choice),)

    def _fill_timings(self, timings: api.Timings, end: pb.JournalEnd) -> None:
        """Times in seconds by the clock of Redis. It may be set back, hence never below 0."""
        accepted_ms = self._job.accepted_ms
        timings.vision_s = max(0, self._vision_ms) / 1000
        timings.time_to_first_token_s = max(0, self._first_token_ms - accepted_ms) / 1000
        timings.decode_s = max(0, self._last_token_ms - self._first_token_ms) / 1000
        timings.total_s = max(0, end.at_ms - accepted_ms) / 1000


def accepted(job: pb.Job, *, with_prompt_ids: bool) -> api.GenerationEvent:
    """The first event of a request; `job` is that of choice 0."""
    return api.GenerationEvent(
        accepted=api.Accepted(
            request_id=job.request_id,
            prompt_tokens=len(job.prompt_ids),
            prompt_ids=job.prompt_ids if with_prompt_ids else (),
            image_digest=job.image_digest,
            seed=job.sampling.seed,
            n=max(job.n, 1),
            max_tokens=job.max_tokens,
        )
    )


def keepalive(stage: "api.Stage.ValueType") -> api.GenerationEvent:
    """The event of a silent stream: the stage again."""
    return api.GenerationEvent(progress=api.Progress(stage=stage, unchanged=True))


def is_success(end: pb.JournalEnd) -> bool:
    """Whether a journal ended with an answer, not with an error."""
    return end.kind in _SUCCESSES


def is_interim(event: api.GenerationEvent) -> bool:
    """Whether an event reports on a request before its answer."""
    return event.WhichOneof("event") in ("progress", "prompt_logprobs")


def _error(end: pb.JournalEnd, job: pb.Job) -> Glm4vError:
    name = f"request {first_choice(job).request_id!r}"
    if end.kind == pb.END_KIND_CANCELLED:
        return Cancelled(f"{name} was cancelled by its caller")
    if end.kind == pb.END_KIND_ABANDONED:
        return Cancelled(
            f"{name} was ended because no client was attached for "
            f"{job.orphan_timeout_ms / 1000:g} s; attach sooner or set a longer orphan_timeout_s"
        )
    if end.kind == pb.END_KIND_EXPIRED:
        allowed_s = (job.deadline_ms - job.accepted_ms) / 1000
        advice = end.message or "set a longer deadline"
        return DeadlinePassed(f"{name} did not finish within {allowed_s:g} s; {advice}")
    return by_code(end.code, end.message)
