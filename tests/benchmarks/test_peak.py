"""The loop does the work that it is credited with, and where it cannot be had there is no peak."""

from __future__ import annotations

import pytest
import torch

from benchmarks.peak import CHAINS, find_instruction_set, load_multiply_add, measure_peak_rate
from benchmarks.rates import measure_torch_rate
from models.native.build import find_compiler, list_instruction_sets

needs_compiler = pytest.mark.skipif(find_compiler() is None or find_instruction_set() is None, reason="SKIPPED-COMPILER: no C compiler")


@needs_compiler
@pytest.mark.parametrize("rounds", [1, 3])
def test_every_lane_of_every_chain_is_multiplied_and_added_to_in_every_round(rounds: int) -> None:
    compiler, instructions = find_compiler(), find_instruction_set()
    assert compiler is not None
    assert instructions is not None
    multiply_add = load_multiply_add(compiler, instructions)
    assert multiply_add is not None
    chains = torch.arange(float(CHAINS))
    for _ in range(rounds):
        chains = chains * 0.5 + 0.25
    assert multiply_add(rounds, 0.5, 0.25) == pytest.approx(float(chains.sum()) * instructions.vector_bytes / 4)


@needs_compiler
def test_nothing_but_multiply_adds_is_not_slower_than_a_matrix_product() -> None:
    """A quarter of it is asked, since others may use the machine while one of both is measured; without vectors it were a sixteenth."""
    peak = measure_peak_rate()
    assert peak is not None
    assert peak > 0.25 * measure_torch_rate("cpu", size=512)


def test_a_gpu_has_no_peak_here() -> None:
    assert measure_peak_rate("cuda:0") is None


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_that_works_there_is_no_peak(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler)
    assert measure_peak_rate() is None


def test_a_cpu_without_vectors_that_we_know_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peak.has", lambda instructions: False)
    assert measure_peak_rate() is None


def test_the_widest_vectors_of_this_cpu_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peak.has", lambda instructions: True)
    assert find_instruction_set() == list_instruction_sets()[0]
