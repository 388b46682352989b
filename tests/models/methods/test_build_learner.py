"""A spec with a fault is refused with the key's name and what it may be."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import InvalidOptions
from models.methods import build_learner

SPEC: dict[str, Any] = {"method": "maml", "kind": "classification", "input_shape": [1, 28, 28], "backbone": {"kind": "conv4"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "mamal"}, "method must be one of"),
        ({"kind": "ranking"}, "kind must be one of"),
        ({"inner_learning_rate": 0.1}, "no option .*inner_learning_rate.* it has .*inner_lr"),
        ({"backbone": {"kind": "conv5"}}, "backbone.kind must be one of"),
        ({"backbone": {"kind": "conv4", "filter": 32}}, "no option .*filter"),
        ({"backbone": {"kind": "conv4", "norm": "batch"}}, "norm must be group, layer or none"),
        ({"backbone": {"kind": "conv4", "downsample": "average"}}, "downsample must be stride or pool"),
        ({"backbone": {"kind": "conv4", "filters": 12}}, "multiple of groups"),
        ({"backbone": {"kind": "conv4", "downsample": "pool"}, "input_shape": [1, 8, 8]}, "at least 16x16"),
        ({"input_shape": [784]}, "channels, height, width"),
        ({"backbone": {"kind": "mlp", "hidden": []}}, "at least one positive width"),
        ({"method": "protonet", "kind": "regression"}, "for regression use maml"),
    ],
)
def test_a_fault_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**SPEC, **change})


def test_a_spec_without_a_backbone_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="needs input_shape and backbone"):
        build_learner({"method": "maml", "kind": "classification"})
