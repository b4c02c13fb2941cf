"""Bad input is a ValueError or a TypeError that says what was expected and what came; nothing else happens."""

import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rnncore as rc

STACKS = {
    "RNN": rc.RNN,
    "LSTM": rc.LSTM,
    "LSTM with projections and peepholes": partial(rc.LSTM, proj_size=4, peephole=True),
    "GRU": rc.GRU,
    "original GRU": partial(rc.GRU, reset_after=False),
}
KINDS = STACKS | {"JordanRNN": partial(rc.JordanRNN, output_size=5)}
CELLS = {
    "RNNCell": rc.RNNCell,
    "LSTMCell": rc.LSTMCell,
    "GRUCell": rc.GRUCell,
    "original GRUCell": partial(rc.GRUCell, reset_after=False),
}
H0 = np.zeros((1, 2, 5))


# --- input ------------------------------------------------------------------------------------------------------------


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
    (np.ma.masked_values(np.eye(3)[None], 1), TypeError, "expected x to be an array of real numbers, got a masked one"),
])  # fmt: skip
def test_input(kind, x, error, words):
    layer = KINDS[kind](3, 5)
    for method in (layer, layer.forward, partial(layer, lengths=[7, 7])):
        with pytest.raises(error, match=words):
            method(x)


def test_a_masked_array_of_which_nothing_is_masked():
    gru, x = rc.GRU(3, 5, rng=0), np.ones((7, 2, 3), np.float32)
    assert np.array_equal(gru(np.ma.masked_values(x, 2.0))[0], gru(x)[0])
    with pytest.raises(TypeError, match="expected lengths to be an array of integers, got a masked one"):
        gru(x, lengths=np.ma.masked_values([7, 3], 3))


@pytest.mark.parametrize("kind", KINDS)
def test_input_of_a_batch_first_layer(kind):
    with pytest.raises(ValueError, match=r"expected x of shape \(N, T, 3\), got \(7, 2, 4\)"):
        KINDS[kind](3, 5, batch_first=True)(np.zeros((7, 2, 4)))


@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind):
    cell = CELLS[kind](3, 5)
    for x, error, words in (
        (np.zeros((2, 4)), ValueError, r"expected x of shape \(N, 3\), got \(2, 4\)"),
        (np.zeros(4), ValueError, r"expected x of shape \(3,\), got \(4,\)"),
        (np.zeros((1, 2, 3)), ValueError, r"expected x of shape \(N, 3\), got \(1, 2, 3\)"),
        (np.zeros((2, 3), complex), TypeError, "expected x to be an array of real numbers, got dtype complex128"),
        (None, TypeError, "got dtype object"),
    ):
        for method in (cell, cell.forward):
            with pytest.raises(error, match=words):
                method(x)
    _, tape = cell.forward(np.zeros((2, 3)))
    for wrong in (np.zeros((2, 4)), np.zeros((3, 5)), np.zeros(5), np.zeros((1, 2, 5))):
        state = (wrong, np.zeros((2, 5))) if kind == "LSTMCell" else wrong
        for method, name in ((partial(cell, np.zeros((2, 3))), "h"), (partial(cell.backward, tape), "dh")):
            with pytest.raises(ValueError, match=rf"expected {name} of shape \(2, 5\), got"):
                method(state)
    with pytest.raises(TypeError, match="expected a tape as returned by forward, got str"):
        cell.backward("tape")


P0 = np.zeros((1, 2, 4))


# --- states -----------------------------------------------------------------------------------------------------------


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
    ("LSTM with projections and peepholes", (H0, H0), ValueError, r"h_0 of shape \(1, 2, 4\), got \(1, 2, 5\)"),
    ("LSTM with projections and peepholes", (P0, P0), ValueError, r"c_0 of shape \(1, 2, 5\), got \(1, 2, 4\)"),
    ("LSTM with projections and peepholes", (H0, P0), ValueError, r"h_0 of shape \(1, 2, 4\), got \(1, 2, 5\)"),
    ("GRU", np.zeros((1, 3, 5)), ValueError, r"expected h_0 of shape \(1, 2, 5\), got \(1, 3, 5\)"),
    ("GRU", (H0, H0), ValueError, r"expected h_0 of shape \(1, 2, 5\), got \(2, 1, 2, 5\)"),
    ("original GRU", H0 * 1j, TypeError, "expected h_0 to be an array of real numbers, got dtype complex128"),
    ("JordanRNN", H0, ValueError, r"expected o_0 of shape \(2, 5\), got \(1, 2, 5\)"),
    ("JordanRNN", np.zeros((2, 4)), ValueError, r"expected o_0 of shape \(2, 5\), got \(2, 4\)"),
    ("JordanRNN", "no", TypeError, "expected o_0"),
])  # fmt: skip
def test_state(kind, state, error, words):
    layer = KINDS[kind](3, 5)
    x = np.zeros((7, 2, 3))
    for method in (layer, layer.forward, partial(layer, lengths=[3, 4]), partial(layer.forward, lengths=[3, 4])):
        with pytest.raises(error, match=words):
            method(x, state)
    for lengths in (None, [3, 4]):
        _, _, tape = layer.forward(x, lengths=lengths)
        with pytest.raises(error, match=re.sub(r"([hco])_0", r"d\1_n", words)):
            layer.backward(tape, None, state)


