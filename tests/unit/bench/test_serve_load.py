"""The requests of a load: arrivals, mixes, images, traces."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.serve.arrivals import arrivals
from bench.serve.images import KEPT, ImageFiles
from bench.serve.load import Shape, plan
from bench.serve.request import CLOSED
from bench.serve.trace_file import BLOCK_TOKENS, read_trace
from bench.serve.workload import Mix, workload
from glm4v.errors import InvalidRequest

MIX = Mix(image_share=0.0, image_size=64, repeat_share=0.0, words=8, max_tokens=16, seed=1)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_the_spread_of_a_gamma_distribution(burstiness: float) -> None:
    times = list(itertools.islice(arrivals(5.0, burstiness, seed=1), 20_000))
    gaps = np.diff(times)
    assert np.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert np.std(gaps) == pytest.approx(0.2 / burstiness**0.5, rel=0.05)
    assert (gaps >= 0).all()


def test_arrivals_in_a_window_of_a_poisson_process_have_the_variance_of_their_mean() -> None:
    times = np.array(list(itertools.islice(arrivals(10.0, 1.0, seed=2), 20_000)))
    counts = np.bincount(times.astype(int))[:-1]
    assert np.mean(counts) == pytest.approx(10, rel=0.05)
    assert np.var(counts) == pytest.approx(10, rel=0.15)


def test_the_same_seed_is_the_same_load_and_another_one_is_not() -> None:
    mix = Mix(0.5, 64, 0.5, 8, 16, seed=3)
    first = list(workload(mix, range(50)))
    assert first == list(workload(mix, range(50)))
    assert first != list(workload(Mix(0.5, 64, 0.5, 8, 16, seed=4), range(50)))
    assert all(len(each.text.split()) == 8 for each in first)


def test_shares_of_images_and_of_repeated_ones_are_kept() -> None:
    requests = list(workload(Mix(0.4, 64, 0.25, 8, 16, seed=5), range(4000)))
    images = [each.image for each in requests if each.image is not None]
    assert len(images) / 4000 == pytest.approx(0.4, abs=0.03)
    assert 1 - len(set(images)) / len(images) == pytest.approx(0.25, abs=0.03)
    assert list(dict.fromkeys(images)) == list(range(len(set(images))))


async def test_images_differ_and_come_again_from_the_same_seed() -> None:
    images = ImageFiles(48, seed=1)
    files = [await images.file(number) for number in range(5)]
    assert len(set(files)) == 5
    assert files == [await ImageFiles(48, seed=1).file(number) for number in range(5)]
    assert await images.file(0) != await ImageFiles(48, seed=2).file(0)


async def test_an_image_that_is_no_longer_kept_is_drawn_again() -> None:
    images = ImageFiles(16, seed=1)
    first = await images.file(0)
    for number in range(1, KEPT + 1):
        await images.file(number)
    assert await images.file(0) == first


def shape(**values: object) -> Shape:
    fields = {"callers": 2, "rate": None, "burstiness": 1.0, "requests": None, "duration_s": None}
    fields |= {"trace": None, "speed": 2.0, "warm_up": 1, "most_in_flight": 9}
    return Shape(**{**fields, **values})  # type: ignore[arg-type]


def test_a_closed_loop_has_no_times_and_an_open_one_ends_with_its_duration() -> None:
    closed = plan(shape(requests=7), MIX)
    assert not closed.is_open
    assert [each.at_s for each in closed.requests] == [CLOSED] * 7
    open_loop = plan(shape(rate=20.0, duration_s=5.0), MIX)
    times = [each.at_s for each in open_loop.requests]
    assert open_loop.is_open
    assert 60 < len(times) < 140
    assert open_loop.number == len(times)
    assert times[-1] < 5.0
    assert plan(shape(rate=20.0), MIX).number == 100


def test_a_closed_loop_with_a_duration_has_as_many_requests_as_it_takes() -> None:
    planned = plan(shape(duration_s=5.0), MIX)
    assert planned.number is None
    assert len(list(itertools.islice(planned.requests, 500))) == 500
    assert plan(shape(), MIX).number == 100


def test_no_warm_up_request_begins_like_one_of_the_load() -> None:
    planned = plan(shape(requests=5, warm_up=5), replace(MIX, image_share=1.0))
    requests = list(planned.requests)
    images = [each.image for each in (*planned.warm_up, *requests)]
    assert len(set(images)) == 10
    assert None not in images
    assert not {each.text[:20] for each in planned.warm_up} & {each.text[:20] for each in requests}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_trace_of_mooncake_keeps_times_lengths_and_shared_blocks(tmp_path: Path) -> None:
    file = write(
        tmp_path / "trace.jsonl",
        {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [7, 9]},
        {"timestamp": 1000, "input_length": 1100, "output_length": 3, "hash_ids": [7, 8, 10]},
    )
    first, second = read_trace(file, speed=2.0)
    assert (first.at_s, second.at_s) == (0.0, 1.0)
    assert (first.max_tokens, second.max_tokens) == (3, 5)
    words = [each.text.split() for each in (first, second)]
    assert [len(each) for each in words] == [1100, 600]
    assert words[0][:BLOCK_TOKENS] == words[1][:BLOCK_TOKENS]
    assert words[0][BLOCK_TOKENS:600] != words[1][BLOCK_TOKENS:]


def test_a_trace_may_hold_any_text_and_get_images(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    line = json.dumps({"timestamp": 0, "text_input": text, "output_length": 3}, ensure_ascii=False)
    file = tmp_path / "trace.jsonl"
    file.write_text(f"{line}\n{line}\n", encoding="utf-8")
    planned = plan(shape(trace=file), replace(MIX, image_share=1.0))
    assert [(each.text, each.image) for each in planned.requests] == [(text, 0), (text, 1)]
    assert planned.number == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "is not a JSON object"),
        ("{", "is not a JSON object"),
        ('{"input_length": 1, "output_length": 1}', "timestamp is None"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 0}', "output_length is 0"),
        ('{"timestamp": 0, "output_length": 2}', "input_length is None"),
        ('{"timestamp": NaN, "input_length": 1, "output_length": 1}', "timestamp is nan"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": 3}', "hash_ids"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_place(
    line: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}\n' + line + "\n")
    with pytest.raises(InvalidRequest, match=rf"trace\.jsonl:2.*{reason}"):
        read_trace(file, speed=1.0)
