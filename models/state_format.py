"""One task's adapted state as bytes, in less than half of its float32 size: what a cache outside the device holds.

A head, and behind it the numbers: what shape they have is known from the counts in the head, so nothing else is written. What becomes of a
state's tensors:

| tensor                                                       | stored                                                             |
|--------------------------------------------------------------|--------------------------------------------------------------------|
| float32, a meta-parameter has its name and shape             | as the difference from that: the inner loop moves it little        |
| such a one of two or more axes and `LEAST_COARSE` numbers    | in 8 or 12 bits a number, each by itself (`models.packed_weights`) |
| every other float32                                          | in 20 bits a number, all together as `fine` (`models.packing`)     |
| `class.mask`, `example.mask`                                 | not: a lane alone has no padding, so counts say it all             |
| of another type                                              | as it is, in the order of their names                              |

Numbers that share a scale are those of one place of the first axis after the lanes, so that a class is rounded alike at every place. The
widths are measured: classifiers need 18 bits for logits within a thousandth, float16 is ten times too coarse for them. How many bits
kernels need depends on how far they moved, so each state has its own (`models.kernel_bits`).
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import packed_weights, packing_native
from models.errors import IncompatibleState
from models.kernel_bits import choose_bits, foresee_errors, weigh_channels
from models.native.library import find_packing, find_packing_of_many
from models.packing import Room, pack, unpack
from models.packing_native import Moves, are_native, bring_back, list_numbers
from models.resident import Arrangement, Resident, arrange
from models.slab import Slab
from models.state_head import HEAD_BYTES, Extent, make_head, read_head
from models.support import MASKS, Params, State, is_finite, padded_axes

LEAST_COARSE = 1024
"""Smaller tensors (biases, scales, a first convolution) move furthest and matter most, and cost little."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StateFormat:
    """How states of one learner with one set of meta-parameters are written.

    template: any such state. digest: of the meta-parameters. coarse: what each kernel differs from, as `packed_weights` has it.
    weighed: how much each of their channels counts, as `kernel_bits` has it. fine: those of 20 bits; the first of them differ from `base`,
    one vector. plain: those that are stored as they are.
    keeps: of `coarse` those that stay packed when a state is brought back, to what answers by them so. slab: the memory for states.
    """

    template: State
    digest: bytes
    coarse: Mapping[str, Tensor]
    weighed: Array
    fine: tuple[str, ...]
    base: Tensor
    plain: tuple[str, ...]
    keeps: frozenset[str] = frozenset()
    slab: Slab = field(default_factory=Slab, compare=False)

    def encode(self, state: State) -> bytes:
        """One lane's state on the host as bytes, the same for the same state. They decode to numbers near by, not to the same."""
        lines = [packed_weights.read_lines(state[name], base) for name, base in self.coarse.items()]
        largest = [packed_weights.measure(mine, base) for mine, base in zip(lines, self.coarse.values(), strict=True)]
        [bits] = choose_bits(foresee_errors(torch.cat([torch.empty(0), *largest]).unsqueeze(0).numpy(), self.weighed))
        packed = [packed_weights.pack(*each, bits) for each in zip(lines, self.coarse.values(), largest, strict=True)]
        if self.fine:
            packed.append(pack([state[name] for name in self.fine], self.base))
        plain = [state[name].contiguous().view(torch.uint8) for name in self.plain]
        head = make_head(self.digest, self._find_extent(state, bits))
        return head + b"".join(tensor.numpy().tobytes() for tensor in (*packed, *plain))

    def encode_all(self, states: Sequence[State]) -> list[bytes]:
        """Each lane's state as `encode` writes it, in two calls that leave the interpreter to others while they measure and pack."""
        library = find_packing_of_many()
        if library is None or not all(packing_native.is_native([state[name] for name in self.fine]) for state in states):
            return [self.encode(state) for state in states]
        lines = [[packed_weights.read_lines(state[name], base) for name, base in self.coarse.items()] for state in states]
        pairs = [pair for each in lines for pair in zip(each, self.coarse.values(), strict=True)]
        largest = packing_native.measure(library, pairs).reshape(len(states), len(self.weighed))
        writing, bits = packing_native.Writing(), choose_bits(foresee_errors(largest, self.weighed))
        written = [self._begin(writing, *each) for each in zip(states, lines, largest, bits, strict=True)]
        writing.run(library)
        return written

    def _begin(self, writing: packing_native.Writing, state: State, lines: Sequence[Tensor], largest: Array, bits: int) -> bytes:
        """A state's bytes, in which all but what is packed is written. lines: of its kernels; largest: what `measure` found of them."""
        extent = self._find_extent(state, bits)
        layout, head, channel = self._layouts(extent), make_head(self.digest, extent), 0
        written, address = packing_native.make_bytes(layout.n_bytes)
        ctypes.memmove(address, head, len(head))
        for name in self.plain:
            ctypes.memmove(address + layout.parts[name][1], state[name].contiguous().data_ptr(), layout.parts[name][0])
        for (name, base), mine in zip(self.coarse.items(), lines, strict=True):
            until = channel + base.shape[1]
            writing.add_weight(mine, base, largest[channel:until], bits, address + layout.parts[name][1])
            channel = until
        if self.fine:
            writing.add_group([state[name] for name in self.fine], self.base, address + layout.parts["fine"][1])
        return written

    def _find_extent(self, state: State, bits: int) -> Extent:
        n_way, n_support = (state[mask].shape[1] if mask in state else 0 for mask in MASKS)
        return Extent(bits, n_way, n_support)

    def decode(self, encoded: bytes) -> Resident:
        """One lane's state on the CPU, the same for the same bytes. Raises IncompatibleState when they are not of this format.

        In one call of C: who brings it back holds the interpreter, and torch would give it away for each tensor, see decision 20.
        """
        layout = self._layouts_of_heads(encoded[:HEAD_BYTES])
        if len(encoded) != layout.n_bytes:
            of = f"of {layout.extent.n_way} classes and {layout.extent.n_support} examples"
            raise IncompatibleState(f"the state is {len(encoded)} bytes, expected {layout.n_bytes} {of}")
        resident = Resident(self.slab.take(layout.arrangement.n_bytes), layout.arrangement)
        library = find_packing()
        if library is None or layout.moves is None or not bring_back(library, encoded, resident.memory, layout.moves):
            self._move(resident, layout, encoded)
        self._unpack(resident, layout, encoded)
        return resident

    def hold(self, state: State) -> Resident:
        """One lane's state on the host, copied as it is to memory of its own: what `decode` gives, but not rounded, and nothing packed."""
        arrangement = arrange(state)
        resident = Resident(self.slab.take(arrangement.n_bytes), arrangement)
        for name, tensor in resident.state.items():
            tensor.copy_(state[name])
        return resident

    @cached_property
    def _layouts_of_heads(self) -> Callable[[bytes], _Layout]:
        """Of the same few heads again and again."""
        return lru_cache(maxsize=256)(lambda head: self._layouts(self._read_head(head)))

    def _read_head(self, encoded: bytes) -> Extent:
        extent = read_head(encoded, self.digest)
        for mask, count in zip(MASKS, extent[1:], strict=True):
            if bool(count) != (mask in self.template):
                raise IncompatibleState(f"the state has {count} rows under `{mask}`, expected {'none' if count else 'one or more'}")
        return extent

    def _move(self, resident: Resident, layout: _Layout, encoded: bytes) -> None:
        """What `bring_back` does, tensor by tensor: where there is no C, and to say what is wrong. Raises IncompatibleState."""
        bytes_, places = resident.memory.numpy(), resident.arrangement.places
        for name in (*self.keeps, *self.plain):
            bytes_[places[name].begin : places[name].end] = layout.find(encoded, name)
        for name, base in self.coarse.items():
            _check_finite(name, packed_weights.is_finite(layout.find(encoded, name), base))
        for mask in MASKS:
            if mask in places:
                bytes_[places[mask].begin : places[mask].end] = True
        if self.fine:
            _check_finite("fine", unpack(layout.find(encoded, "fine"), self.base, resident.memory, layout.fine))

    @cached_property
    def _unfinished(self) -> Sequence[str]:
        """What is to be looked at once the C is done: kernels that do not stay packed, and floats that are as they were."""
        floats = [name for name in self.plain if self.template[name].is_floating_point()]
        return [*(name for name in self.coarse if name not in self.keeps), *floats]

    def _unpack(self, resident: Resident, layout: _Layout, encoded: bytes) -> None:
        """The kernels that do not stay packed, and a look at what C does not know. Raises IncompatibleState."""
        for name in self._unfinished:
            if name in self.coarse:
                base, place = self.coarse[name], resident.arrangement.places[name]
                packed_weights.unpack(layout.find(encoded, name), base, layout.extent.bits, place.view(resident.memory))
            else:
                _check_finite(name, is_finite(resident.state[name]))

    @cached_property
    def _order(self) -> Sequence[str]:
        """How tensors lie in memory: the small ones first and together, so that they come into a cache together."""
        return sorted(self.template, key=lambda name: (name in self.coarse, name))

    @cached_property
    def _layouts(self) -> Callable[[Extent], _Layout]:
        return lru_cache(maxsize=256)(self._lay_out)

    def _lay_out(self, extent: Extent) -> _Layout:
        of_mask = dict(zip(MASKS, extent[1:], strict=True))
        tensors = {name: _resize(name, self.template[name], of_mask) for name in self._order}
        arrangement = arrange(tensors, {name: self.coarse[name] for name in self.keeps}, extent.bits)
        fine = Room(tuple(arrangement.places[name] for name in self.fine))
        sizes = {name: packed_weights.count_packed_bytes(base, extent.bits) for name, base in self.coarse.items()}
        sizes |= {"fine": fine.packed_bytes} if self.fine else {}
        sizes |= {name: arrangement.places[name].n_bytes for name in self.plain}
        ends = list(accumulate(sizes.values(), initial=HEAD_BYTES))
        parts = dict(zip(sizes, zip(sizes.values(), ends, strict=False), strict=True))
        return _Layout(extent, arrangement, fine, parts, ends[-1], self._plan_moves(arrangement, fine, parts))

    def _plan_moves(self, arrangement: Arrangement, fine: Room, parts: Mapping[str, tuple[int, int]]) -> Moves | None:
        """None where the C cannot do all of it."""
        places = arrangement.places
        if not are_native(fine.places):
            return None
        copies = [(parts[name][1], places[name].begin, parts[name][0]) for name in (*sorted(self.keeps), *self.plain)]
        ones = [(places[mask].begin, places[mask].n_bytes) for mask in MASKS if mask in places]
        scales = [(parts[name][1], base.shape[1]) for name, base in self.coarse.items()]
        begin = parts["fine"][1] if self.fine else HEAD_BYTES
        return Moves(list_numbers(copies), list_numbers(ones), list_numbers(scales), fine.blocks, self.base, begin)


