"""The vocabulary: `python -m recipes.demo_model.vocabulary` learns byte pairs from what is said.

What is read off pictures is left out, so that numbers and words of capitals are spelt letter by
letter, whichever they are; the Chinese characters that can be read become tokens of their own.
"""

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from glm4v.checkpoint.spec import read_spec
from glm4v.checkpoint.vocabulary import PATTERN
from recipes.demo_model.questions import conversation, text_only
from recipes.demo_model.samples import scene_of
from recipes.demo_model.strings import CHARACTERS
from recipes.demo_model.things import things

_CONVERSATIONS = 30_000
_NAMES_EVERY = 300  # conversations: names are rare in them, and what answers are made of
_LONGEST = 12  # bytes of a token: whole questions would teach nothing
_SEED = 10**6  # of conversations that training does not see


def train_vocabulary(count: int) -> bytes:
    """A tokenizer.model of `count` tokens: lines of base64(token), a space, its rank."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=count,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST,
        show_progress=False,  # the library's own is no help: it writes when it is done
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokens = {_token_bytes(token): rank for token, rank in tokenizer.get_vocab().items()}
    if len(tokens) != count:
        raise ValueError(f"only {len(tokens)} of {count} tokens could be learnt")
    ranked = sorted(tokens, key=lambda token: (len(token) > 1, tokens[token]))  # bytes come first
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranked))


def _texts() -> Iterator[str]:
    rng = random.Random(_SEED)
    for number in track(range(_CONVERSATIONS), "reading conversations"):
        scene, language = scene_of(number, _SEED), ("en", "zh")[number % 2]
        told = conversation(scene, rng, language) if number % 20 else text_only(rng, language)
        for exchange in told:
            yield exchange.question
            if exchange.skill not in ("read", "describe"):
                yield exchange.answer
        yield from CHARACTERS  # often enough to become tokens
        if number % _NAMES_EVERY == 0:
            for thing in things():
                yield f"{thing.english.capitalize()}."
                yield f"{thing.chinese}。"


def _token_bytes(token: str) -> bytes:
    """Undo the letters that stand for bytes in this library (GPT-2's table)."""
    return bytes(_BYTES[letter] for letter in token)


def _letters() -> Iterator[tuple[str, int]]:
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 0
    for value in range(256):
        if value in printable:
            yield chr(value), value
        else:
            yield chr(256 + others), value
            others += 1


_BYTES = dict(_letters())


def main(
    model: Annotated[Path, typer.Option(help="Folder of config.json.")] = Path("glm4v/demo_model"),
) -> None:
    """Write tokenizer.model beside config.json."""
    content = train_vocabulary(read_spec(model).first_special_id)
    (model / "tokenizer.model").write_bytes(content)


if __name__ == "__main__":
    typer.run(main)
