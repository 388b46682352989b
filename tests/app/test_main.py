"""The HTTP process as a whole, as far as no endpoint shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.types import Message

from app.errors import EngineError
from app.main import create_app
from app.settings import Settings


async def test_a_start_that_fails_for_a_reason_of_ours_is_told_in_one_line(tmp_path: Path) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = create_app(Settings(home_dir=tmp_path, device="cuda:99"))
    with pytest.raises(EngineError):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    [failed] = sent
    assert failed["type"] == "lifespan.startup.failed"
    assert failed["message"].startswith("engine_error: device cuda:99 is not here")
    assert "\n" not in failed["message"]
