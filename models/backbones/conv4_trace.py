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
    for trace in reversed(traces[1:]):
        positions, scale, shift = _pull_normalised(trace, _pull_activation(trace, maps), lanes)
        gradients |= _name(trace.plan, torch.bmm(trace.windows.mT, positions), scale, shift)
        maps = _pull_convolution(positions, trace)
    return gradients | _name(traces[0].plan, *_pull_first(traces[0], _pull_activation(traces[0], maps), lanes))


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


def _name(plan: BlockPlan, kernel: Tensor, scale: Tensor, shift: Tensor) -> Params:
    return {f"conv{plan.block}.weight": rows.from_rows(kernel), f"norm{plan.block}.scale": scale, f"norm{plan.block}.shift": shift}


def _pull_activation(trace: BlockTrace, upstream: Tensor) -> Tensor:
    """Back through ReLU and pooling: (lanes * n, h, w, c)."""
    maps: Tensor = aten.threshold_backward(upstream, trace.out, 0)
    if trace.chosen is not None:
        pooled, two = maps.permute(0, 3, 1, 2), [2, 2]
        maps = aten.max_pool2d_with_indices_backward(pooled, trace.maps, two, two, [0, 0], [1, 1], False, trace.chosen).permute(0, 2, 3, 1)
    return maps


def _pull_normalised(trace: BlockTrace, upstream: Tensor, lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient in the convolution's result, as rows, and those in scale and shift."""
    positions = upstream.reshape(lanes, -1, upstream.shape[3])
    scale, shift = (positions * _to_positions(trace.normal, lanes)).sum(1), positions.sum(1)
    scaled = positions * trace.scale
    if trace.plan.groups:
        scaled = _to_positions(_pull_statistics(_to_maps(scaled, trace.plan), trace), lanes)
    return scaled, scale, shift


def _pull_first(trace: BlockTrace, upstream: Tensor, lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients in kernel, scale and shift of a block whose input nobody asks about.

    Normalisation is affine in what it normalises once its statistics are known, so the kernel's gradient is a sum of products of the
    windows with `upstream` and with the normalised maps, weighed for each example; the maps' own gradient, the largest of all
    tensors, is never made. Writes to `upstream`.
    """
    n, c = upstream.shape[0], upstream.shape[3]
    windows, upstream, normal = (
        each.reshape(n, -1, each.shape[-1]) for each in (trace.windows, upstream, trace.normal.permute(0, 2, 3, 1))
    )
    scale = trace.scale.expand(lanes, 1, c).repeat_interleave(n // lanes, 0)  # of each example, (n, 1, c)
    kernel, shift = (windows.mT @ upstream) * scale, upstream.sum(1)
    slope = upstream.mul_(normal).sum(1)
    if trace.rstd is not None:
        flat, tilt = (_share_in_group(scale[:, 0] * each, trace.plan) for each in (shift, slope))
        kernel = kernel - windows.sum(1).unsqueeze(2) * flat - (windows.mT @ normal) * tilt
        kernel *= trace.rstd.repeat_interleave(c // trace.plan.groups, 1).unsqueeze(1)
    lane_sums = (each.view(lanes, n // lanes, *each.shape[1:]).sum(1) for each in (kernel, slope, shift))
    kernel, slope, shift = lane_sums
    return kernel, slope, shift


def _share_in_group(sums: Tensor, plan: BlockPlan) -> Tensor:
    """Sums over the positions of each channel (n, c) as the mean over their group, (n, 1, c)."""
    n, c = sums.shape
    means = sums.view(n, plan.groups, -1).sum(2) / (c // plan.groups * plan.size[0] * plan.size[1])
    return means.repeat_interleave(c // plan.groups, 1).unsqueeze(1)


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
