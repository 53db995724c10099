"""Asks about a scene in one language."""

from random import Random

from recipes.demo_model.exchange import FOLLOW_UP, Exchange
from recipes.demo_model.nouns import THING, Noun, items, middles
from recipes.demo_model.scene import Scene
from recipes.demo_model.wording import ask, sentence


class Asker:
    """Makes exchanges about one scene."""

    def __init__(self, scene: Scene, rng: Random, language: str) -> None:
        self._scene, self._rng, self._language = scene, rng, language
        self._items = items(scene)

    def _ask(
        self, question: str, answer: str, skill: str, noun: Noun = THING, **slots: str
    ) -> Exchange:
        """A question about what has that noun."""
        filled = {**noun.slots(self._language), **slots}
        asked = ask(self._rng, self._language, question, **filled)
        is_named = any(filled[slot] in asked for slot in ("a", "the", "many"))
        return Exchange(
            asked,
            sentence(answer, self._language),
            skill,
            about=middles(self._scene, noun),
            named=noun if is_named else None,
        )

    def _then(self, question: str, answer: str, noun: Noun = THING, **slots: str) -> Exchange:
        return self._ask(question, answer, FOLLOW_UP, noun, **slots)

    def _yes(self, is_so: bool, *, being: bool = False) -> str:
        if self._language == "en":
            return "yes" if is_so else "no"
        word = "是" if being else "有"
        return word if is_so else ("不是" if being else "没有")

    def _amount(self, count: int, noun: Noun) -> str:
        return f"{count}{noun.measure_word}" if self._language == "zh" else str(count)
