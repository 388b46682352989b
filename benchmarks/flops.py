"""The floating-point operations that an adaptation cannot do without.

Only convolutions and matrix products count, a multiplication with its addition as two, and a 3x3 kernel as nine products wherever it
is laid: as torch's own counter does. `needed` is what the mathematics asks for: seen from a head of zeros the body's gradient is zero,
so the first step needs no way back, and the second finds the first one's features; nobody needs the gradient of an image. `as written`
is what a loop with a backward in every step does. The loss after the last step is part of neither.
"""

from __future__ import annotations

import math

from models.backbones import Conv4


def count_layers(backbone: Conv4) -> list[int]:
    """FLOPs of each convolution of a Conv-4 without extras, for one image forward."""
    counts, c_in = [], backbone.input_shape[0]
    for block, width in enumerate(backbone.block_widths, start=1):
        places = math.prod(backbone.map_size(block if backbone.downsample == "stride" else block - 1))
        counts.append(2 * 9 * c_in * width * places)
        c_in = width
    return counts


def count_forward(backbone: Conv4, n: int) -> int:
    """FLOPs of the features of n images."""
    return n * sum(count_layers(backbone))


def count_backward(backbone: Conv4, n: int) -> int:
    """FLOPs of the gradient in all kernels: each layer twice, but for the first, whose input needs none."""
    layers = count_layers(backbone)
    return n * (2 * sum(layers) - layers[0])


def count_maml(backbone: Conv4, n: int, n_way: int, steps: int, *, as_written: bool = False) -> int:
    """FLOPs of one lane of MAML with n support examples and at least one step."""
    forwards, backwards = (steps, steps) if as_written else (max(1, steps - 1), steps - 1)
    body = forwards * count_forward(backbone, n) + backwards * count_backward(backbone, n)
    return body + (2 * steps + backwards) * count_head(backbone, n, n_way)  # forward, gradient in the weight, gradient in the features


def count_anil(backbone: Conv4, n: int, n_way: int, steps: int) -> int:
    """FLOPs of one lane of ANIL: the features once."""
    return count_forward(backbone, n) + 2 * steps * count_head(backbone, n, n_way)


def count_ridge(backbone: Conv4, n: int, n_way: int) -> int:
    """FLOPs of one lane of ridge regression with fewer examples than features: features, kernel, Cholesky, weights."""
    return count_forward(backbone, n) + 2 * n * n * backbone.feature_dim + n**3 // 3 + count_head(backbone, n, n_way)


def count_head(backbone: Conv4, n: int, n_way: int) -> int:
    """FLOPs of n features times a head."""
    return 2 * n * backbone.feature_dim * n_way
