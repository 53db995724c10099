"""Batches of training: pictures with dense labels and conversations, made while they are needed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset

from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.spec import ModelSpec, read_spec
from recipes.demo_model.questions import Exchange, text_only
from recipes.demo_model.samples import sample
from recipes.demo_model.turns import (
    ANYWHERE,
    EVERYONE,
    IGNORED,
    Ids,
    Lesson,
    lesson,
    named,
    padded,
    places,
)

_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)

_Columns = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
_TEXT_ONLY_EVERY = 25  # one batch in so many has no pictures


@dataclass(frozen=True)
class Batch:
    """Conversations of one step, padded; without pictures the last four are empty."""

    ids: torch.Tensor  # [batch, tokens]
    positions: torch.Tensor  # [batch, tokens]
    topics: torch.Tensor  # [batch, tokens]
    targets: torch.Tensor  # [batch, rows of text]
    owners: torch.Tensor  # [batch, rows of text]
    skills: list[list[str]]  # of each conversation's exchanges
    pixels: torch.Tensor  # uint8 [batch, side, side, 3]
    labels: torch.Tensor  # [batch, cells, 3]: kind, colour, anchor (see `labels`)
    places: torch.Tensor  # [batch, exchanges, image rows]: what is asked about (see `turns`)
    named: torch.Tensor  # [batch, exchanges, 2]: kind and colour (see `turns`)

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        moved = {name: part.to(device) for name, part in vars(self).items() if name != "skills"}
        return replace(self, **moved)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [batch, side, side, 3] -> [batch, 3, side, side], as the vision worker does it."""
    device = pixels.device
    channels = pixels.permute(0, 3, 1, 2).float() / 255
    return (channels - _MEAN.to(device)) / _STD.to(device)


class Batches(IterableDataset[Batch]):
    """The batches of one process from a step on; what they hold depends on seed and step alone."""

    def __init__(
        self, model_dir: Path, *, seed: int, batch: int, share: int, shares: int, first: int
    ) -> None:
        self._model_dir = model_dir
        self._seed, self._batch = seed, batch
        self._share, self._shares = share, shares
        self._first = first

    def __iter__(self) -> Iterator[Batch]:
        spec = read_spec(self._model_dir)
        tokenizer = Tokenizer.read(self._model_dir, spec)
        step = self._first
        while True:
            start = (step * self._shares + self._share) * self._batch
            indices = range(start, start + self._batch)
            make = text_batch if step % _TEXT_ONLY_EVERY == _TEXT_ONLY_EVERY - 1 else picture_batch
            yield make(indices, self._seed, tokenizer, spec)
            step += 1


def loader(batches: Batches) -> Iterator[Batch]:
    """The batches, made by a process beside the one that trains."""
    return iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4))


def picture_batch(indices: range, seed: int, tokenizer: Tokenizer, spec: ModelSpec) -> Batch:
    """One picture and one conversation about it for each index."""
    samples = [sample(index, seed) for index in indices]
    lessons = [
        lesson(each.exchanges, tokenizer, has_image=True, apart=each.apart) for each in samples
    ]
    return Batch(
        *_conversations(lessons, spec),
        [[exchange.skill for exchange in each.exchanges] for each in samples],
        torch.from_numpy(np.stack([each.image for each in samples])),
        torch.from_numpy(np.stack([each.labels.stacked() for each in samples])).long(),
        _stacked([places(each.exchanges, spec.vision.grid // 2) for each in samples], ANYWHERE),
        _stacked([named(each.exchanges) for each in samples], IGNORED),
    )


def text_batch(indices: range, seed: int, tokenizer: Tokenizer, spec: ModelSpec) -> Batch:
    """Conversations without a picture."""
    told: list[list[Exchange]] = []
    for index in indices:
        rng = random.Random(f"{seed}:{index}")
        told.append(text_only(rng, ("en", "zh")[index % 2]))
    lessons = [lesson(exchanges, tokenizer, has_image=False) for exchanges in told]
    nothing = torch.empty(0)
    skills = [[exchange.skill for exchange in exchanges] for exchanges in told]
    return Batch(*_conversations(lessons, spec), skills, nothing, nothing, nothing, nothing)


def _stacked(columns: list[Ids], filler: int) -> torch.Tensor:
    """[batch, most exchanges, ...]."""
    tensors = list(map(torch.from_numpy, columns))
    return pad_sequence(tensors, batch_first=True, padding_value=filler)


def _conversations(lessons: list[Lesson], spec: ModelSpec) -> _Columns:
    """Ids, positions, topics, targets and owners, each [batch, longest]."""
    ids = padded([each.ids for each in lessons], spec.first_special_id)
    length = ids.shape[1]
    text = length - (len(lessons[0].ids) - len(lessons[0].targets))

    def column(name: str, filler: int, length: int) -> torch.Tensor:
        rows = padded([getattr(each, name) for each in lessons], filler, 1)
        fill = ((0, 0), (0, length - rows.shape[1]))
        return torch.from_numpy(np.pad(rows, fill, constant_values=filler))

    return (
        torch.from_numpy(ids),
        column("positions", 0, length),
        column("topics", EVERYONE, length),
        column("targets", IGNORED, text),
        column("owners", IGNORED, text),
    )
