"""Every error the service answers with, as a drawn tree. The code is stable; clients may switch on it.

* AppError
  + InvalidInput 4xx                    the request's fault; `issues` point at the faulty items
    - InvalidBody 422 invalid_body          not the JSON the endpoint expects
    - InvalidSupport 422 invalid_support    empty, one class, wrong shape, NaN, beyond the limits
    - InvalidQuery 422 invalid_query        queries that do not fit the task
    - InvalidOptions 422 invalid_options    unknown option or out of range
    - UndecodableInput 422 undecodable_input   wrong base64, not an image, a bomb, not .npy
    - NotAcceptable 406 not_acceptable      an Accept that no answer here meets
    - UnsupportedMedia 415 unsupported_media_type
    - BodyTooLarge 413 body_too_large
  + Unauthenticated 401 unauthenticated | Forbidden 403 forbidden
  + NotFound 404                        task_not_found, initializer_not_found, not_found
  + Conflict 409                        task_not_ready, task_not_embedded, adaptation_failed, not_supported (by the learner)
  + Overloaded 503 overloaded           the queue is full (retry)
  + Draining 503 draining               the process is shutting down (retry)
  + Unavailable 503                     database_unavailable, redis_unavailable (retry)
  + EngineError                         inside the process; a service catches or translates it
    - InitializerNotInstalled | StateNotResident | StateCorrupt | InitializerRejected | AdaptationFailed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Issue:
    """One fault: a JSON pointer to the item (`#/support/labels/3`), and what was expected there."""

    pointer: str
    detail: str


class AppError(Exception):
    """Base of every error with a code. `retry_after_s` is set where trying again can help.

    detail: for the log and the terminal; told: what clients read, the same unless an address of ours is in it.
    """

    code = "internal_error"
    status = 500
    title = "Internal error"
    retry_after_s: int | None = None

    def __init__(self, detail: str, *, issues: Sequence[Issue] = (), code: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.told = detail
        self.issues = tuple(issues)
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s if retry_after_s is not None else type(self).retry_after_s


class InvalidInput(AppError):
    """Base of the faults a client can mend in its request."""

    code, status, title = "invalid_input", 422, "Invalid input"


class InvalidBody(InvalidInput):
    """A body that is not the JSON the endpoint expects."""

    code, title = "invalid_body", "Invalid request body"


class InvalidSupport(InvalidInput):
    """A support set that cannot be adapted to."""

    code, title = "invalid_support", "Invalid support set"


class InvalidQuery(InvalidInput):
    """Queries that do not fit the task's initializer."""

    code, title = "invalid_query", "Invalid query"


class InvalidOptions(InvalidInput):
    """An option that does not exist or is out of range."""

    code, title = "invalid_options", "Invalid options"


class UndecodableInput(InvalidInput):
    """Bytes that are not what they are said to be."""

    code, title = "undecodable_input", "Input cannot be decoded"


class NotAcceptable(InvalidInput):
    """An Accept that allows none of the media types an endpoint answers with."""

    code, status, title = "not_acceptable", 406, "Not acceptable"


class UnsupportedMedia(InvalidInput):
    """A content type no decoder exists for."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class BodyTooLarge(InvalidInput):
    """A body over the limit, refused before it was read whole."""

    code, status, title = "body_too_large", 413, "Body too large"


class Unauthenticated(AppError):
    """No API key, or one that is not known."""

    code, status, title = "unauthenticated", 401, "API key required"


class Forbidden(AppError):
    """A key without the scope the endpoint asks for."""

    code, status, title = "forbidden", 403, "Forbidden"


class NotFound(AppError):
    """A resource that does not exist, or is another tenant's."""

    code, status, title = "not_found", 404, "Not found"


class Conflict(AppError):
    """A request that does not fit the resource's present state."""

    code, status, title = "conflict", 409, "Conflict"


class Overloaded(AppError):
    """The bounded queue is full."""

    code, status, title, retry_after_s = "overloaded", 503, "Overloaded", 1


class Draining(AppError):
    """The process is stopping and admits nothing new."""

    code, status, title, retry_after_s = "draining", 503, "Shutting down", 2


class Unavailable(AppError):
    """The database or Redis cannot be reached. `reason` is the driver's: it names hosts and users, and stays in the log."""

    code, status, title, retry_after_s = "unavailable", 503, "Dependency unavailable", 2

    def __init__(self, detail: str, *, reason: str = "", issues: Sequence[Issue] = (), code: str | None = None) -> None:
        super().__init__(f"{detail}: {reason}" if reason else detail, issues=issues, code=code)
        self.told = detail


class EngineError(AppError):
    """Base of what the engine tells the services."""

    code, title = "engine_error", "Engine error"


class InitializerNotInstalled(EngineError):
    """The engine has not loaded this initializer version."""

    code = "initializer_not_installed"


class StateNotResident(EngineError):
    """The adapted state is not on the device."""

    code = "state_not_resident"


class StateCorrupt(EngineError):
    """Cached bytes that are not a state of this initializer."""

    code = "state_corrupt"


class InitializerRejected(EngineError):
    """An initializer whose digest, schema or golden episode does not hold."""

    code, status, title = "initializer_rejected", 409, "Initializer rejected"


class AdaptationFailed(EngineError):
    """The inner loop did not end well: not finite, or the device refused."""

    code, status, title = "adaptation_failed", 409, "Adaptation failed"
