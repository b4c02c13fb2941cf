"""What a layer promises around its arithmetic: layouts, states, options, tapes, memory, copies."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from common import DTYPES, KINDS, as_tuple, assert_close, pick, random_case, run_layer, state_of

import rnncore as rc

kinds = pytest.mark.parametrize("kind,options", KINDS)


def same(a, b):
    """Whether two results hold the same bits."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


@pytest.fixture(params=KINDS, ids=str)
def layer(request):
    kind, options = request.param
    return getattr(rc, kind)(3, 5, 2, rng=0, **options)


def test_inference_and_training_give_the_same_numbers(layer):
    case = random_case(layer, 40, 3)
    y, state = layer(case["x"], case["state"])
    y_train, state_train, _ = layer.forward(case["x"], case["state"])
    assert same(y, y_train) and same(as_tuple(state), as_tuple(state_train))


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layouts_agree(kind, options, bidirectional):
    plain = getattr(rc, kind)(3, 5, 2, bidirectional=bidirectional, rng=0, **options)
    first = getattr(rc, kind)(3, 5, 2, bidirectional=bidirectional, batch_first=True, rng=0, **options)
    case = random_case(plain, 6, 4)
    expected = run_layer(plain, case)
    swapped = run_layer(first, case | {"x": case["x"].swapaxes(0, 1), "dy": case["dy"].swapaxes(0, 1)})
    assert same(swapped["forward"]["y"].swapaxes(0, 1), expected["forward"]["y"])
    assert same(swapped["backward"]["dx"].swapaxes(0, 1), expected["backward"]["dx"])
    assert same(swapped["backward"]["grads"], expected["backward"]["grads"])
    assert same(swapped["forward"]["state"], expected["forward"]["state"])

    one = random_case(plain, 6, 1)
    expected = run_layer(plain, one)
    rows = {name: pick(plain, one[name], 0) for name in ("state", "dstate")}
    for module in (plain, first):  # batch_first says nothing about unbatched input
        flat = run_layer(module, {"x": one["x"][:, 0], "dy": one["dy"][:, 0]} | rows)
        assert same(flat["forward"]["y"], expected["forward"]["y"][:, 0])
        assert same(flat["backward"]["dx"], expected["backward"]["dx"][:, 0])
        assert same(flat["forward"]["state"], tuple(a[:, 0] for a in expected["forward"]["state"]))
        assert same(flat["backward"]["dstate"], tuple(a[:, 0] for a in expected["backward"]["dstate"]))


def test_no_state_is_a_zero_state(layer):
    case = random_case(layer, 4, 3)
    zeros = state_of(layer, tuple(np.zeros_like(a) for a in as_tuple(case["state"])))
    assert same(layer(case["x"])[0], layer(case["x"], zeros)[0])
    _, _, tape = layer.forward(case["x"])
    assert same(layer.backward(tape, case["dy"])[2], layer.backward(tape, case["dy"], zeros)[2])
    none, some = layer.backward(tape, None, case["dstate"]), layer.backward(tape, 0 * case["dy"], case["dstate"])
    assert same(none[2], some[2]) and same(as_tuple(none[1]), as_tuple(some[1]))
    assert any(np.any(g) for g in none[2].values())
    dx, dstate, grads = layer.backward(tape)
    assert not any(np.any(a) for a in (dx, *as_tuple(dstate), *grads.values()))


@kinds
def test_reverse_is_the_flipped_sequence(kind, options):
    layer, backwards = (getattr(rc, kind)(3, 5, 2, reverse=reverse, rng=0, **options) for reverse in (False, True))
    case = random_case(layer, 700, 2)
    y, state = layer(case["x"][::-1], case["state"])
    y_reverse, state_reverse = backwards(case["x"], case["state"])
    assert_close(y_reverse[::-1], y, "float32", "forward")
    assert_close(as_tuple(state_reverse), as_tuple(state), "float32", "forward")


