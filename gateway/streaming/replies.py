"""A journal as one reader sees it: entries in, events out. A journal is that of one choice.

Every reader of a journal gets the same text, counts and times, because all of them come from the
journal alone.
"""

from collections.abc import Iterator, Sequence

from gateway.text.detokenizer import Detokenizer
from gateway.text.tokenizer import Tokenizer
from glm4v.broker.choices import first_choice
from glm4v.broker.entries import Event
from glm4v.errors import Cancelled, DeadlinePassed, Glm4vError, InvalidRequest, by_code
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api


class Replies:
    """Turns one journal's entries into events, for one reader.

    `choice` is the number the reader knows it by. `token_offset` tokens are not reported, as the
    reader has them. `image_tokens` is what an image takes in the language model.
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
            """A stop token is no part of the text, as a stop string is none."""
            return b"" if token_id in stop_ids else tokenizer.token_bytes(token_id)

        header_id = job.header_id if job.HasField("header_id") else None
        self._detokenizer = Detokenizer(text_of, job.stop, header_id=header_id)
        self._tokens = 0  # up to and with the one that completed a stop string
        self._first_token_ms = 0
        self._last_token_ms = 0
        self._encoding = False
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
        """Of the answer's tokens so far, as far as they are in the journal."""
        return self._logprob_sum / max(self._tokens, 1)

    def accepted(self, *, with_prompt_ids: bool) -> api.GenerationEvent:
        """The first event."""
        job = self._job
        return api.GenerationEvent(
            accepted=api.Accepted(
                request_id=job.request_id,
                prompt_tokens=len(job.prompt_ids),
                prompt_ids=job.prompt_ids if with_prompt_ids else (),
                image_digest=job.image_digest,
                seed=job.sampling.seed,
                n=max(job.n, 1),
            )
        )

    def events(self, entry: Event) -> Iterator[api.GenerationEvent]:
        """What an entry behind the first one tells the reader; nothing when he knows it already.

        Raises what `finished` raises.
        """
        if isinstance(entry, pb.JournalTokens):
            if entry.prompt_logprobs and self._offset == 0:
                prompt = api.PromptLogprobs(tokens=entry.prompt_logprobs)
                yield api.GenerationEvent(prompt_logprobs=prompt, choice=self._choice)
            event = self._delta(entry)
        elif isinstance(entry, pb.JournalStage):
            event = self._progress(entry)
        else:
            assert isinstance(entry, pb.JournalEnd)
            event = self.finished(entry)
        if event is not None:
            yield event

    def _progress(self, entry: pb.JournalStage) -> api.GenerationEvent | None:
        """Progress, unless it lies before the tokens the reader has."""
        if entry.stage == api.STAGE_ENCODING:
            self._encoding = True
        elif self._encoding and entry.stage == api.STAGE_QUEUED:  # released: it is encoded
            self._encoding = False
            self._vision_ms = entry.at_ms - self._job.accepted_ms
        if self._tokens < self._offset:
            return None
        return api.GenerationEvent(progress=api.Progress(stage=entry.stage), choice=self._choice)

    def _delta(self, entry: pb.JournalTokens) -> api.GenerationEvent | None:
        """The tokens the reader has not, and the text they make final."""
        if self.stop_string is not None or not entry.ids:
            return None
        first = self._tokens
        known = min(max(self._offset - first, 0), len(entry.ids))
        self._detokenizer.push(entry.ids[:known])
        text = self._detokenizer.push(entry.ids[known:])
        stopped = self._detokenizer.stopped
        self._tokens = stopped.tokens_used if stopped else first + len(entry.ids)
        self._first_token_ms = self._first_token_ms or entry.at_ms
        self._last_token_ms = entry.at_ms
        used = self._tokens - first
        self._logprob_sum += sum(each.chosen.logprob for each in entry.logprobs[:used])
        if used <= known:
            return None
        return api.GenerationEvent(
            delta=api.Delta(
                first_index=first + known,
                token_ids=entry.ids[known:used],
                text=text,
                logprobs=entry.logprobs[known:used] if self._job.want_logprobs else (),
            ),
            choice=self._choice,
        )

    def finished(self, end: pb.JournalEnd) -> api.GenerationEvent:
        """The last event.

        Raises the error that ended the request, and InvalidRequest when the reader claims to have
        more tokens than there are.
        """
        finished = api.Finished()
        if not is_success(end):
            raise _error(end, self._job)
        if self._offset > self._tokens:
            raise InvalidRequest(
                f"token_offsets[{self._choice}] is {self._offset}, the answer has {self._tokens} "
                f"tokens; 0 to {self._tokens} is allowed"
            )
        # A stop string counts even where the worker wrote its own end before a gateway saw it.
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

    def _fill_timings(self, timings: api.Timings, end: pb.JournalEnd) -> None:
        """By one clock, that of Redis; it may be set back: never below 0."""
        accepted_ms = self._job.accepted_ms
        timings.vision_s = max(0, self._vision_ms) / 1000
        timings.time_to_first_token_s = max(0, self._first_token_ms - accepted_ms) / 1000
        timings.decode_s = max(0, self._last_token_ms - self._first_token_ms) / 1000
        timings.total_s = max(0, end.at_ms - accepted_ms) / 1000


_ANSWERED: Sequence["pb.EndKind.ValueType"] = (
    pb.END_KIND_STOP_TOKEN,
    pb.END_KIND_STOP_STRING,
    pb.END_KIND_LENGTH,
    pb.END_KIND_COMPLETE,
)


def is_success(end: pb.JournalEnd) -> bool:
    """Whether a journal ended with an answer, not with an error."""
    return end.kind in _ANSWERED


def _error(end: pb.JournalEnd, job: pb.Job) -> Glm4vError:
    name = f"request {first_choice(job).request_id!r}"
    if end.kind == pb.END_KIND_CANCELLED:
        return Cancelled(f"{name} was cancelled by its caller")
    if end.kind == pb.END_KIND_ABANDONED:
        return Cancelled(
            f"{name} was ended: nobody read it for {job.orphan_timeout_ms / 1000:g} s; "
            "attach sooner or set a longer orphan_timeout_s"
        )
    if end.kind == pb.END_KIND_EXPIRED:
        allowed_s = (job.deadline_ms - job.accepted_ms) / 1000
        return DeadlinePassed(f"{name} was not done after {allowed_s:g} s; set a longer deadline")
    return by_code(end.code, end.message)
