"""Stopping on request: SIGINT and SIGTERM let the current step finish, and a deadline does the same."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While entered, the first signal only asks for a stop; a second one acts as it would have without this."""

    def __init__(self, max_seconds: float | None = None) -> None:
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._before: dict[int, Any] = {}
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why to stop, or None to go on."""
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._reason = "time is up"
        return self._reason

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._reason = f"{signal.Signals(number).name} received"
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
