"""Streams, and calls of one step: the whole sequence's numbers, bit for bit; state, weights, threads, bad input."""

import copy
import pickle
import threading

import numpy as np
import pytest
from common import DTYPES, KINDS, as_tuple, assert_close, equal, pick, random_case, state_of, state_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES, layers

import rnncore as rc
from rnncore import runtime

CELLS = [("RNN", {}), ("LSTM", {}), ("GRU", {}), ("GRU", {"reset_after": False})]
kinds = pytest.mark.parametrize("kind,options", KINDS)
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
            out = np.empty(y.shape[1:], layer.dtype) if how == "out" else None
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


@panels_only
@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(("forward",)), N=st.integers(1, 9), T=st.integers(1, 12), data=st.data())
def test_any_rows_are_streams_of_their_own(layer, N, T, data):
    """Steps of some sequences, of others, of none, of all, in any order: each is as in a stream of its own."""
    case = random_case(layer, T, N)
    width = case["dy"].shape[2]
    stream, own = layer.stream(N), [layer.stream() for _ in range(N)]
    stream.state = case["state"]
    for n in range(N):
        own[n].state = pick(layer, case["state"], [n])
    for x_t in case["x"]:
        rows = data.draw(st.none() | st.lists(st.integers(0, N - 1), unique=True))
        stepped = list(range(N)) if rows is None else rows
        expected = np.array([own[n].step(x_t[n]) for n in stepped], layer.dtype).reshape(len(stepped), width)
        out = np.empty_like(expected) if data.draw(st.booleans()) else None
        y = stream.step(x_t[stepped], out, rows=rows)
        assert equal(y, expected) and (out is None or y is out)
        for n in range(N):
            assert equal(as_tuple(stream.read([n])), as_tuple(own[n].state))


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("more", [{}, {"num_layers": 3}, {"bias": False}, {"batch_first": True}])
def test_a_stream_is_its_layer(kind, options, dtype, more, engine):
    layer = getattr(rc, kind)(7, 20, dtype=dtype, rng=0, **options, **more)
    x = np.random.default_rng(1).standard_normal((30, 3, 7)).astype(dtype)
    y, final = layer(x.swapaxes(0, 1) if layer.batch_first else x)
    stream = layer.stream(batch_size=3)
    steps = np.stack([stream.step(x_t) for x_t in x])
    assert_close(steps, y.swapaxes(0, 1) if layer.batch_first else y, dtype, "forward")
    assert_close(as_tuple(stream.state), as_tuple(final), dtype, "forward")


@panels_only
@kinds
def test_thousands_of_streams(kind, options):
    """A batch large enough for chunks of rows and for threads; a step of a third of them, in an order of their own."""
    layer = getattr(rc, kind)(24, 48, 2, rng=0, **options)
    x = np.random.default_rng(1).standard_normal((3, 3000, 24)).astype(np.float32)
    stream, few, some = layer.stream(3000), layer.stream(2), layer.stream(3000)
    rows = np.random.default_rng(2).permutation(3000)[:1000]
    for x_t in x:
        y = stream.step(x_t)
        assert equal(y[[5, 2999]], few.step(x_t[[5, 2999]])) and equal(y[rows], some.step(x_t[rows], rows=rows))
    assert equal(as_tuple(stream.state), as_tuple(layer(x, n_threads=1)[1]))
    assert equal(as_tuple(some.read(rows)), as_tuple(pick(layer, stream.state, rows)))
    assert not any(np.delete(a, rows, axis=1).any() for a in as_tuple(some.state))


@kinds
def test_one_step_calls_in_every_form(kind, options, engine):
    """The compiled path and the general one, which `n_threads` asks for, return the same, in memory of its own."""
    for batch_first in (False, True):
        layer = getattr(rc, kind)(5, 6, 2, batch_first=batch_first, rng=0, **options)
        rng = np.random.default_rng(2)
        for shape, N in [((1, 5), 1), ((1, 4, 5), 4), ((1, 1, 5), 1)]:
            if batch_first and len(shape) == 3:
                shape = (shape[1], 1, 5)
            x = rng.standard_normal(shape).astype(np.float32)
            shapes = [s if len(shape) == 3 else (s[0], s[2]) for s in state_shapes(layer, N)]
            state = state_of(layer, tuple(rng.standard_normal(s).astype(np.float32) for s in shapes))
            for given_state in (None, state, list(state) if kind == "LSTM" else state.tolist()):
                y, after = layer(x, given_state)
                y_general, after_general = layer(x, given_state, n_threads=1)
                assert equal(y, y_general) and y.shape == y_general.shape and y.flags.writeable
                assert equal(as_tuple(after), as_tuple(after_general)) and type(after) is type(after_general)
                assert not any(np.may_share_memory(y, a) for a in as_tuple(after))
                assert not any(np.may_share_memory(a, b) for a in as_tuple(after) for b in as_tuple(state))


@pytest.mark.parametrize("kind,options", CELLS)
@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_cells_on_both_paths(kind, options, shape):
    cell = getattr(rc, kind + "Cell")(5, 6, rng=0, **options)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    state = cell(x)
    slow = cell(x.tolist())
    assert equal(as_tuple(state), as_tuple(slow)) and as_tuple(state)[0].shape == (*shape[:-1], 6)
    assert equal(as_tuple(cell(x, state)), as_tuple(cell(x.tolist(), state)))


