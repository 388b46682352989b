"""Downloads that are whole or absent: to a temporary name, checked, then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from models.episodes.location import VARIABLE
from models.errors import DataUnavailable

TIMEOUT_S = 30.0
SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class Archive:
    """A public file. `md5` is what its users have published; it guards against damage, not against its author."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch_archive(archive: Archive, folder: Path) -> Path:
    """The archive in `folder`, downloaded unless a whole copy is there. Raises DataUnavailable."""
    path = folder / archive.name
    if path.exists() and _digest(path) == archive.md5:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{archive.name}.", dir=folder)
    os.close(descriptor)
    try:
        _download(archive.url, Path(partial))
        digest = _digest(Path(partial))
        if digest != archive.md5:
            raise DataUnavailable(f"{archive.url} has md5 {digest}; {archive.md5} was expected, so it was not kept")
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


def _download(url: str, path: Path) -> None:
    if not url.startswith(SCHEMES):
        raise DataUnavailable(f"a download must be over {' or '.join(SCHEMES)}, got {url}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, path.open("wb") as file:  # noqa: S310 (checked above)
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, OSError) as fault:
        advice = f"download it to {path.parent} yourself, or set {VARIABLE} to a folder that holds omniglot.npz"
        raise DataUnavailable(f"{url} could not be downloaded ({fault}); {advice}") from fault


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
