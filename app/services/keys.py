"""API keys: `il_<8 hex prefix>_<43 url-safe characters>`, shown once, stored as sha256."""

from __future__ import annotations

from collections.abc import Iterable

from app.db.session import Database
from app.domain import Caller, Scope
from app.services.requests import KeyInfo


class KeyService:
    """Who may call, and as whom. The key's id is the tenant: its tasks are invisible to the other keys."""

    def __init__(self, database: Database, *, cache_ttl_s: float = 5.0) -> None: ...

    async def bootstrap_admin(self) -> str | None:
        """Makes the first key (scopes user and admin) and returns its text, or None when it was made before. Safe in a race."""
        raise NotImplementedError

    async def create(self, name: str, scopes: Iterable[Scope] = ("user",)) -> str:
        """The text of a new key; it is shown here and never again."""
        raise NotImplementedError

    async def authenticate(self, text: str) -> Caller:
        """Who holds this key; remembered a few seconds. Raises Unauthenticated, Unavailable."""
        raise NotImplementedError

    async def list(self) -> list[KeyInfo]:
        """Every key, oldest first, without secrets."""
        raise NotImplementedError

    async def revoke(self, key_id: str) -> None:
        """Ends a key, here at once and in other processes within cache_ttl_s. Raises NotFound key_not_found."""
        raise NotImplementedError
