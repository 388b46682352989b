"""HTTP over bare sockets, against bytes and against the trivial server."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.http_connection import HOST, Connections, MalformedReply, encode_request, find_header, take_reply
from benchmarks.trivial_endpoint import BODY, Trivial

REPLY = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nServer-Timing: total;dur=1.50\r\n\r\nhello"


def test_a_reply_is_taken_once_it_is_complete() -> None:
    assert all(take_reply(REPLY[:end]) is None for end in range(len(REPLY)))
    reply = take_reply(REPLY)
    assert reply is not None
    assert (reply.status, reply.body) == (201, b"hello")


def test_headers_are_found_whatever_their_case() -> None:
    reply = take_reply(REPLY)
    assert reply is not None
    assert find_header(reply.head, "server-timing") == "total;dur=1.50"
    assert find_header(reply.head, "x-other") == ""


def test_a_reply_without_a_length_is_refused() -> None:
    with pytest.raises(MalformedReply):
        take_reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_a_request_says_how_long_its_body_is() -> None:
    assert (
        encode_request("POST", "/x", {"A": "b"}, b"body") == b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\r\nContent-Length: 4\r\n\r\nbody"
    )


async def test_requests_one_after_another_share_a_connection() -> None:
    server = await asyncio.get_running_loop().create_server(Trivial, HOST, 0)
    connections = Connections(server.sockets[0].getsockname()[1])
    for _ in range(3):
        assert (await connections.exchange(encode_request("POST", "/", {}, b"x" * 70_000))).body == BODY
    assert len(connections._idle) == 1
    connections.close()
    server.close()


async def test_a_server_that_hangs_up_is_told_to_the_caller() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    connections = Connections(server.sockets[0].getsockname()[1])
    with pytest.raises(ConnectionError):
        await connections.exchange(encode_request("GET", "/", {}))
    server.close()
