"""Parameters: immutable, changed through one door, never stale."""

import threading
import warnings
from functools import partial

import numpy as np
import pytest

import rnncore as rc
from rnncore.weights import Weights

X = np.ones((4, 2, 3), np.float32)
PROJECTED = partial(rc.LSTM, proj_size=2, peephole=True)
JORDAN = partial(rc.JordanRNN, output_size=2)


@pytest.fixture
def lstm():
    return rc.LSTM(3, 5, rng=0)


def test_same_seed_same_parameters():
    for kind in (rc.RNN, rc.LSTM, rc.GRU, rc.RNNCell, rc.LSTMCell, rc.GRUCell, PROJECTED, JORDAN):
        a, b, c = (kind(3, 5, rng=seed).parameters() for seed in (7, 7, 8))
        assert all(np.array_equal(a[name], b[name]) and not np.array_equal(a[name], c[name]) for name in a)
    generator = np.random.default_rng(7)
    a, b = rc.RNN(3, 5, rng=generator).parameters(), rc.RNN(3, 5, rng=7).parameters()
    assert np.array_equal(a["weight_ih_l0"], b["weight_ih_l0"])
    assert not np.array_equal(rc.RNN(3, 5).parameters()["weight_ih_l0"], rc.RNN(3, 5).parameters()["weight_ih_l0"])


def test_what_is_done_to_an_array_stays_with_it(lstm):
    """Promise 2 again: `parameters` gives objects of the caller's own, whatever is done to their shape."""
    before, x = lstm.state_dict(), np.ones((3, 2, lstm.input_size), lstm.dtype)
    y = lstm(x)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, which may do without some day
        array = lstm.parameters()["weight_hh_l0"]
        array.shape = array.size
        lstm.parameters()["weight_hh_l0"].dtype = np.uint8
    array = lstm.parameters()["weight_hh_l0"]
    array.__setstate__(np.zeros(array.shape, array.dtype).__reduce__()[2])
    array[...] = 1
    for name, now in lstm.parameters().items():
        assert now.dtype == lstm.dtype and np.array_equal(now, before[name]), name
    assert np.array_equal(lstm(x)[0], y)
    lstm.load_state_dict(before)


def test_an_edit_from_inside_a_load_is_kept(lstm):
    """By a value's own code, which runs while it is converted; and one from inside an edit's end is refused."""

    class Editing:
        def __array__(self, *args, **options):
            with lstm.editing() as params:
                params["bias_hh_l0"][:] = 9
            return np.zeros_like(lstm.parameters()["weight_hh_l0"])

    lstm.load_state_dict({"weight_hh_l0": Editing()}, strict=False)
    assert not lstm.parameters()["weight_hh_l0"].any() and (lstm.parameters()["bias_hh_l0"] == 9).all()
    with pytest.raises(RuntimeError, match="another edit"), lstm.editing() as params:
        params["weight_hh_l0"] = Editing()
    with pytest.raises(AttributeError, match="fixed"):
        del lstm.hidden_size
    with pytest.raises(TypeError, match="strict"):
        lstm.load_state_dict(lstm.state_dict(), strict="no")


def test_parameters_cannot_be_written(lstm):
    """Promise 2: a way to change a parameter unseen does not exist."""
    for array in lstm.parameters().values():
        while isinstance(array, np.ndarray):
            with pytest.raises(ValueError):
                array[...] = 0
            with pytest.raises(ValueError):
                array.flags.writeable = True
            with pytest.raises(ValueError):
                array.setflags(write=True)
            array = array.base
        assert isinstance(array, bytes)
    parameters = lstm.parameters()
    parameters["weight_ih_l0"] = None
    parameters.clear()
    lstm.state_dict()["weight_ih_l0"][...] = 0
    assert np.array_equal(lstm(X)[0], rc.LSTM(3, 5, rng=0)(X)[0])


