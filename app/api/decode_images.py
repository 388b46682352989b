"""Pictures to the pixels an initializer reads. Each picture by itself: no answer depends on its neighbours.

One channel means ink: bright strokes on black. A picture whose border is light is inverted, the whole of it is kept, and the
square is filled up with its background. Three channels are cropped to the middle, as photographs are in the literature.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from app.domain import Array
from app.errors import Issue, UndecodableInput

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MODES = {1: "L", 3: "RGB"}
# All pictures of one request together: a body of the largest size could otherwise carry a thousand bombs, each just within the limit.
_MAX_REQUEST_FACTOR = 16


def decode_images(files: Sequence[bytes], shape: tuple[int, ...], *, max_pixels: int, pointer: str) -> Array:
    """uint8 (n, channels, height, width). Raises UndecodableInput that points at the first picture that cannot be read."""
    channels, height, width = shape
    if channels not in _MODES:
        raise UndecodableInput(
            f"images cannot be converted to {channels} channels: send arrays", issues=[Issue(pointer, "expected arrays")]
        )
    pixels = np.zeros((len(files), channels, height, width), np.uint8)
    left = max_pixels * _MAX_REQUEST_FACTOR
    for index, data in enumerate(files):
        try:
            picture = _open(data, _MODES[channels], (width, height), min(max_pixels, left))
            left -= picture.width * picture.height
            pixels[index] = _fit_ink(picture, width, height) if channels == 1 else _fit_photo(picture, width, height)
        except _Refused as refusal:
            detail = str(refusal)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit lies above ours
            detail = f"expected at most {max_pixels} pixels, found far more"
        except Exception:  # Pillow's readers raise whatever a broken file provokes: OSError, SyntaxError, struct.error, ...
            detail = f"expected an image file ({', '.join(_FORMATS)})"
        else:
            continue
        where = f"{pointer}/{index}"
        raise UndecodableInput(f"{where}: {detail}", issues=[Issue(where, detail)])
    return pixels


class _Refused(Exception):
    """A picture that could be read but will not be."""


def _open(data: bytes, mode: str, size: tuple[int, int], max_pixels: int) -> Image.Image:
    """The picture upright, in `mode` or with its alpha, decoded only after its size was found small enough."""
    picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    if picture.width * picture.height > max_pixels:
        raise _Refused(f"expected at most {max_pixels} pixels, found {picture.width} x {picture.height}")
    # JPEG can be decoded at 1/2, 1/4 or 1/8 directly: three times as fast for a photo, and twice the target keeps the detail.
    picture.draft(mode, (size[0] * 2, size[1] * 2))
    return _eight_bit(ImageOps.exif_transpose(picture))


def _eight_bit(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise _Refused("expected 8 or 16 bits per channel")
    return picture


def _flatten(picture: Image.Image, mode: str) -> Image.Image:
    """Without alpha: bright drawings on black, all others on white, so that ink drawn on nothing stays visible."""
    if not picture.has_transparency_data:
        return picture.convert(mode)
    layered = picture.convert("RGBA")
    opaque = np.asarray(layered.convert("L"))[np.asarray(layered.getchannel("A")) > 127]
    is_bright = opaque.size > 0 and float(np.median(opaque)) > 127
    backdrop = Image.new("RGBA", layered.size, (0, 0, 0, 255) if is_bright else (255, 255, 255, 255))
    return Image.alpha_composite(backdrop, layered).convert(mode)


def _fit_ink(picture: Image.Image, width: int, height: int) -> Array:
    """(1, height, width), bright ink, aspect ratio kept, filled up with the background."""
    grey = _flatten(picture, "L")
    background = _border_median(np.asarray(grey))
    if background > 127:
        grey, background = ImageOps.invert(grey), 255 - background
    scale = min(width / grey.width, height / grey.height)
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    square = Image.new("L", (width, height), background)
    square.paste(grey.resize(size, Image.Resampling.BILINEAR), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(square)[None]


def _fit_photo(picture: Image.Image, width: int, height: int) -> Array:
    """(3, height, width), the middle of the picture."""
    photo = ImageOps.fit(_flatten(picture, "RGB"), (width, height), Image.Resampling.BILINEAR)
    return np.asarray(photo).transpose(2, 0, 1)


def _border_median(grey: Array) -> int:
    """The usual value along the edge: what is not drawn on."""
    return int(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
