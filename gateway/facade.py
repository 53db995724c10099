"""The operations of a gateway, independent of the transport."""

from gateway.access.caller import Caller
from gateway.admission.admission import MAX_CHOICES, Admission
from gateway.admission.sampling import SamplingDefaults
from gateway.admission.validation import check_range, check_request_id, refuse_unknown_fields
from gateway.streaming.follow import EventStream, RequestFollower
from gateway.text.tokenizer import Tokenizer
from glm4v import __version__
from glm4v.broker import Broker
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.images import ImageLimits
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api


class Gateway:
    """Serves requests for one model. Doors translate their transport to these calls.

    Arguments and results are messages of `glm4v.v1`, without gRPC. Errors are those of
    `glm4v.errors`. Unknown fields of a message are refused.
    """

    def __init__(
        self,
        broker: Broker,
        admission: Admission,
        follower: RequestFollower,
        model: api.GetModelResponse,
        tokenizer: Tokenizer,
    ) -> None:
        self._broker = broker
        self._admission = admission
        self._follower = follower
        self._model = model
        self._tokenizer = tokenizer

    async def generate(
        self, caller: Caller, request: api.GenerateRequest, *, time_limit_s: float | None
    ) -> EventStream:
        """Accept a request, or attach to it if it was accepted before, and stream its events.

        The stream holds neither the request nor the image, whose bytes would stay in memory for the
        minutes of an answer; a door should drop `request` as well. Raises InvalidRequest, IdTaken,
        Overloaded, UnknownReference (image digest) and Unavailable.

        Args:
            caller: The owner of the request.
            request: The request, with the bytes of its image or without.
            time_limit_s: Seconds until the deadline; None for the default.
        """
        admitted = await self._admission.admit(request, caller, time_limit_s)
        await self._broker.submit(admitted.job, admitted.image)
        return await self._follower.follow(
            admitted.job.request_id, caller, with_prompt_ids=request.return_prompt_ids
        )

    async def attach(self, caller: Caller, request: api.AttachRequest) -> EventStream:
        """Stream the events of an existing request, after the tokens that the caller has received.

        Raises UnknownReference, also for a request of another owner, InvalidRequest, RequestFailed
        and Unavailable.
        """
        count = len(request.token_offsets)
        check_range("the number of token_offsets", count, 0, MAX_CHOICES)
        refuse_unknown_fields(request)
        check_request_id(request.request_id)
        return await self._follower.follow(
            request.request_id, caller, token_offsets=request.token_offsets
        )

    async def cancel(self, caller: Caller, request: api.CancelRequest) -> api.CancelResponse:
        """Cancel a request with all its choices. Raises as `attach`."""
        refuse_unknown_fields(request)
        check_request_id(request.request_id)
        job = await self._broker.job(request.request_id, caller.owner)
        end = pb.JournalEnd(kind=pb.END_KIND_CANCELLED)
        return api.CancelResponse(cancelled=await self._broker.end_choices(job, end))

    async def count_tokens(
        self, caller: Caller, request: api.CountTokensRequest
    ) -> api.CountTokensResponse:
        """Count the tokens of a prompt, which may exceed the context.

        Raises InvalidRequest, and Overloaded for an image of too many bytes.
        """
        prompt = await self._admission.count(request)
        has_image = prompt.image_offset is not None
        return api.CountTokensResponse(
            prompt_tokens=len(prompt.ids),
            image_tokens=self._model.image_tokens if has_image else 0,
            prompt_ids=prompt.ids,
        )

    async def model(self, caller: Caller, request: api.GetModelRequest) -> api.GetModelResponse:
        """Describe the model and the limits of this gateway."""
        refuse_unknown_fields(request)
        return self._model

    async def watch_request(self, caller: Caller, request_id: str) -> dict[str, object]:
        """The phases of a request so far, as JSON. Raises as `attach`."""
        check_request_id(request_id)
        return await self._broker.watch_request(await self._broker.job(request_id, caller.owner))

    async def watch_workers(self, caller: Caller) -> dict[str, object]:
        """The queues and workers, as JSON. Raises Unavailable."""
        return await self._broker.watch_workers()

    def token_bytes(self, token_id: int) -> bytes:
        """A token alone, for formats that list tokens: its bytes, or the name of a special token.

        A character may be spread over tokens, so only the texts of events make up an answer.
        """
        return self._tokenizer.spelling(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether a token is no text: a special token or padding."""
        return self._tokenizer.is_special(token_id)


def describe(
    checkpoint: Checkpoint, defaults: SamplingDefaults, images: ImageLimits
) -> api.GetModelResponse:
    """The description of a model and of a gateway's limits."""
    spec = checkpoint.spec
    return api.GetModelResponse(
        name=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        context_tokens=spec.context_tokens,
        image_size=spec.vision.image_size,
        image_tokens=spec.vision.num_image_tokens,
        eos_token_ids=spec.eos_ids,
        default_sampling=defaults.params,
        max_image_bytes=images.max_bytes,
        max_image_pixels=images.max_pixels,
        server_version=__version__,
    )
