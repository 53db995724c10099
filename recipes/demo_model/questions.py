"""Conversations: about a picture, or without one."""

from random import Random

from recipes.demo_model.exchange import Exchange
from recipes.demo_model.scene import Scene
from recipes.demo_model.small_talk import small_talk
from recipes.demo_model.topics import Topics

__all__ = ["Exchange", "conversation", "text_only"]

_ALWAYS = {  # what a kind of scene is made for is always asked
    "one thing": ("name",),
    "many things": ("count",),
    "many shapes": ("count",),
    "number": ("read",),
    "word": ("read",),
    "characters": ("read",),
    "text with thing": ("read",),
    "chart": ("chart",),
}
_FOLLOWED = 0.5  # how many of the questions that can be followed up are


def conversation(scene: Scene, rng: Random, language: str) -> list[Exchange]:
    """4 to 10 exchanges about one picture."""
    topics = Topics(scene, rng, language).all()
    rng.shuffle(topics)
    topics.sort(key=lambda topic: topic.first.skill not in _ALWAYS.get(scene.kind, ()))
    wanted = rng.randint(4, 6)
    topics = rng.sample(topics[:wanted], min(wanted, len(topics)))
    told: list[Exchange] = []
    for topic in topics:
        told.append(topic.first)
        if topic.follow_ups and rng.random() < _FOLLOWED:
            told.append(rng.choice(topic.follow_ups))
    return told


def text_only(rng: Random, language: str) -> list[Exchange]:
    """1 to 4 exchanges of small talk."""
    return small_talk(rng, language, rng.randint(1, 4))
