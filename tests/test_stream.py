"""Streams, and calls of one step: the whole sequence's numbers, bit for bit; state, weights, threads, bad input."""

import copy
import pickle
import threading

import numpy as np
import pytest
from common import DTYPES, as_tuple, random_case, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES, equal, layers

import rnncore as rc
from rnncore import runtime

KINDS = ["RNN", "LSTM"]
panels_only = pytest.mark.skipif(runtime.engine != "panels", reason="the promise of bits is the panels engine's")


@panels_only
@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(("forward",)), N=st.integers(1, 9), T=st.integers(0, 20), data=st.data())
def test_steps_calls_and_chunks_are_the_sequence(layer, N, T, data):
    """Any mix of Stream.step, calls of one step, and chunks, handing the state on."""
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"])
    stream = layer.stream(N)
    stream.state = state = case["state"]
    t, parts = 0, []
    while t < T:
        how = data.draw(st.sampled_from(["step", "out", "call", "chunk"]))
        if how in ("step", "out"):
            stream.state = state
            out = np.empty((N, layer.hidden_size), layer.dtype) if how == "out" else None
            parts.append(stream.step(case["x"][t], out)[None])
            assert out is None or equal(out, parts[-1][0])
            state, t = stream.state, t + 1
        else:
            size = 1 if how == "call" else data.draw(st.integers(1, 5))
            part, state = layer(case["x"][t : t + size], state)
            parts.append(part)
            t += size
    assert equal(np.concatenate([y[:0], *parts]), y)
    assert equal(as_tuple(state), as_tuple(final))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"bias": False}, {"batch_first": True}])
