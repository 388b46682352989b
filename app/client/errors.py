"""What can go wrong for a user of the client, as a drawn tree.

* InnerLoopError                 carries status, code, detail and issues of the service's problem details
  + InvalidInput   4xx           the request's fault; `issues` point at the faulty items
  + Unauthenticated 401 | Forbidden 403 | NotFound 404 | Conflict 409
  + Busy           429, 503      still so after the retries; `retry_after_s` says when to come back
  + ServerError    5xx           a bug of the service
  + AdaptationFailed             the task was accepted, but its adaptation ended in `failed`
  + NotReadyInTime               the adaptation did not end within wait_s; it goes on, `refresh()` the task later
  + Unreachable                  no answer at all
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Issue:
    """One faulty item: a JSON pointer to it in the request, and what was expected there."""

    pointer: str
    detail: str


class InnerLoopError(Exception):
    """Base of everything the client raises on its own account. status is 0 where there was no answer."""

    def __init__(
        self, detail: str, *, status: int = 0, code: str = "", issues: Sequence[Issue] = (), retry_after_s: float | None = None
    ) -> None:
        lines = [f"{code or type(self).__name__}: {detail}", *(f"  {issue.pointer}: {issue.detail}" for issue in issues)]
        super().__init__("\n".join(lines))
        self.detail = detail
        self.status = status
        self.code = code
        self.issues = tuple(issues)
        self.retry_after_s = retry_after_s


class InvalidInput(InnerLoopError):
    """The service refused what was sent."""


class Unauthenticated(InnerLoopError):
    """No API key, or one the service does not know."""


class Forbidden(InnerLoopError):
    """The key lacks the scope."""


class NotFound(InnerLoopError):
    """No such task or initializer, for this key."""


class Conflict(InnerLoopError):
    """The request does not fit the task's present state."""


class Busy(InnerLoopError):
    """Overloaded, rate limited, shutting down, or a dependency of the service is away."""


class ServerError(InnerLoopError):
    """The service failed in a way it did not foresee."""


class AdaptationFailed(InnerLoopError):
    """The adaptation ended in `failed`; code and detail say why."""


class NotReadyInTime(InnerLoopError):
    """The adaptation is still running; nothing is lost."""


class Unreachable(InnerLoopError):
    """The service did not answer."""


_BY_STATUS: dict[int, type[InnerLoopError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: Busy,
    503: Busy,
}


def error_of(response: httpx.Response) -> InnerLoopError:
    """The error a response stands for; a body that is not problem details still gives status and text."""
    problem = _problem_of(response)
    fallback = InvalidInput if response.status_code < 500 else ServerError
    return _BY_STATUS.get(response.status_code, fallback)(
        str(problem.get("detail") or problem.get("title") or response.text[:500] or response.reason_phrase),
        status=response.status_code,
        code=str(problem.get("code", "")),
        issues=[Issue(str(issue.get("pointer", "")), str(issue.get("detail", ""))) for issue in problem.get("errors") or ()],
        retry_after_s=retry_after_s_of(response),
    )


def retry_after_s_of(response: httpx.Response) -> float | None:
    """Retry-After in seconds; a date, which the service never sends, counts as absent."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None


def _problem_of(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
