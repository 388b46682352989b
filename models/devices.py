"""Where learners run: the device, its settings that the laws need, and how much of it one batch and one process take."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from models.errors import DeviceUnavailable

# Samples (lanes x examples) of one batch. On a GPU memory bounds it: Conv-4 64 keeps about 0.2 MB of activations for each 28x28
# sample, so 0.4 GB. On a CPU lanes are worked on one by one, and a larger batch only makes those wait that came first: strided MAML takes
# 9.1 ms for a 5-way 1-shot task alone, 6.4 a task by 4, 5.6 by 12, 5.0 by 25 and 5.4 by 51 (one core, 2026-11-21).
MAX_BATCH_SAMPLES: Mapping[str, int] = {"cpu": 128, "cuda": 2048}


def choose_device(name: str) -> torch.device:
    """The device of a setting: `auto` is the first GPU, or the CPU where there is none.

    On a GPU it also turns off what would break the laws. Raises DeviceUnavailable when the device is not there.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceUnavailable(f"device {name} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use auto or cpu")
        # TF32 keeps 10 bits, and which kernel is picked depends on the batch: an answer would change with its batch mates (law 1).
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True  # law 5
    return device


def count_torch_threads() -> int:
    """Intra-op threads when none are configured: every core but one.

    torch frees the GIL in its operators, so an event loop beside it lags by 5 to 10 ms at the 99th percentile while a thread adapts
    Conv-4 64 without a pause (two busy cores, 2026-11-21). With a thread on every core the worst lag was 72 ms instead of
    10 to 30, and adaptations were no more: batches of tiny operators gain little from the last core, HTTP and the queue lose it.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)