@dataclass(frozen=True)
class _Layout:
    """Where states of one extent lie. parts: of the `n_bytes` that are written, how many are each tensor's, or all `fine` ones', and where
    these begin. moves: what the C makes of them."""

    extent: Extent
    arrangement: Arrangement
    fine: Room
    parts: Mapping[str, tuple[int, int]]
    n_bytes: int
    moves: Moves | None

    def find(self, encoded: bytes, name: str) -> Array:
        """A part of what was written."""
        return np.frombuffer(encoded, np.uint8, *self.parts[name])


def _resize(name: str, model: Tensor, counts: Mapping[str, int]) -> Tensor:
    """A tensor without numbers, as one of another state is shaped and laid out."""
    padded = [counts[mask] for mask in padded_axes(name)]
    shape = (1, *padded, *model.shape[1 + len(padded) :])
    return torch.empty(shape, dtype=model.dtype, device="meta") if padded else model


def describe_states(template: State, params: Params) -> StateFormat:
    """The format of the states that look like `template` and come from meta-parameters `params`."""
    host = {name: param.detach().cpu() for name, param in sorted(params.items())}
    floats = sorted(name for name, tensor in template.items() if tensor.dtype == torch.float32)
    moved = [name for name in floats if _is_moved(host.get(name), template[name])]
    coarse = [name for name in moved if host[name].dim() > 1 and host[name].numel() >= LEAST_COARSE]
    fine = [name for name in moved if name not in coarse]
    base = torch.cat([torch.empty(0), *(host[name].flatten() for name in fine)])
    plain = template.keys() - set(floats) - set(MASKS)
    bases = {name: packed_weights.make_base(host[name]) for name in coarse}
    fine += [name for name in floats if name not in moved]
    weighed = weigh_channels([*bases.values()])  # here, not with the first state: it takes milliseconds, and a request would wait
    return StateFormat(template, _digest(host), bases, weighed, tuple(fine), base, tuple(sorted(plain)))


def _is_moved(param: Tensor | None, model: Tensor) -> bool:
    return param is not None and model.dtype == param.dtype and model.shape[1:] == param.shape


def _digest(params: Params) -> bytes:
    digest = hashlib.sha256()
    for name, param in params.items():
        digest.update(name.encode() + param.contiguous().numpy().tobytes())
    return digest.digest()[:8]


def _check_finite(name: str, is_finite: bool) -> None:
    if not is_finite:
        raise IncompatibleState(f"{name} holds numbers that are not finite")
