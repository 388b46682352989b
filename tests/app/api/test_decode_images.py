"""Pictures of every kind end as the same bright ink."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.api.decode_images import decode_images
from app.errors import UndecodableInput

MAX_PIXELS = 1_000_000


def _decode(picture: Image.Image, form: str = "PNG", shape: tuple[int, ...] = (1, 28, 28), **options: Any) -> np.ndarray[Any, Any]:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    pixels: np.ndarray[Any, Any] = decode_images([buffer.getvalue()], shape, max_pixels=MAX_PIXELS, pointer="#/x")[0]
    return pixels


def _drawing(mode: str = "L", paper: Any = 255, ink: Any = 0, size: tuple[int, int] = (112, 112)) -> Image.Image:
    picture = Image.new(mode, size, paper)
    half = size[0] // 11
    ImageDraw.Draw(picture).rectangle((size[0] // 2 - half, 10, size[0] // 2 + half, size[1] - 11), fill=ink)
    return picture


def test_paper_and_blackboard_give_the_same_pixels() -> None:
    np.testing.assert_array_equal(_decode(_drawing()), _decode(_drawing(paper=0, ink=255)))


@pytest.mark.parametrize(
    "picture",
    [
        _drawing("RGB", (255, 255, 255), (0, 0, 0)),
        _drawing("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
        _drawing("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),
        _drawing("LA", (0, 0), (0, 255)),
        _drawing("1", 1, 0),
        _drawing().convert("P"),
        _drawing("I;16", 65535, 0),
        _drawing("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)),
    ],
    ids=["rgb", "black ink on nothing", "white ink on nothing", "grey ink on nothing", "one bit", "palette", "16 bit", "cmyk"],
)
def test_every_mode_gives_bright_ink_on_black(picture: Image.Image) -> None:
    form = "TIFF" if picture.mode == "CMYK" else "PNG"
    np.testing.assert_allclose(_decode(picture, form), _decode(_drawing()), atol=2)


def test_each_picture_is_inverted_for_itself() -> None:
    buffers = []
    for picture in (_drawing(), _drawing(paper=0, ink=255)):
        buffers.append(io.BytesIO())
        picture.save(buffers[-1], "PNG")
    together = decode_images([buffer.getvalue() for buffer in buffers], (1, 28, 28), max_pixels=MAX_PIXELS, pointer="#/x")
    np.testing.assert_array_equal(together[0], together[1])


def test_a_tall_drawing_keeps_its_shape_and_gets_its_own_background() -> None:
    pixels = _decode(Image.new("L", (28, 112), 240))[0]
    np.testing.assert_array_equal(pixels, np.full((28, 28), 15))
    stroke = _decode(_drawing(size=(56, 112)))[0]
    assert stroke.max() == 255
    assert (stroke[:, :7].max(), stroke[:, 21:].max()) == (0, 0)


def test_exif_orientation_is_undone() -> None:
    # A bar on the left; the tag says that the camera was turned by a quarter (6: rotate 90 degrees clockwise to see it upright).
    picture = Image.new("L", (32, 32), 0)
    ImageDraw.Draw(picture).rectangle((4, 2, 8, 29), fill=255)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = _decode(picture.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(_decode(picture, exif=exif), upright)


def test_a_photograph_is_cropped_to_its_middle() -> None:
    picture = Image.new("RGB", (300, 100), (0, 0, 0))
    picture.paste((200, 100, 50), (100, 0, 200, 100))
    pixels = _decode(picture, shape=(3, 10, 10))
    np.testing.assert_array_equal(pixels.reshape(3, -1)[:, 55], [200, 100, 50])
    assert pixels[:, :, 1:-1].std(axis=(1, 2)).max() == 0  # the outermost columns see a little of what was cut off


def test_a_large_jpeg_is_read() -> None:
    assert abs(int(_decode(_drawing(size=(800, 800)), "JPEG")[0, 14, 14]) - 255) < 5


def test_an_image_that_is_too_large_is_refused_unread() -> None:
    buffer = io.BytesIO()
    Image.new("1", (1001, 1000)).save(buffer, "PNG")
    with pytest.raises(UndecodableInput, match="1001 x 1000") as caught:
        decode_images([buffer.getvalue()], (1, 28, 28), max_pixels=MAX_PIXELS, pointer="#/x")
    assert caught.value.issues[0].pointer == "#/x/0"


def test_floats_of_unknown_range_are_refused() -> None:
    with pytest.raises(UndecodableInput, match="8 or 16 bits"):
        _decode(Image.new("F", (8, 8)), "TIFF")