def test_state_of_unbatched_input():
    with pytest.raises(ValueError, match=r"expected h_0 of shape \(1, 5\), got \(1, 1, 5\)"):
        rc.RNN(3, 5)(np.zeros((7, 3)), np.zeros((1, 1, 5)))
    with pytest.raises(ValueError, match=r"expected o_0 of shape \(4,\), got \(1, 4\)"):
        rc.JordanRNN(3, 5, 4)(np.zeros((7, 3)), np.zeros((1, 4)))


LENGTHS = [
    ([7], ValueError, r"expected lengths of shape \(2,\), got \(1,\)"),
    ([7, 7, 7], ValueError, r"expected lengths of shape \(2,\), got \(3,\)"),
    ([[7, 7]], ValueError, r"expected lengths of shape \(2,\), got \(1, 2\)"),
    ([[7], [7]], ValueError, r"expected lengths of shape \(2,\), got \(2, 1\)"),
    ([], ValueError, r"expected lengths of shape \(2,\), got \(0,\)"),
    (7, ValueError, r"expected lengths of shape \(2,\), got \(\)"),
    ([7, 8], ValueError, "expected lengths between 0 and 7, got 8"),
    ([-1, 7], ValueError, "expected lengths between 0 and 7, got -1"),
    ([2**63 - 1, 0], ValueError, "expected lengths between 0 and 7, got 9223372036854775807"),
    ([-(2**63), 0], ValueError, "expected lengths between 0 and 7, got -9223372036854775808"),
    (
        np.array([2**64 - 1, 7], np.uint64),
        ValueError,
        "expected lengths of at most 9223372036854775807, got 184467440737",
    ),
    (
        np.array([0, 2**63], np.uint64),
        ValueError,
        "expected lengths of at most 9223372036854775807, got 9223372036854775808",
    ),
    ([2**64, 7], TypeError, "expected lengths to be an array of integers, got dtype object"),
    ([7.0, 3.0], TypeError, "expected lengths to be an array of integers, got dtype float64"),
    ([7, np.nan], TypeError, "expected lengths to be an array of integers, got dtype float64"),
    ([7, 1j], TypeError, "expected lengths to be an array of integers, got dtype complex128"),
    ([True, False], TypeError, "expected lengths to be an array of integers, got dtype bool"),
    (["7", "3"], TypeError, "expected lengths to be an array of integers, got dtype <U1"),
    ("73", TypeError, "expected lengths to be an array of integers, got dtype <U2"),
    (b"73", TypeError, "expected lengths to be an array of integers, got dtype |S2"),
    ([7, None], TypeError, "expected lengths to be an array of integers, got dtype object"),
    ({"a": 7}, TypeError, "expected lengths to be an array of integers, got dtype object"),
    (np.array([7, 3], "m8[s]"), TypeError, "expected lengths to be an array of integers, got dtype timedelta64"),
    ([[7], [7, 3]], ValueError, "expected lengths to be an array of integers: .*inhomogeneous"),
]


# --- lengths, out, targets, masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths,error,words", LENGTHS)
def test_lengths(kind, lengths, error, words):
    x = np.zeros((7, 2, 3))
    for batch_first in (False, True):
        layer = KINDS[kind](3, 5, batch_first=batch_first)
        given = x.swapaxes(0, 1) if batch_first else x
        out = np.full_like(layer(given)[0], 9)
        for method in (
            layer, layer.forward, partial(layer, return_sequence=False), partial(layer, out=out),
            *([partial(layer.forward, targets=out)] if kind == "JordanRNN" else []),
        ):  # fmt: skip
            with pytest.raises(error, match=words):
                method(given, lengths=lengths)
        assert (out == 9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_of_unbatched_and_empty_input(kind):
    layer, x = KINDS[kind](3, 5), np.zeros((7, 3))
    for lengths, error, words in (
        (8, ValueError, "expected lengths between 0 and 7, got 8"),
        ([8], ValueError, "expected lengths between 0 and 7, got 8"),
        ([7, 7], ValueError, r"expected lengths of shape \(1,\), got \(2,\)"),
        ([[7]], ValueError, r"expected lengths of shape \(1,\), got \(1, 1\)"),
        (7.0, TypeError, "got dtype float64"),
        (True, TypeError, "got dtype bool"),
    ):
        for method in (layer, layer.forward):
            with pytest.raises(error, match=words):
                method(x, lengths=lengths)
    for method in (layer, layer.forward):
        with pytest.raises(ValueError, match="expected lengths between 0 and 0, got 1"):
            method(np.zeros((0, 2, 3)), lengths=[0, 1])
        with pytest.raises(ValueError, match=r"expected lengths of shape \(0,\), got \(1,\)"):
            method(np.zeros((7, 0, 3)), lengths=[1])
        assert method(x, lengths=7)[0].shape == method(x, lengths=np.uint8([3]))[0].shape
        assert method(np.zeros((7, 0, 3)), lengths=[])[0].shape[:2] == (7, 0)


@pytest.mark.parametrize("nothing", [[], np.zeros(0), np.zeros(0, complex), np.zeros(0, bool), np.zeros(0, object)])
def test_no_lengths_and_no_rows_may_be_of_any_type(nothing):
    layer = rc.GRU(3, 5)
    assert layer(np.zeros((7, 0, 3)), lengths=nothing)[0].shape == (7, 0, 5)
    assert layer.stream(2).step(np.zeros((0, 3)), rows=nothing).shape == (0, 5)
    with pytest.raises(ValueError, match=r"expected lengths of shape \(2,\), got \(0,\)"):
        layer(np.zeros((7, 2, 3)), lengths=nothing)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [7, 7], [3, 7], [0, 0]])
