"""The body of a chat completion: OpenAI's fields, and those that vLLM and MindIE add."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.doors.http.body import Body


class ChatMessage(Body):
    """One message."""

    role: str
    content: str | list[Any] | None = Field(
        None, description="Text, or a list of text and image_url parts; at most one image in all."
    )
    tool_calls: list[Any] | None = Field(None, description="Not served.")


class StreamOptions(Body):
    """What a stream reports besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(Body):
    """A schema under the name that the client gave it."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's form of the same; one of these."""

    model_config = ConfigDict(strict=True, extra="forbid")

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    json_object: bool | None = None


class ChatBody(Body):
    """`POST /v1/chat/completions`. A field that is null counts as missing."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = Field(None, description="The newer name of max_tokens.")
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    # vLLM
    top_k: int | None = Field(None, description="0 and -1 keep all tokens.")
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    best_of: int | None = None
    priority: int | None = Field(None, description="1 (first) to 5 (last); 0 is the default.")
    request_id: str | None = None
    cache_salt: str | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    # MindIE
    do_sample: bool | None = Field(None, description="false is temperature 0.")
    # glm4v-serve
    orphan_timeout_s: float | None = Field(
        None, description="How long the request runs on without its client, if it can come back."
    )