@pytest.mark.parametrize("make,shapes", [
    (partial(rc.GRU, num_layers=2, bidirectional=True), {
        "weight_ih_l0": (15, 3), "weight_hh_l0": (15, 5), "bias_ih_l0": (15,), "bias_hh_l0": (15,),
        "weight_ih_l0_reverse": (15, 3), "weight_hh_l0_reverse": (15, 5), "bias_ih_l0_reverse": (15,),
        "bias_hh_l0_reverse": (15,),
        "weight_ih_l1": (15, 10), "weight_hh_l1": (15, 5), "bias_ih_l1": (15,), "bias_hh_l1": (15,),
        "weight_ih_l1_reverse": (15, 10), "weight_hh_l1_reverse": (15, 5), "bias_ih_l1_reverse": (15,),
        "bias_hh_l1_reverse": (15,),
    }),
    (partial(PROJECTED, num_layers=2, bias=False), {
        "weight_ih_l0": (20, 3), "weight_hh_l0": (20, 2), "weight_hr_l0": (2, 5), "weight_peephole_l0": (15,),
        "weight_ih_l1": (20, 2), "weight_hh_l1": (20, 2), "weight_hr_l1": (2, 5), "weight_peephole_l1": (15,),
    }),
    (JORDAN, {
        "weight_ih_l0": (5, 3), "weight_oh_l0": (5, 2), "bias_h_l0": (5,), "weight_ho_l0": (2, 5), "bias_o_l0": (2,),
    }),
    (rc.GRUCell, {"weight_ih": (15, 3), "weight_hh": (15, 5), "bias_ih": (15,), "bias_hh": (15,)}),
])  # fmt: skip
def test_names_and_shapes(make, shapes):
    module = make(3, 5)
    assert {name: array.shape for name, array in module.parameters().items()} == shapes
    for array in module.parameters().values():
        assert array.any() and np.abs(array).max() <= 5**-0.5


@pytest.mark.parametrize("make", [rc.GRU, partial(rc.GRU, reset_after=False), PROJECTED, JORDAN])
def test_each_parameter_counts(make):
    """The next call sees a change of any one of them, in every way of calling."""
    layer = make(3, 5, rng=0)
    for name in layer.parameters():
        before, step = layer(X)[0], layer.stream(2).step(X[0])
        with layer.editing() as params:
            params[name].flat[0] += 1
        after = layer(X)[0]
        assert not np.array_equal(after, before) and np.array_equal(layer.forward(X)[0], after), name
        assert np.array_equal(layer.stream(2).step(X[0]), after[0]) and np.array_equal(step, before[0]), name


def test_editing(lstm):
    before, y = lstm.parameters(), lstm(X)[0]
    with lstm.editing() as params:
        params["weight_hh_l0"] *= 0.5
        params["bias_ih_l0"] = np.arange(20)  # integers are converted
        assert np.array_equal(lstm(X)[0], y)  # not before its end
    after = lstm.parameters()
    assert np.array_equal(after["weight_hh_l0"], before["weight_hh_l0"] * np.float32(0.5))
    assert after["bias_ih_l0"].dtype == np.float32 and after["bias_ih_l0"][19] == 19
    assert not np.array_equal(lstm(X)[0], y)
    params["weight_hh_l0"][...] = 0  # the scratch arrays have no way back in
    assert np.array_equal(lstm.parameters()["weight_hh_l0"], after["weight_hh_l0"])


@pytest.mark.parametrize("change,error", [
    (lambda p: p.update(weight_ih_l0=np.zeros((2, 2))), ValueError),
    (lambda p: p.update(weight_ih_l0=np.zeros((20, 3), complex)), TypeError),
    (lambda p: p.update(more=np.zeros(3)), ValueError),
    (lambda p: p.pop("bias_ih_l0"), ValueError),
    (lambda p: 1 / 0, ZeroDivisionError),
])  # fmt: skip
def test_a_failed_edit_changes_nothing(lstm, change, error):
    before = lstm.parameters()
    with pytest.raises(error), lstm.editing() as params:
        params["weight_hh_l0"][...] = 0
        change(params)
    assert all(np.array_equal(lstm.parameters()[name], array) for name, array in before.items())


def test_an_edit_that_would_lose_another_is_refused(lstm):
    with pytest.raises(RuntimeError, match="meanwhile"), lstm.editing() as outer:
        outer["weight_hh_l0"] += 1
        with lstm.editing() as inner:
            inner["bias_ih_l0"][...] = 3
    assert (lstm.parameters()["bias_ih_l0"] == 3).all()
    assert np.array_equal(lstm.parameters()["weight_hh_l0"], rc.LSTM(3, 5, rng=0).parameters()["weight_hh_l0"])


