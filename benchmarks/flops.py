"""The floating-point operations that an adaptation cannot do without.

Only convolutions and matrix products count, a multiplication with its addition as two, and a 3x3 kernel as nine products wherever it
is laid: as torch's own counter does. `needed` is what the mathematics asks for: seen from a head of zeros the body's gradient is zero,
so the first step needs no way back, and the second finds the first one's features; nobody needs the gradient of an image. `as written`
is what a loop with a backward in every step does, and for a meta-gradient a backward through each. The loss after the last step is part of
neither.
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


def count_meta_gradient(backbone: Conv4, n: int, n_query: int, n_way: int, steps: int, *, as_written: bool = False) -> int:
    """FLOPs of the second-order gradient of one task, with n support examples, n_query queries in all and at least two steps.

    The loop; the queries forward and back; and back through each step, which is a Hessian-vector product. The first step is spared less
    than in the loop: its features moved the head, so the way back through it does reach the body, as a gradient in those features. But
    the second step's comes back to the same features of the same body, and a way back is linear in what comes: both go as one. What
    remains of the first is a product of the head. As written, it is a step like the others.
    """
    head, moving_steps = count_head(backbone, n, n_way), steps if as_written else steps - 1
    loop = count_maml(backbone, n, n_way, steps, as_written=as_written)
    judged = count_forward(backbone, n_query) + count_backward(backbone, n_query) + 3 * count_head(backbone, n_query, n_way)
    first = 0 if as_written else head
    return loop + judged + first + moving_steps * (count_hessian_vector(backbone, n) + 6 * head)


def count_hessian_vector(backbone: Conv4, n: int) -> int:
    """FLOPs of the Hessian of a loss on n images times a vector, beyond those of the gradient, of which all maps are kept.

    A layer has three products: forward, gradient in the kernel, gradient in the input. Each has two factors, so two derivatives, whether
    a tangent is carried along (Pearlmutter 1994) or the gradient is differentiated backwards: six in all, and we know of no exact way
    with fewer. An image has no derivative, nor is there a gradient in it: the first layer has two.
    """
    layers = count_layers(backbone)
    return n * (6 * sum(layers) - 4 * layers[0])


def count_anil(backbone: Conv4, n: int, n_way: int, steps: int) -> int:
    """FLOPs of one lane of ANIL: the features once."""
    return count_forward(backbone, n) + 2 * steps * count_head(backbone, n, n_way)


def count_ridge(backbone: Conv4, n: int, n_way: int) -> int:
    """FLOPs of one lane of ridge regression with fewer examples than features: features, kernel, Cholesky, weights."""
    return count_forward(backbone, n) + 2 * n * n * backbone.feature_dim + n**3 // 3 + count_head(backbone, n, n_way)


def count_head(backbone: Conv4, n: int, n_way: int) -> int:
    """FLOPs of n features times a head."""
    return 2 * n * backbone.feature_dim * n_way
