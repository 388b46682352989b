"""HTTP/1.1 keep-alive over bare sockets: what a load generator needs and no more.

httpx takes longer over a request than the service under test; this takes tens of microseconds, and the run prints its own ceiling.
Understood are responses with a Content-Length, which is what every server measured here sends.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

HOST = "127.0.0.1"
_END_OF_HEAD = b"\r\n\r\n"


class Reply(NamedTuple):
    """A response: its status, its head as it came, its body."""

    status: int
    head: bytes
    body: bytes


class MalformedReply(ValueError):
    """The server sent something that is no response with a Content-Length."""


def encode_request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def take_reply(received: bytes) -> Reply | None:
    """The reply in the bytes received so far; None while it is not complete. Raises MalformedReply."""
    head, found, rest = received.partition(_END_OF_HEAD)
    if not found:
        return None
    length = int(find_header(head, "content-length") or -1)
    if length < 0 or not head.startswith(b"HTTP/1.1 "):
        raise MalformedReply(f"expected HTTP/1.1 with a Content-Length, got {head[:200]!r}")
    return Reply(int(head[9:12]), head, rest) if len(rest) >= length else None


def find_header(head: bytes, name: str) -> str:
    """The value of a header in a response's head, empty when it is not there."""
    begin = head.lower().find(b"\r\n" + name.encode() + b":")
    if begin < 0:
        return ""
    line = head[begin + 2 :].partition(b"\r\n")[0]
    return line.partition(b":")[2].strip().decode()


class HttpConnection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None
        self._waiter: asyncio.Future[Reply] | None = None

    @property
    def is_open(self) -> bool:
        """Whether another request may go out."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Reply:
        """The reply to a request. Raises ConnectionError when the server closes before it is complete, MalformedReply."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            reply = take_reply(self._received)
        except MalformedReply as fault:
            self._fail(fault)
            return
        if reply is not None:
            self._received = b""
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the server closed the connection"))

    def _fail(self, fault: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(fault)


class Connections:
    """Keep-alive connections to one port: one that is idle is used again, another is opened when none is, up to `most`."""

    def __init__(self, port: int, most: int = 512) -> None:
        self._port = port
        self._idle: list[HttpConnection] = []
        self._permits = asyncio.Semaphore(most)

    async def exchange(self, request: bytes) -> Reply:
        """The reply to a request over whichever connection is free. Raises ConnectionError, MalformedReply."""
        async with self._permits:
            connection = await self._take()
            try:
                return await connection.exchange(request)
            finally:
                self._idle.append(connection)

    def close(self) -> None:
        """Ends every idle connection."""
        for connection in self._idle:
            connection.close()

    async def _take(self) -> HttpConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(HttpConnection, HOST, self._port)
        return connection
