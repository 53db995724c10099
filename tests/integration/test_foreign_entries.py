"""Somebody else, a newer release or a fault has written where our entries are."""

import asyncio
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v.broker import Connection, Keys
from glm4v.broker.clock import RedisClock
from glm4v.broker.dead_letters import DeadLetters
from glm4v.broker.entries import FORMAT, Event
from glm4v.broker.lm_queue import Append
from glm4v.broker.sweeper import Sweeper
from glm4v.errors import IdTaken, RequestFailed, Unavailable, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from tests.integration.test_broker import MODEL, Bench, bench, make_job, tokens

__all__ = ["bench"]  # the fixture

NEWER = str(FORMAT + 1)
IMAGE = b"image"
DIGEST = hashlib.sha256(IMAGE).hexdigest()
NO_STREAM = "somebody else's"


async def answer(bench: Bench, request_id: str) -> list[int]:
    """What a language worker does with the one request there is; the tokens a reader sees."""
    [lease] = await bench.lm.claim(8) or await bench.lm.claim(8)
    assert lease.request_id == request_id
    resumed = await bench.lm.resume_or_release(lease)
    assert resumed is not None
    end = pb.JournalEnd(kind=pb.END_KIND_LENGTH, token_count=2)
    assert await bench.lm.append([Append(lease, 0, tokens(5))]) == ["ok"]
    assert await bench.lm.append([Append(lease, 1, tokens(6), end)]) == ["ok"]
    return read_tokens(await bench.events(request_id))


def read_tokens(events: list[Event]) -> list[int]:
    return [i for event in events if isinstance(event, pb.JournalTokens) for i in event.ids]


async def letters(bench: Bench) -> list[str]:
    """Where the dead letters come from, and why."""
    dead = DeadLetters(bench.connection, bench.keys)
    return [f"{letter.source}: {letter.reason}" async for letter in dead.all()]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"other": "program"}, "no request is named"),
        ({"r": b"\xff", "l": "0"}, "no request is named"),
        ({"r": "x", "l": "many"}, "no request is named"),
        ({"r": "x", "l": "0", "v": NEWER}, f"its format is b'{NEWER}'"),
    ],
)
async def test_an_entry_of_the_queue_that_cannot_be_read_is_set_aside(
    bench: Bench, fields: dict[str | bytes, str | bytes], reason: str
) -> None:
    await bench.connection.commands.xadd(bench.keys.jobs_lm(MODEL), fields)
    await bench.broker.submit(make_job("r"), None)
    assert await answer(bench, "r") == [5, 6]
    [letter] = await letters(bench)
    assert letter.startswith(bench.keys.jobs_lm(MODEL))
    assert reason in letter
    assert await bench.connection.commands.xlen(bench.keys.jobs_lm(MODEL)) == 0


async def test_an_entry_of_the_vision_queue_that_cannot_be_read_is_set_aside(bench: Bench) -> None:
    add = bench.connection.commands.xadd
    for fields in ({"other": "program"}, {"d": b"\xff\xff"}, {"d": b"", "v": NEWER}):
        await add(bench.keys.jobs_vision(MODEL), fields)
    await bench.broker.submit(make_job("r", image=IMAGE), IMAGE)
    [lease] = await bench.vision.claim(8)
    assert await bench.vision.begin(lease) == 1
    assert len(await letters(bench)) == 3
    assert await bench.connection.commands.xlen(bench.keys.jobs_vision(MODEL)) == 1


async def test_foreign_entries_in_a_journal_are_passed_over_by_all(bench: Bench) -> None:
    await bench.broker.submit(make_job("r"), None)
    add, key = bench.connection.commands.xadd, bench.keys.journal("r")
    for fields in ({"other": "x"}, {"k": "z", "n": 9, "d": ""}, {"k": "t", "n": "x", "d": ""}):
        await add(key, fields)
    assert await answer(bench, "r") == [5, 6]
    await add(key, {"other": "x"})
    assert not await bench.broker.close_request("r", pb.JournalEnd(kind=pb.END_KIND_CANCELLED))


