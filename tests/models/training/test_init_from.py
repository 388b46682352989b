from __future__ import annotations

import pytest
import torch

from models.errors import InvalidOptions, InvalidRecipe
from models.training.init_from import find_bundled, take_params


def test_what_fits_is_taken_with_or_without_the_prefix_of_the_body() -> None:
    given = {"conv1.weight": torch.ones(2, 3), "norm1.scale": torch.ones(4)}
    fresh = {"body.conv1.weight": torch.zeros(2, 3), "body.norm1.scale": torch.zeros(5), "answer.log_sharpness": torch.zeros(())}
    params, taken = take_params(given, fresh, "protonet")
    assert taken == {"body.conv1.weight"}
    assert params["body.conv1.weight"].eq(1).all()
    assert params["body.norm1.scale"] is fresh["body.norm1.scale"]
    back, taken_back = take_params(fresh, given, "maml")
    assert taken_back == {"conv1.weight"}
    assert back["conv1.weight"].eq(0).all()


def test_weights_of_which_none_fits_are_refused_with_both_shapes() -> None:
    with pytest.raises(InvalidOptions, match=r"expected some of a \(2,\), got a \(3,\)"):
        take_params({"a": torch.zeros(3)}, {"a": torch.zeros(2)}, "other")


def test_a_recipe_names_a_bundled_initializer_to_start_from() -> None:
    assert find_bundled(None) is None
    folder = find_bundled("omniglot-protonet")
    assert folder is not None
    assert (folder / "card.json").exists()
    with pytest.raises(InvalidRecipe, match=r"init_from must be one of the bundled initializers .*got 'omniglot-protonett'"):
        find_bundled("omniglot-protonett")
