"""The four ways to write inputs in JSON, as shapes: nested numbers, base64 of a raw tensor, of .npy, of images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt, StrictStr, TypeAdapter

DtypeName = Literal["float16", "float32", "float64", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
Side = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]


class RawTensor(BaseModel):
    """Base64 of a little-endian, C-ordered tensor. uint8 is read as 0 to 255 and scaled to [0, 1]."""

    model_config = ConfigDict(extra="forbid")
    encoding: Literal["raw"]
    dtype: DtypeName
    shape: list[Side] = Field(min_length=1, max_length=8)
    data: StrictStr


class NpyFile(BaseModel):
    """Base64 of a .npy file with numbers in it."""

    model_config = ConfigDict(extra="forbid")
    encoding: Literal["npy"]
    data: StrictStr


class ImageFiles(BaseModel):
    """Base64 of one image file per input (PNG, JPEG, WebP, GIF, BMP or TIFF), converted to what the initializer reads."""

    model_config = ConfigDict(extra="forbid")
    encoding: Literal["images"]
    data: list[StrictStr] = Field(max_length=100_000)


EncodedInputs = Annotated[RawTensor | NpyFile | ImageFiles, Field(discriminator="encoding")]
ENCODED: TypeAdapter[RawTensor | NpyFile | ImageFiles] = TypeAdapter(EncodedInputs)

INPUTS_SCHEMA: dict[str, Any] = {
    "description": "Nested lists of numbers (n, *input shape), or encoded bytes.",
    "anyOf": [
        {"type": "array", "items": {}, "description": "Nested lists of numbers, taken as they are."},
        {"$ref": "#/components/schemas/RawTensor"},
        {"$ref": "#/components/schemas/NpyFile"},
        {"$ref": "#/components/schemas/ImageFiles"},
    ],
}

# A vertical and a horizontal stroke, 8 x 8 pixels each: real PNG files, so that the documented example is one that works.
EXAMPLE_PIXELS: list[JsonValue] = [
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAG0lEQVR42mP8zwABTAwMDAyMMAYDKYz/DAwMAE13Ag+P2d7MAAAAAElFTkSuQmCC",
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGElEQVR42mP8zwABTAw4GQxQNf8ZcSsGAKGFBAnbLuoAAAAAAElFTkSuQmCC",
]

# The same strokes a pixel further left and higher up: with two examples of a class there is one to hold out.
EXAMPLE_STROKES: list[JsonValue] = [
    *EXAMPLE_PIXELS,
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAG0lEQVR42mP8zwABTAwMDIwwBgMpjP8MDAwMAE53Ag+IVjweAAAAAElFTkSuQmCC",
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGUlEQVR42mP8zwABTAzoDAao1H9G3GrgDAC8TwQJ2Etj0AAAAABJRU5ErkJggg==",
]
