"""One task's adapted state as bytes, in less than half of its float32 size: what a cache outside the device holds.

A head, and behind it the numbers: what shape they have is known from the counts in the head, so nothing else is written. `models.packing`
has the fixed point. What becomes of a state's tensors:

| tensor                                                       | stored                                                      |
|--------------------------------------------------------------|-------------------------------------------------------------|
| float32, a meta-parameter has its name and shape             | as the difference from that: the inner loop moves it little |
| such a one of two or more axes and `MANY` numbers            | in 12 bits a number, all together as `coarse`               |
| every other float32                                          | in 20 bits a number, all together as `fine`                 |
| `class.mask`, `example.mask`                                 | not: a lane alone has no padding, so counts say it all      |
| of another type                                              | as it is, in the order of their names                       |

A row, which shares a scale, is one of the first axis after the lanes, so that a class is rounded alike at every place. The widths are
measured: classifiers need 18 bits for logits within a thousandth, float16 is ten times too coarse for them; kernels between
normalisations would do with 10 bits, those of a small regression need 12.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.errors import IncompatibleState
from models.packing import Bits, Room, pack, unpack
from models.resident import Arrangement, Resident, arrange
from models.slab import Slab
from models.support import MASKS, Params, State, is_finite, padded_axes

VERSION = 3
"""1 was every tensor as it is, 2 had these numbers in safetensors. A state of another version is refused, and the service makes it anew."""

HEAD, CHECK = struct.Struct("<8sHHI"), struct.Struct("<I")
"""Digest of the meta-parameters, version, number of classes, number of examples; and a checksum of these, for sizes are read off them."""

HEAD_BYTES = HEAD.size + CHECK.size

MANY = 1024
"""Smaller tensors (biases, scales, a first convolution) move furthest and matter most, and cost little."""

Array = npt.NDArray[Any]
Counts = tuple[int, int]
"""Classes and examples of a state, as MASKS has them."""


@dataclass(frozen=True)
class Group:
    """Float32 tensors that are packed together. base: the meta-parameters that the first of them differ from, one vector on the CPU."""

    names: tuple[str, ...]
    bits: Bits
    base: Tensor


@dataclass(frozen=True)
class StateFormat:
    """How states of one learner with one set of meta-parameters are written.

    template: any such state. digest: of the meta-parameters. plain: the tensors that are stored as they are.
    slab: the memory that states are brought back to.
    """

    template: State
    digest: bytes
    groups: Mapping[str, Group]
    plain: tuple[str, ...]
    slab: Slab = field(default_factory=Slab, compare=False)

    def encode(self, state: State) -> bytes:
        """One lane's state on the host as bytes, the same for the same state. They decode to numbers near by, not to the same."""
        counts = (state[mask].shape[1] if mask in state else 0 for mask in MASKS)
        packed = [pack([state[name] for name in group.names], group.base, group.bits) for group in self.groups.values()]
        plain = [state[name].contiguous().view(torch.uint8) for name in self.plain]
        return make_head(self.digest, *counts) + b"".join(tensor.numpy().tobytes() for tensor in (*packed, *plain))

    def decode(self, encoded: bytes) -> Resident:
        """One lane's state on the CPU, the same for the same bytes. Raises IncompatibleState when they are not of this format.

        By numpy, and the numbers by C: torch would give the interpreter away for each tensor, see decision 20.
        """
        classes, examples = self._read_head(encoded)
        layout = self._layouts((classes, examples))
        if len(encoded) != layout.n_bytes:
            of = f"of {classes} classes and {examples} examples"
            raise IncompatibleState(f"the state is {len(encoded)} bytes, expected {layout.n_bytes} {of}")
        resident = Resident(self.slab.take(layout.arrangement.n_bytes), layout.arrangement)
        self._fill(resident, {name: np.frombuffer(encoded, np.uint8, *part) for name, part in layout.parts.items()}, layout.rooms)
        return resident

    def hold(self, state: State) -> Resident:
        """One lane's state on the host, copied as it is to memory of its own: what `decode` gives, but not rounded."""
        classes, examples = (state[mask].shape[1] if mask in state else 0 for mask in MASKS)
        arrangement = self._layouts((classes, examples)).arrangement
        resident = Resident(self.slab.take(arrangement.n_bytes), arrangement)
        for name, tensor in resident.state.items():
            tensor.copy_(state[name])
        return resident

    def _read_head(self, encoded: bytes) -> Counts:
        """How many classes and examples the state has."""
        if len(encoded) < HEAD_BYTES:
            raise IncompatibleState(f"the state is {len(encoded)} bytes, expected a head of {HEAD_BYTES} and more")
        digest, version, *counts = HEAD.unpack_from(encoded)
        if CHECK.unpack_from(encoded, HEAD.size) != (zlib.crc32(encoded[: HEAD.size]),):
            raise IncompatibleState(f"the state has no head of format {VERSION}, or it is spoilt: its checksum is not that of its bytes")
        if (version, digest) != (VERSION, self.digest):
            what = f"format {version} from meta-parameters {digest.hex()}"
            raise IncompatibleState(f"the state is of {what}, expected format {VERSION} from {self.digest.hex()}")
        for mask, count in zip(MASKS, counts, strict=True):
            if bool(count) != (mask in self.template):
                raise IncompatibleState(f"the state has {count} rows under `{mask}`, expected {'none' if count else 'one or more'}")
        return counts[0], counts[1]

    def _fill(self, resident: Resident, stored: Mapping[str, Array], rooms: Mapping[str, Room]) -> None:
        """Raises IncompatibleState."""
        bytes_, places = resident.memory.numpy(), resident.arrangement.places
        for name, group in self.groups.items():
            _check_finite(name, unpack(stored[name], group.base, group.bits, resident.memory, rooms[name]))
        for name in self.plain:
            bytes_[places[name].begin : places[name].end] = stored[name]
            if places[name].dtype.is_floating_point:
                _check_finite(name, is_finite(resident.state[name]))
        for mask in MASKS:
            if mask in places:
                bytes_[places[mask].begin : places[mask].end] = True

    @cached_property
    def _layouts(self) -> Callable[[Counts], _Layout]:
        return lru_cache(maxsize=256)(self._lay_out)

    def _lay_out(self, counts: Counts) -> _Layout:
        of_mask = dict(zip(MASKS, counts, strict=True))
        arrangement = arrange({name: _resize(name, tensor, of_mask) for name, tensor in self.template.items()})
        rooms = {name: Room(tuple(arrangement.places[member] for member in group.names)) for name, group in self.groups.items()}
        packed = {name: room.packed_bytes[self.groups[name].bits] for name, room in rooms.items()}
        sizes = packed | {name: arrangement.places[name].n_bytes for name in self.plain}
        ends = list(accumulate(sizes.values(), initial=HEAD_BYTES))
        return _Layout(arrangement, rooms, dict(zip(sizes, zip(sizes.values(), ends, strict=False), strict=True)), ends[-1])