@kinds
def test_a_step_sees_changed_weights(kind, options):
    layer = getattr(rc, kind)(5, 6, 2, rng=0, **options)
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


@kinds
def test_state_and_reset(kind, options):
    layer = getattr(rc, kind)(3, 4, 2, rng=0, **options)
    stream = layer.stream(5)
    assert not any(a.any() for a in as_tuple(stream.state))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    y_1 = stream.step(x)
    kept = stream.state
    y_2 = stream.step(x)
    assert [a.shape for a in as_tuple(kept)] == state_shapes(layer, 5) and equal(as_tuple(kept)[0][1], y_1)
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


@kinds
def test_reading_and_writing_rows(kind, options):
    layer = getattr(rc, kind)(3, 4, 2, rng=0, **options)
    check_reading_and_writing_rows(layer)


def test_reading_and_writing_rows_of_a_jordan_network():
    check_reading_and_writing_rows(rc.JordanRNN(3, 4, 2, rng=0))


def check_reading_and_writing_rows(layer):
    """Sequences move between streams; copies all, in the shapes of states; the rest stays as it is."""
    stream, other = layer.stream(5), layer.stream(3)
    x = random_case(layer, 4, 8)["x"]
    for x_t in x:
        stream.step(x_t[:5])
        other.step(x_t[5:])
    before = stream.state
    read = stream.read([4, 0, 0])  # a row may be read twice
    assert [a.shape for a in as_tuple(read)] == state_shapes(layer, 3)
    assert equal(as_tuple(read), as_tuple(pick(layer, before, [4, 0, 0])))
    for a in as_tuple(read):
        a[...] = 7  # a copy
    assert equal(as_tuple(stream.state), as_tuple(before))

    stream.write([3, 1], other.read([0, 2]))
    after = stream.state
    assert equal(as_tuple(pick(layer, after, [3, 1])), as_tuple(other.read([0, 2])))
    assert equal(as_tuple(pick(layer, after, [0, 2, 4])), as_tuple(pick(layer, before, [0, 2, 4])))
    here, there = stream.step(x[0][[5, 7]], rows=[3, 1]), other.step(x[0][5:])[[0, 2]]  # they go on
    assert_close(here, there, "float32", "forward")
    stream.write([], stream.read([]))
    stream.write(np.int8(2), None)
    assert not any(a.any() for a in as_tuple(stream.read(2)))
    assert equal(as_tuple(stream.read([0, 4])), as_tuple(pick(layer, before, [0, 4])))
    stream.reset(rows=[4, 4])
    assert not any(a.any() for a in as_tuple(stream.read([4])))
    assert equal(as_tuple(stream.read([0])), as_tuple(pick(layer, before, [0])))


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
        (np.ones((2, 3)), np.empty((2, 4)), "of dtype float32, got float64$"),
        (np.ones((2, 3)), np.empty((3, 4), np.float32), r"expected out of shape \(2, 4\), got \(3, 4\)"),
        (np.ones((2, 3)), [[0] * 4] * 2, "expected out to be a writable array"),
        (np.ones((2, 3)), np.broadcast_to(np.float32(0), (2, 4)), "writable .*, got a read-only one$"),
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
        for use in (
            stream.reset, stream.read, lambda rows: stream.write(rows, None),
            lambda rows: stream.step(np.ones((1, 3)), rows=rows),
        ):  # fmt: skip
            with pytest.raises((TypeError, ValueError), match="rows"):
                use(rows)
    for use in (lambda: stream.write([0, 0], None), lambda: stream.step(np.ones((2, 3)), rows=[1, 1])):
        with pytest.raises(ValueError, match="expected each row at most once"):
            use()
    for x in (np.ones((2, 3)), np.ones(3), np.ones((1, 4))):
        with pytest.raises(ValueError, match="expected x_t of shape"):
            stream.step(x, rows=[1])
    for state in (before, (np.zeros((1, 4)),) * 2, np.zeros((1, 1, 4))):
        with pytest.raises((TypeError, ValueError)):
            stream.write([1], state)
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


class Named(rc.Stream):
    pass


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copy_of_a_subclass_is_one(again):
    stream = Named(rc.GRU(3, 4, rng=0), 2)
    stream.name = "left"
    y = stream.step(np.ones((2, 3)))
    other = again(stream)
    assert type(other) is Named and other.name == "left" and equal(other.state[0], y)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
@pytest.mark.parametrize("layer", [
    rc.LSTM(3, 4, 2, proj_size=2, peephole=True, rng=0), rc.GRU(3, 4, reset_after=False, rng=0),
    rc.JordanRNN(3, 4, 2, output_nonlinearity="softmax", rng=0), rc.LSTM(3, 4, 2, rng=0),
], ids=repr)  # fmt: skip
def test_copies_go_their_own_way(layer, again):
    stream = layer.stream(2)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    stream.step(x)
    other = again(stream)
    assert type(other) is rc.Stream and other.batch_size == 2 and repr(other) == repr(stream)
    y = stream.step(x)
    assert equal(other.step(x), y) and equal(as_tuple(other.state), as_tuple(stream.state))
    other.step(x)
    assert not equal(as_tuple(other.state)[0], as_tuple(stream.state)[0])
