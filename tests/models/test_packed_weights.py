"""Weights in eight and in twelve bits: near to what they were, and the same bytes and numbers whoever makes them."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import packed_weights
from models.native.build import library_path, list_instruction_sets
from models.native.library import has, load_packing
from models.packed_weights import BITS, MOST_SCALE, count_packed_bytes, is_finite, make_base, measure, read_lines, unpack
from tests.models.test_packing import NUMBERS, is_same

CHANNELS = st.sampled_from([1, 2, 7, 16, 31, 32, 48, 64, 70, 96, 129])
SHAPES = st.tuples(CHANNELS, st.integers(1, 9), st.sampled_from([(), (2,), (3, 3)])).map(lambda sizes: (*sizes[:2], *sizes[2]))
WIDTHS = st.sampled_from(BITS)
BUILT = [library_path(instructions, "packing") for instructions in list_instruction_sets() if has(instructions)]
LIBRARIES = [path for path in BUILT if path.exists()]


def draw_weight(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight whose channels moved from the parameter by very different amounts, and that parameter."""
    generator = torch.Generator().manual_seed(seed)
    param = torch.randn(shape, generator=generator)
    scale = 10.0 ** torch.randint(-3, 3, (shape[0], *[1] * (len(shape) - 1)), generator=generator)
    return (param + torch.randn(shape, generator=generator) * scale).unsqueeze(0), param


def pack(weight: torch.Tensor, base: torch.Tensor, bits: int) -> torch.Tensor:
    lines = read_lines(weight, base)
    return packed_weights.pack(lines, base, measure(lines, base), bits)


def bring_back(packed: torch.Tensor, param: torch.Tensor, bits: int) -> torch.Tensor:
    weight = torch.empty(1, *param.shape)
    unpack(packed.numpy(), make_base(param), bits, weight)
    return weight


@given(SHAPES, st.integers(0, 99), WIDTHS)
def test_a_number_moves_by_less_than_a_share_of_the_largest_difference_in_its_channel(shape: tuple[int, ...], seed: int, bits: int) -> None:
    weight, param = draw_weight(shape, seed)
    packed = pack(weight, make_base(param), bits)
    assert len(packed) == count_packed_bytes(make_base(param), bits)
    moved = (weight[0] - param).abs().flatten(1).amax(1)
    assert torch.equal(measure(read_lines(weight, make_base(param)), make_base(param)), moved)
    error = (bring_back(packed, param, bits) - weight)[0].abs().flatten(1).amax(1)
    # Half a step of 2**(bits - 1) - 1, which was made longer by one part of 2**11 at most, and what float32 itself rounds.
    assert (error <= moved * 0.5 / (2 ** (bits - 1) - 1) * 1.002 + weight.abs().max() * 2.0**-22).all()


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_that_did_not_move_comes_back_as_the_parameter(bits: int) -> None:
    _, param = draw_weight((32, 4, 3, 3), 0)
    assert torch.equal(bring_back(pack(param.unsqueeze(0), make_base(param), bits), param, bits)[0], param)


@pytest.mark.parametrize("bits", BITS)
def test_a_channel_is_packed_alike_beside_any_others(bits: int) -> None:
    weight, param = draw_weight((6, 4, 3, 3), 1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    turned = bring_back(pack(weight[:, order], make_base(param[order]), bits), param[order], bits)
    assert torch.equal(turned, bring_back(pack(weight, make_base(param), bits), param, bits)[:, order])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_does_not_become_so(wrong: float, bits: int) -> None:
    weight, param = draw_weight((4, 3), 2)
    weight[0, 2, 1] = wrong
    packed = pack(weight, make_base(param), bits)
    assert not measure(read_lines(weight, make_base(param)), make_base(param))[2].isfinite()
    assert not is_finite(packed.numpy(), make_base(param))
    assert not bring_back(packed, param, bits)[0, 2].isfinite().any()
    assert bring_back(packed, param, bits)[0, :2].isfinite().all()


@given(st.binary(min_size=28, max_size=28), WIDTHS)
def test_bytes_of_chance_that_pass_for_finite_are(chance: bytes, bits: int) -> None:
    base = torch.full((2, 4), 1e30)
    packed = torch.frombuffer(bytearray(chance[: count_packed_bytes(base, bits)]), dtype=torch.uint8)
    weight = torch.empty(1, 4, 2)
    unpack(packed.numpy(), base, bits, weight)
    if is_finite(packed.numpy(), base):
        assert weight.isfinite().all()
    else:
        scales = packed[:16].view(torch.float32)
        assert not (scales.abs() <= MOST_SCALE).all()


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.stem)
@given(data=st.data(), shape=SHAPES, bits=WIDTHS)
def test_c_gives_the_bytes_and_the_numbers_of_torch(path: Path, data: st.DataObject, shape: tuple[int, ...], bits: int) -> None:
    """At the edges of what float32 can say, and however a weight lies in memory."""
    count = torch.Size(shape).numel()
    drawn = [torch.tensor((data.draw(st.lists(NUMBERS, min_size=1, max_size=20)) * count)[:count]).view(shape) for _ in range(2)]
    weight, param = drawn[0].transpose(0, 1).contiguous().transpose(0, 1).unsqueeze(0), drawn[1]
    packed, found = {}, {}
    for way, library in (("c", load_packing(path)), ("torch", None)):
        with patch.object(packed_weights, "find_packing", lambda library=library: library):
            packed[way] = pack(weight, make_base(param), bits)
            found[way] = bring_back(packed[way], param, bits)
    assert torch.equal(packed["c"], packed["torch"])
    assert is_same(found["c"], found["torch"])
