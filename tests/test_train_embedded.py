"""Embedded: the bits of lookup and layer one after the other, their gradients, tables never stale, bad input."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from common import DTYPES, KINDS, TOLERANCE, as_tuple, assert_close, equal, random_case, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

import rnncore as rc
from rnncore import runtime
from rnncore._kernels import driver
from rnncore.train import Embedded, Embedding, embedded

ALL = [*KINDS, ("RNN", {"nonlinearity": "relu"}), ("RNN", {"nonlinearity": "sigmoid"})]
options = st.fixed_dictionaries(
    {},
    optional={
        "num_layers": st.just(2),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "dropout": st.just(0.5),
        "direction": st.sampled_from(["bidirectional", "reverse"]),
    },
)


def make(kind, extra, H, V, E, dtype="float32", **more):
    direction = more.pop("direction", None)
    more |= {direction: True} if direction else {}
    if more.get("num_layers", 1) == 1:
        more.pop("dropout", None)
    layer = getattr(rc, kind)(E, H, **extra, **more, dtype=dtype, rng=1)
    return Embedded(Embedding(V, E, dtype=dtype, rng=2), layer)


def apart(model, tokens, case, **more):
    """Lookup, layer, and both backward."""
    x, x_tape = model.embedding.forward(tokens)
    y, state, tape = model.layer.forward(x, case["state"], **more)
    dx, dstate, grads = model.layer.backward(tape, case["dy"], case["dstate"])
    return {"y": y, "state": as_tuple(state)}, {
        "dstate": as_tuple(dstate), "embedding": model.embedding.backward(x_tape, dx)[1], "layer": grads,
    }  # fmt: skip


def fused(model, tokens, case, n_threads=None, **more):
    y, state, tape = model.forward(tokens, case["state"], n_threads=n_threads, **more)
    dstate, embedding, grads = model.backward(tape, case["dy"], case["dstate"], n_threads=n_threads)
    return {"y": y, "state": as_tuple(state)}, {"dstate": as_tuple(dstate), "embedding": embedding, "layer": grads}


def random_tokens(model, T, N, seed=0, lengths=None):
    """Tokens in the caller's layout, and a case for the layer."""
    case = random_case(model.layer, T, N, seed, lengths)
    tokens = np.random.default_rng(seed).integers(0, model.embedding.num_embeddings, (T, N))
    if model.layer.batch_first:
        tokens, case["dy"] = tokens.T, case["dy"].swapaxes(0, 1)
    return tokens, case


