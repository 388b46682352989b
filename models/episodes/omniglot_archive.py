"""`omniglot.npz` from the public archives of Lake et al. 2015 (github.com/brendenlake/omniglot, MIT licence).

105x105 strokes of black ink become 28x28 bytes of bright ink (Lanczos). `omniglot_split.json` holds the Vinyals split
as the first and last character of each alphabet.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.episodes.download import Archive, fetch_archive
from models.errors import DataUnavailable

SIDE = 28
DRAWERS = 20
SPLIT_FILE = Path(__file__).with_name("omniglot_split.json")
SPLIT_NUMBERS = {"train": 0, "validation": 1, "test": 2}
SOURCE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
ARCHIVES = (
    Archive(f"{SOURCE}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
    Archive(f"{SOURCE}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
)
MEMBER = re.compile(r"images_\w+/(?P<alphabet>[^/]+)/character(?P<character>\d+)/(?P<file>[^/]+\.png)")

Character = tuple[str, int]
"""An alphabet's name and the number of one of its characters, from 1."""


def build_omniglot(path: Path, archives: Sequence[Archive] = ARCHIVES) -> None:
    """Writes `path` from the archives, downloading those that are not beside it. Raises DataUnavailable."""
    drawings: dict[Character, list[NDArray[np.uint8]]] = defaultdict(list)
    for archive in archives:
        _read_drawings(fetch_archive(archive, path.parent), drawings)
    characters = list(drawings)  # background alphabets first, each archive in the order of its names
    splits = read_split()
    if unknown := [character for character in characters if character not in splits]:
        raise DataUnavailable(f"the archives hold characters that the Vinyals split does not list: {unknown[:3]}")
    if short := [character for character in characters if len(drawings[character]) != DRAWERS]:
        raise DataUnavailable(f"each character must have {DRAWERS} drawings; {short[:3]} have not")
    _write_arrays(path, characters, np.array([drawings[character] for character in characters]), [splits[c] for c in characters])


def read_split() -> dict[Character, int]:
    """0, 1 or 2 (train, validation, test) for each of the 1,623 characters (Vinyals et al. 2016, arXiv:1606.04080)."""
    listing: dict[str, dict[str, list[int]]] = json.loads(SPLIT_FILE.read_text(encoding="utf-8"))
    return {
        (alphabet, character): SPLIT_NUMBERS[split]
        for split, alphabets in listing.items()
        for alphabet, (first, last) in alphabets.items()
        for character in range(first, last + 1)
    }


def convert_drawing(png: bytes) -> NDArray[np.uint8]:
    """(28, 28) uint8 with ink 255, of a drawing in black ink on white."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.uint8(255) - np.asarray(small, dtype=np.uint8)


def _read_drawings(path: Path, drawings: dict[Character, list[NDArray[np.uint8]]]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):  # by drawer, within a character
                if match := MEMBER.fullmatch(name):
                    drawings[match["alphabet"], int(match["character"])].append(convert_drawing(archive.read(name)))
    except (zipfile.BadZipFile, OSError) as fault:
        raise DataUnavailable(f"{path} cannot be read as an archive of drawings: {fault}") from fault


def _write_arrays(path: Path, characters: Sequence[Character], images: NDArray[np.uint8], splits: list[int]) -> None:
    names = list(dict.fromkeys(alphabet for alphabet, _ in characters))
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez_compressed(
                file,
                images=images,
                alphabet_names=np.array(names),
                alphabet=np.array([names.index(alphabet) for alphabet, _ in characters], dtype=np.uint8),
                character=np.array([character for _, character in characters], dtype=np.uint8),
                vinyals_split=np.array(splits, dtype=np.uint8),
            )
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
