"""The adapted states on the device: least recently used out first, by bytes, never one that is in use.

Values are opaque here (the engine's tensors), so nothing in this file imports torch. One owner: the event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from app import telemetry
from app.domain import InitializerRef, StateKey
from app.errors import StateNotResident

V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    """A state; while a `with` block of it is open it is not evicted."""

    value: V
    n_bytes: int
    home: ResidentStates[V]
    pins: int = 0

    def __enter__(self) -> V:
        self.pins += 1
        return self.value

    def __exit__(self, *fault: object) -> None:
        self.pins -= 1
        self.home.shrink()


class ResidentStates(Generic[V]):
    """An LRU of adapted states within `max_bytes`.

    The newest state stays even when it is larger than the budget, or it could be restored again and again and never used.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[StateKey, _Entry[V]] = OrderedDict()
        self._keys_of_task: dict[str, set[StateKey]] = {}
        self._n_bytes = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of all resident states."""
        return self._n_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: StateKey) -> bool:
        return key in self._entries

    def put(self, key: StateKey, value: V, n_bytes: int) -> None:
        """Makes a state resident, in place of an older one of the same key, and evicts what no longer fits."""
        self.drop(key)
        self._entries[key] = _Entry(value, n_bytes, self)
        self._keys_of_task.setdefault(key.task_id, set()).add(key)
        self._n_bytes += n_bytes
        self.shrink()

    def pinned(self, key: StateKey) -> AbstractContextManager[V]:
        """The state of `key`, which is not evicted inside this block. Raises StateNotResident."""
        entry = self._entries.get(key)
        if entry is None:
            raise StateNotResident(f"the adapted state {key} is not on the device")
        self._entries.move_to_end(key)
        return entry

    def shrink(self) -> None:
        """Evicts what does not fit and is not in use."""
        if self._n_bytes > self._max_bytes:
            self._evict()

    def drop(self, key: StateKey) -> None:
        """Forgets one state, if it is there. A batch that uses it keeps its tensors until it ends."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._n_bytes -= entry.n_bytes
        keys = self._keys_of_task[key.task_id]
        keys.discard(key)
        if not keys:
            del self._keys_of_task[key.task_id]

    def drop_task(self, task_id: str) -> None:
        """Forgets every revision's state of a task."""
        for key in list(self._keys_of_task.get(task_id, ())):
            self.drop(key)

    def drop_initializer(self, ref: InitializerRef) -> None:
        """Forgets every state that an initializer version made."""
        self._drop_where(lambda key: key.initializer == ref)

    def _drop_where(self, is_unwanted: Callable[[StateKey], bool]) -> None:
        for key in [key for key in self._entries if is_unwanted(key)]:
            self.drop(key)

    def _evict(self) -> None:
        excess, newest, victims = self._n_bytes - self._max_bytes, next(reversed(self._entries)), []
        for key, entry in self._entries.items():  # stops early: at the budget a put looks at a few entries, not at all
            if excess <= 0:
                break
            if key is not newest and not entry.pins:
                victims.append(key)
                excess -= entry.n_bytes
        for key in victims:
            self.drop(key)
            telemetry.count_state("device", "evict")
