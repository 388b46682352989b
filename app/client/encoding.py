"""Examples on their way to the service: arrays as one base64 `.npy`, pictures as a list of base64 images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

NPY = "application/x-npy"

Picture: TypeAlias = "bytes | str | Path | Image.Image"
Examples: TypeAlias = "npt.ArrayLike | Sequence[Picture]"
"""An array of shape (n, ...) float or uint8 (0 to 255), or pictures: PIL images, paths, or the bytes of a PNG, JPEG, ..."""


def encode_examples(examples: Examples) -> Any:
    """The JSON of a batch of inputs. Raises ValueError when pictures and numbers are mixed or nothing is given."""
    batch = _read_batch(examples)
    if isinstance(batch, list):
        return {"encoding": "images", "data": [base64.b64encode(_picture_bytes(item)).decode() for item in batch]}
    return {"encoding": "npy", "data": base64.b64encode(write_npy(batch)).decode()}


def encode_queries(examples: Examples) -> tuple[bytes, str]:
    """A body of queries and its media type: numbers are a `.npy` file as it is, pictures are JSON. Raises as encode_examples does."""
    batch = _read_batch(examples)
    if isinstance(batch, list):
        return json.dumps({"inputs": encode_examples(batch)}).encode(), "application/json"
    return write_npy(batch), NPY


def _read_batch(examples: Examples) -> npt.NDArray[Any] | list[Picture]:
    """Numbers as one array, or the pictures."""
    if isinstance(examples, np.ndarray):
        return examples
    items = list(examples) if isinstance(examples, Sequence) and not isinstance(examples, str | bytes) else None
    if items is None:
        raise ValueError(f"expected an array or a sequence of examples, got {type(examples).__name__}; put a single one in a list")
    kinds = {isinstance(item, bytes | str | Path | Image.Image) for item in items}
    if kinds == {True}:
        return items
    if kinds == {True, False}:
        raise ValueError("pictures and numbers are mixed; give one or the other")
    return np.asarray(items)


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """A .npy file. uint8 travels as it is, a quarter of the bytes; every other number as float32. Raises ValueError for anything else."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers, got an array of {array.dtype}")
    plain = array if array.dtype == np.uint8 else array.astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(plain), allow_pickle=False)
    return buffer.getvalue()


def _picture_bytes(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
