"""The OpenAPI document: bodies are read raw, so their schemas are put in here, with examples that work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api import request_schemas, schemas
from app.api.inputs import ImageFiles, NpyFile, RawTensor

_TEMPLATE = "#/components/schemas/{model}"
_RAW_MODELS: tuple[type[BaseModel], ...] = (
    RawTensor,
    NpyFile,
    ImageFiles,
    request_schemas.TaskRequest,
    request_schemas.SupportRequest,
    request_schemas.PredictionsRequest,
    request_schemas.ReloadRequest,
    request_schemas.KeyRequest,
    schemas.Problem,
)
_SECURITY: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer il_...`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
SECURED: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
_FILES: dict[str, Any] = {"type": "array", "items": {"type": "string", "format": "binary"}}


def request_body(
    model: type[BaseModel], *, required: bool = True, examples: Mapping[str, Any] | None = None, **other: Any
) -> dict[str, Any]:
    """`openapi_extra` for an endpoint behind a key that reads `model` as JSON, or one of the other media types."""
    json_body: dict[str, Any] = {"schema": {"$ref": _TEMPLATE.format(model=model.__name__)}}
    content = {"application/json": json_body | named_examples(examples or {}), **other}
    return {"requestBody": {"required": required, "content": content}, "security": SECURED}


def named_examples(examples: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a media type that shows examples, by their names as summaries."""
    return {"examples": {name: {"summary": name, "value": value} for name, value in examples.items()}} if examples else {}


def json_answer(
    model: type[BaseModel], description: str, examples: Mapping[str, Any], *, beside: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A response of an endpoint, with examples; `beside`: other content, and headers."""
    other = dict(beside or {})
    content = {"application/json": named_examples(examples), **other.pop("content", {})}
    return {"model": model, "description": description, "content": content, **other}


def multipart_form(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
    """A multipart media type: file fields of `_FILES`, text fields as given."""
    return {"multipart/form-data": {"schema": {"type": "object", "properties": fields, "required": required}}}


def files(description: str) -> dict[str, Any]:
    """A field of any number of files."""
    return {**_FILES, "description": description}


def install_openapi(app: FastAPI) -> None:
    """Replaces the app's generator by one that knows the raw bodies."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _make_document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _make_document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes)
    _, raw = models_json_schema([(model, "validation") for model in _RAW_MODELS], ref_template=_TEMPLATE)
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **raw.get("$defs", {})}
    components["securitySchemes"] = _SECURITY
    return document
