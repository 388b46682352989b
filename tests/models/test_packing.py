from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import packing
from models.native.build import find_compiler, library_path, list_instruction_sets
from models.native.library import find_packing, has, load_packing
from models.packing import Room, count_packed_bytes, pack, unpack
from models.resident import arrange
from models.slab import Slab

SHAPES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(lambda axes: torch.Size((1, *axes))), min_size=1, max_size=4)
NO_BASE = torch.empty(0)
NUMBERS = st.sampled_from(
    [0.0, -0.0, 1.0, -0.3, 2.5, 1e-45, -3e-39, 1.2e-38, 1e-30, 3e38, -3.4028234e38, torch.inf, -torch.inf, torch.nan]
) | st.floats(width=32)
BUILT = [library_path(instructions, "packing") for instructions in list_instruction_sets() if has(instructions)]
LIBRARIES = [path for path in BUILT if path.exists()]


def draw_tensors(shapes: Sequence[torch.Size], seed: int) -> list[torch.Tensor]:
    """Rows of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    scales = [10.0 ** torch.randint(-3, 4, (1, *shape[1:2], *[1] * (len(shape) - 2)), generator=generator) for shape in shapes]
    return [torch.randn(shape, generator=generator) * scale for shape, scale in zip(shapes, scales, strict=True)]


def unpack_all(packed: torch.Tensor, shapes: Sequence[torch.Size], base: torch.Tensor = NO_BASE) -> list[torch.Tensor]:
    return unpack_like(packed, [torch.empty(shape) for shape in shapes], base)[0]


def unpack_like(packed: torch.Tensor, models: Sequence[torch.Tensor], base: torch.Tensor) -> tuple[list[torch.Tensor], bool]:
    """Tensors laid out as `models`, and whether all their numbers are finite."""
    arrangement = arrange({str(place): model for place, model in enumerate(models)})
    memory, room = Slab(2**12).take(arrangement.n_bytes), Room(tuple(arrangement.places.values()))
    is_finite = unpack(packed.numpy(), base, memory, room)
    return [place.view(memory) for place in room.places], is_finite


def lay_out(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The same numbers in memory with the axes in another order, with gaps, and not at the beginning."""
    gaps = torch.full([size + 1 for size in tensor.permute(*order).shape], torch.nan)[tuple(slice(1, None) for _ in order)]
    placed = gaps.permute(*torch.tensor(order).argsort().tolist())
    return placed.copy_(tensor)


@given(SHAPES, st.integers(0, 99))
def test_a_number_moves_by_less_than_a_share_of_the_largest_in_its_row(shapes: list[torch.Size], seed: int) -> None:
    tensors = draw_tensors(shapes, seed)
    packed = pack(tensors, NO_BASE)
    assert len(packed) == count_packed_bytes(shapes)
    for tensor, found in zip(tensors, unpack_all(packed, shapes), strict=True):
        begin = 2 if tensor[0, :1].numel() > 1 and tensor.dim() > 2 else 1
        moved, rows = (found - tensor).flatten(begin), tensor.flatten(begin)
        # Half a step of the grid, and what float32 itself rounds when a number and its step are multiplied.
        assert (moved.abs() <= rows.abs().amax(-1, keepdim=True) * (2.0**-20 * 1.001 + 2.0**-23)).all()


@given(SHAPES)
def test_zeros_stay_zeros(shapes: list[torch.Size]) -> None:
    tensors = [torch.zeros(shape) for shape in shapes]
    found = unpack_all(pack(tensors, NO_BASE), shapes)
    assert all(torch.equal(*pair) for pair in zip(found, tensors, strict=True))


def test_what_is_not_finite_does_not_become_so() -> None:
    for wrong in (torch.nan, torch.inf, -torch.inf):
        packed = pack([torch.tensor([[[1.0, wrong], [2.0, 3.0]]])], NO_BASE)
        [into], is_finite = unpack_like(packed, [torch.empty(1, 2, 2)], NO_BASE)
        assert not is_finite
        assert not into[0, 0].isfinite().any()


def test_a_row_is_packed_alike_beside_any_others() -> None:
    [alone], [row] = (
        unpack_all(pack(draw_tensors([torch.Size((1, 7))], 1), NO_BASE), [torch.Size((1, 7))]),
        draw_tensors([torch.Size((1, 7))], 1),
    )
    [others] = draw_tensors([torch.Size((1, 2, 7))], 2)
    rows = torch.cat([others, row.unsqueeze(1)], dim=1)
    assert torch.equal(unpack_all(pack([rows], NO_BASE), [rows.shape])[0][:, 2], alone)


@pytest.mark.skipif(find_compiler() is None, reason="SKIPPED-COMPILER: no C compiler")
def test_what_was_installed_is_there() -> None:
    assert find_packing() is not None


def is_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """To the last bit; a NaN is a NaN."""
    return bool((first.view(torch.int32) == second.view(torch.int32)).logical_or(first.isnan() & second.isnan()).all())


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.stem)
@given(data=st.data(), shapes=SHAPES)
def test_c_gives_the_bytes_and_the_numbers_of_torch(path: Path, data: st.DataObject, shapes: list[torch.Size]) -> None:
    """Whatever lies in memory in whatever order, and at the edges of what float32 can say."""
    kept = [data.draw(st.lists(NUMBERS, min_size=1, max_size=20)) for _ in shapes]
    logical = [torch.tensor(some * shape.numel())[: shape.numel()].view(shape) for some, shape in zip(kept, shapes, strict=True)]
    tensors = [lay_out(tensor, data.draw(st.permutations(range(tensor.dim())))) for tensor in logical]
    n_base = data.draw(st.integers(0, sum(shape.numel() for shape in shapes)))
    base = torch.tensor(data.draw(st.lists(NUMBERS, min_size=1, max_size=20)) * n_base)[:n_base]
    assert_same_ways(load_packing(path), tensors, base)


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.stem)
def test_c_and_torch_agree_on_wide_kernels(path: Path) -> None:
    kernels = draw_tensors([torch.Size((1, 70, 33, 3, 3)), torch.Size((1, 64, 64, 3, 3)), torch.Size((1, 5, 256))], 0)
    tensors = [kernels[0].permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2), *kernels[1:]]
    assert_same_ways(load_packing(path), tensors, torch.randn(70 * 33 * 9 + 5))


def assert_same_ways(library: ctypes.PyDLL, tensors: Sequence[torch.Tensor], base: torch.Tensor) -> None:
    packed, into = {}, {}
    finite = {}
    for way, found in (("c", library), ("torch", None)):
        with patch.object(packing, "find_packing", lambda found=found: found):
            packed[way] = pack(tensors, base)
            into[way], finite[way] = unpack_like(packed[way], tensors, base)
    assert torch.equal(packed["c"], packed["torch"])
    assert finite["c"] == finite["torch"]
    assert all(is_same(*pair) for pair in zip(into["c"], into["torch"], strict=True))
