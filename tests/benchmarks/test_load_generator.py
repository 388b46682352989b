"""Loads against a server of these tests' own, whose delay is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from benchmarks.http_connection import HOST, encode_request
from benchmarks.load_generator import Load, Message, choose_message, exchange_all, send_load

DELAY_S = 0.05
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GET = Message("get", encode_request("GET", "/", {}))


class Late(asyncio.Protocol):
    """Answers every request after DELAY_S."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(DELAY_S, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


async def stop(server: asyncio.Server) -> None:
    """Closes the server, and gives the connections that its clients have closed the time to notice."""
    server.close()
    await asyncio.sleep(2 * DELAY_S)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server in a thread of its own that serves everybody at once."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Late, HOST, 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    asyncio.run_coroutine_threadsafe(stop(server), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_closed_loop_has_one_request_a_client_in_flight(port: int) -> None:
    outcome = send_load(Load(port, ((GET,),) * 3, window_s=0.5))
    most = 3 * (0.5 / DELAY_S)
    assert 3 <= len(outcome.samples) <= most
    assert min(sample.latency_ms for sample in outcome.samples) >= DELAY_S * 1e3


def test_an_open_loop_sends_when_it_is_time_whatever_is_unanswered(port: int) -> None:
    outcome = send_load(Load(port, ((GET,),), window_s=0.1, due_s=tuple(index / 1000 for index in range(50))))
    assert len(outcome.samples) == 50
    assert all(sample.status == 200 for sample in outcome.samples)


def test_an_open_loop_counts_from_when_a_request_was_due(port: int) -> None:
    """All are due at the start, so what the generator needs to send the last one is part of its latency."""
    outcome = send_load(Load(port, ((GET,),), window_s=0.1, due_s=(0.0,) * 40))
    assert all(sample.latency_ms >= sample.late_ms + DELAY_S * 1e3 for sample in outcome.samples)


def test_what_was_due_in_the_warm_up_does_not_count(port: int) -> None:
    outcome = send_load(Load(port, ((GET,),), window_s=0.1, warm_up_s=0.1, due_s=(0.0, 0.05, 0.12)))
    assert len(outcome.samples) == 1


@pytest.mark.parametrize("n_clients", [1, 16, 64, 128])
def test_in_an_open_loop_one_in_ten_adapts_at_any_time_whatever_the_number_of_clients(n_clients: int) -> None:
    kinds = ["adapt", *["predict"] * 9]
    rounds = [tuple(Message(kind, b"%d %d" % (client, turn)) for turn, kind in enumerate(kinds)) for client in range(n_clients)]
    sent = [choose_message(rounds, number) for number in range(10 * n_clients)]
    adapts = [message.kind == "adapt" for message in sent]
    assert set(sent) == {message for messages in rounds for message in messages}
    assert max(sum(adapts[begin : begin + 10]) for begin in range(len(adapts))) <= 2


def test_a_server_that_is_not_there_gives_samples_without_a_reply() -> None:
    outcome = send_load(Load(1, ((GET,),), window_s=0.1, due_s=(0.0, 0.01)))
    assert [sample.status for sample in outcome.samples] == [0, 0]


def test_numbered_messages_are_never_equal_and_equally_long() -> None:
    message = Message("adapt", b"<", b">")
    assert message.encode(1) == b"<000000000001>"
    assert len({message.encode(number) for number in range(100)}) == 100
    assert {len(message.encode(10**power)) for power in range(12)} == {14}


def test_exchanges_come_back_in_order(port: int) -> None:
    assert [reply.status for reply in exchange_all(port, [GET.before] * 5, at_once=2)] == [200] * 5
