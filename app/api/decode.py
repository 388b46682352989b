"""Inputs of any encoding to one numpy array, or a fault that says what was expected and where.

Only the form is decided here. Whether a support set or a query fits its initializer (shape, finite, limits) is decided in
`app.services.support_rules`, the same way for every door.
"""

from __future__ import annotations

import io
import math
import warnings
from binascii import Error as Base64Error
from binascii import a2b_base64
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.api.decode_images import decode_images
from app.api.inputs import ENCODED, ImageFiles, NpyFile, RawTensor
from app.domain import Array, InputSpec
from app.errors import InvalidInput, Issue, UndecodableInput

_NUMBERS = "iuf"


@dataclass(frozen=True)
class Place:
    """Where inputs stand in the request, what they must become, and the error that a bad one is.

    pointer: of the inputs, such as `#/support/inputs`; fault: InvalidSupport or InvalidQuery. max_items is held for images
    alone, before they are decoded: of them a small body can carry very many.
    """

    spec: InputSpec
    pointer: str
    fault: type[InvalidInput]
    max_pixels: int
    max_items: int

    def refuse(self, detail: str, *, at: int | str | None = None) -> InvalidInput:
        """The fault, pointing at the inputs or at one item of them."""
        return _refuse(self.fault, detail, self.pointer, at)

    def undecodable(self, detail: str, *, at: int | str | None = None) -> InvalidInput:
        """UndecodableInput, pointing likewise."""
        return _refuse(UndecodableInput, detail, self.pointer, at)


def decode_inputs(value: object, place: Place) -> Array:
    """Inputs (n, *input shape) as float32, or uint8 where bytes 0 to 255 were sent. Raises UndecodableInput or the place's fault."""
    if isinstance(value, np.ndarray):  # a block of numbers that never was lists, see app.native.json_numbers
        return _normalise(_as_float32(value), place.spec)
    if isinstance(value, list):
        return _normalise(_numbers(value, place), place.spec)
    if not isinstance(value, dict):
        raise place.refuse('expected nested lists of numbers, or an object with "encoding" raw, npy or images')
    encoded = _encoded(value, place)
    if isinstance(encoded, ImageFiles):
        _check_count(len(encoded.data), place)
        files = [_image_bytes(text, place, index) for index, text in enumerate(encoded.data)]
        return decode_image_files(files, place, pointer=f"{place.pointer}/data")
    if isinstance(encoded, RawTensor):
        return _normalise(_raw(encoded, place), place.spec)
    return decode_npy(_base64(encoded.data, place, "data"), place, at="data")


def decode_image_files(files: list[bytes], place: Place, *, pointer: str) -> Array:
    """Image files as uint8 (n, channels, height, width) for the initializer."""
    if place.spec.kind != "image":
        raise place.refuse(f"this initializer reads vectors of shape {list(place.spec.shape)}, not images")
    _check_count(len(files), place)
    return decode_images(files, place.spec.shape, max_pixels=place.max_pixels, pointer=pointer)


def _check_count(n_files: int, place: Place) -> None:
    if n_files > place.max_items:
        raise place.refuse(f"{n_files} images; expected at most {place.max_items}")


def decode_npy(data: bytes, place: Place, *, at: str | None = None) -> Array:
    """The array of a .npy file, which stands `at` the place. The header is believed only as far as the bytes that follow it."""
    header = data[: _header_bytes(data)]
    try:
        shape, is_fortran, dtype = _read_npy_header(header)
    except Exception as error:  # the header is Python literal syntax from outside: whatever goes wrong, it is not a .npy file
        raise place.undecodable("expected a .npy file of format 1.0 or 2.0", at=at) from error
    array = _from_bytes(memoryview(data)[len(header) :], dtype, shape, place, at)
    return _normalise(array.reshape(array.shape[::-1]).T if is_fortran else array, place.spec)


def _header_bytes(data: bytes) -> int:
    """How long the header says it is: 8 bytes of magic and version, its length in 2 bytes (format 1.0) or 4, and that many."""
    width = 2 if data[6:7] == b"\x01" else 4
    return 8 + width + int.from_bytes(data[8 : 8 + width], "little")


