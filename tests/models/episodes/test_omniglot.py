from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from models.episodes import open_episodes
from models.episodes.download import Archive
from models.episodes.location import find_data_folder
from models.episodes.omniglot import load_omniglot
from models.episodes.omniglot_archive import build_omniglot, read_split
from models.errors import DataUnavailable
from tests.models.small_data import CLASSES_BY_SPLIT, write_small_omniglot

Drawings = dict[str, int]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing: the test's output is not an access log."""


@pytest.fixture
def public(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that serves it."""
    folder = tmp_path / "public"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def draw_character(drawer: int) -> bytes:
    """A black stroke on white, 105x105, one bit deep, as the originals are."""
    image = Image.new("1", (105, 105), 1)
    ImageDraw.Draw(image).line((10 + drawer, 15, 10 + drawer, 90), fill=0, width=6)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def publish(folder: Path, address: str, name: str, characters: list[tuple[str, int]], drawers: int = 20) -> Archive:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for alphabet, character in characters:
            for drawer in range(1, drawers + 1):
                archive.writestr(f"{name[:-4]}/{alphabet}/character{character:02d}/0001_{drawer:02d}.png", draw_character(drawer))
        archive.writestr(f"__MACOSX/{name[:-4]}/._x", b"litter")
    return Archive(f"{address}/{name}", hashlib.md5((folder / name).read_bytes()).hexdigest())


def test_the_archives_become_bright_ink_in_the_vinyals_split(tmp_path: Path, public: tuple[Path, str]) -> None:
    background = publish(*public, "images_background.zip", [("Armenian", 1), ("Greek", 2), ("Greek", 10)])
    evaluation = publish(*public, "images_evaluation.zip", [("Angelic", 1), ("Gurmukhi", 41), ("Gurmukhi", 42)])
    path = tmp_path / "cache" / "omniglot.npz"
    build_omniglot(path, (background, evaluation))
    with np.load(path) as arrays:
        assert arrays["alphabet_names"].tolist() == ["Armenian", "Greek", "Angelic", "Gurmukhi"]
        assert arrays["character"].tolist() == [1, 2, 10, 1, 41, 42]
        assert arrays["vinyals_split"].tolist() == [1, 0, 0, 0, 0, 2]
        images = arrays["images"]
    assert images.shape == (6, 20, 28, 28)
    assert images.dtype == np.uint8
    assert images[0, 0, 14, 2] > 100  # drawer 1: the stroke covers the pixels 8 to 14 of 105
    assert images[0, 0, 14, 20] == 0
    columns = images[0].astype(float).sum(1).argmax(1)
    assert (np.diff(columns) >= 0).all()  # the drawers kept their order
    assert load_omniglot(path.parent, "train").shape == (4, 20, 28, 28)


def test_a_damaged_archive_is_named_and_not_kept(tmp_path: Path, public: tuple[Path, str]) -> None:
    archive = publish(*public, "images_background.zip", [("Greek", 1)])
    (public[0] / archive.name).write_bytes(b"half of it")
    with pytest.raises(DataUnavailable, match=f"{archive.md5} was expected"):
        build_omniglot(tmp_path / "cache" / "omniglot.npz", (archive,))
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_that_cannot_be_had_says_what_to_set(tmp_path: Path, public: tuple[Path, str]) -> None:
    missing = Archive(f"{public[1]}/images_background.zip", "0" * 32)
    with pytest.raises(DataUnavailable, match=r"404.*set INNERLOOP_DATA_DIR to a folder that holds omniglot\.npz"):
        build_omniglot(tmp_path / "omniglot.npz", (missing,))
    assert [path.name for path in tmp_path.iterdir()] == ["public"]


def test_an_archive_that_lies_beside_it_is_not_downloaded_again(tmp_path: Path, public: tuple[Path, str]) -> None:
    archive = publish(*public, "images_background.zip", [("Greek", 1)])
    (public[0] / archive.name).rename(tmp_path / archive.name)
    build_omniglot(tmp_path / "omniglot.npz", (archive,))
    assert load_omniglot(tmp_path, "train").shape[0] == 1


@pytest.mark.parametrize(("characters", "drawers", "complaint"), [([("Klingon", 1)], 20, "Klingon"), ([("Greek", 1)], 3, "20 drawings")])
def test_other_drawings_than_omniglots_are_refused(
    tmp_path: Path, public: tuple[Path, str], characters: list[tuple[str, int]], drawers: int, complaint: str
) -> None:
    archive = publish(*public, "images_background.zip", characters, drawers)
    with pytest.raises(DataUnavailable, match=complaint):
        build_omniglot(tmp_path / "omniglot.npz", (archive,))
    assert not (tmp_path / "omniglot.npz").exists()


def test_the_listing_is_the_vinyals_split() -> None:
    splits = list(read_split().values())
    assert [splits.count(number) for number in (0, 1, 2)] == [1028, 172, 423]


def test_the_listing_agrees_with_the_data_where_it_is() -> None:
    path = find_data_folder() / "omniglot.npz"
    if not path.exists():
        pytest.skip(f"SKIPPED-DATA: {path} is not there")
    with np.load(path) as arrays:
        names = arrays["alphabet_names"].tolist()
        found = zip(arrays["alphabet"].tolist(), arrays["character"].tolist(), arrays["vinyals_split"].tolist(), strict=True)
        assert {(names[alphabet], character): split for alphabet, character, split in found} == read_split()
    backgrounds = [name for name in names if name in names[:30]]
    assert backgrounds == sorted(backgrounds)
    assert names[30:] == sorted(names[30:])


def test_splits_share_no_class_and_rotations_multiply_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_omniglot(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
    images = [load_omniglot(find_data_folder(), split) for split in ("train", "validation", "test")]
    assert tuple(len(part) for part in images) == CLASSES_BY_SPLIT
    firsts = torch.cat(images)[:, 0].flatten(1).numpy()
    assert len(np.unique(firsts, axis=0)) == sum(CLASSES_BY_SPLIT)
    assert getattr(open_episodes("omniglot", "test"), "images").shape[0] == 4 * CLASSES_BY_SPLIT[2]  # noqa: B009 (a protocol without it)
    assert getattr(open_episodes("omniglot", "test", rotations=False), "images").shape[0] == CLASSES_BY_SPLIT[2]  # noqa: B009


def test_a_file_that_is_not_the_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "omniglot.npz").write_bytes(b"something else")
    with pytest.raises(DataUnavailable, match=r"omniglot\.npz is not the Omniglot file"):
        load_omniglot(tmp_path, "train")


def test_an_unknown_source_is_told_the_known_ones() -> None:
    with pytest.raises(DataUnavailable, match="omniglot"):
        open_episodes("imagenet", "train")


def test_the_data_folder_is_in_the_home_when_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INNERLOOP_DATA_DIR", raising=False)
    assert find_data_folder() == Path.home() / ".cache" / "innerloop"