@settings(deadline=None)
@given(
    kind=st.sampled_from(ALL), more=options, H=st.sampled_from([4, 5, 17, 48]), V=st.sampled_from([3, 40]),
    E=st.sampled_from([3, 16, 80]), T=st.integers(1, 40), N=st.integers(1, 9), dtype=st.sampled_from(DTYPES),
    ragged=st.booleans(), checkpoint=st.sampled_from([0, 0, 3]), n_threads=st.sampled_from([1, 2, 3]),
    engine=st.sampled_from(["panels", "panels", "blas"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_same_as_one_after_the_other(kind, more, H, V, E, T, N, dtype, ragged, checkpoint, n_threads, engine, seed):
    driver.use(engine)
    try:
        model = make(*kind, H, V, E, dtype, **more)
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, T + 1, N) if ragged else None
        tokens, case = random_tokens(model, T, N, seed, lengths)
        where = {"lengths": lengths} if ragged else {}
        how = {**where, "checkpoint": checkpoint, "rng": 3}
        values, gradients = fused(model, tokens, case, n_threads, **how)
        expected_values, expected_gradients = apart(model, tokens, case, **how)
        called = model(tokens, case["state"], n_threads=n_threads, **where)
        expected_call = model.layer(model.embedding(tokens), case["state"], **where)
        if engine == "panels":
            assert equal(values, expected_values)
            assert equal((called[0], as_tuple(called[1])), (expected_call[0], as_tuple(expected_call[1])))
        else:
            assert_close(values, expected_values, dtype, "forward")
            assert_close(called[0], expected_call[0], dtype, "forward")
        assert list(gradients["layer"]) == list(expected_gradients["layer"])
        for name in ("embedding", "layer"):  # sums of random signs: of a few numbers, most of each may cancel
            for key, expected in expected_gradients[name].items():
                error = relative_error(gradients[name][key], expected.astype(np.float64))
                assert error <= 10 * TOLERANCE[dtype, "backward"], key
        assert_close(gradients["dstate"], expected_gradients["dstate"], dtype, "backward")
    finally:
        driver.use(runtime.engine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_rows(dtype):
    """Of embeddings and of units: gradients multiply with weights in strips."""
    model = make("LSTM", {}, 267, 150, 270, dtype)
    tokens, case = random_tokens(model, 20, 8)
    for a, b in zip(fused(model, tokens, case), apart(model, tokens, case), strict=True):
        assert_close(a, b, dtype, "backward")


@pytest.mark.parametrize("engine", ["panels", "blas"])
@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("lengths", [None, [12, 0, 5], [0, 0, 0]])
def test_accumulate(engine, more, lengths):
    driver.use(engine)
    try:
        model = make("LSTM", {}, 8, 40, 5, "float64", **more)
        tokens, case = random_tokens(model, 12, 3, lengths=lengths)
        _, _, tape = model.forward(tokens, lengths=lengths)
        plain = model.backward(tape, case["dy"])
        modules = (model.embedding, model.layer)
        totals = [{name: np.full_like(a, 0.5) for name, a in m.parameters().items()} for m in modules]
        given = [dict(total) for total in totals]
        returned = model.backward(tape, case["dy"], accumulate=totals)
        assert equal(as_tuple(returned[0]), as_tuple(plain[0]))
        for k in range(2):
            assert list(totals[k]) == list(given[k])
            for name, array in plain[1 + k].items():
                assert returned[1 + k][name] is given[k][name]
                np.testing.assert_allclose(given[k][name], 0.5 + array, rtol=1e-12, atol=1e-12)
        only = model.backward(tape, case["dy"], accumulate=(None, given[1]))
        assert equal(only[1], plain[1]) and only[2]["weight_hh_l0"] is given[1]["weight_hh_l0"]
    finally:
        driver.use(runtime.engine)


def test_gradients_against_differences():
    model = make("GRU", {}, 4, 5, 3, "float64", bidirectional=True)
    lengths = [6, 0, 3]
    tokens, case = random_tokens(model, 6, 3, lengths=lengths)
    _, gradients = fused(model, tokens, case, lengths=lengths)

    def loss():
        y, state = model(tokens, case["state"], lengths=lengths)
        return (y * case["dy"]).sum() + (state * case["dstate"]).sum()

    for module, grads in ((model.embedding, gradients["embedding"]), (model.layer, gradients["layer"])):
        for name, found in grads.items():
            expected = np.zeros_like(found)
            for i in np.ndindex(found.shape):
                for sign in (1, -1):
                    with module.editing() as params:
                        params[name][i] += sign * 1e-6
                    expected[i] += sign * loss() / 2e-6
                    with module.editing() as params:
                        params[name][i] -= sign * 1e-6
            assert np.linalg.norm(found - expected) < 1e-7 * np.linalg.norm(expected), name
    absent = np.setdiff1d(np.arange(5), tokens[np.arange(6)[:, None] < lengths])
    assert not gradients["embedding"]["weight"][absent].any()


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_any_number_of_threads_gives_the_same_bits(kind):
    """Both ways of sharing: large batches by sequences, small ones of many units by units."""
    for H, N in ((64, 50), (256, 2)):
        model = make(*kind, H, 30, 8)
        tokens, case = random_tokens(model, 40, N)
        first = fused(model, tokens, case, 1)
        assert all(equal(fused(model, tokens, case, n), first) for n in (2, 3))


def test_tables_of_more_than_one_piece():
    """Between two looks for Ctrl-C: 1e9 operations, which is 3800 rows here."""
    model = make("LSTM", {}, 128, 9000, 256)
    case = random_case(model.layer, 100, 80)
    tokens = np.random.default_rng(0).permutation(9000)[:8000].reshape(100, 80)
    values, gradients = fused(model, tokens, case)
    expected, expected_gradients = apart(model, tokens, case)
    assert equal(values, expected)
    assert_close(gradients, expected_gradients, "float32", "backward")


def test_what_lies_behind_an_end_does_not_matter():
    model = make("LSTM", {}, 8, 6, 3)
    lengths = np.array([3, 0, 7])
    tokens, case = random_tokens(model, 7, 3, lengths=lengths)
    junk = np.where(np.arange(7)[:, None] < lengths, tokens, -1_000_000)
    assert equal(fused(model, junk, case, lengths=lengths), fused(model, tokens, case, lengths=lengths))
    assert equal(model(junk, lengths=lengths)[0], model(tokens, lengths=lengths)[0])


def test_a_call_in_each_of_its_ways(monkeypatch):
    """Before the whole vocabulary is worth a table, with one, of one step, and without room for any."""
    model = make("LSTM", {}, 16, 50, 4)
    tokens = np.random.default_rng(0).integers(0, 50, (20, 2))
    expected = model.layer(model.embedding(tokens))
    for seen in (None, "whole", "whole"):
        found = model(tokens)
        assert equal(found, expected) and (model._weights.whole is None) == (seen is None)
    assert equal(model(tokens[:1]), model.layer(model.embedding(tokens[:1])))
    assert model(tokens, return_sequence=False)[0] is None
    out = np.empty((20, 2, 16), np.float32)
    assert model(tokens, out=out)[0] is out and equal(out, expected[0])
    flat = model(tokens[:, 0])
    assert flat[0].shape == (20, 16) and equal(flat[0], expected[0][:, 0])
    monkeypatch.setattr(embedded, "TABLE_BYTES", 0)
    small = copy.deepcopy(model)
    for _ in range(4):
        assert equal(small(tokens), expected) and small._weights.whole is None


def test_no_stale_table():
    """Whichever of the two changes, in inference with a table and in training."""
    model = make("RNN", {}, 8, 4, 3)
    tokens, _ = random_tokens(model, 9, 2)
    for module, name in ((model.embedding, "weight"), (model.layer, "weight_ih_l0"), (model.layer, "bias_hh_l0")):
        before = model(tokens)[0]
        y, _, tape = model.forward(tokens)
        with module.editing() as params:
            params[name] *= 2
        assert equal(model(tokens)[0], model.layer(model.embedding(tokens))[0]) and not equal(model(tokens)[0], before)
        with pytest.raises(ValueError, match="current parameters"):
            model.backward(tape, y)
    for engine in ("blas", "panels"):
        driver.use(engine)
        try:
            assert_close(model(tokens)[0], model.layer(model.embedding(tokens))[0], "float32", "forward")
        finally:
            driver.use(runtime.engine)


def test_tapes():
    model = make("GRU", {}, 8, 20, 3)
    tokens, case = random_tokens(model, 9, 2)
    y, _, tape = model.forward(tokens)
    given = tokens.copy()
    tokens[:] = 0  # the tape has its own
    first = model.backward(tape, case["dy"])
    assert equal(first, model.backward(tape, case["dy"]))
    assert equal(first, model.backward(model.forward(given)[2], case["dy"]))
    used = np.unique(given)
    of_layer = model.layer.forward(model.embedding(given))[2].nbytes - given.size * 3 * 4
    assert tape.nbytes == of_layer + given.size * 8 + used.size * (8 + 3 * 4)  # tokens, vectors, in place of x
    with pytest.raises(ValueError, match="another module"):
        model.layer.backward(tape, y)
    with pytest.raises(ValueError, match="another module"):
        model.backward(model.layer.forward(model.embedding(given))[2], y)
    with pytest.raises(TypeError, match="expected a tape"):
        model.backward(None, y)


def test_gradient_flow():
    model = make("LSTM", {}, 8, 20, 3, "float64")
    tokens, case = random_tokens(model, 9, 2)
    _, _, tape = model.forward(tokens)
    *_, flow = model.backward(tape, case["dy"], flow=True)
    layer = model.layer
    *_, expected = layer.backward(layer.forward(model.embedding(tokens))[2], case["dy"], flow=True)
    assert_close(flow, expected, "float64", "backward")


def test_nothing_to_read():
    model = make("LSTM", {}, 8, 20, 3)
    for shape in ((0, 2), (3, 0), (0,)):
        tokens = np.zeros(shape, int)
        y, _, tape = model.forward(tokens)
        _, embedding, grads = model.backward(tape, y)
        assert y.shape == (*shape, 8) and equal(model(tokens)[0], y)
        assert not any(array.any() for array in (*embedding.values(), *grads.values()))


def test_copies_and_pickles():
    model = make("GRU", {}, 8, 20, 3)
    tokens, _ = random_tokens(model, 30, 2)
    expected = model(tokens)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert equal(other(tokens), expected) and other.layer is not model.layer
    assert repr(model) == "Embedded(Embedding(20, 3, dtype='float32'), GRU(3, 8))"


def test_many_threads_while_parameters_change():
    """Every result is that of one set of parameters or of another."""
    model = make("RNN", {}, 8, 4, 3)
    tokens, _ = random_tokens(model, 20, 2)
    states = [model.layer.state_dict(), {name: 2 * array for name, array in model.layer.state_dict().items()}]
    right, wrong = [], []
    for state in states:
        model.layer.load_state_dict(state)
        right.append(model(tokens)[0])

    def read():
        for _ in range(200):
            y = model(tokens)[0]
            if not any(equal(y, r) for r in right):
                wrong.append(y)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for state in states:
            model.layer.load_state_dict(state)
    assert not wrong


@pytest.mark.parametrize(
    ("tokens", "more", "error", "words"),
    [
        ([[0.0]], {}, TypeError, "expected tokens to be integers, got dtype float64"),
        ([[True]], {}, TypeError, "expected tokens to be integers, got dtype bool"),
        ([[[1]]], {}, ValueError, r"expected tokens of shape \(T, N\) or \(T,\), got \(1, 1, 1\)"),
        ([[20]], {}, ValueError, "expected tokens from 0 to 19, got 20"),
        ([[1, -1]], {}, ValueError, "expected tokens from 0 to 19, got -1"),
        ([[1, 2]], {"lengths": [1]}, ValueError, "expected lengths of shape"),
        ([[1, 2]], {"lengths": [1, 2]}, ValueError, "expected lengths between 0 and 1, got 2"),
        ([[1, 2]], {"state": np.ones((1, 3, 8))}, ValueError, "expected h_0 of shape"),
        ([[1, 2]], {"n_threads": 0}, ValueError, "expected n_threads"),
    ],
)
def test_bad_input(tokens, more, error, words):
    model = make("GRU", {}, 8, 20, 3)
    for call in (model, model.forward):
        with pytest.raises(error, match=words):
            call(tokens, **more)


def test_bad_parts():
    embedding = Embedding(4, 3)
    for wrong in (None, rc.JordanRNN(3, 4, 2), rc.LSTMCell(3, 4)):
        with pytest.raises(TypeError, match="expected an RNN, LSTM or GRU, got"):
            Embedded(embedding, wrong)
    with pytest.raises(TypeError, match="expected an Embedding, got"):
        Embedded(np.ones((4, 3)), rc.RNN(3, 4))
    with pytest.raises(ValueError, match="expected a layer of input size 3, got 5"):
        Embedded(embedding, rc.RNN(5, 4))
    with pytest.raises(ValueError, match="expected a layer of float32, got float64"):
        Embedded(embedding, rc.RNN(3, 4, dtype="float64"))


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "extra"), ALL)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stream_steps_through_the_sequence(kind, extra, num_layers, dtype, engine):
    model = make(kind, extra, 19, 40, 7, dtype, num_layers=num_layers)
    tokens, case = random_tokens(model, 12, 3)
    y, final = model(tokens, case["state"])
    stream, one = model.stream(3), model.stream()
    stream.state = case["state"]
    one.write([0], stream.read([1]))
    steps = [stream.step(step) for step in tokens]
    alone = [one.step(int(step)) for step in tokens[:, 1]]
    if engine == "panels":
        assert equal(np.stack(steps), y) and equal(as_tuple(stream.state), as_tuple(final))
        assert equal(np.stack(alone), y[:, 1])
    assert_close((np.stack(steps), np.stack(alone)), (y, y[:, 1]), dtype, "forward")


def test_rows_of_a_stream_and_where_steps_go():
    model = make("LSTM", {}, 5, 40, 7)
    stream, other = model.stream(4), model.stream(2)
    stream.step([1, 2, 3, 4]), other.step([4, 2])
    out = np.empty((2, 5), np.float32)
    assert stream.step(np.array([9, 8], np.uint8), out=out, rows=[3, 1]) is out
    assert equal(out, other.step((9, 8)))
    lying = np.zeros(17, np.uint8)[1:].view(np.int64)  # as no processor likes it
    lying[:] = 7, 6
    stream.step(np.array([1, 6, 2, 7])[::2][::-1], rows=[1, 3]), other.step([1, 2])
    assert equal(stream.step(lying, rows=[3, 1]), other.step([7, 6]))
    assert equal(as_tuple(stream.read([3, 1])), as_tuple(other.state))
    shared = np.zeros(10, np.float32)
    one = model.stream()
    one.step(3)
    want = one.step(5)
    one.reset()
    one.step(3)
    tokens = shared[:2].view(np.int64)
    tokens[0] = 5
    assert one.step(tokens, out=shared.reshape(2, 5)[:1]).shape == (1, 5)  # over the token itself
    assert equal(shared[:5], want)


@pytest.mark.skipif(runtime.engine == "blas", reason="the same bits are the panels engine's promise")
def test_a_stream_sees_what_changes():
    model = make("GRU", {}, 5, 4, 3)
    stream = model.stream()
    stream.step(1)
    for module in (model.embedding, model.layer):
        with module.editing() as parameters:
            for array in parameters.values():
                array *= 1.5
        before = stream.state
        y = stream.step(2)
        assert equal(y[None], model([2], before[:, 0])[0])
    state = stream.state
    for again in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert equal(again.step(3), model([3], state[:, 0])[0][0])
    assert equal(stream.state, state)
    driver.use("blas")  # in the middle of a stream
    try:
        assert_close(stream.step(3), again.state[0, 0], "float32", "forward")
    finally:
        driver.use(runtime.engine)


@pytest.mark.parametrize(
    ("tokens", "error", "words"),
    [
        ([0, 40], ValueError, "expected tokens from 0 to 39, got 40"),
        ([-1, 0], ValueError, "expected tokens from 0 to 39, got -1"),
        ([0.0, 1.0], TypeError, "expected tokens to be an array of integers"),
        ([True, False], TypeError, "expected tokens to be an array of integers"),
        (["a", "b"], TypeError, "expected tokens to be an array of integers"),
        (None, TypeError, "expected tokens to be an array of integers"),
        ([2**64, 0], TypeError, "expected tokens to be an array of integers"),
        (np.array([2**63, 0], np.uint64), ValueError, "expected tokens of at most"),
        ([1], ValueError, r"expected tokens of shape \(2,\), got \(1,\)"),
        (1, ValueError, r"expected tokens of shape \(2,\), got \(\)"),
        ([[1, 2]], ValueError, r"expected tokens of shape \(2,\), got \(1, 2\)"),
    ],
)
def test_bad_steps_of_a_stream(tokens, error, words):
    stream = make("LSTM", {}, 5, 40, 7).stream(2)
    stream.step([3, 4])
    before = as_tuple(stream.state)
    with pytest.raises(error, match=words):
        stream.step(tokens)
    assert equal(as_tuple(stream.state), before)


def test_one_token():
    stream = make("RNN", {}, 5, 40, 7).stream()
    y = stream.step(39)
    for same in (np.int32(39), np.array(39), [39], np.array([39])):
        stream.reset()
        assert equal(stream.step(same).reshape(5), y)
    for wrong, error in ((40, ValueError), (-1, ValueError), (True, TypeError), (2**70, TypeError), (1.0, TypeError)):
        with pytest.raises(error, match="expected tokens"):
            stream.step(wrong)
    with pytest.raises(ValueError, match="expected a layer that runs forwards in time"):
        make("GRU", {}, 5, 4, 3, direction="bidirectional").stream()


@pytest.mark.parametrize("kind", [rc.RNN, rc.LSTM])
def test_check_finite_names_the_gradients(kind):
    model = Embedded(Embedding(5, 3, rng=0), kind(3, 4, rng=1))
    y, _, tape = model.forward([[2, 0], [2, 1], [3, 3]])
    dy = np.ones_like(y)
    plain, *_, flow = model.backward(tape, dy, flow=True)
    checked = model.backward(tape, dy, flow=True, check_finite=True)
    assert equal(as_tuple(checked[0]), as_tuple(plain)) and equal(as_tuple(checked[-1]), as_tuple(flow))
    assert len(model.backward(tape, dy, check_finite=True)) == 3
    dy[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match=r"in embedding.weight, dh_0, .*weight_ih_l0.*dh_t of l0 from t = 1 on"):
        model.backward(tape, dy, check_finite=True)
    with pytest.raises(TypeError, match="check_finite"):
        model.backward(tape, dy, check_finite=1)
