"""Log lines: how they look, and their way to stderr.

A write to a file gives the interpreter away, and under load another thread has it then: a third of all predictions per second were
lost to a line for each (64 clients, two cores of an AMD EPYC, 2026-11-21). So lines that only inform are written many at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import sys
import threading
import time
from collections import deque
from functools import cache
from typing import Literal, TextIO

import structlog

_AMBIGUOUS = re.compile(r"""[ \t=\r\n"']""")
WRITE_EVERY_S = 0.05
"""The longest that a line of a process that is killed may be lost, or a person at the terminal waits for it."""


class Lines:
    """Lines on their way to stderr, in their order: those that wait are written together by a thread, or by whoever flushes.

    stderr: the one that is the process's own when they are written, unless given.
    """

    def __init__(self, write_every_s: float = WRITE_EVERY_S, stderr: TextIO | None = None) -> None:
        self._waiting: deque[str] = deque()
        self._has_some, self._writing = threading.Event(), threading.Lock()
        self._write_every_s, self._stderr = write_every_s, stderr
        threading.Thread(target=self._write_for_ever, name="log lines", daemon=True).start()
        atexit.register(self.flush)

    def add(self, line: str) -> None:
        """Writes a line, soon."""
        self._waiting.append(line)
        if not self._has_some.is_set():
            self._has_some.set()

    def flush(self) -> None:
        """Returns when every line that was added is written."""
        with self._writing:
            text = "".join(f"{self._waiting.popleft()}\n" for _ in range(len(self._waiting)))
            if text:
                # Looked up now: a test or a terminal may have replaced stderr since, and may have closed it.
                stderr = self._stderr or sys.stderr
                with contextlib.suppress(ValueError, OSError):
                    stderr.write(text)
                    stderr.flush()

    def _write_for_ever(self) -> None:
        while True:
            self._has_some.wait()
            time.sleep(self._write_every_s)
            self._has_some.clear()
            self.flush()


class LineLogger:
    """What structlog hands finished lines to. A warning, and whatever is worse, is written at once, with all that came before it."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def info(self, line: str) -> None:
        """One line, soon."""
        self._lines.add(line)

    def warning(self, line: str) -> None:
        """One line, now."""
        self._lines.add(line)
        self._lines.flush()

    msg = log = debug = info
    warn = error = critical = fatal = exception = warning


@cache
def _lines() -> Lines:
    return Lines()


def configure_logs(log_format: Literal["console", "json"]) -> None:
    """Where logs go and how they look: stderr, with the request's id on every line; called by the roots."""
    logger = LineLogger(_lines())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Plain tracebacks: the rich ones print local variables, and those hold keys and tenants' examples.
            structlog.processors.format_exc_info,
            _choose_renderer(log_format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: logger,
    )


def _choose_renderer(log_format: Literal["console", "json"]) -> structlog.typing.Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
    return render_plainly


def render_plainly(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    """The line that structlog's own console renderer writes without colours, which takes it a tenth of what a prediction costs."""
    exception = event.pop("exception", "")
    head = f"{event.pop('timestamp')} [{event.pop('level'):<9}] {event.pop('event'):<30}"
    line = " ".join([head, *(f"{name}={_show(event[name])}" for name in sorted(event))])
    return f"{line.rstrip()}\n{exception}" if exception else line.rstrip()


def _show(value: object) -> str:
    return value if isinstance(value, str) and not _AMBIGUOUS.search(value) else repr(value)
