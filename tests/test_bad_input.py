"""Bad input is a ValueError or a TypeError that says what was expected and what came; nothing else happens."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rnncore as rc
from rnncore._kernels import driver, lstm
from rnncore._kernels.pack import Pack

KINDS = ("RNN", "LSTM")
H0 = np.zeros((1, 2, 5))


def call(layer, x, state=None):
    return layer(x, state), layer.forward(x, state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("x,error,words", [
    (np.zeros((7, 2, 4)), ValueError, r"expected x of shape \(T, N, 3\), got \(7, 2, 4\)"),
    (np.zeros((7, 4)), ValueError, r"expected x of shape \(T, 3\), got \(7, 4\)"),
    (np.zeros(3), ValueError, r"expected x of shape \(T, N, 3\), got \(3,\)"),
    (np.zeros((1, 7, 2, 3)), ValueError, r"expected x of shape \(T, N, 3\)"),
    (1.0, ValueError, r"expected x of shape \(T, N, 3\), got \(\)"),
    (np.zeros((7, 2, 3), complex), TypeError, "expected x to be an array of real numbers, got dtype complex128"),
    (np.zeros((7, 2, 3), object), TypeError, "got dtype object"),
    (np.zeros((7, 2, 3), "M8[s]"), TypeError, "got dtype datetime64"),
    (np.zeros((7, 2, 3), "V4"), TypeError, "got dtype"),
    ([[["a", "b", "c"]]], TypeError, "got dtype <U1"),
    ("text", TypeError, "got dtype <U4"),
    (b"bytes", TypeError, "got dtype"),
    (None, TypeError, "got dtype object"),
    ([[[1, 2, 3]], [[1, 2]]], ValueError, "expected x to be an array of real numbers"),
    ({"a": 1}, TypeError, "got dtype object"),
])  # fmt: skip
def test_input(kind, x, error, words):
    layer = getattr(rc, kind)(3, 5)
    for method in (layer, layer.forward):
        with pytest.raises(error, match=words):
            method(x)


def test_input_of_a_batch_first_layer():
    with pytest.raises(ValueError, match=r"expected x of shape \(N, T, 3\), got \(7, 2, 4\)"):
        rc.LSTM(3, 5, batch_first=True)(np.zeros((7, 2, 4)))


@pytest.mark.parametrize("kind,state,error,words", [
    ("RNN", np.zeros((1, 3, 5)), ValueError, r"expected h_0 of shape \(1, 2, 5\), got \(1, 3, 5\)"),
    ("RNN", np.zeros((2, 5)), ValueError, "expected h_0 of shape"),
    ("RNN", (H0, H0), ValueError, "expected h_0 of shape"),
    ("RNN", "no", TypeError, "expected h_0"),
    ("LSTM", H0, TypeError, r"expected a state \(h_0, c_0\), got ndarray"),
    ("LSTM", (H0,), TypeError, r"expected a state \(h_0, c_0\), got 1 of them"),
    ("LSTM", (H0, H0, H0), TypeError, "got 3 of them"),
    ("LSTM", (H0, None), TypeError, "expected c_0"),
    ("LSTM", (H0, H0[:, :1]), ValueError, r"expected c_0 of shape \(1, 2, 5\), got \(1, 1, 5\)"),
    ("LSTM", (H0, H0 + 1j), TypeError, "expected c_0 to be an array of real numbers, got dtype complex128"),
])  # fmt: skip
def test_state(kind, state, error, words):
    layer = getattr(rc, kind)(3, 5)
    x = np.zeros((7, 2, 3))
    for method in (layer, layer.forward):
        with pytest.raises(error, match=words):
            method(x, state)
    _, _, tape = layer.forward(x)
    with pytest.raises(error, match=words.replace("_0", "_n")):
        layer.backward(tape, None, state)


def test_state_of_unbatched_input():
    with pytest.raises(ValueError, match=r"expected h_0 of shape \(1, 5\), got \(1, 1, 5\)"):
        rc.RNN(3, 5)(np.zeros((7, 3)), np.zeros((1, 1, 5)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options,x,shape", [
    ({}, (7, 2, 3), (7, 2, 5)),
    ({"batch_first": True}, (2, 7, 3), (2, 7, 5)),
    ({"bidirectional": True}, (7, 2, 3), (7, 2, 10)),
    ({}, (7, 3), (7, 5)),
])  # fmt: skip
def test_gradient_of_the_output(kind, options, x, shape):
    layer = getattr(rc, kind)(3, 5, **options)
    y, _, tape = layer.forward(np.ones(x))
    assert y.shape == shape
    wrong = [(*shape[:-1], 9), (shape[0] + 1, *shape[1:]), shape[1:], (1, *shape), shape[::-1]]
    for bad in wrong:
        with pytest.raises(ValueError, match="expected dy of shape"):
            layer.backward(tape, np.ones(bad))
    with pytest.raises(TypeError, match="expected dy to be an array of real numbers"):
        layer.backward(tape, np.ones(shape, complex))
    layer.backward(tape, np.ones(shape))


@pytest.mark.parametrize("make", [rc.RNN, rc.LSTM, rc.RNNCell, rc.LSTMCell])
@pytest.mark.parametrize("sizes,error,words", [
    ((0, 5), ValueError, "expected input_size between 1 and"),
    ((3, -1), ValueError, "expected hidden_size between 1 and"),
    ((3.0, 5), TypeError, "expected input_size to be an integer, got 3.0"),
    ((3, "5"), TypeError, "expected hidden_size to be an integer, got '5'"),
    ((3, True), TypeError, "expected hidden_size to be an integer, got True"),
    ((None, 5), TypeError, "expected input_size"),
    ((2**62, 5), ValueError, "expected weight_ih.* of at most"),
    ((3, 2**40), ValueError, "expected weight_hh.* of at most"),
    ((3, 2**63), ValueError, "expected hidden_size between 1 and"),
    ((10**30, 5), ValueError, "expected input_size between 1 and"),
])  # fmt: skip
def test_sizes(make, sizes, error, words):
    with pytest.raises(error, match=words):
        make(*sizes)


@pytest.mark.parametrize("options,error,words", [
    ({"num_layers": 0}, ValueError, "expected num_layers between 1"),
    ({"bias": "no"}, TypeError, "expected bias to be True or False, got 'no'"),
    ({"batch_first": 1}, TypeError, "expected batch_first to be True or False"),
    ({"bidirectional": None}, TypeError, "expected bidirectional"),
    ({"bidirectional": True, "reverse": True}, ValueError, "at most one of"),
    ({"dtype": "float16"}, ValueError, "expected dtype float32 or float64, got 'float16'"),
    ({"dtype": ">f4"}, ValueError, "expected dtype"),
    ({"dtype": None}, ValueError, "expected dtype float32 or float64, got None"),
    ({"dtype": "no dtype"}, ValueError, "expected dtype"),
    ({"dtype": 3.5}, ValueError, "expected dtype"),
    ({"dtype": ","}, ValueError, "expected dtype"),
    ({"dtype": [("a", "f4"), ("a", "f4")]}, ValueError, "expected dtype"),
    ({"dtype": ("f4", -1)}, ValueError, "expected dtype"),
    ({"dropout": np.zeros(3)}, TypeError, "expected dropout to be one number"),
    ({"dropout": -0.1}, ValueError, "expected dropout of at least 0"),
    ({"dropout": 1.5}, ValueError, "expected dropout between 0 and 1, got 1.5"),
    ({"dropout": True}, TypeError, "expected dropout to be a number"),
    ({"rng": "seed"}, TypeError, None),
    ({"rng": -1}, ValueError, None),
])  # fmt: skip
def test_options(options, error, words):
    for kind in KINDS:
        with pytest.raises(error, match=words):
            getattr(rc, kind)(3, 5, **options)


def test_options_of_one_kind():
    for bad in (-1, 5, 6):
        with pytest.raises(ValueError, match=f"expected proj_size from 0 to hidden_size - 1 = 4, got {bad}"):
            rc.LSTM(3, 5, proj_size=bad)
    for bad in (np.zeros(2), 2.0, True):
        with pytest.raises(TypeError, match="expected proj_size to be an integer"):
            rc.LSTM(3, 5, proj_size=bad)
    for bad in ("gelu", None, 3, ["tanh"]):
        for make in (rc.RNN, rc.RNNCell):
            with pytest.raises(ValueError, match="expected nonlinearity to be one of tanh, relu, sigmoid"):
                make(3, 5, nonlinearity=bad)


def test_sizes_that_do_not_fit_an_address():
    lstm = rc.LSTM(1, 2**20 // 2**10, rng=0)
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**55, 1, 1), (0, 0, 0))
    with pytest.raises((ValueError, MemoryError)):  # the copy that makes x contiguous
        lstm(x)
    none = np.empty((0, 2**53, 1), np.float32)
    with pytest.raises(ValueError, match="expected the state of at most"):
        lstm(none)


ANYTHING = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.integers(0, 3), max_size=3), st.dictionaries(st.text(max_size=1), st.integers(), max_size=2),
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    st.just(np.zeros((4, 2, 3))), st.just(np.zeros((1, 2, 5), np.float32)), st.just(object()),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), x=ANYTHING, state=st.one_of(ANYTHING, st.tuples(ANYTHING, ANYTHING)), dy=ANYTHING)
def test_anything_works_or_is_refused(kind, x, state, dy):
    layer = getattr(rc, kind)(3, 5, rng=0)
    try:
        y, _, tape = layer.forward(x, state)
        layer(x, state)
        dx, _, _ = layer.backward(tape, dy, state)
        assert y.shape[:-1] == dx.shape[:-1]
    except (TypeError, ValueError) as error:
        assert str(error)


def test_the_kernels_read_nothing_out_of_bounds(engine):
    """Not a public door, but locked all the same: each array's dtype, layout and size is checked."""
    f4 = np.float32
    pack = Pack(np.zeros((20, 3), f4), np.zeros((20, 5), f4))
    good = {
        "packs": (pack,), "x": np.zeros((7, 2, 3), f4), "initial": (np.zeros((3, 2, 5), f4),) * 2, "k": 1,
        "y": np.zeros((7, 2, 5), f4), "final": (np.zeros((3, 2, 5), f4), np.zeros((3, 2, 5), f4)), "reverses": (False,),
    }  # fmt: skip
    lstm.cell.infer(**good)

    class Liar(np.ndarray):
        shape = (2**61 + 1, 8, 1)

    (kept,) = lstm.cell.forward(**good)
    lstm.cell.infer(**(good | {"k": 2, "n_threads": 3}))
    both = {"packs": (pack, pack), "reverses": (False, True), "y": np.zeros((7, 2, 10), f4)}
    lstm.cell.infer(**(good | both))
    read_only = np.zeros((7, 2, 5), f4)
    read_only.flags.writeable = False
    bad = [
        {"x": np.zeros((7, 2, 4), f4)}, {"x": np.zeros((7, 2, 3))}, {"x": np.zeros((7, 2, 6), f4)[:, :, ::2]},
        {"x": np.zeros((0, 2, 3), f4).view(Liar)}, {"y": np.empty((0, 1, 2**60), f4)},
        {"y": np.zeros((7, 2, 5), f4).view(Liar)},
        {"x": np.zeros((3, 2), f4)}, {"x": [1]}, {"x": np.zeros((7, 2, 3), np.int32)},
        {"initial": ()}, {"initial": (np.zeros((3, 2, 4), f4),) * 2}, {"initial": (None, None)}, {"k": 3}, {"k": -1},
        {"initial": (np.zeros((2, 5), f4),) * 2}, {"initial": (np.zeros((1, 2, 5), f4),) * 2},
        {"y": np.zeros((7, 2, 4), f4)}, {"y": np.zeros((6, 2, 5), f4)}, {"y": read_only},
        {"final": (np.zeros((3, 2, 5), f4),)}, {"final": (np.zeros((3, 1, 5), f4),) * 2}, {"packs": None},
        {"packs": ()}, {"packs": (None,)}, {"packs": (pack,) * 3}, {"reverses": ()},
        {"reverses": (False, True)}, both | {"k": 2}, both | {"y": good["y"]},
        {"packs": (Pack(np.zeros((5, 3), f4), np.zeros((5, 5), f4)),)},
        {"packs": (Pack(np.zeros((20, 3)), np.zeros((20, 5))),)},
        both | {"packs": (pack, Pack(np.zeros((16, 3), f4), np.zeros((16, 4), f4)))},
    ]  # fmt: skip
    for change in bad:
        for run in (lstm.cell.infer, lstm.cell.forward):
            with pytest.raises((TypeError, ValueError, IndexError, AttributeError)):
                run(**(good | change))
    for arrays in [
        (np.zeros((20, 3), f4), np.zeros((20, 5), f4), np.zeros(3, f4), np.zeros(3, f4)),
        (np.zeros((21, 3), f4), np.zeros((20, 5), f4)), (np.zeros((20, 3), f4), np.zeros((20, 6), f4)),
        (np.zeros((0, 3), f4), np.zeros((0, 5), f4)), (np.zeros((0, 0), f4), np.zeros((0, 2**40), f4)),
        (np.zeros(20, f4), np.zeros((20, 5), f4)), (None, None),
    ]:  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            Pack(*arrays)
    with pytest.raises(TypeError):
        Pack.__new__(Pack)
    with pytest.raises(TypeError):
        type("Mine", (Pack,), {})
    with pytest.raises(TypeError):
        pickle.dumps(pack)
    with pytest.raises(ValueError, match="expected weights of 0 gates"):
        driver.Cell().infer(**good)

    backward = {
        "pack": pack, "x": good["x"], "kept": kept, "dy": good["y"], "column": 0,
        "dstates": (np.zeros((2, 5), f4), np.zeros((2, 5), f4)),
        "dx": np.zeros((7, 2, 3), f4), "add_dx": False, "dW_ih": np.zeros((20, 3), f4), "dW_hh": np.zeros((20, 5), f4),
        "db": np.zeros(20, f4),
    }  # fmt: skip
    lstm.cell.backward(**backward)
    for name, array in list(backward.items()):
        if isinstance(array, np.ndarray):
            bad.append({name: array.ravel()[:-1].copy()})
    for change in (
        {"kept": ()}, {"kept": (None, *kept[1:])}, {"kept": kept[:2]}, {"kept": (kept[0], kept[1][:-1], kept[2])},
        {"dstates": ()}, {"dx": read_only}, {"dy": np.zeros((7, 2, 3), f4)}, {"dW_ih": np.zeros((3, 3), f4)},
        {"dW_hh": np.zeros((20, 5))}, {"db": np.zeros(19, f4)}, {"x": np.zeros((8, 2, 3), f4)},
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, IndexError)):
            lstm.cell.backward(**(backward | change))
