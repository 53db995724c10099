"""Questions of a given length, the same for the same seed."""

import random

# One token each in the vocabulary of GLM-4, with the blank before it.
_COMMON = (
    "the of and to in a is that for it as was with be by on not he his but at this are have from or"
    " had an they which one you were her all she there would their we him been has when who will"
    " more no if out so said what up its about into than them can only other new some could time"
    " these two may then do first any my now such like our over man me even most made after also"
)


def words(count: int, seed: int | str) -> str:
    """A text of `count` words, about as many tokens."""
    generator = random.Random(seed)
    return " ".join(generator.choices(_COMMON.split(), k=count))
