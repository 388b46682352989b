"""Where learners run: the device, its settings that the laws need, and how much of it one batch and one process take."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from models.errors import DeviceUnavailable

# Samples (lanes x examples) of one batch. On a GPU memory bounds it: Conv-4 64 keeps about 0.2 MB of activations for each 28x28
# sample, so 0.4 GB. On a CPU the caches do: MAML adapts 5-way 1-shot tasks at 160/s alone, 250/s by 12 and 112/s by 64;
# 5-shot tasks at 54/s alone, 45/s by 5 and 24/s by 64 (one core, 2026-11-21).
MAX_BATCH_SAMPLES: Mapping[str, int] = {"cpu": 64, "cuda": 2048}


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
