"""The initializer versions on the device, side by side and counted: a version leaves when its last batch has ended."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.domain import InitializerRef
from app.errors import InitializerNotInstalled

V = TypeVar("V")


@dataclass
class _Installed(Generic[V]):
    value: V
    users: int = 0
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> V:
        self.users += 1
        self.is_idle.clear()
        return self.value

    def __exit__(self, *fault: object) -> None:
        self.users -= 1
        if self.users == 0:
            self.is_idle.set()


class Versions(Generic[V]):
    """What is loaded under each ref. One owner: the event loop."""

    def __init__(self) -> None:
        self._installed: dict[InitializerRef, _Installed[V]] = {}

    def refs(self) -> frozenset[InitializerRef]:
        """The versions that can be used."""
        return frozenset(self._installed)

    def add(self, ref: InitializerRef, value: V) -> None:
        """Makes a version usable, beside the others."""
        self._installed[ref] = _Installed(value)

    def use(self, ref: InitializerRef) -> AbstractContextManager[V]:
        """The version, which stays until the block ends. Raises InitializerNotInstalled."""
        installed = self._installed.get(ref)
        if installed is None:
            raise InitializerNotInstalled(f"initializer {ref} is not on the device")
        return installed

    async def remove(self, ref: InitializerRef) -> None:
        """Refuses new uses of a version at once, and returns when the last one has ended."""
        installed = self._installed.pop(ref, None)
        if installed is not None and installed.users:
            await installed.is_idle.wait()
