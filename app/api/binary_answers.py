"""Answers as arrays: of predictions by the hundred neither side builds or reads a number as text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import Response

from app.domain import Array, Prediction, PredictionSet
from app.services.answer_table import AnswerTable

JSON = "application/json"
NPY = "application/x-npy"
NPZ = "application/x-npz"
MEDIA_TYPES = (JSON, NPY, NPZ)
"""What predictions are answered with, the usual one first."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}
DOCUMENTED: dict[str, Any] = {
    "content": {NPY: _BINARY, NPZ: _BINARY},
    "headers": {
        "InnerLoop-Revision": {"description": "With arrays: the revision of the task that answered.", "schema": {"type": "integer"}},
        "InnerLoop-Initializer": {"description": "With arrays: the name of its initializer.", **_TEXT},
        "InnerLoop-Initializer-Version": {"description": "With arrays: the version of it.", "schema": {"type": "integer"}},
        "Server-Timing": {"description": "Milliseconds: the phases of JSON's `timings_ms`, and `total` of the whole request.", **_TEXT},
        "Vary": {"description": "`Accept`.", **_TEXT},
    },
}
"""The part of the OpenAPI response that arrays add."""


def write_arrays(predictions: Sequence[Prediction], media: str) -> bytes:
    """Predictions that are a table, as NPY or NPZ."""
    assert isinstance(predictions, AnswerTable), "answers that say something of single queries are JSON. This is a bug."
    return write_npy(predictions.values) if media == NPY else write_npz(predictions)


def array_response(answers: PredictionSet, written: bytes, media: str) -> Response:
    """Answers whose predictions are written, as NPY or NPZ."""
    return Response(written, 200, _headers(answers), media)


def write_npy(values: Array) -> bytes:
    """A .npy file of little-endian float32."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
    return stream.getvalue()


def write_npz(table: AnswerTable) -> bytes:
    """`values`, and what applies of `classes`, the names of its columns, and `unknown`. A zip file: 0.1 ms, whatever is in it."""
    named: dict[str, Any] = {"classes": np.array(table.classes) if table.classes else None, "unknown": table.unknown}
    stream = io.BytesIO()
    np.savez(stream, values=table.values, **{name: array for name, array in named.items() if array is not None})
    return stream.getvalue()


def _headers(answers: PredictionSet) -> dict[str, str]:
    return {
        "InnerLoop-Revision": str(answers.revision),
        "InnerLoop-Initializer": answers.initializer.name,
        "InnerLoop-Initializer-Version": str(answers.initializer.version),
        "Vary": "Accept",
    }