@pytest.mark.parametrize("damage", ["broken tokens", "missing tokens", "newer", "no beginning"])
async def test_a_request_whose_journal_cannot_be_read_ends_and_is_kept(
    bench: Bench, damage: str
) -> None:
    await bench.broker.submit(make_job("r"), None)
    lease = await bench.claim_one()
    assert await bench.lm.append([Append(lease, 0, tokens(5))]) == ["ok"]
    commands, key = bench.connection.commands, bench.keys.journal("r")
    entries = await commands.xrange(key)
    if damage == "broken tokens":
        await commands.xadd(key, {"k": "t", "n": 2, "d": b"\xff\xff"})
    elif damage == "missing tokens":
        await bench.lm.append([Append(lease, 1, tokens(6))])
        await commands.xdel(key, entries[-1][0])
    else:
        await commands.delete(key)
        first = {**entries[0][1], b"v": NEWER} if damage == "newer" else {"k": "s"}
        for fields in (first, *(fields for _, fields in entries[1:])):
            await commands.xadd(key, fields)
    assert await bench.lm.resume_or_release(lease) is None
    [letter] = await letters(bench)
    assert letter.startswith(key)
    with pytest.raises(RequestFailed):
        await bench.events("r")
    assert await bench.pending() == 0


async def test_a_journal_that_was_overwritten_is_unknown_and_others_go_on(bench: Bench) -> None:
    for name in "ab":
        await bench.broker.submit(make_job(name), None)
    lost, kept = await bench.lm.claim(2)
    reading = [asyncio.create_task(bench.events(name)) for name in "ab"]
    await asyncio.sleep(0.3)
    await bench.connection.commands.set(bench.keys.journal("a"), NO_STREAM)
    steps = [Append(lost, 0, tokens(5)), Append(kept, 0, tokens(6))]
    assert await bench.lm.append(steps) == ["closed", "ok"]
    with pytest.raises(UnknownReference):
        await reading[0]
    end = pb.JournalEnd(kind=pb.END_KIND_LENGTH, token_count=1)
    assert await bench.lm.append([Append(kept, 1, None, end)]) == ["ok"]
    assert read_tokens(await reading[1]) == [6]
    with pytest.raises(IdTaken):
        await bench.broker.submit(make_job("a"), None)
    with pytest.raises(UnknownReference):
        await bench.broker.close_request("a", end)
    assert await bench.pending() == 0


async def test_a_queue_that_was_overwritten_is_waited_for(bench: Bench) -> None:
    commands = bench.connection.commands
    await commands.set(bench.keys.jobs_lm(MODEL), NO_STREAM)
    for call in (bench.lm.claim(1), bench.lm.claim_expired(1), bench.lm.ready()):
        with pytest.raises(Unavailable, match=r"overwritten by another program; remove it"):
            await call
    with pytest.raises(Unavailable, match="overwritten"):
        await bench.broker.submit(make_job("r"), None)
    await commands.delete(bench.keys.jobs_lm(MODEL))
    await bench.broker.submit(make_job("s"), None)
    assert await answer(bench, "s") == [5, 6]


async def test_blobs_that_were_overwritten_are_forgotten(bench: Bench) -> None:
    commands, keys = bench.connection.commands, bench.keys
    for key in (keys.image(DIGEST), keys.embedding(MODEL, DIGEST)):
        await commands.rpush(key, NO_STREAM)
    assert await bench.blobs.image(DIGEST) is None
    assert await bench.blobs.embedding(MODEL, DIGEST) is None
    await bench.blobs.put_embedding(MODEL, DIGEST, TensorBytes("float32", (1,), b"1234"))
    await commands.set(keys.image(DIGEST), b"another image")
    assert await bench.blobs.image(DIGEST) is None
    await bench.blobs.put_image(DIGEST, IMAGE)
    assert await bench.blobs.image(DIGEST) == IMAGE


async def test_who_waits_behind_an_overwritten_key_does_not_stop_others(bench: Bench) -> None:
    await bench.connection.commands.set(bench.keys.encode_waiters(MODEL, DIGEST), NO_STREAM)
    await bench.broker.submit(make_job("r", image=IMAGE), IMAGE)
    await bench.encode(DIGEST)
    assert (await bench.claim_one()).request_id == "r"


