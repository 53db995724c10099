"""The image of an open request stays, however many others come, within a bound on their bytes."""

import hashlib
import re
from collections.abc import AsyncIterator

import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.clock import RedisClock
from glm4v.broker.keys import IMAGE_OWNER_TTL_S, IMAGE_TTL_S
from glm4v.broker.lm_queue import Append
from glm4v.broker.sweeper import Sweeper
from glm4v.errors import Overloaded, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.local.redis_server import RedisServer
from tests.integration.test_broker import MODEL, Bench, end, make_job, tokens

MIB = 2**20


def image(number: int) -> bytes:
    """A file of one MiB that no other number gives."""
    return number.to_bytes(4, "little") + bytes(MIB - 4)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
async def bench(own_redis: RedisServer, keys: Keys) -> AsyncIterator[Bench]:
    """What a gateway and workers ask of a Redis that may be filled."""
    connection = Connection(own_redis.url)
    bench = Bench(connection, keys)
    await bench.broker.ready(MODEL)
    yield bench
    await connection.close()


async def room(bench: Bench, mebibytes: int, policy: str = "volatile-lru") -> None:
    """Let Redis take so much more than it has."""
    commands = bench.connection.commands
    used = (await commands.info("memory"))["used_memory"]
    await commands.config_set("maxmemory-policy", policy)
    await commands.config_set("maxmemory", used + mebibytes * MIB)


async def ttl(bench: Bench, data: bytes) -> int:
    """Seconds an image has to live: -1 without an end, -2 when it is gone."""
    return int(await bench.connection.commands.ttl(bench.keys.image(digest_of(data))))


async def held_bytes(bench: Bench) -> int:
    return int(await bench.connection.commands.hget(bench.keys.pinned, "bytes") or 0)


async def test_an_image_is_held_until_the_last_of_its_requests_ends(bench: Bench) -> None:
    one = image(1)
    for name in "ab":
        await bench.broker.submit(make_job(name, image=one), one)
    await bench.broker.submit(make_job("c", image=image(2)), image(2))
    assert (await ttl(bench, one), await held_bytes(bench)) == (-1, 2 * MIB)
    await bench.broker.close_request("a", end(pb.END_KIND_CANCELLED))
    assert not await bench.broker.close_request("a", end(pb.END_KIND_CANCELLED))
    assert (await ttl(bench, one), await held_bytes(bench)) == (-1, 2 * MIB)
    await bench.encode(digest_of(one))
    [lease] = await bench.lm.claim(1)
    assert await bench.lm.append([Append(lease, 0, tokens(5), end())]) == ["ok"]
    assert 0 < await ttl(bench, one) <= IMAGE_TTL_S
    assert await held_bytes(bench) == MIB
    [other] = await bench.vision.claim(1)
    assert await bench.vision.fail(other, "ABORTED", "given up") == 1
    assert await ttl(bench, image(2)) > 0
    assert await bench.connection.commands.exists(bench.keys.pins, bench.keys.pinned) == 0


async def test_storing_it_again_does_not_let_it_go(bench: Bench) -> None:
    one = image(1)
    await bench.broker.submit(make_job("a", image=one), one)
    await bench.blobs.put_image(digest_of(one), one)
    assert await ttl(bench, one) == -1


async def test_images_of_others_push_out_no_image_of_an_open_request(bench: Bench) -> None:
    one = image(0)
    await bench.broker.submit(make_job("r", image=one), one)
    await room(bench, 8)
    for number in range(1, 30):
        await bench.blobs.put_image(digest_of(image(number)), image(number))
    left = [await ttl(bench, image(number)) for number in range(1, 30)]
    assert 0 < left.count(-2) < 29, "memory was full"
    assert await bench.blobs.image(digest_of(one)) == one
    await bench.encode(digest_of(one))
    await bench.blobs.delete_embedding(MODEL, digest_of(one))
    [lease] = await bench.lm.claim(1)
    await bench.lm.await_encode(lease, make_job("r", image=one))
    await bench.encode(digest_of(one))
    [lease] = await bench.lm.claim(1)
    assert await bench.lm.resume_or_release(lease) is not None


@pytest.mark.parametrize("limit", ["a setting", "of Redis"])
async def test_images_above_the_bound_are_refused_with_the_numbers(
    bench: Bench, limit: str
) -> None:
    most = int(2.5 * MIB) if limit == "a setting" else 0
    broker = Broker(
        bench.connection,
        bench.keys,
        max_open_requests=100,
        result_ttl_s=60,
        max_open_image_bytes=most,
    )
    if limit == "of Redis":
        await room(bench, 0)
        info = await bench.connection.commands.info("memory")
        await bench.connection.commands.config_set("maxmemory", 5 * MIB + info["used_memory"])
        info = await bench.connection.commands.info("memory")
        most = info["maxmemory"] // 2
    taken = 0
    while (taken + 1) * MIB <= most:
        await broker.submit(make_job(f"r{taken}", image=image(taken)), image(taken))
        taken += 1
    text = rf"images of open requests take {taken * MIB} bytes \(limit {most}\)"
    with pytest.raises(Overloaded, match=text):
        await broker.submit(make_job("over", image=image(99)), image(99))
    assert await ttl(bench, image(99)) == -2, "its megabytes were not stored"
    await broker.submit(make_job("again", image=image(0)), None)
    await broker.submit(make_job("text"), None)
    for name in ("r0", "again"):
        await broker.close_request(name, end(pb.END_KIND_CANCELLED))
    await broker.submit(make_job("over", image=image(99)), image(99))