def test_a_stream_is_its_layer(kind, dtype, options, engine):
    layer = getattr(rc, kind)(7, 20, dtype=dtype, rng=0, **options)
    x = np.random.default_rng(1).standard_normal((30, 3, 7)).astype(dtype)
    y, final = layer(x.swapaxes(0, 1) if layer.batch_first else x)
    stream = layer.stream(batch_size=3)
    steps = np.stack([stream.step(x_t) for x_t in x])
    np.testing.assert_allclose(steps, y.swapaxes(0, 1) if layer.batch_first else y, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(as_tuple(stream.state), as_tuple(final), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@panels_only
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_streams(kind):
    """A batch large enough for chunks of rows and for threads."""
    layer = getattr(rc, kind)(24, 48, 2, rng=0)
    x = np.random.default_rng(1).standard_normal((3, 3000, 24)).astype(np.float32)
    stream, few = layer.stream(3000), layer.stream(2)
    for x_t in x:
        assert equal(stream.step(x_t)[[5, 2999]], few.step(x_t[[5, 2999]]))
    assert equal(as_tuple(stream.state), as_tuple(layer(x, n_threads=1)[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_calls_in_every_form(kind, engine):
    """The compiled path and the general one, which `n_threads` asks for, return the same, in memory of its own."""
    for batch_first in (False, True):
        layer = getattr(rc, kind)(5, 6, 2, batch_first=batch_first, rng=0)
        rng = np.random.default_rng(2)
        for shape, states in [((1, 5), (2, 6)), ((1, 4, 5), (2, 4, 6)), ((1, 1, 5), (2, 1, 6))]:
            if batch_first and len(shape) == 3:
                shape = (shape[1], 1, 5)
            x = rng.standard_normal(shape).astype(np.float32)
            state = state_of(layer, tuple(rng.standard_normal(states).astype(np.float32) for _ in layer._state_names))
            for given_state in (None, state, list(state) if kind == "LSTM" else state.tolist()):
                y, after = layer(x, given_state)
                y_general, after_general = layer(x, given_state, n_threads=1)
                assert equal(y, y_general) and y.shape == y_general.shape and y.flags.writeable
                assert equal(as_tuple(after), as_tuple(after_general)) and type(after) is type(after_general)
                assert not any(np.may_share_memory(y, a) for a in as_tuple(after))
                assert not any(np.may_share_memory(a, b) for a in as_tuple(after) for b in as_tuple(state))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_cells_on_both_paths(kind, shape):
    cell = getattr(rc, kind + "Cell")(5, 6, rng=0)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    state = cell(x)
    slow = cell(x.tolist())
    assert equal(as_tuple(state), as_tuple(slow)) and as_tuple(state)[0].shape == (*shape[:-1], 6)
    assert equal(as_tuple(cell(x, state)), as_tuple(cell(x.tolist(), state)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_sees_changed_weights(kind):
    layer = getattr(rc, kind)(5, 6, 2, rng=0)
    stream, x = layer.stream(), np.ones((1, 5), np.float32)
    before = stream.step(x)
    state = stream.state
    with layer.editing() as params:
        params["weight_ih_l1"][...] += 1
    expected = layer(x, state_of(layer, tuple(a[:, 0] for a in as_tuple(state))))[0]
    after = stream.step(x)
    assert equal(after, expected) and not np.allclose(after, before)
    call = layer(x)[0]
    layer.load_state_dict({name: array * 0 for name, array in layer.parameters().items()})
    assert not np.array_equal(layer(x)[0], call)
    stream.reset()
    assert not stream.step(x).any()


@pytest.mark.parametrize("kind", KINDS)
def test_state_and_reset(kind):
    layer = getattr(rc, kind)(3, 4, 2, rng=0)
    stream = layer.stream(5)
    assert not any(a.any() for a in as_tuple(stream.state))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    y_1 = stream.step(x)
    kept = stream.state
    y_2 = stream.step(x)
    assert as_tuple(kept)[0].shape == (2, 5, 4) and equal(as_tuple(kept)[0][1], y_1)
    stream.state = kept
    assert equal(stream.step(x), y_2)
    as_tuple(kept)[0][...] = 7  # a copy, which the stream never sees
    stream.reset(rows=[3, 1])
    for a in as_tuple(stream.state):
        assert not a[:, [1, 3]].any() and a[:, [0, 2, 4]].all()
    stream.reset(rows=[])
    stream.reset(rows=np.int8(4))
    assert all(a[:, 0].all() and not a[:, 4].any() for a in as_tuple(stream.state))
    stream.reset()
    assert equal(stream.step(x), y_1)
    stream.state = None
    assert equal(stream.step(x), y_1)


def test_results_are_the_callers_own():
    stream = rc.LSTM(3, 4, rng=0).stream()
    first = stream.step(np.ones(3))
    kept = first.copy()
    stream.step(np.ones(3))
    first_state = stream.state
    stream.step(np.ones(3))
    assert equal(first, kept) and not equal(first_state[0], stream.state[0])


@panels_only
def test_out():
    layer = rc.LSTM(6, 6, rng=0)
    x = np.random.default_rng(0).standard_normal((40, 300, 6)).astype(np.float32)
    y = layer(x)[0]
    stream = layer.stream(300)
    plain, wide, turned = np.empty((300, 6), np.float32), np.empty((300, 9), np.float32), np.empty((6, 300), np.float32)

    class Mine(np.ndarray):
        pass

    outs = [plain, wide[:, 2:8], turned.T, plain.view(Mine)]
    for t in range(20):
        out = outs[t % 4]
        assert stream.step(x[t], out) is out and equal(np.asarray(out), y[t])
    buffer = np.empty(301 * 6, np.float32)  # a result over its own input, shifted: read before it is written
    for t, (start, end) in enumerate([(0, 0), (0, 6), (6, 0)], 20):
        x_t = buffer[start : start + 1800].reshape(300, 6)
        x_t[...] = x[t]
        assert equal(stream.step(x_t, out=buffer[end : end + 1800].reshape(300, 6)), y[t])
    single = rc.RNN(3, 4, rng=0).stream()
    out = np.empty(4, np.float32)
    assert single.step([1, 2, 3], out) is out


@pytest.mark.parametrize(
    "x,out,match",
    [
        (np.ones((2, 4)), None, r"expected x_t of shape \(2, 3\), got \(2, 4\)"),
        (np.ones(3), None, r"expected x_t of shape \(2, 3\), got \(3,\)"),
        (np.ones((1, 2, 3)), None, "x_t"),
        ("abc", None, "x_t"),
        (None, None, "x_t"),
        (np.ones((2, 3)) * 1j, None, "x_t"),
        (np.ones((2, 3)), np.empty((2, 4)), "float32"),
        (np.ones((2, 3)), np.empty((3, 4), np.float32), r"expected out of shape \(2, 4\), got \(3, 4\)"),
        (np.ones((2, 3)), [[0] * 4] * 2, "expected out to be a writable array"),
        (np.ones((2, 3)), np.broadcast_to(np.float32(0), (2, 4)), "writable"),
    ],
)
def test_bad_steps_change_nothing(x, out, match):
    layer = rc.LSTM(3, 4, rng=0)
    stream = layer.stream(2)
    stream.step(np.ones((2, 3)))
    before = stream.state
    with pytest.raises((TypeError, ValueError), match=match):
        stream.step(x, out)
    assert equal(stream.state, before)


@pytest.mark.parametrize("options,word", [({"bidirectional": True}, "bidirectional"), ({"reverse": True}, "reversed")])
def test_layers_that_cannot_stream(options, word):
    with pytest.raises(ValueError, match=word):
        rc.LSTM(3, 4, rng=0, **options).stream()


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2", None, True, 2**62])
def test_bad_batch_sizes(batch_size):
    with pytest.raises((TypeError, ValueError, MemoryError), match=r"batch_size|state"):
        rc.RNN(3, 4, rng=0).stream(batch_size)


def test_bad_states_and_rows():
    stream = rc.LSTM(3, 4, rng=0).stream(2)
    stream.step(np.ones((2, 3)))
    before = stream.state
    for state in (np.zeros((1, 2, 4)), (np.zeros((1, 2, 4)),) * 3, (np.zeros((2, 4)),) * 2, ("h", "c"), 1):
        with pytest.raises((TypeError, ValueError)):
            stream.state = state
    for rows in ([2], [-1], [[0, 5]], 1.5, "a", [True, False], object()):
        with pytest.raises((TypeError, ValueError), match="rows"):
            stream.reset(rows=rows)
    assert equal(stream.state, before)
    with pytest.raises(AttributeError):
        stream.batch_size = 3


def test_two_threads_inside_one_stream_is_an_error():
    """Made certain: the second step begins while the first still looks at its input."""
    layer = rc.RNN(3, 4, rng=0)
    stream = layer.stream()
    caught = []

    class Input:
        def __array__(self, dtype=None, copy=None):
            def meddle():
                for what in (lambda: stream.step(np.ones(3)), lambda: stream.state, stream.reset):
                    try:
                        what()
                    except RuntimeError as error:
                        caught.append(str(error))

            thread = threading.Thread(target=meddle)
            thread.start()
            thread.join()
            return np.ones(3, np.float32)

    y = stream.step(Input())
    assert len(caught) == 3 and all("another thread is inside" in text for text in caught)
    assert equal(y, layer(np.ones((1, 3), np.float32))[0][0])


def test_streams_side_by_side():
    layer = rc.LSTM(8, 64, 2, rng=0)
    x = np.random.default_rng(0).standard_normal((300, 1, 8)).astype(np.float32)
    expected = layer(x)[0]
    results = {}

    def serve(name):
        stream = layer.stream()
        results[name] = np.stack([stream.step(x_t) for x_t in x])

    threads = [threading.Thread(target=serve, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for y in results.values():
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert len(results) == 4


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_copies_go_their_own_way(again):
    stream = rc.LSTM(3, 4, 2, rng=0).stream(2)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    stream.step(x)
    other = again(stream)
    assert type(other) is rc.Stream and other.batch_size == 2 and repr(other) == repr(stream)
    y = stream.step(x)
    assert equal(other.step(x), y) and equal(other.state, stream.state)
    other.step(x)
    assert not equal(other.state[0], stream.state[0])