@pytest.mark.parametrize("T,N", [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("bidirectional", [False, True])
@kinds
def test_empty_sequences_and_batches(kind, options, bidirectional, T, N):
    layer = getattr(rc, kind)(3, 5, 2, bidirectional=bidirectional, rng=0, **options)
    case = random_case(layer, T, N)
    width = options.get("proj_size", 5) * (2 if bidirectional else 1)
    y, state, tape = layer.forward(case["x"], case["state"])
    assert y.shape == (T, N, width)
    assert same(as_tuple(layer(case["x"], case["state"])[1]), as_tuple(state))
    dx, dstate, grads = layer.backward(tape, case["dy"], case["dstate"])
    assert dx.shape == (T, N, 3)
    assert not any(np.any(g) for g in grads.values())
    if T == 0:
        assert same(as_tuple(state), as_tuple(case["state"])) and same(as_tuple(dstate), as_tuple(case["dstate"]))
    assert layer(np.zeros((0, 3)))[0].shape == (0, width)
    assert layer(np.empty((2**40, 0, 3), np.float32), return_sequence=False)[0] is None  # at once


def test_arguments_are_left_alone(layer):
    case = random_case(layer, 5, 3)
    before = copy.deepcopy(case)
    run_layer(layer, case)
    for name in case:
        assert same(as_tuple(case[name]), as_tuple(before[name]))


def test_results_are_the_callers_own(layer):
    """Writing into results reaches neither later calls nor the tape."""
    case = random_case(layer, 5, 3)
    y, state, tape = layer.forward(case["x"], case["state"])
    expected = layer.backward(tape, case["dy"], case["dstate"])
    for array in (y, *as_tuple(state), *as_tuple(case["state"]), *as_tuple(expected[1])):
        assert not any(np.shares_memory(array, other) for other in layer.parameters().values())
    dx, dstate, grads = copy.deepcopy(expected)
    for array in (
        y,
        *as_tuple(state),
        *as_tuple(case["state"]),
        expected[0],
        *as_tuple(expected[1]),
        *expected[2].values(),
    ):
        array[...] = np.nan
    again = layer.backward(tape, case["dy"], case["dstate"])
    assert same(again[0], dx) and same(as_tuple(again[1]), as_tuple(dstate)) and same(again[2], grads)
    assert not np.shares_memory(grads["bias_ih_l0"], grads["bias_hh_l0"])


@pytest.mark.parametrize("make", [
    lambda x: x.tolist(), np.asfortranarray, lambda x: x.astype(np.float64), lambda x: x.astype(">f4"),
    lambda x: np.repeat(x, 2, axis=2)[:, :, ::2], lambda x: x[::-1][::-1], lambda x: np.lib.stride_tricks.as_strided(
        np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32), x.shape, x.strides),
])  # fmt: skip
def test_any_array_like_is_taken(layer, make):
    case = random_case(layer, 5, 3)
    given = make(case["x"])
    if isinstance(given, np.ndarray):
        given.flags.writeable = False
    assert same(layer(given, case["state"])[0], layer(case["x"], case["state"])[0])


def test_integers_are_numbers(layer):
    x = np.arange(5 * 3 * 3).reshape(5, 3, 3) % 7
    assert same(layer(x)[0], layer(x.astype(np.float32))[0])
    assert same(layer(x > 3)[0], layer((x > 3).astype(np.float32))[0])


def test_return_sequence_false_keeps_the_state_only(layer):
    case = random_case(layer, 900, 2)
    _, state = layer(case["x"], case["state"])
    nothing, alone = layer(case["x"], case["state"], return_sequence=False)
    assert nothing is None and same(as_tuple(alone), as_tuple(state))


@pytest.mark.parametrize("bidirectional", [False, True])
@kinds
def test_out(kind, options, bidirectional):
    I = options.get("proj_size", 5) * (2 if bidirectional else 1)  # as wide as the output
    layer = getattr(rc, kind)(I, 5, bidirectional=bidirectional, rng=0, **options)
    first = getattr(rc, kind)(I, 5, bidirectional=bidirectional, batch_first=True, rng=0, **options)
    x = np.random.default_rng(0).standard_normal((7, 4, I)).astype(np.float32)
    expected, state = layer(x)
    out = np.empty_like(expected)
    y, state_out = layer(x, out=out)
    assert y is out and same(out, expected) and same(as_tuple(state_out), as_tuple(state))
    out = np.empty((4, 7, expected.shape[2]), np.float32)
    assert first(x.swapaxes(0, 1), out=out)[0] is out and same(out.swapaxes(0, 1), expected)
    out = np.empty((4, *expected.shape[:2], expected.shape[2]), np.float32)[1]
    assert same(layer(x, out=out[:, ::-1])[0], expected)
    into = x.copy()
    assert same(layer(into, out=into)[0], expected)  # even into x itself
    for bad in (out[:3], np.empty(expected.shape), expected.tolist()):
        with pytest.raises((TypeError, ValueError), match="expected out"):
            layer(x, out=bad)

    class Liar(np.ndarray):
        shape = expected.shape

    with pytest.raises(ValueError, match=r"expected out of shape .*, got \(0, 1, 9\)"):
        layer(x, out=np.empty((0, 1, 9), np.float32).view(Liar))
    out.flags.writeable = False
    with pytest.raises(TypeError, match="writable"):
        layer(x, out=out)
    with pytest.raises(ValueError, match="out=None"):
        layer(x, out=out, return_sequence=False)


def test_accumulate_adds(layer):
    case = random_case(layer, 5, 3)
    _, _, tape = layer.forward(case["x"], case["state"])
    _, _, grads = layer.backward(tape, case["dy"], case["dstate"])
    total = {name: np.full_like(g, 0.5) for name, g in grads.items()}
    given = dict(total)
    _, _, returned = layer.backward(tape, case["dy"], case["dstate"], accumulate=total)
    for name, g in grads.items():
        assert returned[name] is given[name]
        np.testing.assert_allclose(given[name], g + 0.5, rtol=1e-5, atol=1e-6)
    kept = copy.deepcopy(given)
    for bad in (
        {}, {**given, "x": 1}, {**given, "weight_hh_l0": given["weight_hh_l0"].astype(np.float64)},
        {**given, "weight_hh_l0": np.asfortranarray(given["weight_hh_l0"])}, 3,
        {**given, "bias_hh_l1": np.zeros(99, "f4")},
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=r"accumulate|expected bias_hh_l1"):
            layer.backward(tape, case["dy"], accumulate=bad)
    assert same(given, kept)


def test_tapes(layer):
    case = random_case(layer, 5, 3)
    y, _, tape = layer.forward(case["x"], case["state"])
    assert tape.nbytes > y.nbytes and str(tape.nbytes) in repr(tape)
    with pytest.raises(ValueError, match="another module"):
        copy.deepcopy(layer).backward(tape, case["dy"])
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            attempt(tape)
    with pytest.raises(AttributeError):
        tape._kept = ()
    for bad in (None, 3, y, rc.RNN):
        with pytest.raises(TypeError, match="expected a tape"):
            layer.backward(bad, case["dy"])
    layer.backward(tape, case["dy"])
    with layer.editing():
        pass
    with pytest.raises(ValueError, match="before they changed"):
        layer.backward(tape, case["dy"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind,options,gates,inner", [
    ("RNN", {}, 0, 0), ("LSTM", {}, 4, 0), ("LSTM", {"proj_size": 3}, 4, 1), ("LSTM", {"peephole": True}, 4, 0),
    ("GRU", {}, 4, 0), ("GRU", {"reset_after": False}, 3, 1),
])  # fmt: skip
def test_memory_of_a_tape_is_what_there_is(kind, options, gates, inner, dtype):
    """The formula in `forward`'s notes, of two layers in two directions."""
    layer = getattr(rc, kind)(3, 8, 2, bidirectional=True, dtype=dtype, rng=0, **options)
    T, N, lengths = 50, 4, [50, 0, 3, 1]
    P, H = options.get("proj_size", 8), 8
    for given, S in ((None, T * N), (lengths, sum(lengths))):
        _, _, tape = layer.forward(np.ones((T, N, 3), dtype), lengths=given)
        states = (N + S) * (P + (H if kind == "LSTM" else 0))
        expected = 4 * (states + S * H * (gates + inner)) + S * 2 * P + T * N * 3
        assert tape.nbytes == expected * np.dtype(dtype).itemsize


def test_copies_and_pickles_are_equal_and_apart(layer):
    x = random_case(layer, 5, 3)["x"]
    expected = layer(x)[0]
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer) and same(twin(x)[0], expected)
        assert all(not array.flags.writeable for array in twin.parameters().values())
        with twin.editing() as params:
            params["weight_ih_l0"] += 1
        assert not same(twin(x)[0], expected) and same(layer(x)[0], expected)


