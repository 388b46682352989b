"""Lines reach stderr whole and in their order: what informs soon, what warns at once."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time

import pytest
import structlog

from app.logs import LineLogger, Lines, render_plainly


class Writes(io.StringIO):
    """Counts how often it is written to."""

    count = 0

    def write(self, text: str) -> int:
        self.count += 1
        return super().write(text)


@pytest.fixture
def stderr() -> Writes:
    """This test's own: the process's gets the lines of every service that ran before, and pytest replaces it."""
    return Writes()


def wait_for(stderr: Writes, text: str) -> None:
    deadline_s = time.monotonic() + 5
    while stderr.getvalue() != text and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert stderr.getvalue() == text


def test_lines_that_inform_are_written_together_soon(stderr: Writes) -> None:
    lines = Lines(write_every_s=0.05, stderr=stderr)
    for number in range(100):
        LineLogger(lines).info(f"line {number}")
    wait_for(stderr, "".join(f"line {number}\n" for number in range(100)))
    assert stderr.count <= 2
    LineLogger(lines).info("later")
    wait_for(stderr, "".join(f"line {number}\n" for number in range(100)) + "later\n")


def test_a_warning_is_written_at_once_after_what_came_before_it(stderr: Writes) -> None:
    lines = Lines(write_every_s=60, stderr=stderr)
    LineLogger(lines).info("first")
    assert stderr.getvalue() == ""
    LineLogger(lines).warning("second")
    assert stderr.getvalue() == "first\nsecond\n"
    LineLogger(lines).error("third")
    assert stderr.getvalue().endswith("third\n")


def add_many(lines: Lines) -> None:
    for _ in range(2000):
        lines.add("x")


def test_no_line_is_lost_between_threads(stderr: Writes) -> None:
    lines = Lines(write_every_s=0.001, stderr=stderr)
    threads = [threading.Thread(target=add_many, args=(lines,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.flush()
    assert stderr.getvalue() == "x\n" * 8000


def test_a_stderr_that_is_closed_harms_nobody(stderr: Writes) -> None:
    stderr.close()
    LineLogger(Lines(write_every_s=60, stderr=stderr)).error("unheard")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_process_that_ends_has_written_everything(log_format: str) -> None:
    code = f"import structlog; from app.logs import configure_logs; configure_logs('{log_format}'); structlog.get_logger().info('bye', n=1)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.count("\n") == 1
    assert "bye" in ended.stderr


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "POST", "path": "/v1/tasks", "status": 200, "total_ms": 1.25},
        {"path": "/with space", "quoted": "it's", "equal": "a=b", "lines": "a\nb", "empty": "", "nothing": None, "ids": ["a", 1]},
        {"exception": "Traceback\nValueError: no"},
        {},
    ],
)
def test_a_line_looks_as_structlog_makes_it_without_colours(fields: dict[str, object]) -> None:
    event = {"timestamp": "2026-11-21T16:09:50.024066Z", "level": "info", "event": "request", "request_id": "x", **fields}
    expected = structlog.dev.ConsoleRenderer(colors=False)(None, "info", dict(event))
    assert render_plainly(None, "info", dict(event)) == expected
