"""What a peer keeps of its tasks: their adapted models, and of too many those that were asked last.

Whole networks in a dict that nobody empties filled 24 GB in twenty minutes of adaptations, and then everybody was measured swapping.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict

from benchmarks.plain_conv4 import PlainConv4

MOST_MODELS = 1024
"""More than any load has tasks that are asked again."""

Kept = tuple[PlainConv4, list[str]]
"""A model and the names of its classes."""


class KeptModels:
    """Models by an id of their own."""

    def __init__(self, most: int = MOST_MODELS) -> None:
        self._models: OrderedDict[str, Kept] = OrderedDict()
        self._most = most

    def keep(self, model: PlainConv4, classes: list[str]) -> str:
        """The id to ask for it by."""
        model_id = uuid.uuid4().hex
        self._models[model_id] = (model, classes)
        if len(self._models) > self._most:
            self._models.popitem(last=False)
        return model_id

    def find(self, model_id: str) -> Kept | None:
        """None where it was never kept, or is not any more."""
        kept = self._models.get(model_id)
        if kept is not None:
            self._models.move_to_end(model_id)
        return kept
