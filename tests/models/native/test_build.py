"""The libraries: all of an architecture are built, any of them gives the same numbers, and none is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.backbones import Conv4
from models.native import build
from models.native.build import AVX2, AVX512, LIBRARIES, PLAIN, build_libraries, find_compiler, library_path, list_instruction_sets
from models.native.library import MOST_CHANNELS, find_library

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="SKIPPED-COMPILER: no C compiler")


def test_the_architecture_says_what_is_built() -> None:
    assert list_instruction_sets("x86_64") == (AVX512, AVX2)
    assert list_instruction_sets("aarch64") == (PLAIN,)


@needs_compiler
def test_what_was_installed_is_there_for_every_number_type() -> None:
    for dtype in (torch.float32, torch.float64):
        assert find_library(dtype, 64) is not None


@needs_compiler
def test_building_makes_each_library_once_for_each_instruction_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    # How many are made is all that is asked here: what was installed has been built with the flags of an installation.
    monkeypatch.setattr(build, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS))
    made = build_libraries()
    assert sorted(made) == sorted(tmp_path.iterdir())
    assert len(made) == len(LIBRARIES) * len(list_instruction_sets())


def test_without_a_compiler_nothing_is_built_and_torch_does_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build_libraries() == []
    assert not list(tmp_path.iterdir())
    backbone = Conv4((1, 28, 28))
    assert backbone.find_native(torch.zeros(1, 1, 1, 28, 28)) is None
    features = backbone.features(backbone.init(torch.Generator().manual_seed(0)), torch.rand(1, 2, 1, 28, 28))
    assert features.shape == (1, 2, backbone.feature_dim)


def test_both_languages_agree_on_how_many_channels_there_is_room_for() -> None:
    assert f"#define MAX_CHANNELS {MOST_CHANNELS}\n" in (build.FOLDER / "network.h").read_text()


def test_channels_that_no_vector_divides_have_no_library() -> None:
    assert find_library(torch.float32, 4 if list_instruction_sets() != (PLAIN,) else 3) is None


@pytest.mark.skipif(len(list_instruction_sets()) == 1, reason="one instruction set here")
def test_narrower_vectors_give_the_same_numbers() -> None:
    narrow, wide = Conv4((1, 28, 28), widths=(8, 16, 16, 24), filters=16, groups=2), Conv4((1, 28, 28), filters=16, groups=2)
    assert library_path(AVX2, "conv4-float32").name in str(narrow.find_native(torch.zeros(1, 1, 1, 28, 28)))
    inputs = torch.rand(2, 3, 1, 28, 28)
    for backbone in (narrow, wide):
        params = backbone.init(torch.Generator().manual_seed(0))
        doubled = {name: tensor.double() for name, tensor in params.items()}
        torch.testing.assert_close(backbone.features(params, inputs), backbone.features(doubled, inputs.double()).float())
