"""Reading bodies: the content type chooses, the raw bytes are parsed once, and every fault becomes a pointer.

FastAPI's own body handling goes through the standard library's json and Python objects, 5 times slower on a support set,
and would answer undecodable bytes by quoting them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.errors import InvalidBody, InvalidInput, InvalidOptions, InvalidQuery, InvalidSupport, Issue, UnsupportedMedia
from app.native.json_numbers import load_json

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

THREAD_FROM_BYTES = 256 * 1024
"""Bodies from here on are parsed in a thread: about 1 ms of work, which the event loop's other requests should not wait for."""

MAX_ISSUES = 20
_MAX_FAULTS = 10 * MAX_ISSUES  # pydantic reports every member of a union it tried; a body of half a million unknown keys has as many
_WORDS = {
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
    "string_pattern_mismatch": "Input should be text without NUL characters",
}
_FAULT_OF: dict[str, type[InvalidInput]] = {
    "support": InvalidSupport,
    "add": InvalidSupport,
    "remove": InvalidSupport,
    "query": InvalidQuery,
    "options": InvalidOptions,
}


def media_type(request: Request) -> str:
    """The content type without parameters; JSON when none is given. Raises UnsupportedMedia for compressed bodies."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMedia("compressed bodies are not accepted: send it without Content-Encoding")
    return request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """`application/json` and its relatives."""
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def refuse_media(media: str, expected: Sequence[str]) -> UnsupportedMedia:
    """The error for a content type that the endpoint does not read."""
    return UnsupportedMedia(f"expected Content-Type {' or '.join(expected)}, found {media[:80]!r}")


async def read_json(request: Request, model: type[M], *, default: M | None = None) -> M:
    """The body as `model`; `default` where an empty body is allowed. Raises InvalidBody and its siblings, UnsupportedMedia."""
    media = media_type(request)
    body = await request.body()
    if not body and default is not None:
        return default
    if not is_json(media):
        raise refuse_media(media, ["application/json"])
    return await off_loop(len(body), lambda: validate(model, parse_json(body)))


async def off_loop(n_bytes: int, call: Callable[[], R]) -> R:
    """The result of `call`, in a thread when there is much to do."""
    return call() if n_bytes < THREAD_FROM_BYTES else await asyncio.to_thread(call)


def parse_json(body: bytes | str) -> Any:
    """The document of RFC 8259 JSON: UTF-8, no NaN or Infinity, at most 1024 deep. Large blocks of numbers in bytes may be arrays."""
    try:
        return load_json(body) if isinstance(body, bytes) else orjson.loads(body)
    except orjson.JSONDecodeError as error:
        detail = f"expected JSON in UTF-8: {error.msg} (at line {error.lineno}, column {error.colno})"
        raise InvalidBody(detail, issues=[Issue("#", detail)]) from None


def validate(model: type[M], document: Any, *, under: str = "#") -> M:
    """The document as `model`. The error class follows the part of the body that is at fault, and never quotes it."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_FAULTS]
    issues = {pointer_to(fault["loc"], under): _expectation(model, fault) for fault in reversed(faults)}
    listed = [Issue(pointer, detail) for pointer, detail in reversed(issues.items())][:MAX_ISSUES]
    fault_class = _class_of(faults[0]["loc"], under)
    raise fault_class(f"{listed[0].pointer}: {listed[0].detail}", issues=listed)


def _expectation(model: type[BaseModel], fault: ErrorDetails) -> str:
    """What was expected, in words of JSON."""
    if fault["type"] == "extra_forbidden":
        return f"unknown; expected {', '.join(_keys_at(model, fault['loc']))}"
    if fault["type"] == "string_type" and _is_branch(fault["loc"][-1]):  # of a label, which may be a number too
        return "Input should be a text or a number"
    return _WORDS.get(fault["type"], fault["msg"])


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that could stand where the last step of a location stands."""
    for step in location[:-1]:
        annotation = model.model_fields[str(step)].annotation
        model = next(part for part in (annotation, *get_args(annotation)) if isinstance(part, type) and issubclass(part, BaseModel))
    return list(model.model_fields)


def pointer_to(location: Sequence[int | str], under: str = "#") -> str:
    """A JSON pointer (RFC 6901) from where pydantic found the fault; what it adds about unions is left out."""
    return "/".join([under, *(escape(str(step)) for step in location if not _is_branch(step))])


def escape(step: str) -> str:
    """One step of a JSON pointer, whatever characters it has."""
    return step.replace("~", "~0").replace("/", "~1")


def _is_branch(step: int | str) -> bool:
    # pydantic names the member of a union it tried: constrained-str, int, function-after[...]: no key of ours looks like one.
    return isinstance(step, str) and (
        step in {"int", "float", "str"} or step.startswith(("constrained-", "function-", "lax-or-", "json-or-"))
    )


def _class_of(location: Sequence[int | str], under: str) -> type[InvalidInput]:
    path = [*under.split("/")[1:], *(str(step) for step in location)]
    # `{"support": 3}` is a body of the wrong form; `{"support": {"labels": 3}}` a support set that is at fault.
    return _FAULT_OF.get(path[0], InvalidBody) if len(path) > 1 else InvalidBody