def test_load_state_dict(lstm):
    other = rc.LSTM(3, 5, rng=1)
    result = lstm.load_state_dict(other.state_dict())
    assert result == ([], []) and np.array_equal(lstm(X)[0], other(X)[0])
    whole = {"encoder." + name: 2 * array for name, array in other.state_dict().items()} | {"head.weight": 1}
    lstm.load_state_dict(whole, prefix="encoder.")
    assert np.array_equal(lstm.parameters()["bias_hh_l0"], 2 * other.parameters()["bias_hh_l0"])
    result = lstm.load_state_dict({"bias_ih_l0": np.ones(20), "x": 1}, strict=False)
    assert result.missing_keys == ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"] and result.unexpected_keys == ["x"]
    assert (lstm.parameters()["bias_ih_l0"] == 1).all()


@pytest.mark.parametrize("layer,cell", [
    (partial(rc.RNN, 3, 5), partial(rc.RNNCell, 3, 5)), (partial(rc.LSTM, 3, 5), partial(rc.LSTMCell, 3, 5)),
    (partial(rc.GRU, 3, 5), partial(rc.GRUCell, 3, 5)),
    (partial(rc.GRU, 3, 5, bias=False, reverse=True), partial(rc.GRUCell, 3, 5, bias=False)),
])  # fmt: skip
def test_names_of_a_cell_for_a_layer_and_the_other_way_round(layer, cell):
    for make_from, make_to in ((layer, cell), (cell, layer)):
        source, target = make_from(rng=0), make_to(rng=1)
        whole = {"a." + name: array for name, array in source.state_dict().items()}
        assert target.load_state_dict(whole, prefix="a.") == ([], [])
        for actual, expected in zip(target.parameters().values(), source.parameters().values(), strict=True):
            assert np.array_equal(actual, expected)

        names = list(source.parameters())
        some = {names[1]: source.parameters()[names[1]] * 2, "extra": 1}
        with pytest.raises(ValueError, match=r"missing \['weight_ih.*\], unexpected \['extra'\]"):
            target.load_state_dict(some)
        missing = [name for k, name in enumerate(target.parameters()) if k != 1]
        assert target.load_state_dict(some, strict=False) == (missing, ["extra"])
        assert np.array_equal([*target.parameters().values()][1], some[names[1]])


def test_names_of_both_styles_or_for_several_layers_are_refused():
    cell = rc.LSTMCell(3, 5, rng=0).state_dict()
    for layer in (rc.LSTM(3, 5, 2), rc.LSTM(3, 5, bidirectional=True)):
        for mapping in (cell, {"weight_ih": cell["weight_ih"]}, layer.state_dict() | cell):
            for strict in (True, False):
                words = "such as 'weight_ih_l0' for 2 layers and directions, got that of a cell, 'weight_ih'"
                with pytest.raises(ValueError, match=words):
                    layer.load_state_dict(mapping, strict=strict)
    for module in (rc.LSTM(3, 5), rc.LSTMCell(3, 5)):
        before = module.parameters()
        for mapping in (rc.LSTM(3, 5).state_dict() | cell, {"weight_ih": 1, "bias_hh_l0": 1}):
            for strict in (True, False):
                with pytest.raises(ValueError, match="expected names of a layer or of a cell, got both: '"):
                    module.load_state_dict(mapping, strict=strict)
        assert all(np.array_equal(module.parameters()[name], array) for name, array in before.items())
    two = rc.LSTM(3, 5, 2, rng=1).state_dict()
    with pytest.raises(ValueError, match=r"unexpected \['weight_ih_l1', 'weight_hh_l1', 'bias_ih_l1', 'bias_hh_l1'\]"):
        rc.LSTMCell(3, 5).load_state_dict(two)
    with pytest.raises(ValueError, match=r"unexpected \['weight_l0'\]"):
        rc.train.Linear(3, 5, bias=False).load_state_dict({"weight_l0": np.ones((5, 3))})