@pytest.mark.parametrize("batch_first", [False, True])
@kinds
def test_memory_does_not_grow_with_time(kind, options, batch_first):
    """Promise 4: without the sequence, ten times the steps take no more memory; stacked layers included."""
    layer = getattr(rc, kind)(3, 5, 2, batch_first=batch_first, rng=0, **options)
    peaks = []
    for T in (3000, 30_000):
        x = np.zeros((2, T, 3) if batch_first else (T, 2, 3), np.float32)
        layer(x, return_sequence=False)
        tracemalloc.start()
        layer(x, return_sequence=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]  # one block more or less may be alive


def test_repr():
    assert repr(rc.LSTM(3, 5)) == "LSTM(3, 5)"
    assert (
        repr(rc.RNN(3, 5, 2, "relu", False, True, bidirectional=True, dtype="float64"))
        == "RNN(3, 5, num_layers=2, bias=False, batch_first=True, bidirectional=True, "
        "nonlinearity='relu', dtype='float64')"
    )
    assert repr(rc.LSTM(3, 5, reverse=True)) == "LSTM(3, 5, reverse=True)"
    assert repr(rc.GRU(3, 5)) == "GRU(3, 5)" and repr(rc.JordanRNN(3, 5, 2)) == "JordanRNN(3, 5, 2)"
    assert repr(rc.GRUCell(3, 5, reset_after=False)) == "GRUCell(3, 5, reset_after=False)"
    assert repr(rc.RNNCell(3, 5, False, "relu")) == "RNNCell(3, 5, bias=False, nonlinearity='relu')"
    assert repr(rc.LSTMCell(3, 5, dtype="float64")) == "LSTMCell(3, 5, dtype='float64')"


