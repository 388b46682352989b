"""Conv-4's features with their first derivative written out, for inner loops that nobody differentiates through.

On a CPU autograd over grouped convolutions takes three times as long as the multiplies alone; this takes about twice as long as them.
Autograd is the reference (`tests/models/backbones/test_conv4_trace.py`), and meta-training, which needs second derivatives, keeps to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbones import window_rows as rows
from models.backbones.lanes import EPSILON
from models.support import Params

aten = torch.ops.aten


@dataclass(frozen=True)
class BlockPlan:
    """A convolution at `stride` from maps of `size_in` to `size`, normalisation in `groups` (0: none), 2x2 pooling if `pools`."""

    block: int
    stride: int
    size_in: rows.Size
    size: rows.Size
    groups: int
    pools: bool


@dataclass(frozen=True)
class BlockTrace:
    """What a block's gradient needs. Rows are positions, lane after lane; maps are (lanes * n, c, h, w), channels last in memory.

    windows (lanes, m, 9 * c_in) and kernel (lanes or 1, 9 * c_in, c_out): the two sides of the convolution
    maps, normal: its result before and after normalisation, with the statistics mean and rstd; scale (lanes or 1, 1, c_out)
    out: what leaves the block, (lanes * n, h, w, c); zero where the ReLU cut. chosen: where each maximum was.
    """

    plan: BlockPlan
    windows: Tensor
    kernel: Tensor
    scale: Tensor
    maps: Tensor
    normal: Tensor
    mean: Tensor | None
    rstd: Tensor | None
    out: Tensor
    chosen: Tensor | None


def open_windows(inputs: Tensor, plan: BlockPlan) -> Tensor:
    """The first block's windows (lanes, m, 9 * c) of inputs (lanes, n, c, h, w): the same at every inner step."""
    maps = inputs.flatten(0, 1).permute(0, 2, 3, 1)
    return _open(rows.pad_maps(maps, plan.size, plan.stride), plan, inputs.shape[0])


def run_blocks(plans: Sequence[BlockPlan], params: Params, windows: Tensor, *, keep: bool = True) -> tuple[Tensor, list[BlockTrace]]:
    """What leaves the last block, (lanes * n, h, w, c), and with `keep` what `pull_back` needs.

    params: ([lanes,] ...); windows: see `open_windows`.
    """
    lanes, traces, out = windows.shape[0], [], windows
    for plan, after in zip(plans, [*plans[1:], None], strict=True):
        trace, padded = _run_block(plan, after, params, windows)
        out = trace.out
        if keep:
            traces.append(trace)
        del trace  # else its windows and the next ones would be alive together
        if after is not None:
            windows = _open(padded, after, lanes)
    return out, traces


def pull_back(traces: Sequence[BlockTrace], upstream: Tensor) -> Params:
    """The gradient in each parameter, with a lane axis, from that in what leaves the last block (lanes, n, c, h, w)."""
    gradients: Params = {}
    lanes, maps = upstream.shape[0], upstream.flatten(0, 1).permute(0, 2, 3, 1)
    for trace in reversed(traces):
        plan = trace.plan
        positions, affine = _pull_normalised(trace, maps, lanes)
        kernel = rows.from_rows(torch.bmm(trace.windows.mT, positions))
        gradients |= {f"conv{plan.block}.weight": kernel, f"norm{plan.block}.scale": affine[0], f"norm{plan.block}.shift": affine[1]}
        if trace is not traces[0]:
            maps = _pull_convolution(positions, trace)
    return gradients


def _pull_convolution(positions: Tensor, trace: BlockTrace) -> Tensor:
    if trace.plan.stride == 2:
        return rows.pull_strided(positions, trace.kernel, trace.plan.size, trace.plan.size_in)
    return rows.pull_unstrided(positions, trace.kernel, trace.plan.size)


def _open(padded: Tensor, plan: BlockPlan, lanes: int) -> Tensor:
    return rows.gather_windows(padded, plan.size, plan.stride).view(lanes, -1, 9 * padded.shape[3])


def _run_block(plan: BlockPlan, after: BlockPlan | None, params: Params, windows: Tensor) -> tuple[BlockTrace, Tensor]:
    """The block's trace, and what leaves it with the zeros that the block after it wants around."""
    kernel, scale, shift = rows.to_rows(params[f"conv{plan.block}.weight"]), *_spread(params, plan)
    maps = _to_maps(rows.multiply(windows, kernel), plan)
    normal, mean, rstd = _normalise(maps, plan)
    positions = torch.addcmul(shift, _to_positions(normal, windows.shape[0]), scale)
    result, chosen = _to_maps(positions, plan), None
    if plan.pools:  # before the ReLU: a maximum commutes with it, and there is a quarter left to cut
        result, chosen = aten.max_pool2d_with_indices(result, [2, 2])
    result = result.permute(0, 2, 3, 1)
    size = (result.shape[1], result.shape[2])
    padded = rows.empty_padded(result, after.size, after.stride) if after else torch.empty_like(result)
    out = rows.inside(padded, size) if after else padded
    torch.clamp_min(result, 0, out=out)
    return BlockTrace(plan, windows, kernel, scale, maps, normal, mean, rstd, out, chosen), padded


def _pull_normalised(trace: BlockTrace, upstream: Tensor, lanes: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The gradient in the convolution's result, as rows, and those in scale and shift, from that in what left the block."""
    maps = aten.threshold_backward(upstream, trace.out, 0)
    if trace.chosen is not None:
        pooled = maps.permute(0, 3, 1, 2)
        maps = aten.max_pool2d_with_indices_backward(pooled, trace.maps, [2, 2], [2, 2], [0, 0], [1, 1], False, trace.chosen).permute(
            0, 2, 3, 1
        )
    positions = maps.reshape(lanes, -1, maps.shape[3])
    affine = (positions * _to_positions(trace.normal, lanes)).sum(1), positions.sum(1)
    scaled = positions * trace.scale
    if trace.plan.groups:
        scaled = _to_positions(_pull_statistics(_to_maps(scaled, trace.plan), trace), lanes)
    return scaled, affine


def _normalise(maps: Tensor, plan: BlockPlan) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if not plan.groups:
        return maps, None, None
    n, c, height, width = maps.shape
    normal, mean, rstd = aten.native_group_norm(maps, None, None, n, c, height * width, plan.groups, EPSILON)
    return normal, mean, rstd


def _pull_statistics(upstream: Tensor, trace: BlockTrace) -> Tensor:
    n, c, height, width = upstream.shape
    wanted = [True, False, False]
    sizes = (n, c, height * width, trace.plan.groups)
    gradient: Tensor = aten.native_group_norm_backward(upstream, trace.maps, trace.mean, trace.rstd, None, *sizes, wanted)[0]
    return gradient


def _spread(params: Params, plan: BlockPlan) -> tuple[Tensor, Tensor]:
    """Scale and shift as (lanes or 1, 1, c)."""
    scale, shift = (params[f"norm{plan.block}.{name}"] for name in ("scale", "shift"))
    return scale.view(-1, 1, scale.shape[-1]), shift.view(-1, 1, shift.shape[-1])


def _to_maps(positions: Tensor, plan: BlockPlan) -> Tensor:
    return positions.view(-1, *plan.size, positions.shape[2]).permute(0, 3, 1, 2)


def _to_positions(maps: Tensor, lanes: int) -> Tensor:
    return maps.permute(0, 2, 3, 1).reshape(lanes, -1, maps.shape[1])
