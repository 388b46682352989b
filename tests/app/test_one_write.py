"""What leaves for the socket: the head of a response with the body, every byte, in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.one_write import HeldHead, OneWriteProtocol

REQUEST = b"%s / HTTP/1.1\r\nHost: test\r\n\r\n"


class Recorder(asyncio.Transport):
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...


async def send_and_record(parts: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]], method: bytes = b"GET") -> Recorder:
    """Answers one request with a body of these parts."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for index, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": index < len(parts) - 1})

    recorder = Recorder()
    config = uvicorn.Config(app, http=OneWriteProtocol, log_config=None)
    config.load()
    protocol = OneWriteProtocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(recorder)
    protocol.data_received(REQUEST % method)
    await asyncio.gather(*protocol.tasks)
    return recorder


async def test_head_and_body_are_one_write() -> None:
    recorder = await send_and_record([b"hello"], [(b"content-length", b"5")])
    (written,) = recorder.written
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert written.endswith(b"content-length: 5\r\n\r\nhello")


async def test_a_stream_is_written_part_by_part() -> None:
    recorder = await send_and_record([b"one", b"two"], [])
    assert recorder.written[0].endswith(b"\r\n\r\n3\r\none\r\n")
    assert recorder.written[1:] == [b"3\r\ntwo\r\n0\r\n\r\n"]


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_a_head_without_a_body_is_written(method: bytes) -> None:
    recorder = await send_and_record([b""], [(b"content-length", b"0")], method)
    assert b"".join(recorder.written).endswith(b"content-length: 0\r\n\r\n")


async def test_a_body_that_looks_like_a_head_is_written() -> None:
    body = b"HTTP/1.1 200 OK\r\n\r\n"
    recorder = await send_and_record([body], [(b"content-length", b"%d" % len(body))])
    assert b"".join(recorder.written).endswith(b"\r\n\r\n" + body)


def test_an_interim_response_is_not_kept() -> None:
    recorder = Recorder()
    HeldHead(recorder).write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert recorder.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_closing_writes_what_was_kept() -> None:
    recorder = Recorder()
    held = HeldHead(recorder)
    held.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert recorder.written == []
    held.close()
    assert recorder.written == [b"HTTP/1.1 200 OK\r\n\r\n"]
    assert recorder.is_closed
