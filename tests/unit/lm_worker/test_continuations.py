"""The longest common run is found among any contents, as by comparing each."""

import random
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from lm_worker.engine.continuations import Content, Continuations
from lm_worker.engine.prefix_index import Held, PrefixIndex

CONTENTS = st.lists(st.integers(-2, 2), max_size=5).map(tuple)


@given(added=st.lists(st.tuples(CONTENTS, st.integers(0, 5))), removed=st.randoms(), query=CONTENTS)
def test_the_longest_run_is_that_of_comparing_each(
    added: list[tuple[Content, int]], removed: random.Random, query: Content
) -> None:
    after = Continuations()
    for content, number in added:
        after.add(content, number)
    while len(added) > 3:
        after.remove(*added.pop(removed.randrange(len(added))))
    runs = [
        (
            len([*takewhile(lambda pair: pair[0] == pair[1], zip(query, content, strict=False))]),
            number,
        )
        for content, number in added
    ]
    run, number = after.longest_run(query)
    assert run == max((each for each, _ in runs), default=0)
    assert (run, number) in runs if run else number == -1
    assert len(after) == len(added)


def test_of_equal_contents_the_smallest_number_is_found() -> None:
    after = Continuations()
    for number in (7, 3, 5):
        after.add((1, 2), number)
    assert after.longest_run((1, 2)) == (2, 3)


def test_what_another_block_holds_is_not_kept_twice() -> None:
    index = PrefixIndex()
    index.put(1, Held(b"root", (1, 2, 3), None))
    index.put(2, Held(b"root", (1, 2), None))
    assert 2 not in index
    index.put(2, Held(b"root", (1, 2, 3, 4), b"full"))
    index.put(3, Held(b"root", (1, 2, 3, 4), b"full"))
    assert (1 in index, index.full_block(b"full"), 3 in index) == (True, 2, False)
    assert index.longest_run(b"root", (1, 2, 3, 4, 5)) == (4, 2)
    assert index.longest_run(b"other", (1,)) == (0, -1)
    assert index.check_integrity() == []
    index.remove(2)
    index.remove(2)
    assert index.longest_run(b"root", (1, 2, 3, 4, 5)) == (3, 1)
    assert index.check_integrity() == []
