from __future__ import annotations

import inspect
from typing import Any

import pytest
from fastapi import params

from app.api import deps
from tests.app.api.conftest import Service


def test_no_dependency_takes_a_thread() -> None:
    asked = [each for alias in vars(deps).values() for each in getattr(alias, "__metadata__", ()) if isinstance(each, params.Depends)]
    assert len(asked) >= 7
    assert [each.dependency for each in asked if not inspect.iscoroutinefunction(each.dependency)] == []


async def test_a_query_parameter_that_no_endpoint_has_is_refused_by_each_that_asks_for_a_key(service: Service) -> None:
    operations = find_operations(service.app.openapi())
    assert len(operations) >= 14
    for method, path, known in operations:
        url = path.format(task_id="task_1", name="tiny-ink", key_id="key_1")
        response = await service.admin.request(method, url, params={"wi/at": "5"})
        detail = f"unknown; expected {', '.join(known) or 'no query parameters'}"
        assert response.json()["errors"] == [{"pointer": "#/query/wi~1at", "detail": detail}], path
        assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")


def find_operations(document: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Method, path and query parameters of each endpoint behind a key, as documented."""
    return [
        (method.upper(), path, sorted(each["name"] for each in operation.get("parameters", []) if each["in"] == "query"))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/v1/")
    ]


@pytest.mark.parametrize("query", ["limti=5", "limit=5&limti=5", "=5", "limti"])
async def test_it_is_so_beside_others_and_without_a_value_but_a_missing_key_is_told_first(service: Service, query: str) -> None:
    assert (await service.user.get(f"/v1/tasks?{query}")).status_code == 422
    assert (await service.nobody.get(f"/v1/tasks?{query}")).status_code == 401
    assert (await service.nobody.get(f"/livez?{query}")).status_code == 200
