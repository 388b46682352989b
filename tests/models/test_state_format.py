"""States as bytes: small, near to what they were made from, and refused when they are anything else."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from models import state_format
from models.artifact import BUNDLED, Initializer, list_bundled, load_initializer
from models.errors import IncompatibleState
from models.methods import build_learner
from models.native.library import find_packing
from models.packed_weights import MOST_SCALE
from models.serving import adapt_lanes, make_template
from models.state_format import StateFormat, describe_states
from models.state_head import HEAD_BYTES, VERSION, Extent, make_head, read_head
from models.support import Params, State, Support, make_support
from tests.models.test_initializers import draw

LEARNER = build_learner(
    {
        "method": "maml",
        "kind": "classification",
        "input_shape": [1, 16, 16],
        "inner_steps": 2,
        "backbone": {"kind": "conv4", "filters": 16, "groups": 4},
    }
)
PARAMS: Params = LEARNER.init(torch.Generator().manual_seed(0))
FORMAT = describe_states(make_template(LEARNER, PARAMS), PARAMS)
KERNEL = "body.conv2.weight"


def make_state(n_way: int = 3, seed: int = 0, *, params: Params = PARAMS) -> State:
    inputs = torch.rand(n_way, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return adapt_lanes(LEARNER, params, [make_support(inputs, torch.arange(n_way), n_way)], 2)[0].state


STATE = make_state()
ENCODED = FORMAT.encode(STATE)
NEAR = {**STATE, **{name: PARAMS[name] + (STATE[name] - PARAMS[name]) / 1000 for name in FORMAT.coarse}}
"""A state that moved so little that eight bits do."""


def read_bits(encoded: bytes) -> int:
    return read_head(encoded, FORMAT.digest).bits


def make_example_state(n_way: int, n_support: int) -> State:
    return {
        "class.mask": torch.ones(1, n_way, dtype=torch.bool),
        "example.mask": torch.ones(1, n_support, dtype=torch.bool),
        "example.feature": torch.rand(1, n_support, 4),
        "example.target": torch.arange(n_support).unsqueeze(0) % n_way,
        "example.threshold": torch.rand(1, n_support, 2, dtype=torch.float64),
    }


EXAMPLES = describe_states(make_example_state(2, 2), {"scale": torch.ones(3)})


def assert_near(decoded: State, state: State, name: str, bits: int, base: torch.Tensor | float = 0.0) -> None:
    rows = (state[name] - base).abs().flatten(min(2, state[name].dim() - 1)).amax(-1)
    step = rows.view(*rows.shape, *[1] * (state[name].dim() - rows.dim())) * (2.0**-bits * 1.001)
    rounding = state[name].abs().max() * 2.0**-22
    assert ((decoded[name] - state[name]).abs() <= step + rounding).all()


@pytest.mark.parametrize(("state", "bits"), [(STATE, 12), (NEAR, 8)])
def test_every_kind_of_tensor_keeps_within_its_bound(state: State, bits: int) -> None:
    encoded = FORMAT.encode(state)
    decoded = FORMAT.decode(encoded).state
    assert decoded.keys() == STATE.keys()
    assert all(decoded[name].shape == tensor.shape and decoded[name].dtype == tensor.dtype for name, tensor in STATE.items())
    assert read_bits(encoded) == bits
    assert_near(decoded, state, KERNEL, bits, PARAMS[KERNEL])
    for name in ("body.conv1.weight", "body.norm2.scale"):
        assert_near(decoded, STATE, name, 20, PARAMS[name])
    for name in ("class.weight", "class.bias"):
        assert_near(decoded, STATE, name, 20)
    assert torch.equal(decoded["class.mask"], STATE["class.mask"])


def test_integers_and_wide_floats_come_back_as_they_were_and_rows_of_examples_may_be_any_number() -> None:
    state = make_example_state(3, 7)
    decoded = EXAMPLES.decode(EXAMPLES.encode(state)).state
    assert decoded.keys() == state.keys()
    for name in state.keys() - {"example.feature"}:
        assert torch.equal(decoded[name], state[name])
    assert_near(decoded, state, "example.feature", 20)


def test_the_same_state_gives_the_same_bytes_and_the_same_bytes_the_same_state() -> None:
    assert FORMAT.encode({name: STATE[name].clone() for name in reversed(STATE)}) == ENCODED
    first, second = FORMAT.decode(ENCODED).state, FORMAT.decode(ENCODED).state
    assert all(torch.equal(first[name], second[name]) for name in STATE)


@pytest.mark.parametrize("is_native", [True, False])
def test_states_that_are_written_together_are_the_bytes_of_each(is_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_native:
        monkeypatch.setattr(state_format, "find_packing_of_many", lambda: None)
    for states_format, states in (
        (FORMAT, [*(make_state(n_way, seed) for seed, n_way in enumerate((3, 5, 3))), NEAR, STATE]),
        (EXAMPLES, [make_example_state(2, n_support) for n_support in (2, 7)]),
    ):
        assert states_format.encode_all(states) == [states_format.encode(state) for state in states]
        assert states_format.encode_all([]) == []


def test_kernels_in_another_order_of_memory_are_written_as_the_same_bytes() -> None:
    turned = {name: tensor.contiguous() for name, tensor in STATE.items()}
    assert turned[KERNEL].stride() != STATE[KERNEL].stride()
    assert FORMAT.encode_all([turned, STATE]) == [ENCODED, ENCODED]


@pytest.mark.skipif(find_packing() is None, reason="SKIPPED-COMPILER: models/native was not built")
@pytest.mark.parametrize("keeps", [False, True])
def test_c_and_numpy_bring_back_the_same_bytes(keeps: bool) -> None:
    for format_, state in ((FORMAT, STATE), (FORMAT, NEAR), (EXAMPLES, make_example_state(3, 7))):
        format_ = replace(format_, keeps=frozenset(format_.coarse) if keeps else frozenset())
        encoded = format_.encode(state)
        ours = format_.decode(encoded)
        with patch.object(state_format, "find_packing", return_value=None):
            reference = format_.decode(encoded)
        for place in ours.arrangement.places.values():
            assert torch.equal(ours.memory[place.begin : place.end], reference.memory[place.begin : place.end])


@pytest.mark.parametrize("scale", [MOST_SCALE * 1.01, -MOST_SCALE * 1.01, math.nan, math.inf])
def test_a_scale_of_which_a_number_could_be_infinite_is_refused_wherever_it_stands(scale: float) -> None:
    format_ = replace(FORMAT, keeps=frozenset(FORMAT.coarse))
    begin, channels = format_._layouts(Extent(read_bits(ENCODED), 3, 0)).parts[KERNEL][1], FORMAT.coarse[KERNEL].shape[1]
    for channel in (0, channels - 1):
        spoilt = bytearray(ENCODED)
        struct.pack_into("<f", spoilt, begin + 4 * channel, scale)
        with pytest.raises(IncompatibleState, match=KERNEL):
            format_.decode(bytes(spoilt))


def test_a_class_is_rounded_alike_at_every_place() -> None:
    order = torch.tensor([2, 0, 1])
    permuted = {name: tensor[:, order] if name.startswith("class.") else tensor for name, tensor in STATE.items()}
    decoded, moved = FORMAT.decode(ENCODED).state, FORMAT.decode(FORMAT.encode(permuted)).state
    assert all(torch.equal(moved[name], decoded[name][:, order]) for name in ("class.weight", "class.bias"))


def open_bundled(name: str) -> tuple[Initializer, StateFormat]:
    initializer = load_initializer(BUNDLED / name)
    return initializer, describe_states(make_template(initializer.learner, initializer.params), initializer.params)


def adapt(initializer: Initializer, support: Support, steps: int | None = None) -> State:
    return initializer.learner.adapt(initializer.params, support, steps).state


@pytest.mark.parametrize("name", [folder.name for folder in list_bundled()])
def test_answers_of_the_bundled_initializers_move_by_less_than_a_thousandth(name: str) -> None:
    """Of a logit; of the largest where that is more than 50, and of the largest value in regression, where values have a unit."""
    initializer, format_ = open_bundled(name)
    is_classification = initializer.learner.kind == "classification"
    for seed, (n_way, k_shot, steps) in enumerate([(5, 1, None), (5, 5, None), (8, 2, initializer.card.limits.max_steps or None)]):
        episode = draw(initializer, n_way, k_shot, seed)
        state = adapt(initializer, episode.support, steps)
        rounded = format_.decode(format_.encode(state)).state
        with torch.no_grad():
            exact, found = (initializer.learner.predict(initializer.params, s, episode.query_inputs) for s in (state, rounded))
        largest = float(exact.abs().max())
        assert float((found - exact).abs().max()) <= 1e-3 * (max(1, largest / 50) if is_classification else max(1, largest))


@pytest.mark.parametrize("name", ["omniglot-maml", "omniglot-metasgd", "omniglot-protomaml", "sinusoid-maml"])
def test_a_full_fine_tune_takes_less_than_half_of_its_weights(name: str) -> None:
    initializer, format_ = open_bundled(name)
    state = adapt(initializer, draw(initializer, 5, 1, 0).support)
    assert len(format_.encode(state)) <= sum(tensor.nbytes for tensor in state.values()) / 2


@pytest.mark.parametrize("name", ["omniglot-anil", "omniglot-protonet"])
def test_a_head_of_five_classes_takes_four_kilobytes_at_most(name: str) -> None:
    initializer, format_ = open_bundled(name)
    assert len(format_.encode(adapt(initializer, draw(initializer, 5, 5, 0).support))) <= 4096


def test_states_of_other_weights_or_of_another_format_say_what_was_expected() -> None:
    others = {name: tensor + 1 for name, tensor in PARAMS.items()}
    with pytest.raises(IncompatibleState, match=f"expected format {VERSION} from {FORMAT.digest.hex()}"):
        FORMAT.decode(describe_states(FORMAT.template, others).encode(STATE))
    with pytest.raises(IncompatibleState, match=f"no head of format {VERSION}"):
        FORMAT.decode(save({name: tensor.contiguous() for name, tensor in STATE.items()}))
    head = make_head(FORMAT.digest, Extent(12, 3, 0), VERSION + 1)
    with pytest.raises(IncompatibleState, match=f"format {VERSION + 1} .* expected format {VERSION}"):
        FORMAT.decode(head + ENCODED[HEAD_BYTES:])


def replace_head(encoded: bytes, format_: StateFormat, classes: int, examples: int, bits: int = 12) -> bytes:
    return make_head(format_.digest, Extent(bits, classes, examples)) + encoded[HEAD_BYTES:]


FEWER, MORE = ENCODED[:-1], ENCODED + b"0"


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (b"no state", f"the state is 8 bytes, expected a head of {HEAD_BYTES} and more"),
        (b"no state, but longer than its head", f"no head of format {VERSION}"),
        (FEWER, rf"the state is {len(FEWER)} bytes, expected {len(ENCODED)} of 3 classes and 0 examples"),
        (MORE, rf"the state is {len(MORE)} bytes, expected {len(ENCODED)} of 3 classes and 0 examples"),
        (bytes([ENCODED[0] ^ 1]) + ENCODED[1:], "its checksum is not that of its bytes"),
        (replace_head(ENCODED, FORMAT, 3, 0, 9), r"the state has 9 bits for a kernel's number, expected one of \(8, 12\)"),
        (replace_head(ENCODED, FORMAT, 3, 0, 8), rf"the state is {len(ENCODED)} bytes, expected \d+ of 3 classes"),
        (replace_head(ENCODED, FORMAT, 4, 0), rf"the state is {len(ENCODED)} bytes, expected \d+ of 4 classes"),
        (replace_head(ENCODED, FORMAT, 0, 0), r"0 rows under `class.mask`, expected one or more"),
        (replace_head(ENCODED, FORMAT, 3, 1), r"1 rows under `example.mask`, expected none"),
        (ENCODED[:HEAD_BYTES] + b"\xff" * (len(ENCODED) - HEAD_BYTES), r"body\.conv2\.weight holds numbers that are not finite"),
        (FORMAT.encode({**STATE, "class.bias": STATE["class.bias"] * torch.nan}), "fine holds numbers that are not finite"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(spoilt: bytes, words: str) -> None:
    with pytest.raises(IncompatibleState, match=words):
        FORMAT.decode(spoilt)


def test_wide_floats_that_are_not_finite_are_refused() -> None:
    state = {**make_example_state(3, 7), "example.threshold": torch.full((1, 7, 2), torch.nan, dtype=torch.float64)}
    with pytest.raises(IncompatibleState, match=r"example\.threshold holds numbers that are not finite"):
        EXAMPLES.decode(EXAMPLES.encode(state))


def test_the_most_examples_that_a_head_can_claim_make_no_memory() -> None:
    with pytest.raises(IncompatibleState, match=r"expected \d+ of 3 classes and 4294967295 examples"):
        EXAMPLES.decode(replace_head(EXAMPLES.encode(make_example_state(3, 7)), EXAMPLES, 3, 2**32 - 1))


SMALL = EXAMPLES.encode(make_example_state(2, 3))


@settings(max_examples=300)
@given(st.data())
def test_spoilt_bytes_are_refused_or_are_a_state_of_the_right_shape(data: st.DataObject) -> None:
    """A byte of a number may be another number: that no format can know. Nothing else gets through, and nothing else is raised."""
    spoilt = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(spoilt[: data.draw(st.integers(0, len(spoilt)) | st.just(len(spoilt)))])
    try:
        state = EXAMPLES.decode(cut).state
    except IncompatibleState:
        return
    assert {name: (t.dtype, t.shape) for name, t in state.items()} == {n: (t.dtype, t.shape) for n, t in make_example_state(2, 3).items()}


@given(st.binary(max_size=200))
def test_bytes_of_chance_are_refused(chance: bytes) -> None:
    with pytest.raises(IncompatibleState):
        EXAMPLES.decode(chance)


def test_a_state_of_fewer_classes_says_how_many_bytes_were_expected() -> None:
    fewer = replace(FORMAT, template=STATE).encode({**STATE, "class.bias": STATE["class.bias"][:, :2]})
    with pytest.raises(IncompatibleState, match=rf"the state is {len(fewer)} bytes, expected {len(ENCODED)}"):
        FORMAT.decode(fewer)
