"""Devices are chosen by name, and refused with what there is."""

from __future__ import annotations

import os

import pytest
import torch

from models.devices import choose_device, count_torch_threads
from models.errors import DeviceUnavailable


def test_auto_takes_the_first_gpu_or_the_cpu() -> None:
    assert choose_device("auto") == torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused_with_what_there_is() -> None:
    with pytest.raises(DeviceUnavailable, match=f"torch sees {torch.cuda.device_count()} CUDA devices; use auto or cpu"):
        choose_device(f"cuda:{torch.cuda.device_count()}")


def test_torch_leaves_a_core_to_the_event_loop() -> None:
    assert 1 <= count_torch_threads() <= max(1, len(os.sched_getaffinity(0)) - 1)
