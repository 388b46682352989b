from __future__ import annotations

import inspect

from fastapi import params

from app.api import deps


def test_no_dependency_takes_a_thread() -> None:
    asked = [each for alias in vars(deps).values() for each in getattr(alias, "__metadata__", ()) if isinstance(each, params.Depends)]
    assert len(asked) >= 7
    assert [each.dependency for each in asked if not inspect.iscoroutinefunction(each.dependency)] == []
