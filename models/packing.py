"""Rows of numbers in fixed point: one float32 scale for a row, and 12 or 20 bits for each of its numbers.

Many blocks of rows, each of its own width, are packed as one: all scales, then the upper bits of all numbers as int8 or int16, then
their lower four bits, those of the first half of the numbers beside those of the second. So both widths are a few operations on whole
vectors of ordinary integers, however many blocks there are; three bytes for two neighbours would have to be interleaved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Bits = Literal[12, 20]
Shape = tuple[int, int]
"""Rows and columns of a block."""

WHOLE: dict[Bits, torch.dtype] = {12: torch.int16, 20: torch.int32}
UPPER: dict[Bits, torch.dtype] = {12: torch.int8, 20: torch.int16}
SCALE_BYTES = 4
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def count_packed_bytes(blocks: Sequence[Shape], bits: Bits) -> int:
    """Bytes of packed blocks."""
    return sum(_sizes(blocks, bits))


def pack(values: Tensor, blocks: Sequence[Shape], bits: Bits) -> Tensor:
    """The numbers of all blocks, a float32 vector on the CPU, as uint8. No number moves by more than 2**-bits of its row's largest.

    `values` are overwritten: fresh memory of their size costs more than the arithmetic. A row that is not finite unpacks to such.
    """
    parts = _split(values, blocks)
    scale = torch.cat([part.abs().amax(1) for part in parts]).div_(2 ** (bits - 1) - 1).clamp_(min=SMALLEST_SCALE)
    for part, row_scale in zip(parts, _split(scale, [(rows, 1) for rows, _ in blocks]), strict=True):
        part.div_(row_scale)
    numbers = values.round_().to(WHOLE[bits])
    lower = numbers.to(torch.uint8).bitwise_and_(15)
    half = (len(lower) + 1) // 2
    lower[: len(lower) - half] |= lower[half:] << 4
    return torch.cat([scale.view(torch.uint8), (numbers >> 4).to(UPPER[bits]).view(torch.uint8), lower[:half]])


def unpack(packed: Tensor, blocks: Sequence[Shape], bits: Bits) -> Tensor:
    """The numbers of all blocks as a float32 vector, from as many bytes as `count_packed_bytes` says. Bytes of chance may not be finite."""
    scale, upper, pairs = torch.split(packed, _sizes(blocks, bits))
    numbers = upper.view(UPPER[bits])
    lower = torch.cat([pairs & 15, pairs >> 4])[: len(numbers)]
    values = numbers.to(torch.float32).mul_(16).add_(lower)
    row_scales = _split(scale.view(torch.float32), [(rows, 1) for rows, _ in blocks])
    for part, row_scale in zip(_split(values, blocks), row_scales, strict=True):
        part.mul_(row_scale)
    return values


def _sizes(blocks: Sequence[Shape], bits: Bits) -> list[int]:
    """Bytes of scales, of upper bits and of pairs of lower bits."""
    numbers = sum(rows * columns for rows, columns in blocks)
    return [SCALE_BYTES * sum(rows for rows, _ in blocks), UPPER[bits].itemsize * numbers, (numbers + 1) // 2]


def _split(values: Tensor, blocks: Sequence[Shape]) -> list[Tensor]:
    """Views of a vector, (rows, columns) each."""
    parts = torch.split(values, [rows * columns for rows, columns in blocks])
    return [part.view(shape) for part, shape in zip(parts, blocks, strict=True)]
