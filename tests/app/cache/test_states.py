from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from app.cache.connection import connect_redis
from app.cache.states import LruStateCache, RedisStateCache, StateCache
from app.domain import InitializerRef, StateKey
from app.errors import Unavailable
from tests.servers import RedisServer


def key(task_id: str = "task_a", revision: int = 1, version: int = 1) -> StateKey:
    return StateKey(task_id, revision, InitializerRef("maml", version))


@pytest.fixture(params=["lru", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[StateCache]:
    made: StateCache
    if request.param == "lru":
        made = LruStateCache(max_bytes=1000, ttl_s=60)
    else:
        url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_namespace")
        made = RedisStateCache(connect_redis(url), ttl_s=60, namespace=namespace)
    yield made
    await made.close()


async def test_a_state_comes_back_as_it_was_put(cache: StateCache) -> None:
    state = bytes(range(256))
    await cache.put(key(), state)
    assert await cache.get(key()) == state
    await cache.ping()


async def test_revisions_and_versions_of_a_task_are_different_states(cache: StateCache) -> None:
    await cache.put(key(revision=1), b"one")
    await cache.put(key(revision=2), b"two")
    await cache.put(key(version=2), b"other version")
    assert await cache.get(key(revision=1)) == b"one"
    await cache.delete(key(revision=1))
    assert [await cache.get(key(revision=1)), await cache.get(key(revision=2)), await cache.get(key(version=2))] == [
        None,
        b"two",
        b"other version",
    ]


async def test_deleting_a_task_forgets_all_its_states_and_no_other(cache: StateCache) -> None:
    for each in (key(revision=1), key(revision=2), key("task_b")):
        await cache.put(each, b"state")
    await cache.delete_task("task_a")
    assert [await cache.get(key(revision=1)), await cache.get(key(revision=2)), await cache.get(key("task_b"))] == [None, None, b"state"]


async def test_the_least_recently_used_state_makes_room_for_a_new_one() -> None:
    cache = LruStateCache(max_bytes=10, ttl_s=60)
    await cache.put(key("a"), b"x" * 5)
    await cache.put(key("b"), b"x" * 5)
    await cache.get(key("a"))
    await cache.put(key("c"), b"x" * 5)
    assert [await cache.get(key(name)) is not None for name in "abc"] == [True, False, True]
    assert cache.size_bytes == 10


async def test_states_that_were_evicted_or_forgotten_leave_nothing_behind() -> None:
    cache = LruStateCache(max_bytes=10, ttl_s=60)
    for each in (key("a"), key("a", revision=2), key("b")):
        await cache.put(each, b"x" * 5)
    await cache.delete_task("a")
    assert (await cache.get(key("b")), cache.size_bytes) == (b"x" * 5, 5)
    await cache.delete_task("a")
    await cache.delete(key("b"))
    assert (cache.size_bytes, cache._entries, cache._keys_of_task) == (0, {}, {})


async def test_a_state_larger_than_the_whole_cache_is_not_kept_and_pushes_nothing_out() -> None:
    cache = LruStateCache(max_bytes=10, ttl_s=60)
    await cache.put(key("a"), b"x" * 5)
    await cache.put(key("b"), b"x" * 11)
    assert await cache.get(key("b")) is None
    assert await cache.get(key("a")) is not None


async def test_putting_a_state_again_replaces_its_bytes_and_their_count() -> None:
    cache = LruStateCache(max_bytes=10, ttl_s=60)
    await cache.put(key(), b"x" * 9)
    await cache.put(key(), b"y" * 3)
    assert (await cache.get(key()), cache.size_bytes) == (b"yyy", 3)


async def test_a_state_ends_ttl_s_after_its_last_use() -> None:
    now = [0.0]
    cache = LruStateCache(max_bytes=10, ttl_s=60, clock=lambda: now[0])
    await cache.put(key(), b"x")
    now[0] = 59.0
    assert await cache.get(key()) == b"x"
    now[0] = 118.0
    assert await cache.get(key()) == b"x"
    now[0] = 178.0
    assert (await cache.get(key()), cache.size_bytes) == (None, 0)


async def test_states_in_redis_have_a_ttl(redis_url: str, redis_namespace: str) -> None:
    redis = connect_redis(redis_url)
    cache = RedisStateCache(redis, ttl_s=60, namespace=redis_namespace)
    await cache.put(key(), b"x")
    assert 0 < await redis.ttl(f"{redis_namespace}:states:task_a") <= 60
    await cache.close()


async def test_a_killed_redis_is_unavailable_and_serves_again_after_it_is_back(private_redis: RedisServer) -> None:
    cache = RedisStateCache(connect_redis(private_redis.url), ttl_s=60)
    await cache.put(key(), b"x")
    private_redis.kill()
    for call in (cache.get(key()), cache.put(key(), b"x"), cache.delete_task("task_a"), cache.ping()):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.code == "redis_unavailable"
    private_redis.start()
    await cache.put(key(), b"y")
    assert await cache.get(key()) == b"y"
    await cache.close()
