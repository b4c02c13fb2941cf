"""The kernels' own door: not public, but locked all the same. Each array's dtype, layout and size is checked."""

import copy
import pickle

import numpy as np
import pytest

from rnncore._kernels import gru, lstm, rnn
from rnncore._kernels.cell import Cell, Ragged
from rnncore._kernels.pack import Pack
from rnncore._kernels.step import Stack

REFUSED = (TypeError, ValueError, IndexError, AttributeError, KeyError)
f4 = np.float32


def weights(G, P=5, **more):
    """A new pack for I = 3 and H = 5, of zeros."""
    shapes = {"W_ih": (G * 5, 3), "W_hh": (G * 5, P)} | more
    return Pack(**{name: np.zeros(shape, f4) for name, shape in shapes.items()})


BIASED = {"b_ih": 5, "b_hh": 5}
PROJECTED = {"P": 4, "W_hr": (4, 5), "b_hr": 4}
# The cell, its gates and states, and what else its packs have.
CELL_FORMS = {
    "RNN": (rnn.cells["relu"], 1, 1, BIASED),
    "JordanRNN": (rnn.jordan_cells["tanh", "tanh"], 1, 1, {"b_ih": 5, **PROJECTED}),
    "JordanRNN, softmax": (rnn.jordan_cells["tanh", "softmax"], 1, 1, PROJECTED),
    "LSTM": (lstm.cell, 4, 2, {}),
    "LSTM with projections": (lstm.cell, 4, 2, PROJECTED),
    "LSTM with peepholes": (lstm.cell, 4, 2, {"w_peephole": 15, "b_ih": 20}),
    "LSTM with both": (lstm.cell, 4, 2, {"w_peephole": 15, **PROJECTED}),
    "GRU": (gru.cells[True], 3, 1, {"b_hh": 15}),
    "original GRU": (gru.cells[False], 3, 1, {"b_ih": 15, "b_hh": 15}),
}


def forward_arguments(form, lengths=None, padded=None):
    """What a cell's forward pass takes: T = 7, N = 2, the last state of 2. With `lengths`, packed or `padded`."""
    _, G, states, more = CELL_FORMS[form]
    P, ragged = more.get("P", 5), None if lengths is None else Ragged(np.array(lengths), 7)
    rows_x = rows_y = (7, 2) if lengths is None else (max(lengths), 2) if padded else (sum(lengths),)
    there = {
        "packs": (weights(G, **more),), "x": np.zeros((*rows_x, 3), f4), "k": 1, "y": np.zeros((*rows_y, P), f4),
        "initial": (np.zeros((2, 2, P), f4), np.zeros((2, 2, 5), f4))[:states],
        "final": (np.zeros((2, 2, P), f4), np.zeros((2, 2, 5), f4))[:states],
        "reverses": (False,), "n_threads": 1, "ragged": ragged,
    }  # fmt: skip
    if padded == "batch first":
        for name in ("x", "y"):
            there[name] = there[name].swapaxes(0, 1).copy().swapaxes(0, 1)
    return there


def backward_arguments(form, lengths=None, reverse=False, padded=None):
    """What its backward pass takes then."""
    cell, G, _, more = CELL_FORMS[form]
    P, there = more.get("P", 5), forward_arguments(form, lengths, padded)
    rows = there["x"].size // 3 if lengths is None else sum(lengths)
    shapes = {"W_ih": (G * 5, 3), "W_hh": (G * 5, P), "b_ih": G * 5, "b_hh": G * 5} | more
    shapes.pop("P", None)
    return {
        "packs": there["packs"], "x": there["x"], "kept": cell.forward(**(there | {"reverses": (reverse,)})),
        "dy": np.zeros_like(there["y"]), "column": 0, "dstates": tuple(a.copy() for a in there["initial"]), "k": 1,
        "dxs": (np.zeros_like(there["x"]),), "grads": ({name: np.zeros(shape, f4) for name, shape in shapes.items()},),
        "reverses": (reverse,), "n_threads": 1, "ragged": there["ragged"],
        "row_norms": (tuple(np.zeros(rows) for _ in there["initial"]),),
    }  # fmt: skip


