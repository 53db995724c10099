"""How well training goes: running means between two lines of its log."""

from collections import Counter

import torch

from recipes.demo_model.batches import Batch
from recipes.demo_model.turns import IGNORED


class Scores:
    """Sums since the last `take`."""

    def __init__(self) -> None:
        self._loss = 0.0
        self._batches = 0
        self._kinds: Counter[tuple[str, bool]] = Counter()
        self._right: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._shares: dict[str, Counter[bool]] = {}

    def add_kinds(self, places: str, logits: torch.Tensor, kinds: torch.Tensor) -> None:
        """logits [..., kinds], kinds [...]; background, which is easy, does not count."""
        covered = kinds > 0
        right = int((logits.argmax(-1) == kinds)[covered].sum())
        self._kinds[places, True] += right
        self._kinds[places, False] += int(covered.sum()) - right

    def add_share(self, name: str, right: torch.Tensor) -> None:
        """Which of some things went right."""
        found = int(right.sum())
        counts = self._shares.setdefault(name, Counter())
        counts.update({True: found, False: right.numel() - found})

    def add_answers(self, logits: torch.Tensor, batch: Batch, loss: float) -> None:
        """logits [batch, rows, vocabulary]. An answer is right when each of its tokens is."""
        self._loss += loss
        self._batches += 1
        wrong = (logits.argmax(-1) != batch.targets) & (batch.targets != IGNORED)
        for number, skills in enumerate(batch.skills):
            missed = set(batch.owners[number][wrong[number]].tolist())
            self._asked.update(skills)
            self._right.update(skill for at, skill in enumerate(skills) if at not in missed)

    def take(self) -> str:
        """One line, and begin anew."""
        parts = []
        for places in sorted({places for places, _ in self._kinds}):
            right, wrong = self._kinds[places, True], self._kinds[places, False]
            parts.append(f"{places} {right / max(1, right + wrong):.1%}")
        for name, counts in sorted(self._shares.items()):
            parts.append(f"{name} {counts[True] / max(1, counts.total()):.1%}")
        if self._batches:
            parts.append(f"loss {self._loss / self._batches:.3f}")
        for skill in sorted(self._asked):
            parts.append(f"{skill} {self._right[skill] / self._asked[skill]:.0%}")
        self.__init__()  # type: ignore[misc]
        return ", ".join(parts)