def test_out(kind, lengths):
    layer, x = KINDS[kind](3, 5), np.ones((7, 2, 3), np.float32)
    y, _ = layer(x, lengths=lengths)
    read_only = np.zeros_like(y)
    read_only.flags.writeable = False
    for out, error, words in (
        (np.empty((6, *y.shape[1:]), np.float32), ValueError, "expected out of shape .*, got"),
        (np.empty((7, 2, 9), np.float32), ValueError, r"expected out of shape .*, got \(7, 2, 9\)"),
        (np.empty(y.shape[1:], np.float32), ValueError, "expected out of shape"),
        (np.empty(y.size, np.float32), ValueError, "expected out of shape"),
        (np.empty(y.shape), TypeError, "expected out to be a writable array of dtype float32, got float64"),
        (np.empty(y.shape, ">f4"), TypeError, "expected out to be a writable array of dtype float32, got >f4"),
        (read_only, TypeError, "expected out to be a writable array of dtype float32, got a read-only one"),
        (y.tolist(), TypeError, "expected out to be a writable array of dtype float32, got list"),
        ("out", TypeError, "got str"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            layer(x, lengths=lengths, out=out)
    assert not read_only.any()
    with pytest.raises(ValueError, match="expected out=None with return_sequence=False, got an array"):
        layer(x, lengths=lengths, out=np.empty_like(y), return_sequence=False)
    with pytest.raises(TypeError, match="expected return_sequence to be True or False, got 1"):
        layer(x, lengths=lengths, return_sequence=1)


@pytest.mark.parametrize("output_nonlinearity", ["identity", "softmax"])
@pytest.mark.parametrize("lengths", [None, [3, 7]])
def test_targets(output_nonlinearity, lengths):
    for batch_first, shape in ((False, (7, 2)), (True, (2, 7))):
        jordan = rc.JordanRNN(3, 5, 4, "tanh", output_nonlinearity, batch_first=batch_first)
        got, first, second = np.zeros((*shape, 3)), *(("N", "T") if batch_first else ("T", "N"))
        for targets, error, words in (
            (np.zeros((*shape, 5)), ValueError, rf"expected targets of shape \({first}, {second}, 4\), got"),
            (np.zeros(4), ValueError, r"expected targets of shape .*, got \(4,\)"),
            (1.0, ValueError, r"expected targets of shape .*, got \(\)"),
            (np.zeros((6, 2, 4)), ValueError, rf"targets of shape \({shape[0]}, {shape[1]}, 4\), got \(6, 2, 4\)"),
            (np.zeros((*shape[::-1], 4)), ValueError, rf"targets of shape \({shape[0]}, {shape[1]}, 4\), got"),
            (np.zeros((7, 4)), ValueError, r"expected targets of shape .*, got \(7, 4\)"),
            (np.zeros((*shape, 4), complex), TypeError, "expected targets to be .* real numbers, got dtype complex"),
            (np.zeros((*shape, 4), object), TypeError, "expected targets to be .* real numbers, got dtype object"),
            ("no", TypeError, "expected targets to be an array of real numbers, got dtype <U2"),
            ([[[1]], [[1, 2]]], ValueError, "expected targets to be an array of real numbers"),
        ):  # fmt: skip
            with pytest.raises(error, match=words):
                jordan.forward(got, targets=targets, lengths=lengths)
    jordan = rc.JordanRNN(3, 5, 4, "tanh", output_nonlinearity)
    with pytest.raises(ValueError, match=r"expected targets of shape \(7, 4\), got \(7, 1, 4\)"):
        jordan.forward(np.zeros((7, 3)), targets=np.zeros((7, 1, 4)))
    with pytest.raises(TypeError, match="targets"):
        jordan(np.zeros((7, 3)), targets=np.zeros((7, 4)))
    y, _, tape = jordan.forward(np.zeros((7, 2, 3)), targets=np.zeros((7, 2, 4)), lengths=lengths)
    for bad in (np.zeros((7, 2, 5)), np.zeros((6, 2, 4)), np.zeros((7, 4))):
        with pytest.raises(ValueError, match="expected dy of shape"):
            jordan.backward(tape, bad)
    with pytest.raises(ValueError, match=r"expected do_n of shape \(2, 4\), got \(1, 2, 4\)"):
        jordan.backward(tape, y, np.zeros((1, 2, 4)))


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("rng,error", [
    ("seed", TypeError), (b"seed", TypeError), (1.5, TypeError), (object(), TypeError), (-1, ValueError),
])  # fmt: skip
def test_rng_of_dropout(kind, rng, error):
    layer = STACKS[kind](3, 5, 2, dropout=0.5)
    for lengths in (None, [3, 7]):
        with pytest.raises(error):
            layer.forward(np.zeros((7, 2, 3)), lengths=lengths, rng=rng)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind,options,x,shape", [
    (kind, options, x, shape)
    for kind in KINDS
    for options, x, shape in [
        ({}, (7, 2, 3), (7, 2, 5)),
        ({"batch_first": True}, (2, 7, 3), (2, 7, 5)),
        ({"bidirectional": True}, (7, 2, 3), (7, 2, 10)),
        ({}, (7, 3), (7, 5)),
    ]
    if not (kind == "JordanRNN" and "bidirectional" in options)
])  # fmt: skip
@pytest.mark.parametrize("ragged", [False, True])
def test_gradient_of_the_output(kind, options, x, shape, ragged):
    layer = KINDS[kind](3, 5, **options)
    y, _, tape = layer.forward(np.ones(x), lengths=None if not ragged else 3 if len(x) == 2 else [3, 7])
    shape = (*shape[:-1], shape[-1] // 5 * 4) if "projections" in kind else shape
    assert y.shape == shape
    wrong = [(*shape[:-1], 9), (shape[0] + 1, *shape[1:]), shape[1:], (1, *shape), shape[::-1]]
    for bad in wrong:
        with pytest.raises(ValueError, match="expected dy of shape"):
            layer.backward(tape, np.ones(bad))
    with pytest.raises(TypeError, match="expected dy to be an array of real numbers"):
        layer.backward(tape, np.ones(shape, complex))
    layer.backward(tape, np.ones(shape))


def backwards():
    """Of everything that has parameters: its name, itself, and its backward pass into given arrays."""
    x = np.ones((7, 2, 3))
    for kind, make in KINDS.items():
        layer = make(3, 5)
        y, _, tape = layer.forward(x, lengths=[3, 7])
        yield kind, layer, partial(layer.backward, tape, np.ones_like(y))
    for kind, make in CELLS.items():
        cell = make(3, 5)
        state, tape = cell.forward(x[0])
        yield kind, cell, partial(cell.backward, tape, state)
    head = rc.train.Linear(3, 5)
    yield "Linear", head, partial(head.backward, head.forward(x)[1], np.ones((7, 2, 5)))
    embedding, tokens = rc.train.Embedding(4, 3), np.zeros((7, 2), int)
    yield "Embedding", embedding, partial(embedding.backward, embedding.forward(tokens)[1], x)
    model = rc.train.Embedded(embedding, rc.GRU(3, 5))
    back = partial(model.backward, model.forward(tokens)[2], np.ones((7, 2, 5)))
    others = {of: {name: np.zeros_like(a) for name, a in of.parameters().items()} for of in (embedding, model.layer)}
    yield "Embedded's embedding", embedding, lambda accumulate: back(accumulate=(accumulate, others[model.layer]))
    yield "Embedded's layer", model.layer, lambda accumulate: back(accumulate=(others[embedding], accumulate))


@pytest.mark.parametrize("module,back", [pytest.param(*rest, id=name) for name, *rest in backwards()])
def test_accumulate(module, back):
    good = {name: np.zeros_like(array) for name, array in module.parameters().items()}
    for name, array in good.items():
        for wrong, error, words in (
            (np.zeros(array.size + 1, array.dtype), ValueError, f"expected {name} of shape"),
            (array[..., None], ValueError, f"expected {name} of shape"),
            (array.astype(float), TypeError, rf"accumulate\['{name}'\] to be a writable .* got ndarray of float64"),
            (np.repeat(array, 2, -1)[..., ::2], TypeError, rf"expected accumulate\['{name}'\] to be a writable"),
            (module.parameters()[name], TypeError, rf"expected accumulate\['{name}'\] to be a writable .* read-only"),
            (array.tolist(), TypeError, "got list"),
            (None, TypeError, "got NoneType"),
        ):  # fmt: skip
            with pytest.raises(error, match=words):
                back(accumulate=good | {name: wrong})
        with pytest.raises(ValueError, match="expected accumulate with the names"):
            back(accumulate={other: a for other, a in good.items() if other != name})
    for wrong in ([], 1, "no", good | {"more": np.zeros(1)}):
        with pytest.raises(ValueError, match="expected accumulate with the names"):
            back(accumulate=wrong)
    assert not any(np.any(array) for array in good.values())
    back(accumulate=good)
    assert any(np.any(array) for array in good.values())


def test_accumulate_of_an_embedded_layer_is_a_pair():
    model = rc.train.Embedded(rc.train.Embedding(4, 3), rc.GRU(3, 5))
    _, _, tape = model.forward([[1, 2]])
    for wrong, got in (({}, "dict"), (({},), "1 of them"), (3, "int"), (({}, {}, {}), "3 of them")):
        with pytest.raises(TypeError, match=rf"expected accumulate as \(embedding_grads, layer_grads\), got {got}"):
            model.backward(tape, accumulate=wrong)


# --- sizes and options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [rc.RNN, rc.LSTM, rc.GRU, rc.RNNCell, rc.LSTMCell, rc.GRUCell])
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


@pytest.mark.parametrize("sizes,error,words", [
    ((0, 5, 4), ValueError, "expected input_size between 1 and"),
    ((3, 0, 4), ValueError, "expected hidden_size between 1 and"),
    ((3, 5, 0), ValueError, "expected output_size between 1 and .*, got 0"),
    ((3, 5, -1), ValueError, "expected output_size between 1 and .*, got -1"),
    ((3, 5, 4.0), TypeError, "expected output_size to be an integer, got 4.0"),
    ((3, 5, True), TypeError, "expected output_size to be an integer, got True"),
    ((3, 5, None), TypeError, "expected output_size to be an integer, got None"),
    ((3, 5, "4"), TypeError, "expected output_size to be an integer, got '4'"),
    ((3, 5, 2**63), ValueError, "expected output_size between 1 and"),
    ((3, 5, 2**62), ValueError, "expected weight_oh_l0 of at most .* bytes"),
    ((2**62, 5, 4), ValueError, "expected weight_ih_l0 of at most .* bytes"),
])  # fmt: skip
def test_sizes_of_a_jordan_network(sizes, error, words):
    with pytest.raises(error, match=words):
        rc.JordanRNN(*sizes)


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
    of_one_layer = {"bias", "batch_first", "dtype", "rng"}
    makes = [*STACKS.values(), *(KINDS.values() if options.keys() <= of_one_layer else ())]
    makes += CELLS.values() if options.keys() <= of_one_layer - {"batch_first"} else []
    for make in makes:
        with pytest.raises(error, match=words):
            make(3, 5, **options)


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
    for bad in (1, 0, None, "no", [True]):
        with pytest.raises(TypeError, match="expected peephole to be True or False, got"):
            rc.LSTM(3, 5, peephole=bad)
        for make in (rc.GRU, rc.GRUCell):
            with pytest.raises(TypeError, match="expected reset_after to be True or False, got"):
                make(3, 5, reset_after=bad)
    for options in ({"nonlinearity": "tanh"}, {"proj_size": 2}, {"peephole": True}):
        for make in (rc.GRU, rc.GRUCell):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(options))}'"):
                make(3, 5, **options)