@pytest.mark.parametrize("module", [
    rc.RNN(3, 5, 2, "sigmoid", dropout=0.25, reverse=True), rc.LSTM(3, 5, 3, False, True, 1.0, True, 2, peephole=True),
    rc.LSTM(3, 5, proj_size=4, dtype="float64"), rc.GRU(3, 5, 2, dropout=0.1, bidirectional=True, reset_after=False),
    rc.GRU(3, 5, bias=False, reverse=True, dtype="float64"), rc.JordanRNN(3, 5, 2, "relu", "softmax", False, True),
    rc.JordanRNN(3, 5, 2, output_nonlinearity="tanh", dtype="float64"), rc.GRUCell(3, 5, False, reset_after=False),
    rc.RNNCell(3, 5, nonlinearity="relu"), rc.LSTMCell(3, 5, dtype="float64"),
], ids=repr)  # fmt: skip
def test_a_repr_makes_the_same_again(module):
    """Every option stands in it: made from it, a module has the same ones, and takes the same parameters."""
    again = eval(repr(module), vars(rc) | {"__builtins__": {}})
    options, others = (
        {name: value for name, value in vars(m).items() if not name.startswith("_")} for m in (module, again)
    )
    assert options == others and repr(again) == repr(module)
    again.load_state_dict(module.state_dict())
    for twin in (again, pickle.loads(pickle.dumps(module)), copy.deepcopy(module), copy.copy(module)):
        x = np.ones((4, 3)) if "Cell" in repr(module) else np.ones((6, 4, 3))
        assert repr(twin) == repr(module) and same(as_tuple(twin(x)), as_tuple(module(x)))
