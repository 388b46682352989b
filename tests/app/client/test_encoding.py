"""What examples look like on the wire."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.client.encoding import Picture, encode_examples


def decode_npy(encoded: dict[str, str]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    assert encoded["encoding"] == "npy"
    loaded: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = np.load(io.BytesIO(base64.b64decode(encoded["data"])), allow_pickle=False)
    return loaded


def test_bytes_of_pictures_stay_bytes() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    sent = decode_npy(encode_examples(pixels))
    assert sent.dtype == np.uint8
    np.testing.assert_array_equal(sent, pixels)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.bool_, np.float16])
def test_all_other_numbers_travel_as_float32(dtype: type[np.generic]) -> None:
    assert decode_npy(encode_examples(np.ones((2, 3), dtype))).dtype == np.float32


def test_an_array_in_fortran_order_arrives_as_the_same_array() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(decode_npy(encode_examples(array)), array)


def test_nested_lists_of_numbers_become_an_array() -> None:
    np.testing.assert_array_equal(decode_npy(encode_examples([[0.0, 0.5], [1.0, 0.25]])), [[0.0, 0.5], [1.0, 0.25]])


def test_a_list_of_arrays_becomes_one_array() -> None:
    assert decode_npy(encode_examples([np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)])).shape == (2, 2, 2)


def test_pictures_paths_and_bytes_are_sent_as_image_files(tmp_path: Path) -> None:
    picture = Image.new("L", (5, 4), 7)
    path = tmp_path / "a.png"
    picture.save(path)
    every_kind: list[Picture] = [picture, path, str(path), path.read_bytes()]
    encoded = encode_examples(every_kind)
    assert encoded["encoding"] == "images"
    sizes = {Image.open(io.BytesIO(base64.b64decode(text))).size for text in encoded["data"]}
    assert (len(encoded["data"]), sizes) == (4, {(5, 4)})


def test_pictures_and_numbers_do_not_mix() -> None:
    with pytest.raises(ValueError, match="mixed"):
        encode_examples([Image.new("L", (2, 2)), np.zeros((2, 2))])  # type: ignore[arg-type]


def test_a_single_picture_is_told_to_stand_in_a_list() -> None:
    with pytest.raises(ValueError, match="in a list"):
        encode_examples(Image.new("L", (2, 2)))  # type: ignore[arg-type]


def test_words_are_not_numbers() -> None:
    with pytest.raises(ValueError, match="expected numbers"):
        encode_examples(np.array(["a", "b"]))
