"""What `similar` measures."""

from __future__ import annotations

MEASURE: dict[str, str] = {
    "name": "wasserstein-2-diagonal",
    "description": "How far two support sets lie apart in the initializer's features: the 2-Wasserstein distance of two normal "
    "distributions, from the features' means (centre) and standard deviations (spread), as a root mean square over features. "
    "For regression, feature times label (relation) is a third part. Class names play no role.",
}
"""How distances between tasks are to be read."""
