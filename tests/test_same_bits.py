"""Promise 1: a sequence's numbers do not depend on the batch it rides in, on cuts in time, or on the way it is called.

All comparisons are of bits, in the panels engine.
"""

import copy

import numpy as np
import pytest
from common import DTYPES, KINDS, NONLINEARITIES, OUTPUT_NONLINEARITIES, as_tuple, equal, pick, random_case, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES, layers, lengths_of

import rnncore as rc
from rnncore._kernels import driver


@pytest.fixture(autouse=True)
def panels():
    before = rc.runtime.engine
    driver.use("panels")
    yield
    driver.use(before)


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(1, 20), T=st.integers(0, 30), data=st.data())
def test_any_batch_and_place(layer, N, T, data):
    """Sequences of one length or of several: any of them, in any order and number."""
    lengths = data.draw(lengths_of(N, T))
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"], lengths=lengths)
    chosen = data.draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=25))
    some = None if lengths is None else [lengths[n] for n in chosen]
    y_part, final_part = layer(case["x"][:, chosen], pick(layer, case["state"], chosen), lengths=some)
    assert equal(y_part, y[:, chosen]) and equal(as_tuple(final_part), as_tuple(pick(layer, final, chosen)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(1, 12), T=st.integers(0, 40), data=st.data())
def test_a_ragged_batch_is_each_sequence_alone(layer, N, T, data):
    lengths = data.draw(lengths_of(N, T).filter(bool))
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"], lengths=lengths)
    for n, length in enumerate(lengths):
        y_alone, final_alone = layer(case["x"][:length, [n]], pick(layer, case["state"], [n]))
        assert equal(y[:length, [n]], y_alone) and equal(as_tuple(pick(layer, final, [n])), as_tuple(final_alone))
        assert not y[length:, n].any()


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(("forward",)), N=st.integers(1, 12), T=st.integers(0, 20), data=st.data())
def test_a_ragged_batch_is_a_stream_that_steps_the_rows_still_running(layer, N, T, data):
    lengths = data.draw(lengths_of(N, T).filter(bool))
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"], lengths=lengths)
    stream = layer.stream(N)
    stream.state = case["state"]
    for t in range(T):
        running = data.draw(st.permutations([n for n in range(N) if lengths[n] > t]))
        assert equal(stream.step(case["x"][t, running], rows=running), y[t, running])
    assert equal(as_tuple(stream.state), as_tuple(final))


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(("forward", "reverse")), N=st.integers(1, 9), T=st.integers(0, 300), data=st.data())
def test_any_cut_in_time(layer, N, T, data):
    lengths = data.draw(lengths_of(N, T))
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"], lengths=lengths)
    cuts = sorted(data.draw(st.lists(st.integers(0, T), max_size=5)))
    pieces = list(zip([0, *cuts], [*cuts, T], strict=True))
    state, parts = case["state"], []
    for start, end in reversed(pieces) if layer.reverse else pieces:
        some = None if lengths is None else np.clip(lengths, start, end) - start
        part, state = layer(case["x"][start:end], state, lengths=some)
        parts.append(part)
    assert equal(np.concatenate(parts[::-1] if layer.reverse else parts), y)
    assert equal(as_tuple(state), as_tuple(final))


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(1, 9), T=st.integers(0, 200), data=st.data())
def test_training_forward_is_inference(layer, N, T, data):
    lengths = data.draw(lengths_of(N, T))
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"], lengths=lengths)
    y_train, final_train, _ = layer.forward(case["x"], case["state"], lengths=lengths)
    assert equal(y_train, y) and equal(as_tuple(final_train), as_tuple(final))
    alone = layer(case["x"], case["state"], lengths=lengths, return_sequence=False)[1]
    assert equal(as_tuple(alone), as_tuple(final))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "kind,options",
    [("LSTM", {}), ("GRU", {}), ("GRU", {"reset_after": False})]
    + [("RNN", {"nonlinearity": f}) for f in NONLINEARITIES],
)
@pytest.mark.parametrize("H", [1, 5, 16, 23, 64, 70, 100])
def test_cells_are_steps_of_their_layer(kind, options, H, dtype):
    layer = getattr(rc, kind)(7, H, dtype=dtype, rng=0, **options)
    cell = getattr(rc, kind + "Cell")(7, H, dtype=dtype, **options)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in layer.parameters().items()})
    case = random_case(layer, 12, 5)
    y, final = layer(case["x"], case["state"])
    state = state_of(layer, tuple(a[0] for a in as_tuple(case["state"])))
    for t in range(12):
        row = cell(case["x"][t, 2], state_of(layer, tuple(a[2] for a in as_tuple(state))))
        state = cell(case["x"][t], state)
        assert equal(as_tuple(state)[0], y[t]) and equal(as_tuple(row)[0], y[t, 2])
    assert equal(as_tuple(state), tuple(a[0] for a in as_tuple(final)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind,options", KINDS)
def test_every_batch_size(kind, options, dtype):
    """All shapes of tiles, and what is left over beside them."""
    check_every_batch_size(getattr(rc, kind)(19, 37, dtype=dtype, rng=0, **options), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
def test_every_batch_size_of_a_jordan_network(output_nonlinearity, dtype):
    check_every_batch_size(rc.JordanRNN(19, 37, 21, "tanh", output_nonlinearity, dtype=dtype, rng=0), dtype)


def check_every_batch_size(layer, dtype):
    x = np.random.default_rng(0).standard_normal((4, 40, 19)).astype(dtype)
    y = layer(x)[0]
    for N in range(1, 40):
        assert equal(layer(x[:, :N])[0], y[:, :N])
        assert equal(layer(x[:, N:])[0], y[:, N:])


@pytest.mark.parametrize("kind,options", KINDS)
def test_copies_share_their_numbers(kind, options):
    layer = getattr(rc, kind)(7, 20, 2, rng=0, **options)
    x = np.random.default_rng(0).standard_normal((9, 3, 7)).astype(np.float32)
    assert equal(copy.deepcopy(layer)(x)[0], layer(x)[0])
