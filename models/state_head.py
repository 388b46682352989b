"""What the bytes of a state begin with: whose state it is, and what all sizes follow from."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from models import packed_weights
from models.errors import IncompatibleState

VERSION = 5
"""1 was every tensor as it is, 2 had these numbers in safetensors, 3 packed all numbers of 12 bits as one, 4 had 12 bits for all kernels.
A state of another version is refused, and the service makes it anew."""

HEAD, CHECK = struct.Struct("<8sBBHI"), struct.Struct("<I")
"""Digest of the meta-parameters, version, bits of a kernel's number, number of classes, number of examples; and a checksum of these, for
sizes are read off them."""

HEAD_BYTES = HEAD.size + CHECK.size


class Extent(NamedTuple):
    """What sizes follow from: bits of a kernel's number, and as MASKS has them, classes and examples."""

    bits: int
    n_way: int
    n_support: int


def make_head(digest: bytes, extent: Extent, version: int = VERSION) -> bytes:
    """What a state begins with."""
    written = HEAD.pack(digest, version, *extent)
    return written + CHECK.pack(zlib.crc32(written))


def read_head(encoded: bytes, digest: bytes) -> Extent:
    """What the head says of a state from the meta-parameters of this digest. Raises IncompatibleState where it is none of such a state."""
    if len(encoded) < HEAD_BYTES:
        raise IncompatibleState(f"the state is {len(encoded)} bytes, expected a head of {HEAD_BYTES} and more")
    found, version, *sizes = HEAD.unpack_from(encoded)
    extent = Extent(*sizes)
    if CHECK.unpack_from(encoded, HEAD.size) != (zlib.crc32(encoded[: HEAD.size]),):
        raise IncompatibleState(f"the state has no head of format {VERSION}, or it is spoilt: its checksum is not that of its bytes")
    if (version, found) != (VERSION, digest):
        what = f"format {version} from meta-parameters {found.hex()}"
        raise IncompatibleState(f"the state is of {what}, expected format {VERSION} from {digest.hex()}")
    if extent.bits not in packed_weights.BITS:
        raise IncompatibleState(f"the state has {extent.bits} bits for a kernel's number, expected one of {packed_weights.BITS}")
    return extent
