from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import window_rows as rows

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def size_of(stride: int, size_in: rows.Size) -> rows.Size:
    return tuple((side + stride - 1) // stride for side in size_in)  # type: ignore[return-value]


def convolve(maps: Tensor, weight: Tensor, stride: int) -> Tensor:
    """By torch, channels first."""
    return F.conv2d(maps.permute(0, 3, 1, 2), weight, stride=stride, padding=1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("size_in", [(8, 8), (7, 7), (5, 8), (4, 3), (2, 2), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lanes", [1, 3])
class TestOneConvolution:
    """Of `lanes` tasks with two maps each, against torch's."""

    def test_windows_times_kernel_are_a_convolution(self, size_in: rows.Size, stride: int, lanes: int) -> None:
        maps, weight, size = draw(lanes * 2, *size_in, 3), draw(lanes, 5, 3, 3, 3), size_of(stride, size_in)
        windows = rows.gather_windows(rows.pad_maps(maps, size, stride), size, stride).view(lanes, -1, 27)
        found = rows.multiply(windows, rows.to_rows(weight)).view(lanes, 2, *size, 5)
        for lane in range(lanes):
            torch.testing.assert_close(found[lane], convolve(maps.view(lanes, 2, *size_in, 3)[lane], weight[lane], stride))

    def test_its_gradients_are_those_of_torch(self, size_in: rows.Size, stride: int, lanes: int) -> None:
        size = size_of(stride, size_in)
        maps, weight, upstream = draw(lanes * 2, *size_in, 3), draw(lanes, 5, 3, 3, 3), draw(lanes * 2, *size, 5)
        kernel, flat = rows.to_rows(weight), upstream.reshape(lanes, -1, 5)
        pulled = rows.pull_strided(flat, kernel, size, size_in) if stride == 2 else rows.pull_unstrided(flat, kernel, size)
        windows = rows.gather_windows(rows.pad_maps(maps, size, stride), size, stride).view(lanes, -1, 27)
        found = rows.from_rows(windows.mT @ flat)
        for lane in range(lanes):
            two = slice(2 * lane, 2 * lane + 2)
            leaves = maps[two].clone().requires_grad_(), weight[lane].clone().requires_grad_()
            wanted = torch.autograd.grad(convolve(*leaves, stride), leaves, upstream[two])
            torch.testing.assert_close(pulled[two], wanted[0])
            torch.testing.assert_close(found[lane], wanted[1])

    def test_a_kernel_that_all_lanes_share_gives_what_copies_of_it_give(self, size_in: rows.Size, stride: int, lanes: int) -> None:
        size, weight = size_of(stride, size_in), draw(5, 3, 3, 3)
        upstream = draw(lanes, 2 * size[0] * size[1], 5)
        one, many = rows.to_rows(weight), rows.to_rows(weight.repeat(lanes, 1, 1, 1, 1))
        assert one.shape[0] == 1
        for pull in (rows.pull_strided,) if stride == 2 else ():
            torch.testing.assert_close(pull(upstream, one, size, size_in), pull(upstream, many, size, size_in))
        if stride == 1:
            torch.testing.assert_close(rows.pull_unstrided(upstream, one, size), rows.pull_unstrided(upstream, many, size))


def test_laying_out_changes_memory_and_no_number() -> None:
    for weight in (draw(5, 3, 3, 3), draw(2, 5, 3, 3, 3)):
        laid = rows.lay_out(weight)
        assert torch.equal(laid, weight)
        assert rows.to_rows(laid).data_ptr() == laid.data_ptr(), "it is to be a view"
        torch.testing.assert_close(rows.from_rows(rows.to_rows(laid))[0], laid if laid.dim() == 4 else laid[0])


def test_a_step_keeps_the_layout() -> None:
    weight = rows.lay_out(draw(4, 3, 3, 3)).expand(2, -1, -1, -1, -1)
    gradient = rows.from_rows(draw(2, 27, 4))
    moved = torch.sub(weight, gradient, alpha=0.1)
    assert rows.to_rows(moved).data_ptr() == moved.data_ptr()