@dataclass(frozen=True)
class _Layout:
    """Where states of so many classes and examples lie. parts: of the `n_bytes` that are written, how many are each group's or plain
    tensor's, and where these begin."""

    arrangement: Arrangement
    rooms: Mapping[str, Room]
    parts: Mapping[str, tuple[int, int]]
    n_bytes: int


def _resize(name: str, model: Tensor, counts: Mapping[str, int]) -> Tensor:
    """A tensor without numbers, as one of another state is shaped and laid out."""
    padded = [counts[mask] for mask in padded_axes(name)]
    shape = (1, *padded, *model.shape[1 + len(padded) :])
    return torch.empty(shape, dtype=model.dtype, device="meta") if padded else model


def make_head(digest: bytes, n_way: int, n_support: int, version: int = VERSION) -> bytes:
    """What a state begins with."""
    written = HEAD.pack(digest, version, n_way, n_support)
    return written + CHECK.pack(zlib.crc32(written))


def describe_states(template: State, params: Params) -> StateFormat:
    """The format of the states that look like `template` and come from meta-parameters `params`."""
    host = {name: param.detach().cpu() for name, param in sorted(params.items())}
    floats = sorted(name for name, tensor in template.items() if tensor.dtype == torch.float32)
    moved = [name for name in floats if _is_moved(host.get(name), template[name])]
    coarse = [name for name in moved if host[name].dim() > 1 and host[name].numel() >= MANY]
    fine = [name for name in moved if name not in coarse] + [name for name in floats if name not in moved]
    groups = {"coarse": _group(coarse, 12, host, moved), "fine": _group(fine, 20, host, moved)}
    plain = template.keys() - set(floats) - set(MASKS)
    return StateFormat(template, _digest(host), {name: group for name, group in groups.items() if group.names}, tuple(sorted(plain)))


def _is_moved(param: Tensor | None, model: Tensor) -> bool:
    return param is not None and model.dtype == param.dtype and model.shape[1:] == param.shape


def _group(names: Sequence[str], bits: Bits, params: Params, moved: Sequence[str]) -> Group:
    return Group(tuple(names), bits, torch.cat([torch.empty(0), *(params[name].flatten() for name in names if name in moved)]))


def _digest(params: Params) -> bytes:
    digest = hashlib.sha256()
    for name, param in params.items():
        digest.update(name.encode() + param.contiguous().numpy().tobytes())
    return digest.digest()[:8]


def _check_finite(name: str, is_finite: bool) -> None:
    if not is_finite:
        raise IncompatibleState(f"{name} holds numbers that are not finite")
