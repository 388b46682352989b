"""Where data sets lie: the one place of `models/` that reads the environment."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "INNERLOOP_DATA_DIR"


def find_data_folder() -> Path:
    """`$INNERLOOP_DATA_DIR`, or the cache folder of the user. It need not exist."""
    configured = os.environ.get(VARIABLE)
    return Path(configured) if configured else Path.home() / ".cache" / "innerloop"
