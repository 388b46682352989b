"""Methods: one file, one paper. `build_learner` makes a learner from the spec that recipes and cards carry.

A method is a frozen dataclass that keeps `models.learner.Learner`; its fields, but for `backbone`, are its options. Other
packages add methods through the entry point group `innerloop.learners`, in the same form as the built-in ones below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from models.backbones import Backbone, build_backbone
from models.errors import InvalidOptions
from models.learner import Learner
from models.options import parse_options

__all__ = ["BUILT_IN", "build_learner", "find_method", "list_methods"]

ENTRY_POINT_GROUP = "innerloop.learners"
KINDS = ("classification", "regression")

BUILT_IN: Mapping[str, str] = {
    "anil": "models.methods.anil:Anil",
    "boil": "models.methods.boil:Boil",
    "cnp": "models.methods.cnp:Cnp",
    "fomaml": "models.methods.fomaml:FoMaml",
    "hypernet": "models.methods.hypernet:Hypernet",
    "imaml": "models.methods.imaml:ImplicitMaml",
    "incontext": "models.methods.incontext:InContext",
    "learned-optimizer": "models.methods.learned_optimizer:LearnedOptimizer",
    "logistic": "models.methods.logistic:Logistic",
    "maml": "models.methods.maml:Maml",
    "mamlpp": "models.methods.mamlpp:MamlPlusPlus",
    "matchingnet": "models.methods.matchingnet:MatchingNet",
    "metasgd": "models.methods.metasgd:MetaSgd",
    "protomaml": "models.methods.protomaml:ProtoMaml",
    "protonet": "models.methods.protonet:ProtoNet",
    "relationnet": "models.methods.relationnet:RelationNet",
    "reptile": "models.methods.reptile:Reptile",
    "ridge": "models.methods.ridge:Ridge",
    "svm": "models.methods.svm:Svm",
    "tree": "models.methods.tree:Tree",
}
"""Name of a method, and where its class is. Imported when asked for."""


def list_methods() -> list[str]:
    """Names of all methods, the built-in ones and those of installed packages."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def find_method(name: object) -> type[Any]:
    """The class of a method. A built-in name wins over an installed package's. Raises InvalidOptions."""
    if not isinstance(name, str) or name not in list_methods():
        raise InvalidOptions(f"method must be one of {list_methods()}, got {name!r}")
    if name in BUILT_IN:
        found: type[Any] = EntryPoint(name, BUILT_IN[name], ENTRY_POINT_GROUP).load()
        return found
    [point, *_] = entry_points(group=ENTRY_POINT_GROUP, name=name)
    return _load_installed(point)


def _load_installed(point: EntryPoint) -> type[Any]:
    """The class behind the entry point of another package, whose code may do anything when it is imported, `sys.exit` too: what is
    broken there harms its own method alone."""
    try:
        installed: object = point.load()
    except (Exception, SystemExit) as fault:
        words = f"method {point.name} of an installed package cannot be loaded from {point.value}: {type(fault).__name__}: {fault}"
        raise InvalidOptions(words) from fault
    if not isinstance(installed, type) or not is_dataclass(installed):
        raise InvalidOptions(f"method {point.name} of an installed package must be a dataclass, got {installed!r} from {point.value}")
    return installed


def build_learner(spec: Mapping[str, Any]) -> Learner:
    """The learner that `spec` describes: {"method", "kind", "input_shape", "backbone": {...}, ...the method's own options}.

    Raises InvalidOptions naming the key, what it may be and what it is.
    """
    options = dict(spec)
    name = options.pop("method", None)
    method = find_method(name)
    if options.get("kind") not in KINDS:
        raise InvalidOptions(f"kind must be one of {KINDS}, got {options.get('kind')!r}")
    if options["kind"] not in getattr(method, "KINDS", KINDS):
        raise InvalidOptions(f"{name} does {' and '.join(method.KINDS)} only; for {options['kind']} use maml")
    backbone = _build_backbone(options)
    parsed = parse_options(method, options, f"method {name}", given=frozenset({"backbone"}))
    learner: Learner = method(backbone=backbone, **parsed)
    return learner


def _build_backbone(options: dict[str, Any]) -> Backbone:
    """The backbone that `options` describe, which are left without it."""
    if "input_shape" not in options or "backbone" not in options:
        raise InvalidOptions("a learner spec needs input_shape and backbone")
    shape, spec = options.pop("input_shape"), options.pop("backbone")
    if not isinstance(shape, (list, tuple)) or not shape or any(type(size) is not int or size < 1 for size in shape):
        raise InvalidOptions(f"input_shape must be a list of whole numbers of at least 1, got {shape!r}")
    if not isinstance(spec, Mapping):
        raise InvalidOptions(f"backbone must be a table, got {spec!r}")
    return build_backbone(spec, tuple(shape))