def test_options_of_a_jordan_network():
    for bad in ("gelu", "softmax", "identity", None, 3, ["tanh"]):
        with pytest.raises(ValueError, match="expected nonlinearity to be one of tanh, relu, sigmoid, got"):
            rc.JordanRNN(3, 5, 4, bad)
    for bad in ("gelu", "relu", "Softmax", None, 3, ["tanh"], b"tanh"):
        with pytest.raises(
            ValueError, match="expected output_nonlinearity to be one of identity, sigmoid, tanh, softmax, got"
        ):
            rc.JordanRNN(3, 5, 4, output_nonlinearity=bad)
    for name, value in (("num_layers", 2), ("bidirectional", True), ("reverse", True), ("dropout", 0.5)):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            rc.JordanRNN(3, 5, 4, **{name: value})


def test_sizes_may_be_any_integers():
    """All of them alike: NumPy's integers, and what says it is one (`operator.index`)."""
    layer = rc.LSTM(np.int64(3), np.uint8(5), np.int16(2), proj_size=np.int64(2))
    assert layer(np.zeros((7, 3)))[0].shape == (7, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_are_fixed_when_a_layer_is_made(kind):
    layer = KINDS[kind](3, 5)
    for name in (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "reverse",
    ):
        with pytest.raises(AttributeError, match=f"{name} of a {type(layer).__name__} is fixed"):
            setattr(layer, name, getattr(layer, name))


ROWS = [
    ([3], ValueError, "expected rows between 0 and 2, got 3"),
    ([0, 2, 1, 5], ValueError, "expected rows between 0 and 2, got 5"),
    ([-1], ValueError, "expected rows between 0 and 2, got -1"),
    ([2, -3], ValueError, "expected rows between 0 and 2, got -3"),
    ([-(2**63)], ValueError, "expected rows between 0 and 2, got -9223372036854775808"),
    ([2**63 - 1], ValueError, "expected rows between 0 and 2, got 9223372036854775807"),
    (np.array([2**63], np.uint64), ValueError, "expected rows of at most 9223372036854775807, got 9223372036854775808"),
    ([2**64], TypeError, "expected rows to be an array of integers, got dtype object"),
    ([0.0, 1.0], TypeError, "expected rows to be an array of integers, got dtype float64"),
    (1.5, TypeError, "expected rows to be an array of integers, got dtype float64"),
    ([True, False, True], TypeError, "expected rows to be an array of integers, got dtype bool"),
    (["0"], TypeError, "expected rows to be an array of integers, got dtype <U1"),
    ([None], TypeError, "expected rows to be an array of integers, got dtype object"),
    (slice(2), TypeError, "expected rows to be an array of integers, got dtype object"),
    ([[0], [1, 2]], ValueError, "expected rows to be an array of integers: .*inhomogeneous"),
]
TWICE = [([1, 1], ValueError, r"expected each row at most once, got \[1, 1\]"),
         ([2, 0, 2], ValueError, r"expected each row at most once, got \[2, 0, 2\]")]  # fmt: skip


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows,error,words", ROWS + TWICE)
def test_rows_of_a_stream(kind, rows, error, words):
    stream = KINDS[kind](3, 5, rng=0).stream(3)
    stream.step(np.ones((3, 3)))
    before = stream.read([0, 1, 2])
    n = np.size(rows) if "inhomogeneous" not in words else 2
    calls = {
        "step": lambda: stream.step(np.ones((n, 3)), rows=rows),
        "write": lambda: stream.write(rows, None),
        "read": lambda: stream.read(rows),
        "reset": lambda: stream.reset(rows),
    }
    for name, call in calls.items():
        if "at most once" in words and name in ("read", "reset"):
            break  # there, a row may come twice
        with pytest.raises(error, match=words):
            call()
    for a, b in zip(before, stream.read([0, 1, 2]), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_with_rows(kind):
    stream = KINDS[kind](3, 5, rng=0).stream(3)
    stream.step(np.ones((3, 3)))
    before, width = stream.read([0, 1, 2]), stream.step(np.ones((0, 3)), rows=[]).shape[1]
    for x, error, words in (
        (np.ones((3, 3)), ValueError, r"expected x_t of shape \(2, 3\), got \(3, 3\)"),
        (np.ones((2, 4)), ValueError, r"expected x_t of shape \(2, 3\), got \(2, 4\)"),
        (np.ones(3), ValueError, r"expected x_t of shape \(2, 3\), got \(3,\)"),
        (np.ones((1, 2, 3)), ValueError, r"expected x_t of shape \(2, 3\), got \(1, 2, 3\)"),
        (np.ones((2, 3), complex), TypeError, "expected x_t to be an array of real numbers, got dtype complex128"),
        ("no", TypeError, "expected x_t"),
    ):
        with pytest.raises(error, match=words):
            stream.step(x, rows=[2, 0])
    with pytest.raises(ValueError, match=r"expected x_t of shape \(1, 3\), got \(3,\)"):
        stream.step(np.ones(3), rows=[1])
    for out, error, words in (
        (np.empty((3, width), np.float32), ValueError, rf"expected out of shape \(2, {width}\), got \(3, {width}\)"),
        (np.empty((2, width + 1), np.float32), ValueError, rf"expected out of shape \(2, {width}\), got"),
        (np.empty((2, width)), TypeError, "expected out to be a writable array of dtype float32, got float64$"),
        ([[0] * width] * 2, TypeError, "expected out to be a writable array of dtype float32, got list"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            stream.step(np.ones((2, 3)), out=out, rows=[2, 0])
    for a, b in zip(before, stream.read([0, 1, 2]), strict=True):
        assert np.array_equal(a, b)
    for state in (before, stream.read([0]), "no", (1, 2), 1.0, object()):
        with pytest.raises((TypeError, ValueError), match="expected"):
            stream.write([0, 1], state)
    with pytest.raises((TypeError, ValueError), match="expected"):
        stream.state = stream.read([0, 1])
    for a, b in zip(before, stream.read([0, 1, 2]), strict=True):
        assert np.array_equal(a, b)


def test_states_of_streams_are_named():
    x, words = np.zeros((1, 2, 5)), r"expected h of shape \(1, 2, 5\), got \(1, 3, 5\)"
    with pytest.raises(ValueError, match=words):
        rc.GRU(3, 5).stream(3).write([2, 0], np.zeros((1, 3, 5)))
    with pytest.raises(ValueError, match=r"expected o of shape \(2, 4\), got \(1, 2, 5\)"):
        rc.JordanRNN(3, 5, 4).stream(3).write([2, 0], x)
    with pytest.raises(ValueError, match=r"expected h of shape \(1, 2, 2\), got \(1, 2, 5\)"):
        rc.LSTM(3, 5, proj_size=2).stream(3).write([2, 0], (x, x))
    with pytest.raises(ValueError, match=r"expected c of shape \(1, 2, 5\), got \(1, 2, 2\)"):
        rc.LSTM(3, 5, proj_size=2).stream(3).write([2, 0], (x[:, :, :2], x[:, :, :2]))
    with pytest.raises(TypeError, match=r"expected a state \(h, c\), got ndarray"):
        rc.LSTM(3, 5).stream(3).write([2, 0], x)


def test_gradients_of_states_are_named():
    layer, cell, x = rc.LSTM(3, 5), rc.LSTMCell(3, 5), np.zeros((1, 2, 3))
    _, (h_n, c_n), tape = layer.forward(x)
    (h, c), tape_of_cell = cell.forward(x[0])
    with pytest.raises(TypeError, match=r"expected a state \(dh_n, dc_n\), got ndarray"):
        layer.backward(tape, None, h_n)
    with pytest.raises(ValueError, match=r"expected dc_n of shape \(1, 2, 5\), got \(1, 2, 4\)"):
        layer.backward(tape, None, (h_n, c_n[..., :4]))
    with pytest.raises(ValueError, match=r"expected dh of shape \(2, 5\), got \(2, 4\)"):
        cell.backward(tape_of_cell, (h[:, :4], c))


@pytest.mark.parametrize("no_layer", [None, 5, "LSTM", rc.LSTMCell(3, 5), rc.LSTM])
def test_a_stream_of_no_layer(no_layer):
    with pytest.raises(TypeError):
        rc.Stream(no_layer)


# --- arguments that free each other's memory --------------------------------------------------------------------------

FREEING = """
from collections.abc import Mapping
import numpy as np, rnncore as rc
from rnncore.train import Embedded, Embedding, softmax_cross_entropy, truncated_bptt

def array(*shape):  # so large that its memory, once freed, is the system's again
    return np.ones(shape, np.float32)

class Subclass(np.ndarray):
    pass

class Frees:
    # Becomes an array or an index, and frees another array meanwhile.
    def __init__(self, other, value=None):
        self.other, self.value = other, value
    def free(self):
        self.other.resize(0, refcheck=False)
        return self.value
    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.free())
    def __index__(self):
        return self.free()

class FreeingGenerator(np.random.Generator):
    def integers(self, *args, **options):
        x.resize(0, refcheck=False)
        return super().integers(*args, **options)

class FreeingMapping(Mapping):
    def __init__(self, other, values):
        self.other, self.values = other, values
    def __getitem__(self, name):
        self.other.resize(0, refcheck=False)
        return self.values[name]
    def __iter__(self):
        return iter(self.values)
    def __len__(self):
        return len(self.values)

class FreeingOut(Frees):
    __class__ = np.ndarray

class Tokens:  # that lie about their number
    shape, ndim = (1,), 1
    def __array__(self, dtype=None, copy=None):
        return np.ones(2**20, np.int64)

M = 2**20
MODEL = rc.SequenceModel("rnn", inputs=1, outputs=1, loss="squared")
rnn, x = rc.RNN(8, 4), array(M, 8)
"""
FREED = {
    "x by the state": "rnn(x, Frees(x, np.zeros((1, 4))))",
    "x by the state, batch first": (
        "x = array(2, M, 8); rc.RNN(8, 4, batch_first=True)(x, Frees(x, np.zeros((1, 2, 4))))"
    ),
    "x of a subclass": "x = np.ndarray.__new__(Subclass, (M, 2, 8), np.float32); rnn(x, Frees(x, np.zeros((1, 2, 4))))",
    "x by lengths": "rnn(x, lengths=Frees(x, [M - 1]))",
    "x by lengths, one by one": "rnn(x, lengths=[Frees(x, M - 1)])",
    "x in forward": "rnn.forward(x, Frees(x, np.zeros((1, 4))))",
    "x by checkpoint": "rnn.forward(x, checkpoint=Frees(x, 0))",
    "x by rng": "rc.RNN(8, 4, 2, dropout=0.5).forward(x, rng=FreeingGenerator(np.random.PCG64(0)))",
    "x by out": "rnn(x, out=FreeingOut(x, array(M, 4)))",
    "h by c": "h = array(1, M, 8); rc.LSTM(8, 8)(array(1, M, 8), (h, Frees(h, array(1, M, 8))))",
    "h by lengths": "h = array(1, M, 4); rnn(array(2, M, 8), h, lengths=Frees(h, np.ones(M, int)))",
    "h by x": "h = array(1, M, 4); rnn(Frees(h, array(2, M, 8)), h)",
    "dy by dstate": "dy = array(M, 4); rnn.backward(rnn.forward(x)[2], dy, Frees(dy, np.zeros((1, 4))))",
    "dy by accumulate": (
        "dy = array(M, 4); rnn.backward(rnn.forward(x)[2], dy, accumulate=FreeingMapping(dy, rnn.state_dict()))"
    ),
    "x by targets": "rc.JordanRNN(8, 4, 2).forward(x, targets=Frees(x, array(M, 2)))",
    "x of a cell": "rc.RNNCell(8, 4)(x, Frees(x, array(M, 4)))",
    "x of one row": "x = array(8 * M); rc.RNNCell(8 * M, 1).forward(x, Frees(x, np.zeros(1)))",
    "x of windows": "list(truncated_bptt(rnn, x, 1000, state=Frees(x, np.zeros((1, 4)))))",
    "tokens by lengths": (
        "k = np.ones(8 * M, int); Embedded(Embedding(4, 3), rc.RNN(3, 4))(k, lengths=Frees(k, [8 * M]))"
    ),
    "more tokens than they say": "Embedded(Embedding(4, 3), rc.RNN(3, 4)).stream().step(Tokens())",
    "x_t by out": "rnn.stream(M).step(x, out=FreeingOut(x, array(M, 4)))",
    "mask by ignore_index": (
        "mask = np.ones(32 * M, bool); "
        "softmax_cross_entropy(array(32 * M, 1), np.zeros(32 * M, int), mask=mask, ignore_index=Frees(mask, -1))"
    ),
    "sequences by targets": "x = array(M, 8, 1); MODEL.fit(x, Frees(x, array(M, 1)))",
    "targets by validation": (
        "y = array(M, 1); MODEL.fit(array(M, 1, 1), y, validation=(Frees(y, array(2, 1, 1)), array(2, 1)))"
    ),
    "one parameter by another": (
        "rnn = rc.RNN(8, 2048); found = rnn.state_dict(); w = found['weight_hh_l0']; "
        "rnn.load_state_dict(found | {'bias_hh_l0': Frees(w, np.ones(2048))})"
    ),
}


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in FREED.items()])
def test_what_one_argument_frees_is_not_read(code):
    """An `__array__` may do anything, and what NumPy warns of: `ndarray.resize(refcheck=False)` on another argument."""
    done = subprocess.run([sys.executable, "-c", FREEING + code], capture_output=True, text=True)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    assert done.returncode in (0, 1) and re.match(r"((Type|Value)Error: expected .*)?$", last), done.stderr


def test_a_parameter_that_another_one_resizes_is_refused():
    rnn = rc.RNN(3, 5, rng=0)
    before, w = rnn.state_dict(), np.zeros((5, 5), np.float32)

    class Resizes:
        def __array__(self, dtype=None, copy=None):
            w.resize(3, refcheck=False)
            return np.zeros(5)

    with pytest.raises(ValueError, match=r"expected weight_hh_l0 of shape \(5, 5\), got \(3,\)"):
        rnn.load_state_dict(before | {"weight_hh_l0": w, "bias_hh_l0": Resizes()})
    assert all(np.array_equal(array, before[name]) for name, array in rnn.parameters().items())


# --- conversions that fail --------------------------------------------------------------------------------------------


class Fails:
    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize(
    "error", [KeyError("a"), OSError(5, "no disk"), IndexError("b"), Exception("c"), BufferError()]
)
def test_whatever_a_conversion_raises_is_a_clear_error(error):
    """With the error itself as its cause."""
    rnn, x, bad = rc.RNN(3, 5), np.ones((7, 2, 3)), Fails(error)
    embedding = rc.train.Embedding(4, 3)
    for name, call in {
        "x": lambda: rnn(bad),
        "h_0": lambda: rnn.forward(x, bad),
        "dy": lambda: rnn.backward(rnn.forward(x)[2], bad),
        "lengths": lambda: rnn(x, lengths=bad),
        "x_t": lambda: rnn.stream().step(bad),
        "rows": lambda: rnn.stream(2).read(bad),
        "weight_hh_l0": lambda: rnn.load_state_dict(rnn.state_dict() | {"weight_hh_l0": bad}),
        "tokens": lambda: embedding(bad),
        "targets": lambda: rc.train.softmax_cross_entropy(x, bad),
        "mask": lambda: rc.train.mean_squared_error(1.0, 1.0, mask=bad),
        "lr": lambda: rc.train.SGD(embedding, lr=bad),
    }.items():
        with pytest.raises(TypeError, match=f"expected {name} to be an array of .*, got Fails: ") as caught:
            call()
        assert repr(error) in str(caught.value) and caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_errors_that_are_not_about_the_input_pass(error):
    with pytest.raises(type(error)):
        rc.RNN(3, 5)(Fails(error))


# --- anything at all --------------------------------------------------------------------------------------------------


def test_sizes_that_do_not_fit_an_address():
    lstm = rc.LSTM(1, 2**20 // 2**10, rng=0)
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**55, 1, 1), (0, 0, 0))
    with pytest.raises((ValueError, MemoryError)):  # the copy that makes x contiguous
        lstm(x)
    none = np.empty((0, 2**53, 1), np.float32)
    with pytest.raises(ValueError, match="expected the state of at most"):
        lstm(none)
    for layer in (rc.GRU(1, 2**10), rc.JordanRNN(1, 2, 2**10)):
        for method in (layer, layer.forward):
            with pytest.raises(ValueError, match="expected the state of at most"):
                method(none)


ANYTHING = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.integers(0, 3), max_size=3), st.dictionaries(st.text(max_size=1), st.integers(), max_size=2),
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    st.just(np.zeros((4, 2, 3))), st.just(np.zeros((1, 2, 5), np.float32)), st.just(object()),
)  # fmt: skip
ignoring_casts = pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning", "ignore:Casting complex values"
)
LIKELY_LENGTHS = st.one_of(st.none(), st.lists(st.integers(-1, 5), min_size=2, max_size=2))


