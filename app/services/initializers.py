"""Initializers: SQL is the registry of versions, a folder is only where new ones come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar

from app.cache.signals import Signals
from app.db.session import Database
from app.domain import InitializerInfo, InitializerRef
from app.engine.interface import Engine
from app.services.queue_port import JobQueue
from app.services.requests import ReloadOutcome

R = TypeVar("R")


class InitializerService:
    """Which versions exist, which one is current, and which are on this process's device."""

    def __init__(self, database: Database, engine: Engine, signals: Signals, queue: JobQueue, folder: Path) -> None: ...

    async def bootstrap(self, folder: Path | None = None) -> None:
        """Registers every initializer folder (default: the constructor's) and installs the current versions.

        The first version is 1; bytes that were registered before, as whichever version, change nothing.
        """
        raise NotImplementedError

    async def list(self) -> list[InitializerInfo]:
        """The current version of every initializer, by name."""
        raise NotImplementedError

    async def get(self, name: str, version: int | None = None) -> InitializerInfo:
        """One version, or the current one. Raises NotFound initializer_not_found."""
        raise NotImplementedError

    async def ensure_installed(self, ref: InitializerRef) -> InitializerInfo:
        """Loads a version from SQL into the engine unless it is there; once, however many wait."""
        raise NotImplementedError

    async def using(self, ref: InitializerRef, call: Callable[[], Awaitable[R]]) -> R:
        """The result of an engine call that needs `ref`, installed first and again if it was retired in between."""
        raise NotImplementedError

    async def reload(self, name: str, *, readapt: Literal["lazy", "eager"] = "lazy") -> ReloadOutcome:
        """Takes the folder's bytes as the next version without a pause: verify beside the old, swap one pointer, tell every process.

        Raises NotFound initializer_not_found, InitializerRejected when the folder does not hold what it should: nothing changed then.
        """
        raise NotImplementedError

    async def refresh(self) -> None:
        """Installs the current versions here and retires those that no live task uses; run on a signal and every few seconds."""
        raise NotImplementedError