class Plain(np.ndarray):
    """A subclass that does not even lie."""


def lies(array, writes, longer=()):
    """What is not an array of that dtype, layout and shape; `longer` are the axes that may be longer."""
    shape = array.shape
    yield from (None, 1.0, array.tolist(), array.astype(float), array.astype(">f4"), array.view(np.int32))
    yield from (array.view(Plain), array[None], array[..., None], np.zeros((*shape[:-1], 2 * shape[-1]), f4)[..., ::2])
    yield np.frombuffer(bytearray(4 * array.size + 1), np.uint8)[1:].view(f4).reshape(shape)  # not aligned
    if array.ndim > 1:
        yield from (array.ravel(), np.zeros(shape[::-1], f4).T)
    for axis, size in enumerate(shape):
        for other in (0, size - 1, *(() if axis in longer else (size + 1, 100))):
            yield np.zeros((*shape[:axis], other, *shape[axis + 1 :]), f4)
    if writes:
        locked = array.copy()
        locked.flags.writeable = False
        yield locked


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_what_the_kernels_must_not_believe():
    array = np.zeros((7, 2, 3), f4)
    for lie in lies(array, True):
        assert not (
            type(lie) is np.ndarray and lie.dtype == array.dtype and lie.shape == array.shape and lie.flags.carray
        )


def spoiled(arguments, writes, longer):
    """Changes to arguments, in each of which one array is a lie, or one is missing from a tuple or dict."""
    for name, value in arguments.items():
        keys = {"writes": name in writes, "longer": longer.get(name, ())}
        if isinstance(value, np.ndarray):
            for lie in lies(value, **keys):
                if lie is not None or name not in ("y", "dy"):  # which may be left out
                    yield {name: lie}
        elif name in ("initial", "final", "dstates", "dxs"):
            yield from spoiled_arrays(name, value, keys)
        elif name == "row_norms":
            (there,) = value
            yield from ({name: lie} for lie in ((), [there], (list(there),), (there[:-1],), (there, there)))
            for k, array in enumerate(there):
                locked = array.copy()
                locked.flags.writeable = False
                bad = None, array.astype(f4), array[:-1], array[None], np.zeros(2 * len(array))[::2], locked
                yield from ({name: ((*there[:k], lie, *there[k + 1 :]),)} for lie in bad if lie is None or lie.size)
        elif name == "kept":  # of one direction
            yield from ({name: ()}, {name: (None,)}, {name: (*value, *value)})
            yield from ({name: (change[name],)} for change in spoiled_arrays(name, value[0], keys))
        elif name == "grads":
            (there,) = value
            yield from ({name: None}, {name: (None,)}, {name: list(value)}, {name: (list(there),)})
            for key, array in there.items():
                if key[0] not in "bW":  # which need not be there
                    yield {name: ({other: a for other, a in there.items() if other != key},)}
                yield from ({name: (there | {key: lie},)} for lie in lies(array, **keys))


def spoiled_arrays(name, arrays, keys):
    """The same of a tuple of arrays."""
    yield from ({name: ()}, {name: arrays[:-1]}, {name: None}, {name: list(arrays)})
    for k, array in enumerate(arrays):
        if array is not None:
            for lie in lies(array, **keys):
                if lie is not None or name != "dxs":  # none of which need be there
                    yield {name: (*arrays[:k], lie, *arrays[k + 1 :])}


LAYOUTS = [(None, None), *((n, p) for n in ([7, 7], [3, 7], [0, 3]) for p in (None, "time first", "batch first"))]


