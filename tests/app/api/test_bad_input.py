"""Everything wrong that can be sent: a 4xx with a code, what was expected and where; never a crash, never half a task."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import pytest_asyncio
from PIL import Image

from tests.app.api.conftest import Service, base64_text, make_settings, make_task, npy, png, run_service, strokes, task_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, initializers_dir: Path) -> AsyncIterator[Service]:
    """One service for all of this module: what it survives, it survives in a row."""
    home_dir = tmp_path_factory.mktemp("service")
    async with run_service(make_settings(home_dir, "", initializers_dir)) as running:
        yield running


CURVE = {"initializer": "tiny-curve"}
ONE = png(strokes(1)[0])
PIXELS = (strokes(4) / 255).tolist()
LABELS = ["a", "b", "c", "d"]


def _support(inputs: Any, labels: Any = LABELS) -> dict[str, Any]:
    return {"support": {"inputs": inputs, "labels": labels}}


def _images(*files: bytes) -> dict[str, Any]:
    return {"encoding": "images", "data": [base64_text(file) for file in files]}


def _raw(**changes: Any) -> dict[str, Any]:
    return {"encoding": "raw", "dtype": "float32", "shape": [4, 8, 8], "data": base64_text(np.zeros((4, 8, 8), "f4").tobytes()), **changes}


def _bomb() -> bytes:
    """A PNG that says it has 50000 x 50000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"


def _nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels - 1):
        inner = [inner]
    return inner


def _lying_npy() -> bytes:
    """A .npy whose header promises 10^12 numbers."""
    return npy(np.zeros((4, 8, 8), np.float32)).replace(b"(4, 8, 8), }          ", b"(1000000000000,), }   ")


def _nan() -> np.ndarray[Any, Any]:
    return np.where(np.arange(4)[:, None, None] == 2, np.nan, np.zeros((4, 8, 8), np.float32))