async def test_dead_letters_that_cannot_be_read_are_shown_as_they_are(bench: Bench) -> None:
    add = bench.connection.commands.xadd
    await add(bench.keys.dead_letters, {"other": "program"})
    await bench.lm.dead_letter(make_job("r"), "it killed three")
    await add(bench.keys.dead_letters, {"r": "x", "d": b"\xff\xff", "m": "x"})
    dead = DeadLetters(bench.connection, bench.keys)
    assert [letter.job is not None async for letter in dead.all()] == [False, True, False]
    assert (await dead.find("r")).reason == "it killed three"
    await bench.connection.commands.delete(bench.keys.dead_letters)
    await bench.connection.commands.set(bench.keys.dead_letters, NO_STREAM)
    await bench.lm.dead_letter(make_job("r"), "it killed three")  # is logged, and ends nothing
    with pytest.raises(Unavailable, match="overwritten"):
        await dead.find("r")


async def test_a_name_among_open_requests_that_is_no_name_is_removed(bench: Bench) -> None:
    commands, keys = bench.connection.commands, bench.keys
    await commands.zadd(keys.open_requests, {b"\xff": 0, "nobody": 0})
    clock = RedisClock(bench.connection, keys)
    sweeper = Sweeper(
        bench.connection,
        keys,
        clock,
        first_job=bench.broker._hub.first_job,
        close=bench.broker.close_request,
    )
    await sweeper.sweep()
    assert await commands.zcard(keys.open_requests) == 0


NAMES = st.sampled_from([b"k", b"n", b"d", b"r", b"l", b"v", b"c"]) | st.binary(max_size=3)
VALUES = st.sampled_from([b"z", b"-1", b"1e9", b"inf", b"0x1", b"\xff", b""]) | st.binary(
    max_size=8
)
FIELDS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=6)
PLACES = st.sampled_from(["jobs_lm", "jobs_vision", "dead_letters", "journal", "journal", "wakeup"])


def is_ours(fields: dict[bytes, bytes]) -> bool:
    """Whether an entry is by chance one that the protocol allows."""
    return fields.get(b"k") in (b"a", b"s", b"t", b"e")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(PLACES, FIELDS.filter(lambda f: not is_ours(f))), max_size=12))
def test_whatever_lies_between_them_real_requests_are_answered(
    redis_url: str, foreign: list[tuple[str, dict[bytes, bytes]]]
) -> None:
    async def run() -> None:
        connection, keys = Connection(redis_url), Keys(f"foreign-{id(foreign)}")
        names = await connection.commands.keys(f"*{keys.namespace}*")
        if names:
            await connection.commands.delete(*names)
        try:
            await _answer_among(connection, keys, foreign)
        finally:
            await connection.close()

    asyncio.run(run())


async def _answer_among(
    connection: Connection, keys: Keys, foreign: list[tuple[str, dict[bytes, bytes]]]
) -> None:
    bench = Bench(connection, keys)
    await bench.broker.ready(MODEL)
    places = {
        "jobs_lm": keys.jobs_lm(MODEL),
        "jobs_vision": keys.jobs_vision(MODEL),
        "dead_letters": keys.dead_letters,
        "journal": keys.journal("r"),
        "wakeup": keys.wakeup("x"),
    }
    left = list(foreign)

    async def meddle() -> None:
        for place, fields in left[:4]:
            await connection.commands.xadd(places[place], fields)
        del left[:4]

    await bench.broker.submit(make_job("r", image=IMAGE), IMAGE)
    await meddle()
    vision = [lease for lease in await bench.vision.claim(20) if lease.job.image_digest == DIGEST]
    await bench.vision.begin(vision[0])
    assert await bench.vision.finish(vision[0], TensorBytes("float32", (1,), b"1234")) == 1
    await meddle()
    leases = [lease for lease in await bench.lm.claim(20) if lease.request_id == "r"]
    resumed = await bench.lm.resume_or_release(leases[-1])
    assert resumed is not None
    assert await bench.lm.append([Append(leases[-1], 0, tokens(5))]) == ["ok"]
    await meddle()
    end = pb.JournalEnd(kind=pb.END_KIND_LENGTH, token_count=2)
    assert await bench.lm.append([Append(leases[-1], 1, tokens(6), end)]) == ["ok"]
    assert read_tokens(await bench.events("r")) == [5, 6]
    _ = [letter async for letter in DeadLetters(connection, keys).all()]
