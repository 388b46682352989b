"""A weight tensor of one lane (1, channels, ...) in fixed point: one float32 scale for a channel, and 8 or 12 bits for each of its numbers.

What is stored is the difference from a `base` of the same shape, the meta-parameter: an inner loop moves weights little. Behind the scales
lie lines of one number for each channel, in the order in which a convolution multiplies with them (`to_lines`): eight bits of each number;
and of twelve, behind the upper eight of a line, the lower four, those of the first half of the channels beside those of the second. So
`models/native/packed.h` multiplies with a kernel where it lies, and vectors need no shuffling to read it. A scale has twelve significant
bits, so its product with a number's steps is exact. `models.kernel_bits` says which of the two it is.

Torch is the reference and the way where `models/native` was not built; both give the same bytes and the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.native.library import find_packing

Array = npt.NDArray[Any]

BITS = (8, 12)
MOST_SCALE = torch.finfo(torch.float32).max / 2**12
"""With a larger scale a number could be infinite."""

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
SCALE_BYTES = 4


def to_lines(weight: Tensor) -> Tensor:
    """A weight (channels, inputs, ...) as a view (..., inputs, channels)."""
    return weight.permute(*range(2, weight.dim()), 1, 0)


def make_base(param: Tensor) -> Tensor:
    """A meta-parameter as the lines (n, channels) that weights are told as their difference from."""
    return to_lines(param).contiguous().view(-1, param.shape[0])


def count_packed_bytes(base: Tensor, bits: int) -> int:
    """Bytes of a packed weight."""
    n_lines, channels = base.shape
    return SCALE_BYTES * channels + n_lines * (channels if bits == 8 else channels + (channels + 1) // 2)


def measure(lines: Tensor, base: Tensor) -> Tensor:
    """The largest difference in each channel of `lines`, as `read_lines` gives them: (channels,), not finite where a channel is not."""
    library = find_packing()
    if library is None:
        return (lines - base).abs().amax(0)
    largest = torch.empty(base.shape[1])
    library.measure_weight(lines.data_ptr(), base.data_ptr(), *base.shape, largest.data_ptr())
    return largest


def pack(lines: Tensor, base: Tensor, largest: Tensor, bits: int) -> Tensor:
    """Lines that differ by `largest` from the base as uint8. No number moves by more than 2**-bits of its channel's largest difference.

    A channel that is not finite unpacks to such.
    """
    library = find_packing()
    if library is None:
        return _pack(lines, base, largest, bits)
    packed = torch.empty(count_packed_bytes(base, bits), dtype=torch.uint8)
    if library.pack_weight(lines.data_ptr(), base.data_ptr(), *base.shape, largest.data_ptr(), bits, packed.data_ptr()):
        raise MemoryError("no memory for the scales of a weight")
    return packed


def read_lines(weight: Tensor, base: Tensor) -> Tensor:
    """Lines (n, channels) of a float32 weight (1, channels, ...) on the CPU, copied only where they are not without gaps."""
    return to_lines(weight[0]).reshape(base.shape).contiguous()


def unpack(packed: Array, base: Tensor, bits: int, weight: Tensor) -> None:
    """Writes `weight` (1, channels, ...), as many numbers as `base` has, from uint8."""
    lines = to_lines(weight[0])
    room = lines if lines.is_contiguous() else torch.empty(lines.shape)
    library = find_packing()
    if library is None:
        room.copy_(_unpack(torch.from_numpy(packed.copy()), base, bits).view(lines.shape))
    else:
        library.unpack_weight(packed.ctypes.data, base.data_ptr(), *base.shape, bits, room.data_ptr())
    if room is not lines:
        lines.copy_(room)


def is_finite(packed: Array, base: Tensor) -> bool:
    """Whether all its numbers are: those from bytes of chance may not be."""
    scales = packed[: SCALE_BYTES * base.shape[1]].view(np.float32)
    return bool(np.abs(scales).max() <= MOST_SCALE)  # not, where one is NaN


def find_scale(largest: Tensor, bits: int) -> Tensor:
    """What numbers are counted in, so that the largest is the largest integer of so many bits; NaN where that is."""
    scale = largest.div(2 ** (bits - 1) - 1).clamp_(min=SMALLEST_SCALE)
    return scale.masked_fill_(scale.isnan(), torch.nan)  # always the same one of many


def _pack(lines: Tensor, base: Tensor, largest: Tensor, bits: int) -> Tensor:
    scale = _shorten(find_scale(largest, bits))
    steps = (lines - base).div_(scale).nan_to_num_(nan=0.0).round_().to(torch.int16)
    return torch.cat([scale.view(torch.uint8), (steps.to(torch.uint8) if bits == 8 else _join(steps)).flatten()])


def _join(steps: Tensor) -> Tensor:
    """Lines of twelve bits a number: upper bits, and pairs of lower ones."""
    lower = steps.to(torch.uint8).bitwise_and_(15)
    half = (lower.shape[1] + 1) // 2
    lower[:, : lower.shape[1] - half] |= lower[:, half:] << 4
    return torch.cat([(steps >> 4).to(torch.uint8), lower[:, :half]], dim=1)


def _shorten(scale: Tensor) -> Tensor:
    """Scales of twelve significant bits, no smaller: their products with steps are exact, so a fused multiply-add gives the same sum."""
    return (scale.view(torch.int32) + 0xFFF).bitwise_and_(~0xFFF).view(torch.float32)


def _unpack(packed: Tensor, base: Tensor, bits: int) -> Tensor:
    channels = base.shape[1]
    scale, lines = packed[: SCALE_BYTES * channels].view(torch.float32), packed[SCALE_BYTES * channels :].view(len(base), -1)
    steps = lines[:, :channels].view(torch.int8).to(torch.float32)
    if bits != 8:
        pairs = lines[:, channels:]
        steps.mul_(16).add_(torch.cat([pairs & 15, pairs >> 4], dim=1)[:, :channels])
    return steps.mul_(scale).add_(base)