@pytest.mark.parametrize("lengths,padded", LAYOUTS)
@pytest.mark.parametrize("form", CELL_FORMS)
def test_the_kernels_read_nothing_out_of_bounds(form, lengths, padded, engine):
    cell, good = CELL_FORMS[form][0], forward_arguments(form, lengths, padded)
    # more columns than one's own, more states, and more steps than the longest sequence
    longer = {"y": (0, 2) if padded else (good["y"].ndim - 1,), "initial": (0,), "final": (0,)}
    longer |= {"x": (0,)} if padded else {}
    for run in (cell.infer, cell.forward):
        run(**good)
        for change in spoiled(good, ("y", "final"), longer):
            with pytest.raises(REFUSED):
                run(**(good | change))
        run(**good)
    if lengths:
        for other in ([3, 7, 0], [10], [], [8, 7]):
            with pytest.raises(REFUSED):
                cell.infer(**(good | {"ragged": Ragged(np.array(other, np.int64), 10)}))
    if lengths and not padded:
        for other in ([2, 6], [3, 3], [0, 0]):
            with pytest.raises(REFUSED):
                cell.infer(**(good | {"ragged": Ragged(np.array(other, np.int64), 10)}))
        with pytest.raises(REFUSED):
            cell.infer(**(good | {"ragged": None}))
    if padded and max(lengths) == 7:  # a cut counts from where it was cut
        for t_0, t_1, steps in ((2, 5, 4), (2, 5, 0), (6, 7, 6), (1, 7, 6)):
            cut = {"ragged": good["ragged"].cut(t_0, t_1)}
            cell.infer(**(good | cut))
            with pytest.raises(REFUSED):
                cell.infer(**(good | cut | {"x": good["x"][:steps].copy()}))
            with pytest.raises(REFUSED):
                cell.infer(**(good | cut | {"y": good["y"][:steps]}))
    for ragged in (lengths or [7, 7], np.array([7, 7]), object()):
        with pytest.raises(TypeError):
            cell.infer(**(good | {"ragged": ragged}))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths,padded", [layout for layout in LAYOUTS if layout[0] != [7, 7]])
@pytest.mark.parametrize("form", CELL_FORMS)
def test_nor_backwards(form, lengths, padded, reverse, engine):
    cell, good = CELL_FORMS[form][0], backward_arguments(form, lengths, reverse, padded)
    cell.backward(**good)
    longer = {"dy": (0, 2) if padded else (good["dy"].ndim - 1,), "dstates": (0,)}
    longer |= {"x": (0,), "dxs": (0,)} if padded else {}
    for change in spoiled(good, ("dstates", "dxs", "grads", "row_norms"), longer):
        with pytest.raises(REFUSED):
            cell.backward(**(good | change))
    for change in (
        {"packs": (None,)}, {"packs": ()}, {"reverses": ()}, {"k": -1}, {"k": 2}, {"column": -1}, {"column": 1},
        {"column": 2**40}, {"ragged": [3, 7]},
        {"ragged": Ragged(np.array([5, 6]), 7)}, {"ragged": Ragged(np.array([3, 7, 0]), 7)},
        {"ragged": None if lengths else Ragged(np.array([7, 6]), 7)},
    ):  # fmt: skip
        with pytest.raises(REFUSED):
            cell.backward(**(good | change))
    cell.backward(**(good | {"dy": None}))
    cell.backward(**(good | {"row_norms": None}))


def test_lies_that_an_array_can_be_told_to_tell(engine):
    """Shapes beyond all memory, of arrays without elements and of a subclass; directions that do not fit together."""
    cell, good = lstm.cell, forward_arguments("LSTM")

    class Liar(np.ndarray):
        shape = (2**61 + 1, 8, 1)

    pack, (pack_4,) = good["packs"][0], forward_arguments("LSTM with projections")["packs"]
    both = {"packs": (pack, pack), "reverses": (False, True), "y": np.zeros((7, 2, 10), f4), "k": 0}
    cell.infer(**(good | {"k": 0, "n_threads": 3}))
    cell.infer(**(good | both))
    for change in (
        {"x": np.zeros((0, 2, 3), f4).view(Liar)}, {"y": np.empty((0, 1, 2**60), f4)},
        {"y": np.zeros((7, 2, 5), f4).view(Liar)}, {"initial": (None, None)}, {"k": 2}, {"k": -1}, {"k": 2**62},
        {"packs": None}, {"packs": ()}, {"packs": (None,)}, {"packs": (pack,) * 3}, {"packs": [pack]}, {"reverses": ()},
        {"reverses": (False, True)}, both | {"k": 1}, both | {"y": good["y"]}, both | {"packs": (pack, pack_4)},
        {"packs": (weights(1),)}, {"packs": (Pack(np.zeros((20, 3)), np.zeros((20, 5))),)},
        both | {"packs": (pack, Pack(np.zeros((16, 3), f4), np.zeros((16, 4), f4)))},
        both | {"packs": (pack, weights(4, P=5, W_hr=(5, 5)))},
    ):  # fmt: skip
        for run in (cell.infer, cell.forward):
            with pytest.raises(REFUSED):
                run(**(good | change))


