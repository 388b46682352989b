"""Reads that meet share a round trip, and nobody waits in vain or for what somebody else gave up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from app.cache.connection import connect_redis
from app.cache.renewals import Renewals
from app.cache.state_reads import StateReads


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = connect_redis(redis_url)
    yield redis
    await redis.aclose()


@pytest.fixture
async def name(redis: Redis, redis_namespace: str) -> AsyncIterator[str]:
    """A hash whose fields f0 to f19 hold 100 KB each."""
    name = f"{redis_namespace}:reads"
    await redis.hset(name, mapping={f"f{number}": bytes([number]) * 100_000 for number in range(20)})
    yield name
    await redis.delete(name)


async def test_everybody_gets_what_was_asked_for_in_a_few_round_trips(redis: Redis, name: str) -> None:
    reads, trips = StateReads(redis, ttl_s=60), list[int]()
    execute = Pipeline.execute

    async def count(pipe: Pipeline, **options: Any) -> Any:
        trips.append(len(pipe.command_stack))
        return await execute(pipe, **options)

    with patch.object(Pipeline, "execute", count):
        found = await asyncio.gather(*(reads.get(name, f"f{number % 20}") for number in range(25)), reads.get(name, "no such"))
    assert [value and value[:1] for value in found] == [*(bytes([number % 20]) for number in range(25)), None]
    assert len(trips) <= 3  # 21 places, eight of them at a time
    await reads.close()


async def test_what_was_read_stays_for_its_time_from_then(redis: Redis, name: str, redis_namespace: str) -> None:
    reads, other = StateReads(redis, ttl_s=2), f"{redis_namespace}:unread"
    await redis.hset(other, "f1", b"x")
    for each in (name, other):
        await redis.expire(each, 1)
    await reads.get(name, "f1")
    await asyncio.gather(*(reads.get(name, f"f{number}") for number in range(3)), reads.get(other, "no such"))
    assert 0 <= await redis.pttl(name) <= 1000  # nobody waited for it
    await asyncio.sleep(0.5)
    assert await redis.pttl(name) > 1000
    assert await redis.pttl(other) < 1000
    await reads.close()


async def test_renewing_goes_on_after_redis_was_away(redis: Redis, name: str) -> None:
    renewals = Renewals(redis, ttl_s=1)
    with patch.object(Pipeline, "execute", side_effect=RedisError):
        renewals.ask(name)
        await asyncio.sleep(0.3)
    assert await redis.ttl(name) == -1
    renewals.ask(name)
    await asyncio.sleep(0.3)
    assert await redis.ttl(name) >= 0
    await renewals.close()


async def test_a_caller_who_leaves_takes_nothing_from_the_others(redis: Redis, name: str) -> None:
    reads = StateReads(redis, ttl_s=60)
    first, second = (asyncio.create_task(reads.get(name, "f1")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.wait_for(second, 5) == bytes([1]) * 100_000
    assert first.cancelled()


async def test_a_fault_is_told_to_those_it_concerns_and_reading_goes_on(redis: Redis, name: str, redis_namespace: str) -> None:
    reads, other = StateReads(redis, ttl_s=60), f"{redis_namespace}:text"
    await redis.set(other, "no hash", ex=60)
    wrong, right = await asyncio.gather(reads.get(other, "f1"), reads.get(name, "f1"), return_exceptions=True)
    assert isinstance(wrong, ResponseError)
    assert right == bytes([1]) * 100_000


async def test_redis_away_fails_whoever_waits_and_later_ones_try_again(name: str, redis: Redis) -> None:
    nowhere = connect_redis("redis://127.0.0.1:1")
    reads = StateReads(nowhere, ttl_s=60)
    for _ in range(2):
        found = await asyncio.gather(*(reads.get(name, f"f{number}") for number in range(3)), return_exceptions=True)
        assert all(isinstance(each, RedisError) for each in found)
    await reads.close()
    await nowhere.aclose()


async def test_closing_strands_nobody(redis: Redis, name: str) -> None:
    reads = StateReads(redis, ttl_s=60)
    waiting = [asyncio.create_task(reads.get(name, f"f{number}")) for number in range(20)]
    await asyncio.sleep(0)
    await reads.close()
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert all(isinstance(each, asyncio.CancelledError | bytes) for each in found)
