"""Equal requests, equal fingerprints: the service adapts to the same support set once (law 5)."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from app.db.rows import examples_id
from app.domain import Caller
from app.services.requests import NewTask


def fingerprint(caller: Caller, initializer: str, new: NewTask) -> str:
    """sha256 over who asks, the initializer version (`Offer.mark`), support and query set, options, name, metadata and ttl."""
    parts: dict[str, Any] = {
        "owner": caller.key_id,
        "initializer": initializer,
        "support": examples_id(new.support.inputs, new.support.labels),
        "query": examples_id(new.query, ()) if new.query is not None else None,
        "steps": new.options.steps,
        "name": new.name,
        "metadata": dict(new.metadata),
        "ttl_s": new.ttl_s,
    }
    if new.options.warm_start:
        parts["warm_start"] = True
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
