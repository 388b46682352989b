"""Methods: one file, one paper. `build_learner` makes a learner from the spec that recipes and cards carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from models.backbones import Backbone, build_backbone
from models.errors import InvalidOptions
from models.learner import Learner
from models.methods.maml import Maml
from models.methods.protonet import ProtoNet

__all__ = ["Maml", "ProtoNet", "build_learner"]

METHODS: Mapping[str, type[Maml] | type[ProtoNet]] = {"maml": Maml, "protonet": ProtoNet}
KINDS = ("classification", "regression")


def build_learner(spec: Mapping[str, Any]) -> Learner:
    """The learner that `spec` describes: {"method", "kind", "input_shape", "backbone": {...}, ...the method's own options}.

    Raises InvalidOptions naming the key and what it may be.
    """
    options = dict(spec)
    method = options.pop("method", None)
    if method not in METHODS:
        raise InvalidOptions(f"method must be one of {sorted(METHODS)}, got {method!r}")
    if options.get("kind") not in KINDS:
        raise InvalidOptions(f"kind must be one of {KINDS}, got {options.get('kind')!r}")
    if method == "protonet" and options["kind"] != "classification":
        raise InvalidOptions("protonet answers with classes; for regression use maml")
    backbone = _build_backbone(options)
    known = {field.name for field in fields(METHODS[method])} - {"backbone"}
    if unknown := set(options) - known:
        raise InvalidOptions(f"method {method} has no option {sorted(unknown)}; it has {sorted(known)}")
    return METHODS[method](backbone=backbone, **options)


def _build_backbone(options: dict[str, Any]) -> Backbone:
    if "input_shape" not in options or "backbone" not in options:
        raise InvalidOptions("a learner spec needs input_shape and backbone")
    return build_backbone(options.pop("backbone"), tuple(options.pop("input_shape")))