TASK_FAULTS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no support": ({"support": None}, 422, "invalid_body", "#/support"),
    "empty support": (_support([], []), 422, "invalid_support", "#/support/inputs"),
    "one class only": (_support(PIXELS, ["a"] * 4), 422, "invalid_support", "#/support/labels"),
    "a label without input": (_support(PIXELS[:3]), 422, "invalid_support", "#/support/labels/3"),
    "an input without label": (_support(PIXELS, LABELS[:3]), 422, "invalid_support", "#/support/inputs/3"),
    "wrong shape": (_support(np.zeros((4, 7, 7)).tolist()), 422, "invalid_support", "#/support/inputs/0"),
    "ragged": (_support([*PIXELS[:2], PIXELS[2][:5], PIXELS[3]]), 422, "invalid_support", "#/support/inputs/2"),
    "one text among numbers": (_support([*PIXELS[:3], [["1"] * 8] * 8]), 422, "invalid_support", "#/support/inputs/3"),
    "one null": (_support([*PIXELS[:3], None]), 422, "invalid_support", "#/support/inputs/3"),
    "a number too large for float32": (_support([*PIXELS[:3], [[1e300] * 8] * 8]), 422, "invalid_support", "#/support/inputs/3"),
    "NaN in bytes": (_support({"encoding": "npy", "data": base64_text(npy(_nan()))}), 422, "invalid_support", "#/support/inputs/2"),
    "inputs are text": (_support("abc"), 422, "invalid_support", "#/support/inputs"),
    "too many classes": (_support([PIXELS[0]] * 6, list("abcdef")), 422, "invalid_support", "#/support/labels"),
    "too many examples": (_support([PIXELS[0]] * 21, ["a", "b", "c"] * 7), 422, "invalid_support", "#/support/inputs"),
    "labels are numbers": (_support(PIXELS, [1, 2, 3, 4]), 422, "invalid_support", "#/support/labels/0"),
    "a label is a list": (_support(PIXELS, ["a", "b", "c", ["d"]]), 422, "invalid_support", "#/support/labels/3"),
    "a label with NUL": (_support(PIXELS, ["a", "b", "c", "\x00"]), 422, "invalid_support", "#/support/labels/3"),
    "unknown initializer": ({"initializer": "nothing"}, 404, "initializer_not_found", "#/initializer"),
    "initializer is a path": ({"initializer": "../../etc/passwd"}, 404, "initializer_not_found", "#/initializer"),
    "unknown option": ({"options": {"speed": 3}}, 422, "invalid_options", "#/options/speed"),
    "steps zero": (
        {**CURVE, **_support([0, 1], [0, 1]), "options": {"steps": 0}},
        422,
        "invalid_options",
        "#/options/steps",
    ),
    "steps too many": (
        {**CURVE, **_support([0, 1], [0, 1]), "options": {"steps": 6}},
        422,
        "invalid_options",
        "#/options/steps",
    ),
    "regression labels are text": (
        {**CURVE, **_support([0, 1], ["0", "1"])},
        422,
        "invalid_support",
        "#/support/labels/0",
    ),
    "regression label beyond float32": (
        {**CURVE, **_support([0, 1], [0, 1e300])},
        422,
        "invalid_support",
        "#/support/labels/1",
    ),
    "images for numbers": (
        {**CURVE, **_support(_images(ONE), [1])},
        422,
        "invalid_support",
        "#/support/inputs",
    ),
    "unknown key": ({"colour": 1}, 422, "invalid_body", "#/colour"),
    "key with a slash": ({"a/b~c": 1}, 422, "invalid_body", "#/a~1b~0c"),
    "ttl zero": ({"ttl_s": 0}, 422, "invalid_body", "#/ttl_s"),
    "ttl huge": ({"ttl_s": 2**31 - 1}, 422, "invalid_body", "#/ttl_s"),
    "name with NUL": ({"name": "a\x00b"}, 422, "invalid_body", "#/name"),
    "metadata with NUL": ({"metadata": {"a": ["\x00"]}}, 422, "invalid_body", "#/metadata"),
    "metadata too deep": ({"metadata": {"a": _nested(32)}}, 422, "invalid_body", "#/metadata"),
    "metadata deeper than a writer goes": ({"metadata": {"a": _nested(900)}}, 422, "invalid_body", "#/metadata"),
    "name too long": ({"name": "n" * 201}, 422, "invalid_body", "#/name"),
    "metadata too large": ({"metadata": {"a": "x" * 20_000}}, 422, "invalid_body", "#/metadata"),
    "too many images to look at them": (_support(_images(*[b"no"] * 21), ["a", "b", "c"] * 7), 422, "invalid_support", "#/support/inputs"),
    "too many query images to look at them": ({"query": _images(*[b"no"] * 51)}, 422, "invalid_query", "#/query"),
    "empty query": ({"query": []}, 422, "invalid_query", "#/query"),
    "query of wrong shape": ({"query": [[1.0]]}, 422, "invalid_query", "#/query/0"),
    "too many queries": ({"query": [PIXELS[0]] * 51}, 422, "invalid_query", "#/query"),
    "unknown encoding": (_support({"encoding": "pickle", "data": "x"}), 422, "invalid_support", "#/support/inputs"),
    "wrong base64": (_support(_raw(data="?!")), 422, "undecodable_input", "#/support/inputs/data"),
    "base64 of too few bytes": (_support(_raw(data="AAAA")), 422, "undecodable_input", "#/support/inputs/data"),
    "negative side": (_support(_raw(shape=[-4, -8, 8])), 422, "invalid_support", "#/support/inputs/shape/0"),
    "huge shape": (_support(_raw(shape=[2**31 - 1] * 8)), 422, "undecodable_input", "#/support/inputs/data"),
    "object dtype": (_support(_raw(dtype="O")), 422, "invalid_support", "#/support/inputs/dtype"),
    "not npy": (_support({"encoding": "npy", "data": "AAAA"}), 422, "undecodable_input", "#/support/inputs/data"),
    "npy of objects": (
        _support({"encoding": "npy", "data": base64_text(npy(np.array([{}, {}], dtype=object)))}),
        422,
        "undecodable_input",
        "#/support/inputs/data",
    ),
    "npy of one byte": (
        _support({"encoding": "npy", "data": base64_text(npy(np.array(3, np.uint8)))}),
        422,
        "invalid_support",
        "#/support/inputs",
    ),
    "npy that lies": (_support({"encoding": "npy", "data": base64_text(_lying_npy())}), 422, "undecodable_input", "#/support/inputs/data"),
    "not an image": (_support(_images(*[ONE] * 3, b"GIF89a???")), 422, "undecodable_input", "#/support/inputs/data/3"),
    "truncated image": (
        _support(_images(ONE[:-40], *[ONE] * 3)),
        422,
        "undecodable_input",
        "#/support/inputs/data/0",
    ),
    "image bomb": (_support(_images(*[ONE] * 3, _bomb())), 422, "undecodable_input", "#/support/inputs/data/3"),
}


@pytest.mark.parametrize("name", TASK_FAULTS)
async def test_a_fault_is_told_with_its_code_and_place(service: Service, name: str) -> None:
    changes, status, code, pointer = TASK_FAULTS[name]
    before = (await service.user.get("/v1/tasks")).json()["data"]
    response = await service.user.post("/v1/tasks", json=task_body(**changes))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "errors", "trace_id"}
    assert problem["trace_id"] == response.headers["x-request-id"]
    assert (problem["errors"][0]["pointer"] if problem["errors"] else "") == pointer, problem
    assert (await service.user.get("/v1/tasks")).json()["data"] == before


EXPECTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown initializer": ({"initializer": "nothing"}, "expected one of auto, tiny-curve, tiny-ink"),
    "unknown option": ({"options": {"speed": 3}}, "unknown; expected steps, warm_start"),
    "unknown key": ({"support": {"inputs": PIXELS, "labels": LABELS, "x": 1}}, "unknown; expected inputs, labels"),
    "labels are numbers": (_support(PIXELS, [1, 2, 3, 4]), "the number 1; tiny-ink expects a class name, a text of 1 to 200 characters"),
    "image bomb": (_support(_images(_bomb(), *[ONE] * 3)), "expected at most 40000 pixels, found far more"),
    "a text for an object": ({"options": "x"}, "Input should be an object"),
    "NUL": ({"name": "a\x00"}, "Input should be text without NUL characters"),
    "a label that is nothing": (_support(PIXELS, ["a", None, "b", "b"]), "Input should be a text or a number"),
    "no encoding": (_support({"data": "x"}), 'expected "encoding" raw, npy or images'),
    "an encoding that does not exist": (_support({"encoding": "zip", "data": "x"}), 'expected "encoding" raw, npy or images'),
    "a side below zero": (_support(_raw(shape=[-4, -8, 8])), "Input should be greater than or equal to 0"),
}


@pytest.mark.parametrize("name", EXPECTATIONS)
async def test_a_fault_says_what_was_expected(service: Service, name: str) -> None:
    changes, expected = EXPECTATIONS[name]
    problem = (await service.user.post("/v1/tasks", json=task_body(**changes))).json()
    assert problem["errors"][0]["detail"] == expected
    assert problem["code"] == "initializer_not_found" or expected in problem["detail"]  # that one has the names of all


async def test_the_deepest_metadata_allowed_is_listed_again(service: Service) -> None:
    metadata = {"a": _nested(31)}
    task = await make_task(service.user, metadata=metadata)
    assert next(row for row in (await service.user.get("/v1/tasks")).json()["data"] if row["id"] == task["id"])["metadata"] == metadata


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "invalid UTF-8": b'{"initializer": "\xff"}',
    "NaN": b'{"initializer": NaN}',
    "Infinity": b'{"initializer": "tiny-ink", "support": {"inputs": [[Infinity]], "labels": ["a"]}}',
    "1e999": b'{"initializer": "tiny-ink", "support": {"inputs": [1e999], "labels": ["a"]}}',
    "deep": b"[" * 100_000,
    "deep and closed": b'{"metadata": ' + b"[" * 900 + b"]" * 900 + b"}",
    "deep inputs": b'{"initializer": "tiny-ink", "support": {"inputs": ' + b"[" * 900 + b"]" * 900 + b', "labels": ["a"]}}',
    "huge integer": b'{"ttl_s": ' + b"9" * 5000 + b"}",
    "an array": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "lone surrogate": b'{"name": "\\ud800"}',
    "duplicate keys": b'{"name": 1, "name": 2}',
    "many unknown keys": json.dumps({f"k{i}": 0 for i in range(5000)}).encode(),
    "many labels": json.dumps({"initializer": "tiny-ink", "support": {"inputs": [], "labels": [{}] * 5000}}).encode(),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_not_what_it_should_be_is_never_a_crash(service: Service, name: str) -> None:
    for url in ("/v1/tasks", "/v1/admin/keys", "/v1/admin/initializers/tiny-ink/reload"):
        response = await service.admin.post(url, content=BODIES[name], headers={"Content-Type": "application/json"})
        if name == "nothing" and url.endswith("reload"):
            assert response.status_code == 200
            continue
        assert response.status_code in (404, 422), response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert len(response.json()["errors"]) <= 20


