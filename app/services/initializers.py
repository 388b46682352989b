"""Initializers: SQL is the registry of versions, a folder is only where new ones come from."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import structlog

from app import telemetry
from app.cache.keys import initializer_topic
from app.cache.signals import Signals
from app.db import adaptations, initializers
from app.db.session import Database
from app.domain import Ability, InitializerInfo, InitializerRef
from app.engine.interface import Engine
from app.errors import AppError, InitializerNotInstalled, InitializerRejected
from app.services.initializer_folder import (
    InitializerBytes,
    describe,
    initializer_not_found,
    list_initializer_folders,
    read_initializer_folder,
)
from app.services.queue_port import JobQueue
from app.services.readaptation import Readaptation
from app.services.requests import ReloadOutcome
from app.services.single_flight import SingleFlight

R = TypeVar("R")
_log = structlog.get_logger(__name__)


class InitializerService:
    """Which versions exist, which one is current, and which are on this process's device."""

    def __init__(self, database: Database, engine: Engine, signals: Signals, queue: JobQueue, folder: Path) -> None:
        self._database, self._engine, self._signals, self._folder = database, engine, signals, folder
        self._readaptation = Readaptation(database, queue)
        self._infos: dict[InitializerRef, InitializerInfo] = {}  # versions never change, so what was read once holds
        self._current_here: dict[str, int] = {}
        self._installs: SingleFlight[InitializerRef, None] = SingleFlight()
        self._reloads: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def bootstrap(self, folder: Path | None = None) -> None:
        """Registers every initializer folder (default: the constructor's) and installs the current versions.

        The first version is 1; bytes that were registered before, as whichever version, change nothing: a process with older
        files that starts late does not turn the pointer back.
        """
        source = folder or self._folder
        for path in await asyncio.to_thread(list_initializer_folders, source):
            async with self._reloads[path.name]:
                found = await asyncio.to_thread(read_initializer_folder, source, path.name)
                if await self._known(path.name, found) is None:
                    await self._publish(path.name, found)
        await self.refresh()

    async def list(self) -> list[InitializerInfo]:
        """The current version of every initializer, by name. One whose card cannot be read, stored before that was checked, is logged."""
        async with self._database.read() as session:
            refs = await initializers.current_refs(session)
        found = []
        for ref in refs:
            try:
                found.append(await self._info(ref))
            except InitializerRejected as error:
                _log.error("initializer_not_listed", initializer=str(ref), detail=error.detail)
        return found

    async def get(self, name: str, version: int | None = None) -> InitializerInfo:
        """One version, or the current one, which is read anew each time. Raises NotFound initializer_not_found."""
        if version is not None:
            return await self._info(InitializerRef(name, version))
        async with self._database.read() as session:
            ref = await initializers.current_ref(session, name)
        if ref is None:
            raise initializer_not_found(name)
        self._note_current(ref)
        return await self._info(ref)

    async def expect(self, name: str) -> InitializerInfo:
        """The current version as this process knows it, mostly without a question to the database: for whoever finds out in time when
        another process knows better. Raises NotFound initializer_not_found."""
        version = self._current_here.get(name)
        return await self._info(InitializerRef(name, version)) if version is not None else await self.get(name)

    async def versions(self, name: str) -> Sequence[int]:
        """The stored versions of an initializer, oldest first; empty for an unknown name."""
        async with self._database.read() as session:
            return await initializers.versions_of(session, name)

    def is_outdated(self, ref: InitializerRef) -> bool:
        """Whether this process knows of a newer current version; others learn of it by signal, or within seconds."""
        return ref.version < self._current_here.get(ref.name, 0)

    async def ensure_installed(self, ref: InitializerRef) -> InitializerInfo:
        """Loads a version from SQL into the engine unless it is there; once, however many wait."""
        if ref not in self._engine.installed():
            await self._installs.run(ref, lambda: self._install(ref))
        return await self._info(ref)

    async def abilities(self, ref: InitializerRef) -> frozenset[Ability]:
        """What a version's learner can do besides adapting and predicting; the version is loaded for it."""

        async def ask() -> frozenset[Ability]:
            return self._engine.abilities(ref)

        return await self.using(ref, ask)

    async def using(self, ref: InitializerRef, call: Callable[[], Awaitable[R]]) -> R:
        """The result of an engine call that needs `ref`, installed first and again if it was retired in between."""
        for _ in range(3):
            await self.ensure_installed(ref)
            try:
                return await call()
            except InitializerNotInstalled:
                continue
        raise InitializerNotInstalled(f"{ref} was retired three times in a row while it was needed.")

    async def reload(self, name: str, *, readapt: Literal["lazy", "eager"] = "lazy") -> ReloadOutcome:
        """Takes the folder's bytes as the next version without a pause: verify beside the old, swap one pointer, tell every process.

        Concurrent reloads of one name run one after another in a process, and meet on one version across processes.
        Raises NotFound initializer_not_found, InitializerRejected when the folder does not hold what it should: nothing changed then.
        """
        async with self._reloads[name]:
            old = await self._current(name)
            try:
                outcome = await self._reload_from_folder(name, old)
            except InitializerRejected:
                telemetry.count_reload(name, "rejected")
                raise
        telemetry.count_reload(name, "changed" if outcome.changed else "unchanged")
        if outcome.changed:
            await self._signals.publish(initializer_topic(name))
        started = await self._readaptation.start_all(outcome.new) if readapt == "eager" else 0
        return ReloadOutcome(outcome.old, outcome.new, outcome.changed, started)

    async def refresh(self) -> None:
        """Installs the current versions here and retires those that no task uses; run on a signal and every few seconds.

        Retiring is only tidiness: whoever needs a retired version installs it again from SQL. One bad version hinders no other.
        """
        async with self._database.read() as session:
            current = await initializers.current_refs(session)
        for ref in current:
            self._note_current(ref)
            await self._install_or_log(ref)
        await self._retire_unused({ref.name: ref.version for ref in current})

    async def _retire_unused(self, current: dict[str, int]) -> None:
        # Only what is older than current: a newer one is being verified by a reload right now.
        older = {ref for ref in self._engine.installed() if ref.version < current.get(ref.name, 0)}
        if not older:  # the usual case, and the question below reads every task
            return
        async with self._database.read() as session:
            in_use = await adaptations.versions_in_use(session)
        for ref in older - in_use:
            await self._engine.retire(ref)

    async def _reload_from_folder(self, name: str, old: InitializerRef | None) -> ReloadOutcome:
        folders = await asyncio.to_thread(list_initializer_folders, self._folder)
        if old is None and name not in {path.name for path in folders}:
            raise initializer_not_found(name)
        found = await asyncio.to_thread(read_initializer_folder, self._folder, name)
        if old is not None and (await self._stored_digest(old)) == found.sha256:
            await self.ensure_installed(old)
            return ReloadOutcome(old, old, changed=False)
        return ReloadOutcome(old, await self._publish(name, found), changed=True)

    async def _publish(self, name: str, found: InitializerBytes) -> InitializerRef:
        """Store the bytes as the next version; install and verify them beside the old; only then move the pointer."""
        async with self._database.write() as session:
            ref = await initializers.store_next(session, name, found.sha256, found.card, found.weights, datetime.now(UTC))
        try:
            await self.ensure_installed(ref)
        except InitializerRejected:
            async with self._database.write() as session:
                await initializers.withdraw(session, ref)
            raise
        async with self._database.write() as session:
            swapped = await initializers.swap_pointer(session, ref)
        if not swapped:
            await self._engine.retire(ref)
            raise InitializerRejected(f"{ref} was withdrawn by another process that could not verify it; reload again.")
        self._note_current(ref)
        return ref

    def _note_current(self, ref: InitializerRef) -> None:
        self._current_here[ref.name] = ref.version
        telemetry.set_current_version(ref.name, ref.version)

    async def _install(self, ref: InitializerRef) -> None:
        async with self._database.read() as session:
            row = await initializers.find_version(session, ref)
        if row is None:
            raise initializer_not_found(str(ref))
        await self._engine.install(ref, row.card, row.weights)

    async def _install_or_log(self, ref: InitializerRef) -> None:
        try:
            await self.ensure_installed(ref)
        except AppError as error:
            _log.error("initializer_not_installed", initializer=str(ref), code=error.code, detail=error.detail)

    async def _info(self, ref: InitializerRef) -> InitializerInfo:
        if ref not in self._infos:
            async with self._database.read() as session:
                card = await initializers.find_card(session, ref)
            if card is None:
                raise initializer_not_found(str(ref))
            self._infos[ref] = describe(card, ref)
        return self._infos[ref]

    async def _current(self, name: str) -> InitializerRef | None:
        async with self._database.read() as session:
            return await initializers.current_ref(session, name)

    async def _known(self, name: str, found: InitializerBytes) -> InitializerRef | None:
        async with self._database.read() as session:
            known = await initializers.find_digest(session, name, found.sha256)
            current = await initializers.current_ref(session, name)
        # Stored but not (yet) current: a process died between storing and swapping, or is in between right now.
        return known if current is not None and known is not None and known.version <= current.version else None

    async def _stored_digest(self, ref: InitializerRef) -> str | None:
        async with self._database.read() as session:
            return await initializers.digest_of(session, ref)
