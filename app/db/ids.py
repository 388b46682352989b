"""Ids: `task_` or `pred_` and 26 characters that sort by time; nothing in them needs escaping in a URL."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no i, l, o, u


def new_id(prefix: str, at: datetime) -> str:
    """A fresh id: milliseconds in 48 bits, then 80 random bits."""
    return _sortable(prefix, at, secrets.token_bytes(10))


def derived_id(prefix: str, at: datetime, *parts: object) -> str:
    """The same id for the same time and parts: inserting it twice is refused by the primary key."""
    return _sortable(prefix, at, hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:10])


def _sortable(prefix: str, at: datetime, tail: bytes) -> str:
    number = int(at.timestamp() * 1000) << 80 | int.from_bytes(tail, "big")
    digits = [_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
