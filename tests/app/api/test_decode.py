"""Inputs as arrays that were lifted out of a body and the same inputs as lists: one result, bit for bit, and one fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from app.api.bodies import parse_json
from app.api.decode import Place, decode_inputs
from app.domain import InputSpec
from app.errors import InvalidSupport
from app.native.json_numbers import find_library
from models.native.build import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="SKIPPED-COMPILER: no C compiler")

RANDOM = np.random.default_rng(0)
INK = InputSpec("image", (1, 28, 28))
INPUTS: dict[str, Any] = {
    "bytes": RANDOM.integers(0, 256, (3, 28, 28)).tolist(),
    "four digits": RANDOM.random((3, 1, 28, 28)).round(4).tolist(),
    "seventeen digits": RANDOM.standard_normal((3, 28, 28)).tolist(),
    "integers among floats": [[0, 0.5, -1] * 30],
    "beyond float32": [[1e300, -1e300, 1e-300, -0.0, 16777217] * 20],
    "numbers alone": list(range(100)),
    "another shape": RANDOM.random((2, 3, 4, 5, 6)).tolist(),
}


def place(spec: InputSpec) -> Place:
    return Place(spec, "#/inputs", InvalidSupport, 10**6, 100)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("spec", [INK, InputSpec("vector", (1,)), InputSpec("vector", (3,))])
def test_arrays_and_lists_are_the_same_inputs(name: str, spec: InputSpec) -> None:
    lifted = parse_json(orjson.dumps({"inputs": INPUTS[name]}) + b" " * 512)["inputs"]
    assert isinstance(lifted, np.ndarray)
    found, expected = decode_inputs(lifted, place(spec)), decode_inputs(INPUTS[name], place(spec))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    assert find_library() is not None


def test_a_row_of_another_length_is_pointed_at_in_a_long_body() -> None:
    inputs = [*INPUTS["bytes"][:2], INPUTS["bytes"][2][:-1]]
    with pytest.raises(InvalidSupport) as fault:
        decode_inputs(parse_json(orjson.dumps({"inputs": inputs}))["inputs"], place(INK))
    assert fault.value.issues[0].pointer == "#/inputs/2"