# --- packs, cells, stacks ---------------------------------------------------------------------------------------------


def test_packs(engine):
    f4s = [
        np.zeros(shape, f4) for shape in ((20, 3), (20, 5), 3, (21, 3), (20, 6), (0, 3), (0, 5), (0, 0), (0, 2**40), 20)
    ]
    W_ih, W_hh, short, tall, wide, none_ih, none_hh, none, huge, flat = f4s
    for arrays in (
        (W_ih, W_hh, short, short), (tall, W_hh), (W_ih, wide), (none_ih, none_hh), (none, huge), (flat, W_hh),
        (W_ih, flat), (None, None), (W_ih, None), (W_ih, W_hh.tolist()), (W_ih.view(Plain), W_hh), (W_ih,), (),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            Pack(*arrays)
    for more, words in (
        ({"W_hr": (4, 5)}, r"expected W_hr of shape \(5, H\), got \(4, 5\)"),
        ({"W_hr": (6, 5)}, r"expected W_hr of shape \(5, H\), got \(6, 5\)"),
        ({"W_hr": (5, 6)}, r"expected weights \(G\*H, I\) and \(G\*H, P\) with H = 6"),
        ({"W_hr": (5, 40)}, r"expected weights \(G\*H, I\) and \(G\*H, P\) with H = 40"),
        ({"W_hr": (0, 5)}, "expected a matrix W_hr"),
        ({"W_hr": (5, 0)}, "expected a matrix W_hr"),
        ({"W_hr": 5}, "expected a matrix W_hr"),
        ({"W_hr": (1, 5, 5)}, "expected a matrix W_hr"),
        ({"P": 4}, r"expected weights|expected a matrix"),  # no projection to that width
        ({"b_hr": 4}, r"expected b_hr of shape \(5,\)"),
        ({"b_hr": (5, 1)}, r"expected b_hr of shape \(5,\)"),
        ({"P": 4, "W_hr": (4, 5), "b_hr": 5}, r"expected b_hr of shape \(4,\)"),
        ({"w_peephole": 14}, r"expected w_peephole of shape \(15,\)"),
        ({"w_peephole": 20}, r"expected w_peephole of shape \(15,\)"),
        ({"w_peephole": (3, 5)}, r"expected w_peephole of shape \(15,\)"),
        ({"P": 4, "W_hr": (4, 5), "w_peephole": 12}, r"expected w_peephole of shape \(15,\)"),
        ({"b_ih": 19}, r"expected b_ih of shape \(20,\)"),
        ({"b_hh": 21}, r"expected b_hh of shape \(20,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            weights(**({"G": 4} | more) if more != {"P": 4} else {"G": 1, "P": 4})
    for wrong in ([0.0] * 5, 1, "no", np.zeros(5, f4).view(Plain)):
        for name in ("b_ih", "b_hh", "W_hr", "b_hr", "w_peephole"):
            with pytest.raises(ValueError, match=f"expected (a matrix )?{name}"):
                Pack(W_ih, W_hh, **{name: wrong})
    for make in (lambda: Pack.__new__(Pack), lambda: type("Mine", (Pack,), {}), lambda: pickle.dumps(weights(4))):
        with pytest.raises(TypeError):
            make()
    # a dtype, or a layout, of its own: what an engine does not copy it does not take
    good = forward_arguments("LSTM with both")
    for name, shape in {"W_ih": (20, 3), "W_hh": (20, 4), "W_hr": (4, 5), "w_peephole": 15, "b_ih": 20}.items():
        arrays = {"W_ih": (20, 3), "W_hh": (20, 4), "W_hr": (4, 5)}
        arrays = {other: np.zeros(s, f4) for other, s in arrays.items()}
        for dtype in (float, np.int32, complex, object):
            with pytest.raises((TypeError, ValueError)):
                lstm.cell.infer(**(good | {"packs": (Pack(**(arrays | {name: np.zeros(shape, dtype)})),)}))


@pytest.mark.parametrize("form,more", [
    ("RNN", {"w_peephole": 15}), ("JordanRNN", {**PROJECTED, "w_peephole": 15}), ("GRU", {"w_peephole": 15}),
    ("original GRU", {"w_peephole": 15}), ("GRU", PROJECTED), ("original GRU", PROJECTED),
    ("GRU", {"W_hr": (5, 5)}), ("original GRU", {"W_hr": (5, 5)}), ("GRU", {**PROJECTED, "w_peephole": 15}),
    ("RNN", {"G": 3}), ("RNN", {"G": 4}), ("LSTM", {"G": 3}), ("LSTM", {"G": 5}), ("GRU", {"G": 4}), ("GRU", {"G": 1}),
    ("original GRU", {"G": 4}), ("JordanRNN", {"G": 4, **PROJECTED}), ("LSTM with both", {"G": 3, **PROJECTED}),
])  # fmt: skip
def test_packs_that_a_cell_cannot_use(form, more, engine):
    """Nothing else fits, so that one who takes the pack all the same comes to no harm."""
    cell, G, _, _ = CELL_FORMS[form]
    pack = weights(**({"G": G} | more))
    there = {"x": np.zeros((7, 2, 3), f4), "k": 0, "y": None, "initial": (), "final": (), "reverses": (False,)}
    for run in (cell.infer, cell.forward):
        with pytest.raises(ValueError, match="expected weights"):
            run(packs=(pack,), **there)
    with pytest.raises(ValueError, match="expected weights"):
        cell.backward((pack,), there["x"], ((),), None, 0, (), 0, (there["x"].copy(),), ({},), (False,))
    with pytest.raises(ValueError, match="expected weights"):
        Stack(cell, (pack,), np.dtype(f4))


def test_cells_that_python_made():
    cell, good = Cell(), forward_arguments("LSTM")
    for run in (cell.infer, cell.forward):
        with pytest.raises(ValueError, match="expected weights of 0 gates"):
            run(**good)
    with pytest.raises(ValueError, match="expected weights of 0 gates"):
        cell.backward(**backward_arguments("LSTM"))
    with pytest.raises(ValueError, match="expected weights of 0 gates"):
        Stack(cell, good["packs"], np.dtype(f4))
    for make in (lambda: type("Mine", (Cell,), {}), lambda: pickle.dumps(cell), lambda: copy.copy(lstm.cell)):
        with pytest.raises(TypeError):
            make()


def test_stacks_of_packs():
    pack, above, narrow = weights(4), Pack(np.zeros((20, 5), f4), np.zeros((20, 5), f4)), weights(4, **PROJECTED)
    dtype = np.dtype(f4)
    for arguments in (
        (lstm.cell, (), dtype), (lstm.cell, (None,), dtype), (lstm.cell, (pack, None), dtype),
        (lstm.cell, [pack], dtype), (None, (pack,), dtype), (lstm.cell, None, dtype), (lstm.cell, (pack,), None),
        (lstm.cell, (pack,), np.dtype(float)), (lstm.cell, (pack, pack), dtype), (lstm.cell, (pack, narrow), dtype),
        (lstm.cell, (narrow, above), dtype),
        (gru.cells[True], (pack,), dtype), (rnn.cells["tanh"], (pack,), dtype),
    ):  # fmt: skip
        with pytest.raises(REFUSED):
            Stack(*arguments)
    stack = Stack(lstm.cell, (pack, above), dtype)
    x, h = np.zeros((1, 2, 3), f4), np.zeros((2, 2, 5), f4)
    assert stack.call(x, (h, h), False, False)[0].shape == (1, 2, 5)
    for x_wrong, state in ((x[:, :, :2], (h, h)), (x, (h, h[:1])), (x, (h[:1], h)), (x, (h, h[:, :1])), (x, (h, h, h)),
                           (x, [h, h]), (x, h), (x, (h.astype(float), h)), (x, (h, h.tolist())), (x[0, 0], (h, h)),
                           (x.astype(float), (h, h)), (x.view(Plain), (h, h)), (None, (h, h))):  # fmt: skip
        assert stack.call(x_wrong, state, False, False) is None  # left to the general path
    assert stack.advance(x[0], (h[0], h[0])) is None


def test_ragged_calls_of_stacks():
    """What they cannot do is left to the general path."""
    pack, above, dtype = weights(4), Pack(np.zeros((20, 5), f4), np.zeros((20, 5), f4)), np.dtype(f4)
    stack = Stack(lstm.cell, (pack,), dtype)
    x, h, lengths = np.zeros((4, 2, 3), f4), np.zeros((1, 2, 5), f4), np.array([3, 1])
    good = {"x": x, "state": (h, h), "lengths": lengths, "batch_first": False, "reverse": False}
    assert stack.ragged(**good)[0].shape == (4, 2, 5)
    turned = good | {"x": np.zeros((2, 4, 3), f4), "batch_first": True}
    assert stack.ragged(**turned)[0].shape == (2, 4, 5)
    for wrong in (
        {"x": x[:, :, :2]}, {"x": x[:, :0]}, {"x": x[:, 0]}, {"x": x[:, ::-1]}, {"x": x.astype(float)}, {"x": None},
        {"x": x.view(Plain)}, {"state": (h,)}, {"state": h}, {"state": (h, h[:, :1])}, {"lengths": [3, 1]},
        {"lengths": lengths[:1]}, {"lengths": lengths[::-1]}, {"lengths": lengths.astype(np.int32)},
        {"lengths": lengths.astype("m8[s]")}, {"lengths": lengths[None]}, {"lengths": lengths * 0}, {"lengths": 3},
        {"lengths": lengths.astype(">i8")}, {"lengths": lengths.view(Plain)}, {"batch_first": True},
    ):  # fmt: skip
        assert stack.ragged(**good | wrong) is None
    for many in (Stack(lstm.cell, (pack, above), dtype), Stack(lstm.cell, (pack,), dtype, False)):
        assert many.ragged(**good | {"state": None}) is None
    for lengths in ([5, 1], [-1, 3]):
        with pytest.raises(ValueError, match="expected lengths between 0 and 4"):
            stack.ragged(**good | {"lengths": np.array(lengths)})


def test_training_passes_of_stacks():
    """What they cannot do is left to the general path; what they were not made for is refused."""
    pack, above = weights(4), Pack(np.zeros((20, 5), f4), np.zeros((20, 5), f4))
    stack = Stack(lstm.cell, (pack, above), np.dtype(f4))
    x, y, h = np.zeros((4, 2, 3), f4), np.zeros((4, 2, 5), f4), np.zeros((2, 2, 5), f4)
    arrays = {f"W_{of}h{k}": np.zeros((20, 3 if of == "i" and k == 0 else 5), f4) for k in range(2) for of in "ih"}
    names = tuple([{name: f"{name}{k}" for name in ("W_ih", "W_hh", "b_ih")} for k in range(2)])
    _, _, kept = stack.taped(x, (h, h), False, 8)
    dx, (dh_0, _), grads = stack.back(kept, y, None, arrays, names, False)
    assert dx.shape == x.shape and dh_0.shape == h.shape and grads.keys() == arrays.keys()
    dx, (dh_0, _), grads = stack.back(kept, y, None, {}, names, False, of_x=False)
    assert dx is None and dh_0.shape == h.shape and grads == {}
    assert stack.taped(x, (h, h), False, 7) is None
    for x_wrong, state in (
        (x[:, :, :2], (h, h)), (x[:0], (h, h)), (x[:, :0], None), (x[0], None), (x.swapaxes(0, 1), None),
        (x.astype(float), None), (x.view(Plain), None), (None, None), (x, (h, h[:1])), (x, (h,)), (x, h),
        (x, (h, h.astype(float))),
    ):  # fmt: skip
        assert stack.taped(x_wrong, state, False, 8) is None
    for dy, dstate in (
        (y[:3], None), (y[:, :, :4], None), (y.astype(float), None), (y[0], None), (y, (h, h[:, :1])), (y, (h,)),
        (y, h), (y, (h, None)),
    ):  # fmt: skip
        assert stack.back(kept, dy, dstate, arrays, names, False) is None
    (of_x, (of_one,)), second = kept
    for layers in (
        (), kept[:1], (second, second), ((x[:3], (of_one,)), second), ((of_x, ()), second), ((of_x, None), second),
        ((of_x, (of_one[:3],)), second), ((None, (of_one,)), second), list(kept),
    ):  # fmt: skip
        with pytest.raises(REFUSED):
            stack.back(layers, None, None, arrays, names, False)
    for own, own_names in (
        (arrays, names[:1]), (arrays, (None, None)), (arrays, ({}, {})), (None, names), (arrays, (names[0], {})),
        ({**arrays, "W_ih0": arrays["W_hh0"]}, names), ({**arrays, "W_hh1": None}, names),
    ):  # fmt: skip
        with pytest.raises(REFUSED):
            stack.back(kept, y, None, own, own_names, False)


def test_a_stack_whose_states_have_no_axis_of_layers_has_one_layer():
    """Made, not called: the second layer's state would be memory behind that of the first."""
    above = Pack(np.zeros((20, 5), f4), np.zeros((20, 5), f4))
    with pytest.raises(ValueError):
        Stack(lstm.cell, (weights(4), above), np.dtype(f4), False)


# --- orders and tokens ------------------------------------------------------------------------------------------------


def test_orders_of_sequences():
    for lengths, T in (
        ([3, 2], 3), (np.array([3, 2], np.int32), 3), (np.array([3, 2], np.uint64), 3), (np.array([3, 2], ">i8"), 3),
        (np.array([3.0, 2.0]), 3), (np.array([3, 2], "m8[s]"), 3), (np.array([3, 2], object), 3), (None, 3), (3, 3),
        (np.array(3), 3), (np.array([[3, 2]]), 3), (np.array([3, 2]).view(Plain), 3), (np.array([3, 4]), 3),
        (np.array([3, -1]), 3), (np.array([3, 2]), -1), (np.array([3, 2]), 2.5), (np.array([3, 2]), None),
        (np.array([2**62]), 2**62), (np.array([2**61] * 8), 2**61), (np.array([-(2**63)]), 3),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, MemoryError)):
            Ragged(lengths, T)
    ragged = Ragged(np.array([1, 3, 2, 0])[::-1], 9)
    assert ragged.T == 3 and list(ragged.order) == [2, 1, 3, 0] and list(ragged.offsets) == [0, 3, 5, 6]
    for t_0, t_1 in (
        (-1, 2),
        (2, 1),
        (0, 4),
        (4, 4),
        (2**62, 2**62),
        (-(2**63), 0),
        (-3, -1),
        (1.5, 2),
        (None, 2),
        ("0", 1),
    ):
        with pytest.raises((TypeError, ValueError)):
            ragged.cut(t_0, t_1)
    assert ragged.cut(3, 3).T == 0 and ragged.cut(1, 3).cut(1, 2).T == 1
    with pytest.raises(ValueError):
        ragged.cut(1, 3).cut(0, 3)
    y = np.ones((9, 4, 2))
    ragged.clear(y)
    assert np.array_equal(y[:, :, 0], np.arange(9)[:, None] < [0, 2, 3, 1])
    turned = np.ones((4, 9, 2), np.float32).swapaxes(0, 1)
    ragged.clear(turned)
    assert np.array_equal(turned, y)
    read_only = np.ones((3, 4, 2))
    read_only.flags.writeable = False
    for wrong in (None, [1.0], np.ones((2, 4, 2)), np.ones((9, 3, 2)), np.ones((9, 4)), np.ones((9, 4, 4))[:, :, ::2],
                  np.ones((9, 4, 2)).view(Plain), read_only):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            ragged.clear(wrong)
    with pytest.raises(ValueError):
        ragged.cut(1, 3).clear(np.ones((9, 4, 2)))
    for make in (lambda: type("Mine", (Ragged,), {}), lambda: pickle.dumps(ragged), lambda: copy.copy(ragged),
                 lambda: copy.deepcopy(ragged), lambda: Ragged.__new__(Ragged)):  # fmt: skip
        with pytest.raises(TypeError):
            make()
    for name in ("T", "order", "lengths", "offsets", "full"):
        with pytest.raises(AttributeError):
            setattr(ragged, name, getattr(ragged, name))


def test_an_order_of_sequences_stays_what_it_is():
    """The kernels go by its arrays, and look at them no more."""
    for ragged in (Ragged(np.array([1, 3]), 3), Ragged(np.array([1, 3]), 3).cut(1, 3)):
        for name in ("order", "lengths", "offsets"):
            before = getattr(ragged, name)
            getattr(ragged, name)[...] = 99  # a copy
            assert np.array_equal(getattr(ragged, name), before)


def test_tokens_that_the_kernels_must_not_believe(engine):
    """Nor tables, nor their gradients."""
    rows = np.zeros((6, 3), f4)
    pack = weights(4)
    for wrong in (rows.tolist(), rows[:, :2], rows.astype("f8"), np.asfortranarray(rows), rows[0], None):
        with pytest.raises((ValueError, TypeError), match=r"expected a C-contiguous matrix \(U, 3\)|must not be None"):
            pack.over(wrong)
    over = pack.over(rows)
    cell, tokens = lstm.cell, np.zeros((7, 2, 1), np.intp)
    initial = tuple(np.zeros((1, 2, 5), f4) for _ in range(2))
    final = tuple(np.zeros((1, 2, 5), f4) for _ in range(2))

    def forward(packs=(over,), x=tokens, **more):
        return cell.forward(packs, x, initial, 0, None, final, (False,), **more)

    for wrong in (
        tokens.astype("i4"), tokens.astype("f4"), tokens - 1, tokens + 6, tokens[..., 0], tokens[:, :1], tokens[::2],
        np.zeros((7, 2, 3), np.intp), tokens.tolist(),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            forward(x=wrong)
    with pytest.raises(ValueError, match="expected"):
        forward(packs=(pack,))
    two = tuple(np.zeros((2, 2, 5), f4) for _ in range(2))
    cell.infer((over, pack.over(rows[:0])), tokens[:0], two, 0, None, two, (False, True))
    for packs in ((over, pack), (pack, over)):
        with pytest.raises(ValueError, match="expected"):
            cell.infer(packs, tokens[:0], two, 0, None, two, (False, True))
    kept, dtable, dxs = forward(), cell.dtable(over), (np.zeros((7, 2, 1), f4),)
    assert dtable.shape == (6, 20)
    grads = {
        "W_ih": np.zeros((20, 3), f4), "W_hh": np.zeros((20, 5), f4),
        "b_ih": np.zeros(20, f4), "b_hh": np.zeros(20, f4),
    }  # fmt: skip
    for wrong in (dtable[:5], dtable[:, :19], dtable.astype("f8"), dtable[::-1], None):
        with pytest.raises(ValueError, match="expected"):
            cell.backward((over,), tokens, kept, None, 0, final, 0, dxs, (grads | {"table": wrong},), (False,))
        with pytest.raises((ValueError, TypeError)):
            cell.rows_backward(over, wrong, grads["W_ih"], True)
    with pytest.raises(ValueError, match="expected tokens from 0 to 5, got 6"):
        cell.backward((over,), tokens + 6, kept, None, 0, final, 0, dxs, (grads | {"table": dtable},), (False,))
    for wrong in (np.zeros((20, 4), f4), np.zeros((20, 3)), grads["W_ih"][:19]):
        with pytest.raises(ValueError, match="expected"):
            cell.rows_backward(over, dtable, wrong, True)
    for call in (cell.dtable, lambda pack: cell.rows_backward(pack, dtable, grads["W_ih"], True)):
        with pytest.raises(TypeError):
            call(pack)
