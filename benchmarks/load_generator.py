"""The other side of the socket: clients that send as fast as they are answered (closed loop), or when it is time (open loop).

It runs in a process of its own and imports neither torch nor the service, so that nothing but the network is shared with the server.
Open-loop latencies count from when a request was due, not from when it was sent: a server that stalls cannot hide it by
keeping its clients from asking (Tene, "How not to measure latency", 2013).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import selectors
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.http_connection import Connections, MalformedReply, Reply

NUMBER_WIDTH = 12
DRAIN_S = 30.0
KEEP_EVERY = 4
"""Every how-many-th reply is kept whole, for the phases in it; the others are read and dropped."""


@dataclass(frozen=True)
class Message:
    """A request on the wire. With `after`, a running number of NUMBER_WIDTH digits stands in between: no two are equal then."""

    kind: str
    before: bytes
    after: bytes | None = None

    def encode(self, number: int) -> bytes:
        """The request's bytes."""
        return self.before if self.after is None else b"%s%0*d%s" % (self.before, NUMBER_WIDTH, number, self.after)


@dataclass(frozen=True)
class Load:
    """What to send to which port: each client goes round its own messages.

    due_s: when the requests of an open loop are due, counted from the start; None is a closed loop. Of a closed loop that runs for
    warm_up_s + window_s, what ended in the window counts; of an open loop what was due in it.
    """

    port: int
    clients: tuple[tuple[Message, ...], ...]
    window_s: float
    warm_up_s: float = 0.0
    due_s: tuple[float, ...] | None = None
    first_number: int = 0


class Sample(NamedTuple):
    """One request. status 0: no reply came. late_ms: how long after it was due it was sent, the generator's own fault."""

    kind: str
    latency_ms: float
    status: int
    late_ms: float
    reply: Reply | None


@dataclass(frozen=True)
class Outcome:
    """What a load met: the samples of its window."""

    window_s: float
    samples: tuple[Sample, ...]


class GeneratorProcess:
    """A process that sends loads, one after another. A context manager."""

    def __enter__(self) -> GeneratorProcess:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *fault: object) -> None:
        self._pool.shutdown()

    def send(self, load: Load) -> Outcome:
        """Sends the load from the other process and waits for its outcome."""
        return self._pool.submit(send_load, load).result()


def send_load(load: Load) -> Outcome:
    """Sends the load from this process."""
    with asyncio.Runner(loop_factory=make_precise_loop) as runner:
        return runner.run(_send(load))


def make_precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are precise: epoll rounds up to whole milliseconds, select to microseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _send(load: Load) -> Outcome:
    connections = Connections(load.port)
    try:
        samples = await (_send_closed(load, connections) if load.due_s is None else _send_open(load, load.due_s, connections))
    finally:
        connections.close()
    return Outcome(load.window_s, tuple(samples))


async def _send_closed(load: Load, connections: Connections) -> list[Sample]:
    begin_s = time.perf_counter() + load.warm_up_s
    end_s = begin_s + load.window_s
    samples: list[Sample] = []

    async def run_client(index: int, messages: Sequence[Message]) -> None:
        turn = index  # clients begin at different places of their round, or all would do the same at once
        while (now_s := time.perf_counter()) < end_s:
            number = load.first_number + turn * len(load.clients) + index
            sample = await _exchange(connections, messages[turn % len(messages)], number, now_s)
            if begin_s <= time.perf_counter() <= end_s:
                samples.append(sample)
            turn += 1

    await asyncio.gather(*(run_client(index, messages) for index, messages in enumerate(load.clients)))
    return samples


async def _send_open(load: Load, due_s: Sequence[float], connections: Connections) -> list[Sample]:
    start_s = time.perf_counter()
    sent: list[asyncio.Task[Sample]] = []
    for number, each_s in enumerate(due_s):
        await asyncio.sleep(start_s + each_s - time.perf_counter())
        message = choose_message(load.clients, number)
        sent.append(asyncio.create_task(_exchange(connections, message, load.first_number + number, start_s + each_s)))
    counted = [task for task, each_s in zip(sent, due_s, strict=True) if each_s >= load.warm_up_s]
    if sent:
        await asyncio.wait(sent, timeout=DRAIN_S)
    for task in sent:
        task.cancel()
    return [task.result() if task.done() and not task.cancelled() else _LOST for task in counted]


def choose_message(clients: Sequence[Sequence[Message]], number: int) -> Message:
    """The request of an open loop that is the number-th to be due: each client in turn, who begin at different places of their round.

    Would all begin at the first place, 64 clients of whose ten messages one adapts would send 64 adaptations in a row.
    """
    turn, client = divmod(number, len(clients))
    return clients[client][(turn + client) % len(clients[client])]


async def _exchange(connections: Connections, message: Message, number: int, due_s: float) -> Sample:
    request = message.encode(number)
    late_ms = (time.perf_counter() - due_s) * 1e3
    try:
        reply = await connections.exchange(request)
    except (ConnectionError, MalformedReply):
        return Sample(message.kind, (time.perf_counter() - due_s) * 1e3, 0, late_ms, None)
    latency_ms = (time.perf_counter() - due_s) * 1e3
    return Sample(message.kind, latency_ms, reply.status, late_ms, reply if number % KEEP_EVERY == 0 else None)


_LOST = Sample("lost", DRAIN_S * 1e3, 0, 0.0, None)


def exchange_all(port: int, requests: Sequence[bytes], at_once: int = 16) -> list[Reply]:
    """The replies to some requests, in their order, for what comes before and after a measurement. Raises RuntimeError on one not 2xx."""

    async def run() -> list[Reply]:
        connections = Connections(port, most=at_once)
        try:
            return await asyncio.gather(*(connections.exchange(request) for request in requests))
        finally:
            connections.close()

    replies = asyncio.run(run())
    for reply in replies:
        if not 200 <= reply.status < 300:
            raise RuntimeError(f"status {reply.status}: {reply.body[:500]!r}")
    return replies
