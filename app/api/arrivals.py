"""From a request to the services' own values: one function per kind of body, whatever its content type."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Request

from app.api import bodies, multipart
from app.api.binary_answers import NPY
from app.api.decode import Place, decode_image_files, decode_inputs, decode_npy
from app.api.deps import Door
from app.api.request_schemas import OptionsJson, PredictionsRequest, SupportJson, SupportRequest, TaskRequest
from app.domain import Array, InputSpec, Label, SupportSet, TaskOptions
from app.errors import InvalidBody, InvalidQuery, InvalidSupport, Issue, NotFound
from app.services.candidates import Offer, list_offers, name_offer
from app.services.requests import NewTask, Removal
from app.services.selection import AUTO

MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32
"""Far below what the JSON writer can follow (254), which metadata in a list of tasks must not exceed."""

_TASK_FIELDS = frozenset({"initializer", "name", "options", "metadata", "ttl_s"})
_REVISION_FIELDS = frozenset({"remove", "options"})

Revision = tuple[SupportSet | None, Removal | None, TaskOptions | None]
"""What to add, what to remove, which options; not all None."""


class Clock:
    """Counts the decode phase from when the body is here; the result stands in Server-Timing and in answers."""

    def __init__(self, request: Request) -> None:
        self._timings: dict[str, float] = request.state.timings_ms
        self._since_s = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """The timings so far, with the decode phase."""
        self._timings["decode"] = round((time.perf_counter() - self._since_s) * 1e3, 3)
        return self._timings


async def read_new_task(request: Request, door: Door) -> NewTask:
    """The body of `POST /v1/tasks`, decoded for its initializer."""
    if bodies.media_type(request) == multipart.MEDIA_TYPE:
        return await _read_uploaded_task(request, door)
    await request.body()
    clock = Clock(request)
    body = await bodies.read_json(request, TaskRequest)
    metadata = check_metadata(body.metadata)
    n_bytes, labels = len(await request.body()), tuple(_label(label) for label in body.support.labels)
    offers = await _find_offers(door, body.initializer, labels)
    inputs, offer = await _decode_for_one(body.support.inputs, offers, door, "#/support/inputs", n_bytes)
    support = SupportSet(inputs, labels)
    query = await _decode(body.query, _query_place(offer.spec, door, "#/query"), n_bytes) if body.query is not None else None
    clock.stop()
    return NewTask(body.initializer, support, query, _options(body.options), body.name, metadata, body.ttl_s)


async def _read_uploaded_task(request: Request, door: Door) -> NewTask:
    upload = await multipart.read_upload(request, support_field="support", text_fields=_TASK_FIELDS)
    clock = Clock(request)
    texts = {name: upload.fields[name] for name in ("initializer", "name") if name in upload.fields}
    parsed = {"options": multipart.parse_field(upload, "options"), "metadata": multipart.parse_field(upload, "metadata")}
    document = {**texts, **{name: value for name, value in parsed.items() if value is not None}, "support": {"inputs": [], "labels": []}}
    if "ttl_s" in upload.fields:
        document["ttl_s"] = multipart.parse_integer(upload, "ttl_s")
    body = bodies.validate(TaskRequest, document)
    metadata = check_metadata(body.metadata)
    offer = _pictures_first(await _find_offers(door, body.initializer, upload.labels))[0]
    inputs = await _decode_files(upload.support, _support_place(offer, door, "#/support"))
    query = await _decode_files(upload.query, _query_place(offer.spec, door, "#/query")) if upload.query else None
    clock.stop()
    return NewTask(body.initializer, SupportSet(inputs, upload.labels), query, _options(body.options), body.name, metadata, body.ttl_s)


async def read_revision(request: Request, door: Door, offer: Offer) -> Revision:
    """The body of `POST /v1/tasks/{id}/support`: what to add, what to remove, which options."""
    if bodies.media_type(request) == multipart.MEDIA_TYPE:
        return await _read_uploaded_revision(request, door, offer)
    await request.body()
    clock = Clock(request)
    body = await bodies.read_json(request, SupportRequest)
    place = _support_place(offer, door, "#/add/inputs")
    support = await _support(body.add, place, len(await request.body())) if body.add is not None else None
    clock.stop()
    return _revision(body, support)


async def _read_uploaded_revision(request: Request, door: Door, offer: Offer) -> Revision:
    upload = await multipart.read_upload(request, support_field="add", text_fields=_REVISION_FIELDS)
    clock = Clock(request)
    parsed = {name: multipart.parse_field(upload, name) for name in _REVISION_FIELDS if name in upload.fields}
    body = bodies.validate(SupportRequest, parsed)
    support = None
    if upload.support:
        support = SupportSet(await _decode_files(upload.support, _support_place(offer, door, "#/add")), upload.labels)
    clock.stop()
    return _revision(body, support)


def _revision(body: SupportRequest, support: SupportSet | None) -> Revision:
    if support is None and body.remove is None and body.options is None:
        raise InvalidBody(
            "expected at least one of add, remove, options", issues=[Issue("#", "expected at least one of add, remove, options")]
        )
    removal = body.remove and Removal(tuple(str(name) for name in body.remove.classes), tuple(body.remove.indices))
    return support, removal or None, _options(body.options) if body.options else None


async def read_queries(request: Request, door: Door, spec: InputSpec) -> Array:
    """The body of `POST /v1/tasks/{id}/predictions`: JSON, image files, or a .npy file as it is."""
    media = bodies.media_type(request)
    if media == multipart.MEDIA_TYPE:
        upload = await multipart.read_upload(request, support_field=None, text_fields=frozenset())
        clock = Clock(request)
        queries = await _decode_files(upload.query, _query_place(spec, door, "#/query"))
        clock.stop()
        return queries
    body, clock = await request.body(), Clock(request)
    if media == NPY:
        queries = await bodies.off_loop(len(body), lambda: decode_npy(body, _query_place(spec, door, "#")))
    elif bodies.is_json(media):
        document = await bodies.read_json(request, PredictionsRequest)
        queries = await _decode(document.inputs, _query_place(spec, door, "#/inputs"), len(body))
    else:
        raise bodies.refuse_media(media, ["application/json", multipart.MEDIA_TYPE, NPY])
    clock.stop()
    return queries


def check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata, if it is small and every text in it can be stored."""
    expected = f"expected at most {MAX_METADATA_BYTES} bytes of JSON, {MAX_METADATA_DEPTH} levels deep, without NUL characters"
    issue = Issue("#/metadata", expected)
    # A NUL character is escaped in JSON, and PostgreSQL refuses it in text and in jsonb alike.
    text = orjson.dumps(metadata) if _is_shallow(metadata, MAX_METADATA_DEPTH) else b""
    if not text or len(text) > MAX_METADATA_BYTES or b"\\u0000" in text:
        raise InvalidBody(f"{issue.pointer}: {issue.detail}", issues=[issue])
    return metadata