@ignoring_casts
@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), x=ANYTHING, state=st.one_of(ANYTHING, st.tuples(ANYTHING, ANYTHING)),
       dy=ANYTHING, lengths=LIKELY_LENGTHS)  # fmt: skip
def test_anything_works_or_is_refused(kind, x, state, dy, lengths):
    layer = KINDS[kind](3, 5, rng=0)
    try:
        y, _, tape = layer.forward(x, state, lengths=lengths)
        layer(x, state, lengths=lengths)
        dx, _, _ = layer.backward(tape, dy, state)
        assert y.shape[:-1] == dx.shape[:-1]
    except (TypeError, ValueError) as error:
        assert str(error)


@ignoring_casts
@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), lengths=st.one_of(ANYTHING, LIKELY_LENGTHS), what=ANYTHING)
def test_any_lengths_out_targets_and_gradients_work_or_are_refused(kind, lengths, what):
    layer, x = KINDS[kind](3, 5, rng=0), np.ones((4, 2, 3))
    options = [{}, {"targets": what}] if kind == "JordanRNN" else [{}, {"rng": what}]
    for run in (
        lambda: layer(x, lengths=lengths),
        lambda: layer(x, lengths=[2, 4], out=what),
        *(partial(layer.forward, x, lengths=lengths, **more) for more in options),
        lambda: layer.backward(layer.forward(x, lengths=lengths)[2], what, accumulate=what),
    ):
        try:
            run()
        except (TypeError, ValueError) as error:
            assert str(error)


@ignoring_casts
@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), rows=st.one_of(ANYTHING, LIKELY_LENGTHS), what=ANYTHING)
def test_any_rows_of_a_stream_work_or_are_refused(kind, rows, what):
    stream = KINDS[kind](3, 5, rng=0).stream(3)
    for run in (
        lambda: stream.step(np.ones((2, 3)), rows=rows),
        lambda: stream.step(what, rows=rows),
        lambda: stream.step(np.ones((2, 3)), rows=[2, 0], out=what),
        lambda: stream.read(rows),
        lambda: stream.write(rows, what),
        lambda: stream.reset(rows),
    ):
        try:
            run()
        except (TypeError, ValueError) as error:
            assert str(error)
    stream.step(np.ones((3, 3)))
