from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.slab import LINE_BYTES, Slab, round_up


@given(st.integers(0, 2**40))
def test_a_piece_is_at_most_an_eighth_larger_than_asked_for_and_ends_with_a_line(n_bytes: int) -> None:
    size = round_up(n_bytes)
    assert size % LINE_BYTES == 0
    assert n_bytes <= size <= max(n_bytes * 9 / 8, n_bytes + LINE_BYTES)
    assert round_up(size) == size


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40), st.data())
def test_nobody_has_what_another_has(sizes: list[int], data: st.DataObject) -> None:
    slab, held = Slab(4096), dict[int, torch.Tensor]()
    for owner, size in enumerate(sizes):
        held[owner] = slab.take(size).fill_(owner)
        assert held[owner].data_ptr() % LINE_BYTES == 0
        for leaver in data.draw(st.sets(st.sampled_from(sorted(held)))):
            del held[leaver]
    assert all(bool((memory == owner).all()) for owner, memory in held.items())


def test_memory_that_nobody_has_is_given_out_again() -> None:
    slab = Slab(4096)
    first = slab.take(1000)
    address = first.data_ptr()
    del first
    assert slab.take(1000).data_ptr() == address


@pytest.mark.parametrize("view", [lambda memory: memory[8:].view(torch.float32), lambda memory: memory.numpy()[3:]])
def test_a_view_keeps_its_memory(view: object) -> None:
    assert callable(view)
    slab = Slab(4096)
    kept = view(slab.take(1000))
    kept[:] = 7
    others = [slab.take(1000).fill_(9) for _ in range(8)]
    assert len(others) == 8
    assert (kept == 7).all()


def test_blocks_that_nobody_has_a_piece_of_go_back_to_the_system() -> None:
    slab = Slab(4096)
    held = [slab.take(1024) for _ in range(40)]
    assert slab.n_bytes == 10 * 4096
    held.clear()
    gc.collect()
    slab.take(1024)
    assert slab.n_bytes == 4096
