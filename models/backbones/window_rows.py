"""3x3 convolutions of many lanes as batched matrix multiplies over gathered windows, and the way back.

Maps lie channels last here, (n, h, w, c): a window is then three runs of memory, and gathering costs a tenth of the multiply. `size` is
that of the maps a convolution makes. Padding is one on all sides; for stride 2 only as much of it as windows reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def pad_maps(maps: Tensor, size: Size, stride: int) -> Tensor:
    """(n, h, w, c) with the zeros around it that windows of a convolution to `size` reach."""
    padded = empty_padded(maps, size, stride)
    inside(padded, maps.shape[1:3]).copy_(maps)
    return padded


def empty_padded(maps: Tensor, size: Size, stride: int) -> Tensor:
    """A buffer for `pad_maps` of such maps: zeros at its border, and nothing yet inside."""
    n, height, width, c = maps.shape
    rows, columns = (stride * side + 3 - stride for side in size)
    padded = maps.new_empty(n, rows, columns, c)
    for border in (padded[:, 0], padded[:, :, 0], padded[:, 1 + height :], padded[:, :, 1 + width :]):
        border.zero_()
    return padded


def inside(padded: Tensor, size: Sequence[int]) -> Tensor:
    """The view of padded maps that the maps themselves are."""
    return padded[:, 1 : 1 + size[0], 1 : 1 + size[1]]


def gather_windows(padded: Tensor, size: Size, stride: int) -> Tensor:
    """All windows of padded maps (n, h, w, c) as (n, *size, 9 * c): rows of the window first, then columns, then channels."""
    n, height, width, c = padded.shape
    strides = (height * width * c, stride * width * c, stride * c, width * c, 1)
    windows = padded.new_empty(n, *size, 3, 3 * c)
    return windows.copy_(padded.as_strided(windows.shape, strides)).view(n, *size, 9 * c)


def multiply(rows: Tensor, kernel: Tensor) -> Tensor:
    """rows (lanes, m, k) by each lane's kernel (lanes, k, c), or by one that all share (1, k, c), as one large multiply."""
    if kernel.shape[0] == rows.shape[0]:
        return torch.bmm(rows, kernel)
    return (rows.reshape(-1, rows.shape[2]) @ kernel[0]).view(rows.shape[0], rows.shape[1], -1)


def add_product(total: Tensor, rows: Tensor, kernel: Tensor) -> None:
    """`total += multiply(rows, kernel)`, in place, also where `total` is a part of wider rows."""
    torch.baddbmm(total, rows, kernel.expand(rows.shape[0], -1, -1), out=total)


def to_rows(weight: Tensor) -> Tensor:
    """A kernel ([lanes,] c_out, c_in, 3, 3) as (lanes or 1, 9 * c_in, c_out): a view, when its memory was laid out by `lay_out`."""
    laned = weight.unsqueeze(0) if weight.dim() == 4 else weight
    laned = laned[:1] if laned.stride(0) == 0 else laned
    return laned.permute(0, 3, 4, 2, 1).flatten(1, 3)


def from_rows(kernel: Tensor) -> Tensor:
    """(lanes, 9 * c_in, c_out) as the view (lanes, c_out, c_in, 3, 3)."""
    lanes, nine_c, c_out = kernel.shape
    return kernel.view(lanes, 3, 3, nine_c // 9, c_out).permute(0, 4, 3, 1, 2)


def lay_out(weight: Tensor) -> Tensor:
    """The same kernel ([lanes,] c_out, c_in, 3, 3), in memory the way it is multiplied with; sums with gradients keep that."""
    order, back = ((2, 3, 1, 0), (3, 2, 0, 1)) if weight.dim() == 4 else ((0, 3, 4, 2, 1), (0, 4, 3, 1, 2))
    return weight.permute(order).contiguous().permute(back)


def pull_strided(upstream: Tensor, kernel: Tensor, size: Size, size_in: Size) -> Tensor:
    """The gradient in the input (n, *size_in, c_in) of a convolution at stride 2, from that in its output (lanes, m, c_out).

    A place at an even row and column was seen by one window, at an odd one by two in that direction; so the output says something of
    itself, of its right, lower and lower right neighbour, and no window is ever unfolded. kernel (lanes or 1, 9 * c_in, c_out).
    """
    lanes, _, c_out = upstream.shape
    c_in = kernel.shape[1] // 9
    taps = kernel.mT.view(kernel.shape[0], c_out, 3, 3 * c_in)  # (lanes or 1, c_out, row of the window, column and channel of the input)
    here, right, below, diagonal = _shift(upstream.view(-1, *size, c_out), lanes)
    even, odd = (multiply(here, taps[:, :, row, c_in:]) for row in (1, 2))  # rows; in each the even and odd columns side by side
    add_product(even[..., c_in:], right, taps[:, :, 1, :c_in])
    add_product(odd[..., c_in:], right, taps[:, :, 2, :c_in])
    add_product(odd, below, taps[:, :, 0, c_in:])
    add_product(odd[..., c_in:], diagonal, taps[:, :, 0, :c_in])
    return _weave(even, odd, size, size_in)


def _shift(maps: Tensor, lanes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps (n, h, w, c) as rows (lanes, m, c), and so their right, lower and lower right neighbours, zero beyond the border."""
    padded = F.pad(maps, (0, 0, 0, 1, 0, 1))
    right, below, diagonal = padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    here, right, below, diagonal = (each.reshape(lanes, -1, maps.shape[3]) for each in (maps, right, below, diagonal))
    return here, right, below, diagonal


def _weave(even: Tensor, odd: Tensor, size: Size, size_in: Size) -> Tensor:
    """Maps (n, *size_in, c) from their even and odd rows, (lanes, m, 2 * c) each."""
    height, width = size_in
    lines = [rows.view(-1, size[0], 2 * size[1], rows.shape[2] // 2)[:, :, :width] for rows in (even, odd)]
    maps = even.new_empty(lines[0].shape[0], height, width, lines[0].shape[3])
    maps[:, 0::2].copy_(lines[0])
    maps[:, 1::2].copy_(lines[1][:, : height // 2])
    return maps


def pull_unstrided(upstream: Tensor, kernel: Tensor, size: Size) -> Tensor:
    """The gradient in the input (n, *size, c_in) of a convolution at stride 1: a convolution itself, by the turned kernel."""
    lanes, _, c_out = upstream.shape
    c_in = kernel.shape[1] // 9
    padded = F.pad(upstream.view(-1, *size, c_out), (0, 0, 1, 1, 1, 1))
    turned = kernel.view(-1, 3, 3, c_in, c_out).flip(1, 2).transpose(3, 4).reshape(-1, 9 * c_out, c_in)
    return multiply(gather_windows(padded, size, 1).view(lanes, -1, 9 * c_out), turned).view(-1, *size, c_in)
