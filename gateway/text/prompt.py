"""The chat template: turns of a conversation to prompt token ids.

Source: the chat template in tokenizer_config.json and tokenization_chatglm.py of
THUDM/glm-4v-9b. A prompt is `[gMASK] <sop>`, then for each turn

    <|role|>  metadata "\\n"  [ <|begin_of_image|> <|endoftext|> <|end_of_image|> ]  text

and `<|assistant|>` as the generation prompt. The model generates the newline of that header, as the
first token of the answer. The header line and the text are encoded separately, so text that starts
with a newline keeps it, after the header's. A turn has no end token: the next role ends it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.text.tokenizer import Tokenizer
from glm4v.errors import InvalidRequest

_TOOLS_INTRODUCTION = (
    "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。"
)
_TOOL_ENDING = "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"

# The image in a prompt; the language model replaces it with the image's embedding.
_IMAGE_TOKENS = ("<|begin_of_image|>", "<|endoftext|>", "<|end_of_image|>")


@dataclass(frozen=True, slots=True)
class Turn:
    """One valid turn of a conversation."""

    role: Literal["system", "user", "assistant", "observation"]
    text: str = ""
    has_image: bool = False
    metadata: str = ""  # in the header, after the role
    tools: Sequence[Mapping[str, Any]] = ()  # functions that the model may call

    @property
    def is_empty(self) -> bool:
        """Whether the template skips it."""
        return not self.text and not self.has_image


@dataclass(slots=True)
class Prompt:
    """A prompt, with the image as its 3 placeholder tokens."""

    ids: list[int]
    image_offset: int | None  # index of <|begin_of_image|>
    text_offset: int = 0  # index of the first token of the last turn's text
    text_tokens: int = 0  # of the last turn

    def truncate(self, most: int) -> None:
        """Drop tokens from the start of the last turn's text until at most `most` are left in all.

        Raises InvalidRequest if the rest of the prompt alone is longer.
        """
        surplus = len(self.ids) - most
        if surplus > self.text_tokens:
            raise InvalidRequest(
                f"truncate_prompt_tokens is {most}; the prompt has {len(self.ids)} tokens, of "
                f"which only the {self.text_tokens} of the last text can be left out"
            )
        if surplus > 0:
            del self.ids[self.text_offset : self.text_offset + surplus]
            self.text_tokens -= surplus


def render(
    turns: Sequence[Turn], tokenizer: Tokenizer, *, add_generation_prompt: bool = True
) -> Prompt:
    """The prompt of a conversation. Takes seconds for megabytes of text.

    Raises InvalidRequest for text that cannot fit the context or cannot be encoded.
    """
    expanded = list(_with_expanded_tools(turns))
    tokenizer.refuse_overlong([turn.metadata + turn.text for turn in expanded])
    ids = [tokenizer.special_id("[gMASK]"), tokenizer.special_id("<sop>")]
    image_offset = None
    text: list[int] = []
    for turn in expanded:
        ids.append(tokenizer.special_id(f"<|{turn.role}|>"))
        ids += tokenizer.encode(turn.metadata + "\n")
        if turn.has_image:
            image_offset = len(ids)
            ids += map(tokenizer.special_id, _IMAGE_TOKENS)
        text = tokenizer.encode(turn.text)
        ids += text
    text_offset = len(ids) - len(text)
    if add_generation_prompt:
        ids.append(tokenizer.special_id("<|assistant|>"))
    return Prompt(ids, image_offset, text_offset, len(text))


def header_id(tokenizer: Tokenizer) -> int:
    """The newline token that ends a header."""
    [token_id] = tokenizer.encode("\n")  # every single byte is a token
    return token_id


def _with_expanded_tools(turns: Sequence[Turn]) -> Iterator[Turn]:
    for turn in turns:
        if turn.tools:
            yield Turn("system", _describe_tools(turn.tools))
        if not turn.is_empty:
            yield turn


def _describe_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    text = _TOOLS_INTRODUCTION
    for tool in tools:
        function = tool["function"]
        definition = json.dumps(function, ensure_ascii=False, indent=4)
        text += f"\n\n## {function['name']}\n\n{definition}{_TOOL_ENDING}"
    return text