def _is_shallow(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    return depth > 0 and all(_is_shallow(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value))


async def _find_offers(door: Door, name: str, labels: Sequence[Label]) -> list[Offer]:
    """The current version, or what `auto` can mean. Raises NotFound that names the field and what could stand there."""
    if name == AUTO:
        return list_offers(await door.initializers.list(), labels)
    try:
        return [name_offer(await door.initializers.expect(name))]
    except NotFound as unknown:
        known = ", ".join([AUTO, *(info.ref.name for info in await door.initializers.list())])
        raise NotFound(unknown.detail, code=unknown.code, issues=[Issue("#/initializer", f"expected one of {known}")]) from None


async def _support(body: SupportJson, place: Place, n_bytes: int) -> SupportSet:
    return SupportSet(await _decode(body.inputs, place, n_bytes), tuple(_label(label) for label in body.labels))


async def _decode_for_one(value: object, offers: Sequence[Offer], door: Door, pointer: str, n_bytes: int) -> tuple[Array, Offer]:
    """The inputs and the first offer that reads their shape; when none does, those of the first, for the service to refuse."""
    ordered = _pictures_first(offers) if _is_pictures(value) else list(offers)
    found = []
    for offer in ordered:
        inputs = await _decode(value, _support_place(offer, door, pointer), n_bytes)
        if inputs.shape[1:] == offer.spec.shape:
            return inputs, offer
        found.append(inputs)
    return found[0], ordered[0]


def _pictures_first(offers: Sequence[Offer]) -> list[Offer]:
    """Image files can become what any image initializer reads: the largest group has them."""
    return sorted(offers, key=lambda offer: offer.spec.kind != "image")


def _is_pictures(value: object) -> bool:
    return isinstance(value, dict) and value.get("encoding") == "images"


async def _decode(value: object, place: Place, n_bytes: int) -> Array:
    if isinstance(value, np.ndarray):
        n_bytes = value.size  # a number of an array is less work than a byte of text
    elif _is_pictures(value):
        n_bytes = bodies.THREAD_FROM_BYTES  # a picture of a few bytes can be one of millions of pixels, so none holds up the event loop
    return await bodies.off_loop(n_bytes, lambda: decode_inputs(value, place))


def _label(label: str | int | float) -> Label:
    return label if isinstance(label, str) else float(label)


def _options(body: OptionsJson) -> TaskOptions:
    return TaskOptions(steps=body.steps, warm_start=body.warm_start)


async def _decode_files(files: Sequence[bytes], place: Place) -> Array:
    if not files:
        return np.zeros((0, *place.spec.shape), np.float32)
    return await asyncio.to_thread(decode_image_files, list(files), place, pointer=place.pointer)


def _support_place(offer: Offer, door: Door, pointer: str) -> Place:
    return Place(offer.spec, pointer, InvalidSupport, door.settings.max_image_pixels, offer.max_support)


def _query_place(spec: InputSpec, door: Door, pointer: str) -> Place:
    return Place(spec, pointer, InvalidQuery, door.settings.max_image_pixels, door.settings.max_queries)
