"""Uploads: files named by class, as every image folder already is.

curl -F initializer=omniglot-protonet -F 'support=@a.png;filename=cat/a.png' -F 'support[dog]=@b.png' -F query=@c.png ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from app.api.bodies import escape, parse_json
from app.errors import InvalidBody, InvalidInput, InvalidSupport, Issue

MEDIA_TYPE = "multipart/form-data"
_MAX_PARTS = 10_000
_FIELD = re.compile(r"(?P<part>\w+)(\[(?P<label>[^\x00]*)\])?", re.DOTALL)


@dataclass(frozen=True)
class Upload:
    """A decoded multipart body: image files with their class names, query files, and what text fields said."""

    support: tuple[bytes, ...]
    labels: tuple[str, ...]
    query: tuple[bytes, ...]
    fields: Mapping[str, str]

    @property
    def n_bytes(self) -> int:
        """Bytes in all files."""
        return sum(map(len, self.support)) + sum(map(len, self.query))


async def read_upload(request: Request, *, support_field: str | None, text_fields: frozenset[str]) -> Upload:
    """The parts of a multipart body. `support_field` files carry classes, `query` files do not; any other name is a fault."""
    try:
        async with request.form(max_files=_MAX_PARTS, max_fields=100) as form:
            return await _sort_parts(form, support_field, text_fields)
    except HTTPException as error:
        raise InvalidBody(f"expected multipart/form-data: {error.detail}", issues=[Issue("#", str(error.detail))]) from None


async def _sort_parts(form: FormData, support_field: str | None, text_fields: frozenset[str]) -> Upload:
    files: dict[str, list[bytes]] = {"query": [], **({support_field: []} if support_field else {})}
    labels: list[str] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        match = _FIELD.fullmatch(name)
        part = match["part"] if match else ""
        if isinstance(value, UploadFile) and match and part in files:
            if support_field and part == support_field:
                labels.append(_label_of(value.filename or "", match["label"], len(labels), support_field))
            files[part].append(await value.read())
        elif isinstance(value, str) and name in text_fields and name not in fields:
            fields[name] = value
        else:
            raise _unknown_field(name, [*(f"{part} files" for part in files), *sorted(text_fields)])
    return Upload(tuple(files[support_field] if support_field else ()), tuple(labels), tuple(files["query"]), fields)


def parse_field(upload: Upload, name: str) -> object:
    """The JSON in a text field; None when it is absent."""
    if name not in upload.fields:
        return None
    try:
        return parse_json(upload.fields[name])
    except InvalidBody as error:
        raise InvalidBody(f"#/{name}: {error.detail}", issues=[Issue(f"#/{name}", error.detail)]) from None


def parse_integer(upload: Upload, name: str) -> object:
    """The integer in a text field, or the text as it is for the schema to refuse."""
    text = upload.fields.get(name)
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _label_of(filename: str, label: str | None, index: int, field: str) -> str:
    """The class in `support[<class>]`, else the last folder of the file's name."""
    if label is None:
        label = filename.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]
    if label and "\x00" not in label:
        return label
    detail = f"expected the class in the file name (<class>/{index}.png) or in the field's name ({field}[<class>])"
    raise InvalidSupport(f"#/{field}/{index}: {detail}", issues=[Issue(f"#/{field}/{index}", detail)])


def _unknown_field(name: str, known: list[str]) -> InvalidInput:
    pointer = f"#/{escape(name[:64])}"
    detail = f"unknown, repeated, or a file where text is expected; known fields: {', '.join(known)}"
    return InvalidBody(f"{pointer}: {detail}", issues=[Issue(pointer, detail)])