async def test_undecodable_input_is_not_echoed(service: Service) -> None:
    response = await service.user.post("/v1/tasks", json={"initializer": ["secret-content"], "support": "secret-content"})
    assert response.status_code == 422
    assert "secret-content" not in response.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "multipart/form-data"}, 422),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 422),
    ],
)
async def test_a_content_type_nobody_reads_is_refused(service: Service, headers: dict[str, str], status: int) -> None:
    response = await service.user.post("/v1/tasks", content=b"{}", headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["code"] in ("unsupported_media_type", "invalid_body")


async def test_a_body_over_the_limit_is_refused_by_its_announcement(service: Service) -> None:
    consumed = []

    async def body() -> AsyncIterator[bytes]:
        consumed.append(1)
        yield b"x"

    response = await service.user.post("/v1/tasks", content=body(), headers={"Content-Length": "400001"})
    assert (response.status_code, response.json()["code"], consumed) == (413, "body_too_large", [])
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("media", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_body_over_the_limit_is_refused_while_it_comes(service: Service, media: str) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="support[a]"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            sent += 50_000
            yield b"x" * 50_000

    response = await service.user.post("/v1/tasks", content=body(), headers={"Content-Type": media})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert sent <= 450_000


async def test_uploads_that_are_wrong_say_which_part(service: Service) -> None:
    image = ("x.png", ONE, "image/png")
    cases: list[tuple[list[Any], dict[str, str], str]] = [
        ([("support", image)], {"initializer": "tiny-ink"}, "#/support/0"),
        ([("pictures", image)], {"initializer": "tiny-ink"}, "#/pictures"),
        ([("support[a]", image)], {"initializer": "tiny-ink", "colour": "red"}, "#/colour"),
        ([("support[a]", image)], {"initializer": "tiny-ink", "options": "{"}, "#/options"),
        ([("support[a]", image)], {"initializer": "tiny-ink", "ttl_s": "soon"}, "#/ttl_s"),
        ([("support[a]", image), ("support[b]", ("b.png", b"no", "image/png"))], {"initializer": "tiny-ink"}, "#/support/1"),
        ([("query", image)], {"initializer": "tiny-ink"}, "#/support/inputs"),
    ]
    for files, fields, pointer in cases:
        response = await service.user.post("/v1/tasks", files=files, data=fields)
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["pointer"] == pointer, response.text


async def test_queries_that_do_not_fit_are_told_where(service: Service) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    bodies: list[tuple[Any, str, str]] = [
        ({"inputs": []}, "invalid_query", "#/inputs"),
        ({"inputs": [[1]]}, "invalid_query", "#/inputs/0"),
        ({"inputs": _raw(data="A")}, "undecodable_input", "#/inputs/data"),
        ({}, "invalid_body", "#/inputs"),
        ({"inputs": [PIXELS[0]] * 51}, "invalid_query", "#/inputs"),
    ]
    for body, code, pointer in bodies:
        problem = (await service.user.post(url, json=body)).json()
        assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer), problem
    raw = await service.user.post(url, content=b"no", headers={"Content-Type": "application/x-npy"})
    assert (raw.status_code, raw.json()["code"], raw.json()["errors"][0]["pointer"]) == (422, "undecodable_input", "#")
    upload = await service.user.post(url, files=[("query", ("x.png", b"no", "image/png"))])
    assert (upload.status_code, upload.json()["errors"][0]["pointer"]) == (422, "#/query/0")


async def test_a_revision_that_does_not_fit_changes_nothing(service: Service) -> None:
    task = await make_task(service.user)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "#"),
        ({"add": {"inputs": [[1]], "labels": ["x"]}}, "#/add/inputs/0"),
        ({"remove": {"classes": ["nobody"]}}, "#/remove/classes/0"),
        ({"remove": {"indices": [99]}}, "#/remove/indices/0"),
        ({"remove": {"indices": [-1]}}, "#/remove/indices/0"),
        ({"remove": {"everything": True}}, "#/remove/everything"),
        ({"remove": {"classes": [f"nobody {i}" for i in range(10_000)]}}, "#/remove/classes/0"),
        ({"options": {"speed": 1}}, "#/options/speed"),
    ]
    for body, pointer in cases:
        response = await service.user.post(task["links"]["support"], json=body)
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["pointer"] == pointer, response.text
        assert len(response.json()["errors"]) <= 20
    assert (await service.user.get(task["links"]["self"])).json()["revision"] == 1


@pytest.mark.parametrize(
    "url", ["/v1/tasks/%00", "/v1/tasks/a%2Fb", "/v1/tasks/" + "a" * 5000, "/v1/initializers/%00", "/v1/initializers/.."]
)
async def test_an_id_that_cannot_be_one_is_not_found(service: Service, url: str) -> None:
    response = await service.user.get(url)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=%00", "status=done", "name=%00"])
async def test_a_parameter_that_does_not_fit_is_named(service: Service, query: str) -> None:
    problem = (await service.user.get(f"/v1/tasks?{query}")).json()
    assert (problem["status"], problem["code"]) == (422, "invalid_parameter")
    assert problem["errors"][0]["pointer"] == f"#/query/{query.partition('=')[0]}"


async def test_many_images_together_are_a_bomb_too(service: Service) -> None:
    buffer = io.BytesIO()
    Image.new("L", (200, 200)).save(buffer, "PNG")
    body = task_body(**_support(_images(*[buffer.getvalue()] * 17), ["a", "b"] * 8 + ["a"]))
    response = await service.user.post("/v1/tasks", content=orjson.dumps(body))
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "#/support/inputs/data/16")
