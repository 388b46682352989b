from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from app.cache.connection import connect_redis
from app.cache.signals import LocalSignals, RedisSignals, Signals
from tests.servers import RedisServer


@pytest.fixture(params=["local", "redis"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Signals, Signals]]:
    """Two ends of the same signals: the same object in one process, two processes' over Redis."""
    if request.param == "local":
        local = LocalSignals()
        yield local, local
        await local.close()
        return
    url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_namespace")
    clients = connect_redis(url), connect_redis(url)
    ends = RedisSignals(clients[0], namespace=namespace), RedisSignals(clients[1], namespace=namespace)
    for end in ends:
        await end.start()
        await end.subscribed(2.0)
    yield ends
    for end, client in zip(ends, clients, strict=True):
        await end.close()
        await client.aclose()


async def test_a_waiter_wakes_when_its_topic_is_told(pair: tuple[Signals, Signals]) -> None:
    here, there = pair
    with here.subscribe("adaptation:task_a:1") as subscription:
        await there.publish("adaptation:task_a:1")
        assert await subscription.wait(2.0)


async def test_a_signal_told_before_the_wait_is_remembered_once(pair: tuple[Signals, Signals]) -> None:
    here, there = pair
    with here.subscribe("a") as subscription:
        await there.publish("a")
        await asyncio.sleep(0.1)
        assert [await subscription.wait(0.5), await subscription.wait(0.05)] == [True, False]


async def test_another_topic_wakes_nobody(pair: tuple[Signals, Signals]) -> None:
    here, there = pair
    with here.subscribe("adaptation:task_a:1") as subscription:
        await there.publish("adaptation:task_a:11")
        assert not await subscription.wait(0.1)


async def test_a_listener_hears_every_topic_under_its_prefix(pair: tuple[Signals, Signals]) -> None:
    here, there = pair
    heard: asyncio.Queue[str] = asyncio.Queue()
    here.listen("initializer:", heard.put)
    for topic in ("initializer:maml", "adaptation:x:1", "initializer:protonet"):
        await there.publish(topic)
    told = [await asyncio.wait_for(heard.get(), 2.0) for _ in range(2)]
    assert sorted(told) == ["initializer:maml", "initializer:protonet"]


async def test_a_listener_that_fails_does_not_deafen_the_others() -> None:
    signals, heard = LocalSignals(), asyncio.Event()

    async def fail(topic: str) -> None:
        raise RuntimeError(topic)

    async def hear(_topic: str) -> None:
        heard.set()

    signals.listen("", fail)
    signals.listen("", hear)
    await signals.publish("a")
    await asyncio.wait_for(heard.wait(), 1.0)
    await signals.close()


async def test_publishing_to_a_killed_redis_tells_this_process_and_the_rest_again_after_it_is_back(private_redis: RedisServer) -> None:
    redis = connect_redis(private_redis.url)
    signals = RedisSignals(redis, reconnect_s=0.05)
    await signals.start()
    await signals.subscribed(2.0)
    private_redis.kill()
    with signals.subscribe("a") as subscription:
        await signals.publish("a")
        assert await subscription.wait(1.0)
    private_redis.start()
    with signals.subscribe("b") as subscription:
        for _ in range(50):
            await redis.publish("innerloop:signal:b", b"")  # as another process would
            if await subscription.wait(0.1):
                break
        else:
            pytest.fail("the subscription did not come back")
    await signals.close()
    await redis.aclose()


async def test_a_name_that_is_no_text_deafens_nobody(redis_url: str, redis_namespace: str) -> None:
    client = connect_redis(redis_url)
    signals = RedisSignals(client, namespace=redis_namespace)
    await signals.start()
    assert await signals.subscribed(2.0)
    with signals.subscribe("a") as subscription:
        await client.publish(f"{redis_namespace}:signal:".encode() + b"\xff", b"")
        await signals.publish("a")
        assert await subscription.wait(2.0)
    await signals.close()
    await client.aclose()


async def test_a_reader_that_fails_in_a_way_nobody_thought_of_is_heard_of_and_reads_on(
    redis_url: str, redis_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect_redis(redis_url)
    signals, read, fails = RedisSignals(client, namespace=redis_namespace, reconnect_s=0.01), RedisSignals._read, [True]

    async def fail_once(self: RedisSignals) -> None:
        if fails:
            fails.clear()
            raise KeyError("channel")
        await read(self)

    monkeypatch.setattr(RedisSignals, "_read", fail_once)
    with capture_logs() as logged:
        await signals.start()
        assert await signals.subscribed(2.0)
    assert [line["event"] for line in logged] == ["signals_lost"]
    await signals.close()
    await client.aclose()


async def test_redis_that_cannot_be_reached_is_not_listened_to(redis_namespace: str) -> None:
    client = connect_redis("redis://127.0.0.1:1")
    signals = RedisSignals(client, namespace=redis_namespace)
    await signals.start()
    assert not await signals.subscribed(0.1)
    assert not signals.is_listening
    await signals.close()
    await client.aclose()


async def test_both_ends_listen_once_they_have_subscribed(pair: tuple[Signals, Signals]) -> None:
    assert all(end.is_listening for end in pair)