@lru_cache(maxsize=256)
def _read_npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype. Remembered: arrays of one shape have one header, and numpy compiles it as Python."""
    stream = io.BytesIO(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read_header(stream)
    return tuple(int(side) for side in shape), is_fortran, dtype


def _numbers(value: list[object], place: Place) -> Array:
    try:
        array = np.array(value)
    except (ValueError, OverflowError, MemoryError) as error:
        raise _find_odd_one(value, place) from error
    if array.size and array.dtype.kind not in _NUMBERS:
        raise _find_odd_one(value, place)
    return _as_float32(array)


def _find_odd_one(value: list[object], place: Place) -> InvalidInput:
    """The fault for the first input that is not a block of numbers of the shape of its neighbours."""
    expected = place.spec.shape if place.spec.kind == "vector" or place.spec.shape[0] != 1 else place.spec.shape[1:]
    for index, item in enumerate(value):
        try:
            array = np.array(item)
        except (ValueError, OverflowError, MemoryError):
            return place.refuse(f"expected numbers of shape {list(expected)}, found lists of different lengths", at=index)
        if array.dtype.kind not in _NUMBERS:
            return place.refuse(f"expected numbers of shape {list(expected)}, found something that is not a number", at=index)
        if array.shape not in (expected, place.spec.shape):
            return place.refuse(f"expected numbers of shape {list(expected)}, found {list(array.shape)}", at=index)
    return place.refuse(f"expected numbers of shape [n, {', '.join(str(side) for side in expected)}]")


def _encoded(value: dict[str, object], place: Place) -> RawTensor | NpyFile | ImageFiles:
    try:
        return ENCODED.validate_python(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)[:20]
    issues = [Issue("/".join([place.pointer, *(str(step) for step in fault["loc"][1:])]), _expectation(fault)) for fault in faults]
    raise place.fault(f"{issues[0].pointer}: {issues[0].detail}", issues=issues)


def _expectation(fault: ErrorDetails) -> str:
    return 'expected "encoding" raw, npy or images' if fault["type"].startswith("union_tag") else fault["msg"]


def _raw(encoded: RawTensor, place: Place) -> Array:
    data = _base64(encoded.data, place, "data")
    return _from_bytes(data, np.dtype(encoded.dtype).newbyteorder("<"), tuple(encoded.shape), place, "data")


def _from_bytes(data: bytes | memoryview, dtype: np.dtype[np.generic], shape: tuple[int, ...], place: Place, at: str | None) -> Array:
    if dtype.kind not in _NUMBERS or dtype.itemsize > 8:
        raise place.undecodable(f"expected integers or floats of at most 64 bits, found dtype {dtype.str[:16]}", at=at)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes != len(data) or min(shape, default=0) < 0:
        raise place.undecodable(f"expected {n_bytes} bytes for shape {list(shape)} of {dtype}, found {len(data)}", at=at)
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if dtype == np.uint8 else _as_float32(array)


def _as_float32(array: Array) -> Array:
    # What float32 cannot hold becomes infinite, and the rule "all finite" then points at it.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def _normalise(array: Array, spec: InputSpec) -> Array:
    """(n, h, w) to (n, 1, h, w) for ink, (n,) to (n, 1) for scalars, nothing at all to (0, *shape); the rest as it is."""
    if array.size == 0 and array.ndim == 1:
        return np.zeros((0, *spec.shape), np.float32)
    if spec.kind == "image" and spec.shape[0] == 1 and array.ndim == 3:
        return array[:, None]
    return array[:, None] if spec.shape == (1,) and array.ndim == 1 else array


def _image_bytes(text: str, place: Place, index: int) -> bytes:
    # Browsers give data: URLs; the part after the comma is what is wanted.
    return _base64(text.partition(",")[2] if text.startswith("data:") else text, place, f"data/{index}")


def _base64(text: str, place: Place, at: str) -> bytes:
    try:
        return a2b_base64(text.encode("ascii"), strict_mode=True)
    except (Base64Error, UnicodeEncodeError, ValueError):
        raise place.undecodable("expected base64 (RFC 4648 section 4, padded, one line)", at=at) from None


def _refuse(fault: type[InvalidInput], detail: str, pointer: str, at: int | str | None) -> InvalidInput:
    where = pointer if at is None else f"{pointer}/{at}"
    return fault(f"{where}: {detail}", issues=[Issue(where, detail)])