def test_a_failed_load_changes_nothing(lstm):
    before = lstm.parameters()
    good = lstm.state_dict()
    for bad, error, words in [
        ({**good, "bias_hh_l0": np.zeros(3)}, ValueError, r"expected bias_hh_l0 of shape \(20,\), got \(3,\)"),
        ({**good, "bias_hh_l0": ["a"] * 20}, TypeError, "real numbers"),
        ({**good, "extra": 1}, ValueError, r"unexpected \['extra'\]"),
        ({name: good[name] for name in list(good)[1:]}, ValueError, r"missing \['weight_ih_l0'\]"),
        ([1, 2], TypeError, "mapping"),
        ({**good, 3: 1}, TypeError, "expected names to be strings, got 3"),
    ]:
        with pytest.raises(error, match=words):
            lstm.load_state_dict(bad)
    with pytest.raises(TypeError, match="expected prefix to be a string, got None"):
        lstm.load_state_dict(good, prefix=None)
    words = r"behind the prefix 'encoder.'; missing \['weight_ih_l0', .*; no name begins so, among \['bias_hh_l0', "
    with pytest.raises(ValueError, match=words):
        lstm.load_state_dict(good, prefix="encoder.")
    with pytest.raises(ValueError, match=r"missing \['weight_hh_l0', .*unexpected \[\]$"):
        lstm.load_state_dict({"encoder.weight_ih_l0": good["weight_ih_l0"]}, prefix="encoder.")
    assert all(np.array_equal(lstm.parameters()[name], array) for name, array in before.items())


@pytest.mark.parametrize("make", [rc.LSTM, rc.GRUCell, PROJECTED, JORDAN, rc.train.Linear, rc.train.Embedding])
def test_a_parameter_is_not_assigned_as_an_attribute(make):
    """As torch's are: it would be an attribute that no call looks at."""
    module = make(3, 5)
    before = module.state_dict()
    for name, array in before.items():
        with pytest.raises(AttributeError, match=f"{name} is a parameter, not|{name} of a Linear is fixed"):
            setattr(module, name, array + 1)
    assert all(np.array_equal(before[name], array) for name, array in module.parameters().items())


def test_options_are_fixed_when_a_layer_is_made(lstm):
    """A tape's layer must not turn into another one under it."""
    for name in ("reverse", "hidden_size", "batch_first", "dtype", "bias"):
        with pytest.raises(AttributeError, match=f"{name} of a LSTM is fixed"):
            setattr(lstm, name, True)
    lstm.remark = "mine"  # what is not an option is the caller's affair


def test_weights_are_a_mapping_that_keeps_what_was_packed():
    source = np.arange(6.0).reshape(2, 3)
    weights = Weights({"w": source})
    source[...] = 0
    assert weights["w"][1, 2] == 5 and list(weights) == ["w"] and len(weights) == 1
    made = [weights.packed(object) for _ in range(2)]
    assert made[0] is made[1]


def test_what_lies_in_bytes_of_its_own_is_not_copied():
    """Neither what is frozen already; but all else is, to begin at a cache line."""
    kept = Weights({"w": np.arange(6.0).reshape(2, 3)})["w"]
    again = Weights({"w": kept})["w"]
    assert np.shares_memory(again, kept) and again is not kept
    data = np.arange(6.0).tobytes()
    for other in (kept[:1], kept.T, kept[0], np.frombuffer(data), np.frombuffer(bytearray(data)), np.array(5.0)):
        copied = Weights({"w": other})["w"]
        assert copied.flags.c_contiguous and np.array_equal(copied, other) and copied.shape == other.shape
        assert not np.shares_memory(copied, other) and copied.ctypes.data % 64 == 0
        assert type(copied.base) is bytes and not copied.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            copied.flags.writeable = True


def test_a_change_is_seen_by_the_next_call_in_every_thread(lstm):
    """Readers see the old numbers or the new ones, nothing in between."""
    versions = []
    for value in range(20):
        with lstm.editing() as params:
            for array in params.values():
                array[...] = value / 20
        versions.append(lstm(X)[0])
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            y = lstm(X)[0]
            if not any(np.array_equal(y, v) for v in versions):
                wrong.append(y)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in range(20):
        with lstm.editing() as params:
            for array in params.values():
                array[...] = value / 20
        assert np.array_equal(lstm(X)[0], versions[value])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
