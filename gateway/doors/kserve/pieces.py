"""The replies of a stream that make up one answer."""

from collections.abc import Iterator, Sequence

from gateway.doors.kserve import grpc_service_pb2 as pb
from gateway.doors.kserve.answer import Answer, Output
from gateway.doors.kserve.inference import Inference
from gateway.doors.kserve.messages import response
from gateway.doors.kserve.model import TEXT_OUTPUT
from gateway.doors.kserve.tensors import pack
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_Reply = pb.ModelStreamInferResponse
_FINAL = "triton_final_response"


class Pieces:
    """Makes the replies of one request from its events.

    Each has the text that is new. The last one has the other tensors that were asked for, too.
    """

    def __init__(
        self, inference: Inference, model_name: str, accepted: api.GenerationEvent
    ) -> None:
        self._inference = inference
        self._model_name = model_name
        self._answer = Answer(inference)
        self._answer.take(accepted)
        self._unsent = inference.prefix
        self._streams = inference.in_pieces and TEXT_OUTPUT in inference.outputs
        # Of all pieces but the last: made for each token, so only the text is set.
        self._piece = self._reply([self._answer.text("")], is_final=False)

    def take(self, event: api.GenerationEvent) -> Iterator[_Reply]:
        """The replies that an event makes."""
        self._unsent += self._answer.take(event)
        if event.HasField("finished"):
            # Where the end has a reply of its own, clients read no tensors of that.
            empty_final = self._inference.empty_final
            if self._unsent or not empty_final or list(self._inference.outputs) != [TEXT_OUTPUT]:
                outputs = self._answer.outputs([self._unsent])
                yield self._reply(outputs, is_final=not empty_final)
            if empty_final:
                yield end_of(self._inference, self._model_name)
        elif self._unsent and self._streams:
            piece = _Reply()
            piece.CopyFrom(self._piece)
            piece.infer_response.raw_output_contents[0] = pack([self._unsent.encode()])
            self._unsent = ""
            yield piece

    def _reply(self, outputs: Sequence[Output], *, is_final: bool) -> _Reply:
        return _reply(self._inference, self._model_name, outputs, is_final=is_final)


def end_of(inference: Inference, model_name: str) -> _Reply:
    """The reply without tensors that ends an answer."""
    return _reply(inference, model_name, (), is_final=True)


def check_one_choice(inference: Inference) -> None:
    """Refuse several answers: their pieces could not be told apart."""
    if inference.request.n > 1:
        raise InvalidRequest(
            f"n is {inference.request.n}; a stream has one answer to each request: send several "
            "requests, or use ModelInfer"
        )


def _reply(
    inference: Inference, model_name: str, outputs: Sequence[Output], *, is_final: bool
) -> _Reply:
    parameters = {_FINAL: pb.InferParameter(bool_param=is_final)}
    return _Reply(infer_response=response(inference, model_name, outputs, parameters))
