"""Rates of this machine: the better library counts, with the threads of the run."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch

from benchmarks import rates
from benchmarks.rates import THREAD_VARIABLES, Rates, measure_matmul_rate, measure_numpy_rate, measure_torch_rate


def test_both_libraries_have_a_rate() -> None:
    assert measure_torch_rate("cpu", 64) > 0
    assert measure_numpy_rate(1) > 0


@pytest.mark.parametrize(("torch_rate", "numpy_rate"), [(1e9, 2e9), (2e9, 1e9)])
def test_the_better_product_counts(torch_rate: float, numpy_rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "measure_torch_rate", lambda device, size: torch_rate)
    monkeypatch.setattr(rates, "measure_numpy_rate", lambda threads: numpy_rate)
    assert measure_matmul_rate() == 2e9


def test_numpy_has_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def run(command: list[str], *, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, stdout="3e9\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(rates, "measure_torch_rate", lambda device, size: 1e9)
    assert measure_matmul_rate() == 3e9
    assert {seen[name] for name in THREAD_VARIABLES} == {"3"}


def test_a_gpu_is_held_against_its_own_product_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "measure_torch_rate", lambda device, size: 1e9)
    monkeypatch.setattr(rates, "measure_numpy_rate", lambda threads: 2e9)
    assert rates.measure_rates("cuda:0") == Rates(1e9, None)


def test_a_round_that_somebody_disturbed_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    products, peaks = iter([1e9, 3e9, 2e9]), iter([6e9, 5e9, 4e9])
    monkeypatch.setattr(rates, "measure_matmul_rate", lambda device: next(products))
    monkeypatch.setattr(rates, "measure_peak_rate", lambda device: next(peaks))
    assert rates.measure_rates() == Rates(3e9, 6e9)


def test_a_smoke_run_takes_the_first_round_for_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    products, peaks = iter([1e9]), iter([6e9])
    monkeypatch.setattr(rates, "measure_matmul_rate", lambda device: next(products))
    monkeypatch.setattr(rates, "measure_peak_rate", lambda device: next(peaks))
    assert rates.measure_rates(quick=True) == Rates(1e9, 6e9)


def test_calls_a_second_are_the_rates_over_the_work_of_a_call() -> None:
    assert Rates(6e9, 12e9).of_calls(3e6) == Rates(2e3, 4e3)
    assert Rates(6e9, None).of_calls(3e6) == Rates(2e3, None)


def test_a_reader_finds_both_rates_in_gflop() -> None:
    assert Rates(6e9, 12e9).describe() == {"matmul_gflop_per_s": 6.0, "peak_gflop_per_s": 12.0}
    assert Rates(6e9, None).describe() == {"matmul_gflop_per_s": 6.0, "peak_gflop_per_s": None}
