"""The C reads the numbers that Python reads, and a body means what orjson says it means, or fails with the same words."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.native import json_numbers
from app.native.json_numbers import LARGEST_POWER, LEAST_POWER, LIFT_FROM_BYTES, find_library, load_json, tabulate_powers
from models.native.build import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="SKIPPED-COMPILER: no C compiler")

ROW = "[" + ", ".join(["0.25"] * 64) + "]"
PADDING = " " * LIFT_FROM_BYTES
"""What makes any body long enough to be looked at."""


def load(text: str) -> Any:
    """The document of a body that is long enough."""
    return load_json((text + PADDING).encode())


def lift(text: str) -> Any:
    """What stands under `inputs`: an array where it was lifted."""
    return load('{"inputs": ' + text + "}")["inputs"]


def read(number: str) -> float | None:
    """A number as the C reads it, the last of a row; None where it leaves it to orjson."""
    document = answer(load_json, f'{{"inputs": [{"1," * 64}{number}]}}{PADDING}'.encode())
    row = document["inputs"] if isinstance(document, dict) else None
    return float(row[-1]) if isinstance(row, np.ndarray) else None


def bits(number: float) -> bytes:
    """For a comparison that tells zeros apart."""
    return struct.pack("d", number)


def same(document: Any, expected: Any) -> bool:
    """Whether two documents are equal, an array being the lists that numpy would make it of."""
    if isinstance(document, np.ndarray):
        return document.tobytes() == np.array(expected, np.float64).tobytes() and document.shape == np.array(expected).shape
    if isinstance(document, dict):
        return list(document) == list(expected) and all(same(document[key], expected[key]) for key in document)
    return bool(document == expected)


def answer(parse: Callable[[bytes], Any], body: bytes) -> Any:
    """The document, or the words of the fault."""
    try:
        return parse(body)
    except orjson.JSONDecodeError as error:
        return str(error), error.pos


def check(body: bytes) -> None:
    """Both ways give the same."""
    assert same(answer(load_json, body), answer(orjson.loads, body)), body


def test_what_was_installed_is_there() -> None:
    assert find_library() is not None


def test_powers_of_ten_are_the_true_ones_rounded_down() -> None:
    for power, row in zip(range(LEAST_POWER, LARGEST_POWER + 1), tabulate_powers().tolist(), strict=True):
        high, low, exponent = row[0], row[1], row[2] - (row[2] >> 63 << 64)
        rest = Fraction(10) ** power / Fraction(2) ** exponent - (high << 64 | low)
        assert high >> 63
        assert 0 <= rest < 1


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(2.2250738585072014e-308)
@example(2.225073858507201e-308)
@example(1.7976931348623157e308)
@example(-0.0)
def test_a_float_is_read_as_it_was_written(number: float) -> None:
    found = read(repr(number))
    assert found is not None or is_tie(repr(number))
    assert found is None or bits(found) == bits(number)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 18))
def test_any_number_of_decimals_is_rounded_as_python_rounds_it(number: float, decimals: int) -> None:
    text = f"{number:.{decimals}e}"
    found = read(text)
    assert found is not None or float(text) == 0 or is_tie(text)
    assert found is None or bits(found) == bits(float(text))


@given(st.integers(0, 10**19 - 1), st.integers(-360, 320))
@example(9007199254740993, 0)
@example(17976931348623158, 292)
@example(17976931348623159, 292)
@example(4, -324)
@example(3, -324)
@example(2, -324)
def test_any_significand_and_exponent_are_rounded_as_python_rounds_them(significand: int, exponent: int) -> None:
    text = f"{significand}E{exponent:+}"
    found = read(text)
    assert found is None or bits(found) == bits(float(text))
    ordinary = significand == 0 or 1e-322 < float(text) < 1.7e308
    assert found is not None or not ordinary or is_tie(text)


@given(st.integers(2**53, 2**54 - 1), st.integers(-3, 3), st.sampled_from(["", "1", "0001"]))
def test_what_lies_in_the_middle_of_two_doubles_or_beside_it_is_rounded_as_python_rounds_it(half: int, exponent: int, more: str) -> None:
    middle = Fraction(2 * half + 1, 2) * Fraction(2) ** exponent
    whole, part = divmod(middle, 1)
    text = f"{whole}.{f'{float(part):.9f}'[2:].rstrip('0')}{more or '0'}"
    found = read(text)
    assert found is None or bits(found) == bits(float(text))


def is_tie(text: str) -> bool:
    """Whether a number is as far from one double as from another."""
    rounded = float(text)
    apart = Fraction(text) - Fraction(rounded)
    other = float(np.nextafter(rounded, np.inf if apart > 0 else -np.inf))
    return apart != 0 and abs(apart) == abs(Fraction(text) - Fraction(other))


@pytest.mark.parametrize("text", ["0", "-0", "7", "-255", "9007199254740992", "-9007199254740992"])
def test_an_integer_is_the_float_of_it(text: str) -> None:
    found = read(text)
    assert found is not None
    assert bits(found) == bits(float(int(text)))


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740993", "-9223372036854775808", "9999999999999999999", "18446744073709551616",
        "0.12345678901234567891", "1e-400", "1e00005",
    ],
)  # fmt: skip
def test_what_is_not_certain_is_left_for_orjson(text: str) -> None:
    assert read(text) is None
    check(f'{{"inputs": [{"1," * 64}{text}]}}{PADDING}'.encode())


@pytest.mark.parametrize(
    "text",
    [
        "01", "-", "+1", ".5", "1.", "1.e5", "1e", "1e+", "NaN", "Infinity", "-Infinity", "1e400", "0x10", "1_000", "1,", "", "- 1", "--1",
        "1 2", "true", "null", '"1"', "{}", "[1]", "[]", "1]", "1}", "\u0661", "1//", "\x00",
    ],
)  # fmt: skip
def test_what_is_no_number_is_found_by_orjson(text: str) -> None:
    for row in (f"{'1,' * 64}{text}", f"{text}{',1' * 64}", f"{'1,' * 32}{text}{',1' * 32}"):
        check(f'{{"inputs": [{row}]}}{PADDING}'.encode())


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (ROW, (64,)),
        (f"[{ROW}]", (1, 64)),
        (f"[{ROW}, {ROW}]", (2, 64)),
        (f" [\n[{ROW},\t{ROW}] ,\r\n[{ROW},{ROW}]\n]", (2, 2, 64)),
        ("[" * 7 + ROW + "]" * 7, (1, 1, 1, 1, 1, 1, 1, 64)),
        ("[" + ",".join(["[[1],[2]]"] * 40) + "]", (40, 2, 1)),
    ],
)
def test_rows_of_one_length_are_an_array(text: str, shape: tuple[int, ...]) -> None:
    found = lift(text)
    assert isinstance(found, np.ndarray)
    assert found.shape == shape
    assert found.tolist() == orjson.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        f"[{ROW}, [1]]", f"[{ROW}, 1]", f"[1, {ROW}]", f"[{ROW}, [{ROW}]]", f"[[{ROW}], {ROW}]", f"[[{ROW}], [{ROW}, {ROW}]]",
        f"[{ROW}, []]", f"[[], {ROW}]", f"[{ROW}, null]", "[" * 8 + ROW + "]" * 8, "[" + "1," * 62 + "1]", f'[{ROW}, "{ROW}"]',
        f"[{ROW} {ROW}]", f"[{ROW},]",
    ],
)  # fmt: skip
def test_what_is_no_block_stays_lists(text: str) -> None:
    body = f'{{"inputs": {text}}}{PADDING}'.encode()
    check(body)
    document = answer(load_json, body)
    assert isinstance(document, tuple) or isinstance(document["inputs"], list)


@pytest.mark.parametrize(
    ("body", "lifted"),
    [
        (f'{{"inputs": {ROW}}}', "inputs"),
        (f'{{"query": {ROW}}}', "query"),
        (f'{{"a": [{{"inputs": 1}}], "support": {{"labels": [{{}}], "inputs": {ROW}}}}}', "support/inputs"),
        (f'{{"add" : {{"inputs" :{ROW}}}, "b": 3}}', "add/inputs"),
        (f'{{"inputs": 1, "inputs": {ROW}}}', "inputs"),
        (f'{{"inputs": {ROW}, "inputs": 1}}', None),
        (f'{{"support": {{"inputs": {ROW}}}, "support": {{}}}}', None),
        (f'{{"support": {{"inputs": {ROW}}}, "supp\\u006frt": {{"inputs": "\\u00000"}}}}', None),
        (f'{{"support": {{"query": {ROW}}}}}', None),
        (f'{{"support": {{"x": {{"inputs": {ROW}}}}}}}', None),
        (f'{{"metadata": {{"inputs": {ROW}}}}}', None),
        (f'{{"support": [{{"inputs": {ROW}}}]}}', None),
        (f'[{{"inputs": {ROW}}}]', None),
        (f'{{"x": "\\"inputs\\": {ROW}"}}', None),
        (f'{{"x": "\\\\", "inputs": {ROW}}}', "inputs"),
        (f'{{"inputs": {ROW}, "x": "\\u0000"}}', None),
        (f'{{"inputs": {ROW}, "x": "\\u00000"}}', None),
    ],
)
def test_inputs_are_lifted_where_they_may_stand_and_nowhere_else(body: str, lifted: str | None) -> None:
    check((body + PADDING).encode())
    document = load(body)
    assert _find_arrays(document, "") == ([] if lifted is None else [f"/{lifted}"])


def _find_arrays(document: Any, path: str) -> list[str]:
    if isinstance(document, np.ndarray):
        return [path]
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [found for key, value in items for found in _find_arrays(value, f"{path}/{key}")]


def test_a_body_has_several_blocks_and_those_beyond_the_room_stay_lists() -> None:
    fields = [f'"{key}": {ROW}' for key in ("inputs", "query", "query", "query", "inputs")]
    check(("{" + ",".join(fields) + "}").encode())
    document = load(f'{{"support": {{"inputs": [{ROW}]}}, "add": {{"inputs": {ROW}}}, "query": [{ROW},{ROW}], "inputs": {ROW}}}')
    assert sorted(_find_arrays(document, "")) == ["/add/inputs", "/inputs", "/query", "/support/inputs"]
    assert document["query"].shape == (2, 64)


@pytest.mark.parametrize(
    "text",
    [
        "x", "}", '"', ",", '"a": 1}', '"a" 1', "\udc80", '"\\ud800"', '"\\x"', "[" * 1030 + "]" * 1030,
        '"b": ' + "[" * 400 + "]" * 400,
        '"b": ' + "[" * 1030 + "]" * 1030,
    ],
)  # fmt: skip
def test_faults_around_a_block_are_those_of_the_whole_body(text: str) -> None:
    for body in (f'{{"inputs": {ROW}, {text}}}', f'{{{text}, "inputs": {ROW}}}', f'{{"inputs": {ROW}}}{text}'):
        check((body + PADDING).encode("utf-8", "surrogateescape"))


NUMBERS = st.sampled_from(
    ["0", "255", "-1", "0.5", "1e3", "1E-7", "0.1234567890123456", "-0", "-0.0", "9007199254740993", "01", "null", "1e999"]
)
KEYS = st.sampled_from(["inputs", "query", "support", "add", "labels", "x", "\\u0069nputs", 'in\\"puts', "é"])
TEXTS = st.sampled_from(['"a"', '"\\u0000"', '"\\\\"', '"\\"inputs\\":["', '"[1,2"', "1", "null", "true", "{}", "[]", '"\\ud83d"', '"é"'])


@st.composite
def blocks(draw: st.DrawFn) -> str:
    """Nested rows, nearly always of one shape and nearly always of good numbers."""
    numbers = draw(st.lists(st.one_of(st.just("1"), st.just("2.5"), NUMBERS), min_size=1, max_size=3)) * draw(st.integers(20, 40))
    rows = ["[" + ",".join(numbers) + "]"] * draw(st.integers(1, 3))
    return draw(st.sampled_from([rows[0], "[" + ", ".join(rows) + "]", "[" + ",".join([*rows, "[1]"]) + "]", "[[" + ",".join(rows) + "]]"]))


VALUES = st.recursive(
    st.one_of(blocks(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]"),
        st.lists(st.tuples(KEYS, inner), max_size=4).map(lambda items: "{" + ", ".join(f'"{key}" : {value}' for key, value in items) + "}"),
    ),
    max_leaves=8,
)
MEMBERS = st.lists(st.tuples(KEYS, st.one_of(blocks(), VALUES)), min_size=1, max_size=4)
BODIES = MEMBERS.map(lambda items: "{" + ",".join(f'"{key}": {value}' for key, value in items) + "}").map(
    lambda text: (text + PADDING).encode()
)


@given(BODIES)
def test_any_body_is_the_document_that_orjson_makes_of_it(body: bytes) -> None:
    check(body)


@given(
    BODIES,
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from([*b'{}[]",:\\0-.e 1\x00\x80\xff'])), min_size=1, max_size=3),
)
def test_any_broken_body_fails_as_orjson_says(body: bytes, changes: list[tuple[float, int, int]]) -> None:
    broken = bytearray(body)
    for place, n_bytes, value in changes:
        at = int(place * (len(body.rstrip()) - 1))
        broken[at : at + n_bytes] = bytes([value])
    check(bytes(broken))


def test_without_the_library_orjson_reads_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_numbers, "find_library", lambda: None)
    assert isinstance(lift(ROW), list)


def test_threads_that_free_the_lock_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_numbers, "FREE_LOCK_FROM_BYTES", 0)
    assert lift(ROW).tolist() == [0.25] * 64
