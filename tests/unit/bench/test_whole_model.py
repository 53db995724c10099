"""The checkpoint of `glm4v bench whole-model`."""

from bench.whole_model.checkpoint import _vocabulary


def test_its_vocabulary_has_every_token_before_the_special_ones() -> None:
    lines = _vocabulary().splitlines()
    assert len({line.split()[0] for line in lines}) == 151329
    assert [int(line.split()[1]) for line in lines] == list(range(151329))
