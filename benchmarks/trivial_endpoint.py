"""The cheapest server there is: answers every request with the same few bytes. What the load generator reaches here is its ceiling.

python -m benchmarks.trivial_endpoint --port 8099
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from benchmarks.http_connection import HOST, find_header

BODY = b"{}" + b" " * 510
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Trivial(asyncio.Protocol):
    """Waits for a whole request, looks at nothing but its length."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and len(body) >= int(find_header(head, "content-length") or 0):
            self._received = b""
            self._transport.write(ANSWER)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Trivial, HOST, port, backlog=1024)
    await server.serve_forever()


def main(port: Annotated[int, typer.Option(help="Port to bind.")]) -> None:
    """Serves until a signal."""
    asyncio.run(_serve(port))


if __name__ == "__main__":
    typer.run(main)
