"""One task's adapted state as bytes, in less than half of its float32 size: what a cache outside the device holds.

The container is safetensors; `models.packing` has the fixed point. What becomes of a state's tensors:

| tensor                                                       | stored                                                      |
|--------------------------------------------------------------|-------------------------------------------------------------|
| float32, a meta-parameter has its name and shape             | as the difference from that: the inner loop moves it little |
| such a one of two or more axes and `MANY` numbers            | in 12 bits a number, all together as `coarse`               |
| every other float32                                          | in 20 bits a number, all together as `fine`                 |
| `class.mask`, `example.mask`                                 | not: a lane alone has no padding, so counts say it all      |
| of another type                                              | by its name, as it is                                       |
| (version of this format, whose meta-parameters, the counts)  | as `head`                                                   |

A row, which shares a scale, is one of the first axis after the lanes, so that a class is rounded alike at every place. The widths are
measured: classifiers need 18 bits for logits within a thousandth, float16 is ten times too coarse for them; kernels between
normalisations would do with 10 bits, those of a small regression need 12.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from safetensors import SafetensorError, TensorSpec, serialize
from safetensors.torch import load
from torch import Tensor

from models.errors import IncompatibleState
from models.packing import Bits, count_packed_bytes, pack, unpack
from models.support import MASKS, Params, State, is_finite, padded_axes

VERSION = 2
"""1 was every tensor as it is. A state of another version is refused, and the service makes it again."""

HEAD_NAME, HEAD, CHECK = "head", struct.Struct("<B8sHI"), struct.Struct("<I")
"""Version, digest of the meta-parameters, number of classes, number of examples; and a checksum of these, for masks are made of them."""

MANY = 1024
"""Smaller tensors (biases, scales, a first convolution) move furthest and matter most, and cost little."""

find_padded_axes = cache(padded_axes)
"""Names are few, and asked of for every state."""


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
    """

    template: State
    digest: bytes
    groups: Mapping[str, Group]
    plain: tuple[str, ...]

    def encode(self, state: State) -> bytes:
        """One lane's state on the host as bytes, the same for the same state. They decode to numbers near by, not to the same."""
        counts = (state[mask].shape[1] if mask in state else 0 for mask in MASKS)
        head = make_head(self.digest, *counts)
        packed = {name: pack([state[member] for member in group.names], group.base, group.bits) for name, group in self.groups.items()}
        return _save({HEAD_NAME: head, **packed, **{name: state[name].contiguous() for name in self.plain}})

    def decode(self, encoded: bytes) -> State:
        """One lane's state on the CPU, the same for the same bytes. Raises IncompatibleState when they are not of this format."""
        try:
            stored = load(encoded)
        except SafetensorError as fault:
            raise IncompatibleState(f"the bytes are not safetensors: {fault}") from fault
        counts = self._read_head(stored.pop(HEAD_NAME, None))
        expected = {*self.groups, *self.plain}
        if stored.keys() != expected:
            raise IncompatibleState(f"the tensors are {sorted(stored)}, expected {sorted(expected)}")
        state = {name: _check(name, stored[name], self.template[name].dtype, self._shape(name, counts)) for name in self.plain}
        for name, group in self.groups.items():
            state |= self._unpack(name, group, stored[name], counts)
        return state | {mask: torch.ones(1, counts[mask], dtype=torch.bool) for mask in MASKS if mask in self.template}

    def _read_head(self, head: Tensor | None) -> dict[str, int]:
        """How many classes and examples the state has."""
        if head is None:
            raise IncompatibleState(f"the state has no `{HEAD_NAME}`, expected one of format {VERSION}")
        written = _check(HEAD_NAME, head, torch.uint8, torch.Size((HEAD.size + CHECK.size,))).numpy().tobytes()
        version, digest, *found = HEAD.unpack_from(written)
        if CHECK.unpack_from(written, HEAD.size) != (zlib.crc32(written[: HEAD.size]),):
            raise IncompatibleState(f"`{HEAD_NAME}` is spoilt: its checksum is not that of its bytes")
        if (version, digest) != (VERSION, self.digest):
            what = f"format {version} from meta-parameters {digest.hex()}"
            raise IncompatibleState(f"the state is of {what}, expected format {VERSION} from {self.digest.hex()}")
        counts = dict(zip(MASKS, found, strict=True))
        for mask, count in counts.items():
            if bool(count) != (mask in self.template):
                raise IncompatibleState(f"the state has {count} rows under `{mask}`, expected {'none' if count else 'one or more'}")
        return counts

    def _unpack(self, name: str, group: Group, packed: Tensor, counts: Mapping[str, int]) -> State:
        """Raises IncompatibleState."""
        shapes = [self._shape(member, counts) for member in group.names]
        _check(name, packed, torch.uint8, torch.Size((count_packed_bytes(shapes, group.bits),)))
        tensors = [_make_room(shape, self.template[member]) for member, shape in zip(group.names, shapes, strict=True)]
        _check_finite(name, unpack(packed, group.base, group.bits, tensors))
        return dict(zip(group.names, tensors, strict=True))

    def _shape(self, name: str, counts: Mapping[str, int]) -> torch.Size:
        padded = [counts[mask] for mask in find_padded_axes(name)]
        return torch.Size((1, *padded, *self.template[name].shape[1 + len(padded) :]))


def make_head(digest: bytes, n_way: int, n_support: int, version: int = VERSION) -> Tensor:
    """`head`, as bytes in a tensor."""
    written = HEAD.pack(version, digest, n_way, n_support)
    return torch.frombuffer(bytearray(written + CHECK.pack(zlib.crc32(written))), dtype=torch.uint8)


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


def _save(tensors: Mapping[str, Tensor]) -> bytes:
    """What `safetensors.torch.save` gives, without its search for tensors that share memory: that takes longer than the writing."""
    return serialize({name: _point_at(tensor) for name, tensor in tensors.items()})


def _point_at(tensor: Tensor) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(dtype=dtype, shape=tensor.shape, data_ptr=tensor.data_ptr(), data_len=tensor.nbytes)


def _make_room(shape: torch.Size, template: Tensor) -> Tensor:
    """Memory as the learner lays it out: reading numbers that lie any other way would copy them for every answer."""
    return torch.empty(shape) if template.is_contiguous() else torch.empty_strided(shape, template.stride())


def _digest(params: Params) -> bytes:
    digest = hashlib.sha256()
    for name, param in params.items():
        digest.update(name.encode() + param.contiguous().numpy().tobytes())
    return digest.digest()[:8]


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    if tensor.dtype != dtype or tensor.shape != shape:
        found, expected = f"{tensor.dtype} {tuple(tensor.shape)}", f"{dtype} {tuple(shape)}"
        raise IncompatibleState(f"{name} is {found}, expected {expected}")
    if tensor.is_floating_point():
        _check_finite(name, is_finite(tensor))
    return tensor


def _check_finite(name: str, is_finite: bool) -> None:
    if not is_finite:
        raise IncompatibleState(f"{name} holds numbers that are not finite")
