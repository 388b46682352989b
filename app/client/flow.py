"""Requests without I/O: a flow yields what it wants done and is sent the outcome, so sync and async share every decision.

A flow is a generator of `Send` and `Sleep`; sync.py performs them with httpx.Client, aio.py with httpx.AsyncClient.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from app.client.errors import Unreachable, error_of, retry_after_s_of

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """One HTTP request; the flow is sent its response, or a httpx.TransportError is thrown into it. content: a body that is not JSON.

    is_repeatable: whether it may be done twice when nobody knows whether it was done once.
    """

    method: str
    path: str
    json: Any = None
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    content: bytes | None = None
    is_repeatable: bool = True


@dataclass(frozen=True)
class Sleep:
    """A pause before the next effect."""

    seconds: float


Effect = Send | Sleep
Flow = Generator[Effect, httpx.Response | None, T]


@dataclass(frozen=True)
class Retries:
    """How long a busy or unreachable service is waited for: at most `attempts` tries, and no single pause above max_pause_s."""

    attempts: int = 5
    first_pause_s: float = 0.2
    max_pause_s: float = 10.0

    def pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        """The service's own word where it gave one, else doubling from first_pause_s."""
        wanted = retry_after_s if retry_after_s is not None else self.first_pause_s * 2**attempt
        return min(wanted, self.max_pause_s)


RETRIED_STATUSES = frozenset({429, 503})
"""What the service answers before it has done anything, but for UNCERTAIN: then sending again is safe for every method."""

UNCERTAIN = "database_unavailable"
"""The code of a 503 that may also come of a commit which was made: the service lost its database before it was told."""

GONE = "task_not_found"
"""The code of a 404 that is the service's own, and not of a gateway that does not find the service."""

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""What happens before the service has seen anything of a request."""


def send(request: Send, retries: Retries) -> Flow[httpx.Response]:
    """The response below 400, or a task's that is gone. Raises InnerLoopError otherwise, after retrying a busy or unreachable service.

    A lost connection is retried for POST too: creating and predicting are idempotent by the service's fingerprints, and
    recording a prediction twice is the price of not losing it. A revision is not: examples would be added twice, and an index that was
    removed stands for another example afterwards. What a DELETE does not find after one that may have been done is gone, as was wanted:
    the response is that 404.
    """
    last: httpx.TransportError | None = None
    may_be_done = False
    for attempt in range(retries.attempts):
        is_last = attempt == retries.attempts - 1
        try:
            response = yield request
        except httpx.UnsupportedProtocol as error:  # a URL without http:// will not have one next time
            raise Unreachable(f"{request.method} {request.path}: {_reason_of(error)}") from error
        except httpx.TransportError as error:
            may_be_done = may_be_done or not isinstance(error, NEVER_SENT)
            if may_be_done and not request.is_repeatable:
                raise Unreachable(f"{request.method} {request.path}: {_reason_of(error)}; it may have been done, so look first") from error
            last = error
            if not is_last:
                yield Sleep(retries.pause_s(attempt, None))
            continue
        assert response is not None, "a Send is answered with a response. This is a bug."
        if response.status_code < 400:
            return response
        fault = error_of(response)
        if may_be_done and request.method == "DELETE" and fault.code == GONE:
            return response
        may_be_done = may_be_done or fault.code == UNCERTAIN
        if response.status_code not in RETRIED_STATUSES or is_last or (may_be_done and not request.is_repeatable):
            raise fault
        yield Sleep(retries.pause_s(attempt, retry_after_s_of(response)))
    raise Unreachable(f"{request.method} {request.path}: {_reason_of(last)}") from last


def _reason_of(error: httpx.TransportError | None) -> str:
    """What httpx says, or the name of an error that says nothing, as some of its timeouts do."""
    return str(error) or type(error).__name__ if error is not None else "no answer"