async def test_without_room_in_redis_nothing_is_accepted_and_what_was_goes_on(
    bench: Bench,
) -> None:
    one = image(0)
    await bench.broker.submit(make_job("r", image=one), one)
    await room(bench, 0, "noeviction")
    broker = Broker(
        bench.connection,
        bench.keys,
        max_open_requests=100,
        result_ttl_s=60,
        max_open_image_bytes=100 * MIB,
    )
    with pytest.raises(Overloaded, match="out of memory"):
        await broker.submit(make_job("s", image=image(1)), image(1))
    assert await bench.blobs.image(digest_of(one)) == one
    await bench.connection.commands.config_set("maxmemory", 0)
    await bench.encode(digest_of(one))
    assert (await bench.claim_one()).request_id == "r"


async def test_a_digest_whose_image_is_gone_is_refused_before_it_is_accepted(bench: Bench) -> None:
    """Its embedding alone is not enough: nobody could make it again."""
    one = image(0)
    await bench.broker.submit(make_job("r", image=one), one)
    await bench.encode(digest_of(one))
    await bench.broker.close_request("r", end())
    await bench.broker.submit(make_job("s", image=one), None)
    await bench.broker.close_request("s", end())
    await bench.connection.commands.delete(bench.keys.image(digest_of(one)))
    with pytest.raises(UnknownReference, match=re.escape(digest_of(one))):
        await bench.broker.submit(make_job("t", image=one), None)
    assert await bench.pending() == 0
    await bench.broker.submit(make_job("t", image=one), one)


async def test_a_digest_refers_to_an_image_only_for_those_who_sent_it(bench: Bench) -> None:
    one = image(0)

    def job(name: str, owner: str) -> pb.Job:
        made = make_job(name, image=one)
        made.owner = owner
        return made

    await bench.broker.submit(job("a", "ann"), one)
    await bench.broker.submit(job("b", "ann"), None)
    refusals = []
    for owner, digest_owner in (("bob", one), ("", one), ("bob", image(1))):
        stranger = job("c", owner)
        stranger.image_digest = digest_of(digest_owner)
        with pytest.raises(UnknownReference) as refused:
            await bench.broker.submit(stranger, None)
        refusals.append(str(refused.value).replace(stranger.image_digest, ""))
    assert len(set(refusals)) == 1, "as if nobody had sent it"
    for name in "ab":
        await bench.broker.close_request(name, end())
    await bench.broker.submit(job("c", "bob"), one)
    await bench.broker.submit(job("d", "bob"), None)
    await bench.connection.commands.delete(bench.keys.image(digest_of(one)))
    await bench.broker.close_request("d", end())
    with pytest.raises(UnknownReference):
        await bench.broker.submit(job("d2", "bob"), None)
    owner = bench.keys.image_owner(digest_of(one), "bob")
    assert IMAGE_TTL_S < await bench.connection.commands.ttl(owner) <= IMAGE_OWNER_TTL_S
    assert "bob" not in owner


async def test_what_holds_an_image_and_is_not_open_lets_it_go(bench: Bench) -> None:
    one = image(0)
    for name in "ab":
        await bench.broker.submit(make_job(name, image=one), one)
    commands, keys = bench.connection.commands, bench.keys
    await commands.zrem(keys.open_requests, "a")
    assert await bench.connection.run("release_lost", [keys.open_requests], []) == 1
    assert await ttl(bench, one) == -1
    await commands.delete(keys.journal("b"))
    with pytest.raises(UnknownReference):
        await bench.broker.close_request("b", end())
    assert await ttl(bench, one) > 0


class SetClock(RedisClock):
    """Tells the time that a test says."""

    told_ms = 10**12

    async def now_ms(self) -> int:
        return self.told_ms


async def test_images_are_let_go_also_after_the_clock_was_set_back(bench: Bench) -> None:
    one = image(0)
    commands, keys = bench.connection.commands, bench.keys
    clock = SetClock(bench.connection, keys)
    sweeper = Sweeper(
        bench.connection,
        keys,
        clock,
        first_job=bench.broker._hub.first_job,
        close=bench.broker.close_request,
    )
    await sweeper.sweep()
    await bench.broker.submit(make_job("a", image=one), one)
    await commands.zrem(keys.open_requests, "a")
    clock.told_ms -= 3_600_000
    await sweeper.sweep()
    assert await ttl(bench, one) > 0
