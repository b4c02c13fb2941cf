"""The quick look at calls of PyTorch's recurrent modules: what it says of which."""

from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
from alike import CELLS, LAYERS, as_tuple, compare, nn, one_thread, ours, pytestmark, rnn, run, torch, x_of  # noqa: F401

from rnncore._kernels.tensors import Exchange

NOTHING = None, None
LOOKS = [*LAYERS, *CELLS]
quick = run.calls
needs_table = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="a version of PyTorch without a table"
)


def module_of(kind, **options):
    """A module that takes x_of, and a step of it if it is a cell."""
    module = getattr(ours, kind)(3, 4, **options)
    return module.requires_grad_(False)


def look(module, x, hx=None):
    """What the quick look at a call says."""
    if isinstance(module, nn.RNNBase):
        return quick.layer(module, x, hx)
    mode = module._mode or {"tanh": "RNN_TANH", "relu": "RNN_RELU"}.get(module.nonlinearity)
    return quick.cell(module, mode, x, hx, module._current_weights())


def input_of(kind, *shape, **options):
    return x_of(*(shape or ((5, 2, 3) if kind in LAYERS else (2, 3))), **options)


@needs_table
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_is_run_at_once(kind, options, dtype, monkeypatch):
    monkeypatch.setattr(ours.modules, "recurrent", None)  # what follows a quick look that says nothing
    torch.manual_seed(0)
    module = getattr(ours, kind)(3, 4, dtype=dtype, **options)
    theirs = getattr(nn, kind)(3, 4, dtype=dtype, **options)
    theirs.load_state_dict(module.state_dict())
    directions = module.num_layers * (2 if module.bidirectional else 1)
    for shape in ((5, 2, 3), (2, 1, 3), (1, 1, 3), (4, 3)):
        x = x_of(*shape, dtype=dtype)
        batch = shape[0 if module.batch_first else 1 : 1 if module.batch_first else 2] if len(shape) == 3 else ()
        states = [torch.randn(directions, *batch, 4, dtype=dtype) for _ in range(2 if kind == "LSTM" else 1)]
        for hx in (None, tuple(states) if kind == "LSTM" else states[0]):
            with torch.no_grad():
                y, after = module(x, hx)
                expected, expected_after = theirs(x, hx)
            torch.testing.assert_close((y, *as_tuple(after)), (expected, *as_tuple(expected_after)))


@needs_table
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_run_at_once(kind, bias, monkeypatch):
    monkeypatch.setattr(ours.modules, "advance", None)
    torch.manual_seed(0)
    module, theirs = getattr(ours, kind)(3, 4, bias), getattr(nn, kind)(3, 4, bias)
    theirs.load_state_dict(module.state_dict())
    for shape in ((2, 3), (3,)):
        x = x_of(*shape)
        states = [torch.randn(*shape[:-1], 4) for _ in range(2 if kind == "LSTMCell" else 1)]
        for hx in (None, tuple(states) if kind == "LSTMCell" else states[0]):
            with torch.inference_mode():
                torch.testing.assert_close(module(x, hx), theirs(x, hx))


@needs_table
@pytest.mark.parametrize("kind", LOOKS)
def test_a_gradient_is_left_to_others(kind):
    module = module_of(kind)
    assert look(module, input_of(kind))[0] is not None
    h = input_of(kind, 1, 2, 4) if kind in LAYERS else input_of(kind, 2, 4)
    hx = (h, h.clone().requires_grad_()) if kind.startswith("LSTM") else h.requires_grad_()
    assert look(module, input_of(kind), hx)[0] is None
    for x, of in ((input_of(kind), module), (input_of(kind, requires_grad=True), module.requires_grad_(False))):
        of.requires_grad_(of is module and not x.requires_grad)
        done, (options, given, states, weights) = look(of, x)
        assert done is None and given is x and states == () and len(weights) == 4 and options[1:3] == (3, 4)
        with torch.no_grad():
            assert look(of, x)[0] is not None


class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Dispatch(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


WATCHING = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "forward AD": torch.autograd.forward_ad.dual_level,
    "a mode of functions": Mode,
    "a mode of operators": Dispatch,
}


@needs_table
@pytest.mark.parametrize("kind", LOOKS)
@pytest.mark.parametrize("watching", [*WATCHING, "a trace", "vmap"])
def test_it_says_nothing_where_something_watches(kind, watching):
    module, x, found = module_of(kind), input_of(kind), []

    def watched(row):
        found.append(look(module, x))
        return row + 1

    assert look(module, x) != NOTHING
    if watching == "a trace":
        torch.jit.trace(watched, x, check_trace=False)
    elif watching == "vmap":
        torch.func.vmap(watched)(torch.zeros(2, 1))
    else:
        with WATCHING[watching]():
            watched(x)
    assert found == [NOTHING] and look(module, x) != NOTHING


class Renamed(ours.LSTM):
    """Whose option is not what its instances' dictionaries say."""

    @property
    def batch_first(self):
        return True

    @batch_first.setter
    def batch_first(self, value):
        vars(self)["batch_first"] = value


class Attributes(ours.GRU):
    def __getattribute__(self, name):
        return True if name == "batch_first" else super().__getattribute__(name)


class Own(torch.Tensor):
    pass


def changed(kind, change):
    module = module_of(kind)
    change(module)
    return module


OTHERS = {
    "a packed sequence": lambda: (module_of("GRU"), rnn.pack_sequence([x_of(5, 3), x_of(2, 3)])),
    "another width": lambda: (module_of("GRU"), x_of(5, 2, 4)),
    "too many axes": lambda: (module_of("GRU"), x_of(5, 2, 2, 3)),
    "one axis": lambda: (module_of("GRU"), x_of(3)),
    "no steps": lambda: (module_of("GRU"), x_of(0, 2, 3)),
    "another dtype": lambda: (module_of("GRU"), x_of(5, 2, 3).double()),
    "whole numbers": lambda: (module_of("GRU"), torch.ones(5, 2, 3, dtype=torch.int64)),
    "bfloat16": lambda: (module_of("GRU", dtype=torch.bfloat16), x_of(5, 2, 3).bfloat16()),
    "no memory": lambda: (module_of("GRU"), x_of(5, 2, 3).to("meta")),
    "a subclass": lambda: (module_of("GRU"), x_of(5, 2, 3).as_subclass(Own)),
    "no tensor": lambda: (module_of("GRU"), [[[1.0, 2.0, 3.0]]]),
    "a state of another shape": lambda: (module_of("GRU"), x_of(5, 2, 3), x_of(1, 3, 4)),
    "a state of another dtype": lambda: (module_of("GRU"), x_of(5, 2, 3), x_of(1, 2, 4).double()),
    "a state too few": lambda: (module_of("LSTM"), x_of(5, 2, 3), (x_of(1, 2, 4),)),
    "a state that is none": lambda: (module_of("LSTM"), x_of(5, 2, 3), x_of(1, 2, 4)),
    "dropout": lambda: (module_of("LSTM", num_layers=2, dropout=0.5), x_of(5, 2, 3)),
    "dropout that is none of PyTorch's": lambda: (
        changed("LSTM", lambda m: vars(m).update(dropout=2.0, num_layers=2)), x_of(5, 2, 3),
    ),
    "a property": lambda: (Renamed(3, 4), x_of(5, 2, 3)),
    "no option": lambda: (changed("LSTM", lambda m: vars(m).pop("proj_size")), x_of(5, 2, 3)),
    "a method of attributes": lambda: (Attributes(3, 4), x_of(5, 2, 3)),
    "a mode that is none": lambda: (
        changed("GRU", lambda m: vars(m).update(mode=np.array([1, 2]))), x_of(5, 2, 3),
    ),
    "a size that is none": lambda: (
        changed("GRUCell", lambda m: vars(m).update(hidden_size="x")), x_of(2, 3), x_of(2, 4),
    ),
    "a size that is huge": lambda: (
        changed("GRUCell", lambda m: vars(m).update(hidden_size=2**70)), x_of(2, 3), x_of(2, 4),
    ),
    "weights of another kind": lambda: (
        changed("RNN", lambda m: setattr(m, "_flat_weights", tuple(m._flat_weights))), x_of(5, 2, 3),
    ),
    "weight norm": lambda: (changed("RNN", partial(nn.utils.weight_norm, name="weight_hh_l0")), x_of(5, 2, 3)),
    "no weight": lambda: (changed("RNN", lambda m: setattr(m, "bias_hh_l0", None)), x_of(5, 2, 3)),
    "a cell's width": lambda: (module_of("GRUCell"), x_of(2, 4)),
    "a cell's axes": lambda: (module_of("GRUCell"), x_of(1, 2, 3)),
    "a cell's state": lambda: (module_of("LSTMCell"), x_of(2, 3), (x_of(2, 4), x_of(3, 4))),
    "a cell's bias": lambda: (changed("GRUCell", lambda m: setattr(m, "bias_hh", None)), x_of(2, 3)),
    "a cell's nonlinearity": lambda: (changed("RNNCell", lambda m: setattr(m, "nonlinearity", "elu")), x_of(2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_it_says_nothing_of(name):
    with torch.no_grad():
        assert look(*OTHERS[name]()) == NOTHING


class Registered:
    """A base that keeps what its subclasses are from other bases."""

    def __init_subclass__(cls, **options):
        pass


BATCH_FIRST = property(lambda self: True, lambda self, given: vars(self).update(batch_first=given))


@pytest.mark.parametrize("how", ["a base", "accelerated", "later", "a mixin, later", "attributes"])
def test_a_class_that_says_something_else(how):
    """Of itself, of a base, and after it was made and called."""

    def called(lib):
        mixin = type("Mixin", (), {})
        own = {"a base": lib.GRU, "accelerated": nn.GRU}.get(how)
        if own:
            module = type("Of", (Registered, own), {"batch_first": BATCH_FIRST})(3, 4)
        elif how == "attributes":
            body = {"__getattribute__": lambda m, name: name == "batch_first" or nn.Module.__getattribute__(m, name)}
            module = type("Of", (lib.GRU,), body)(3, 4)
        else:
            module = type("Of", (mixin, lib.GRU), {})(3, 4)
            module(x_of(5, 2, 3))
            (mixin if "mixin" in how else type(module)).batch_first = BATCH_FIRST
        if how == "accelerated" and lib is ours:
            model = nn.Sequential(module)
            ours.accelerate(model)
            module = model[0]
        with torch.no_grad():
            quiet = module(x_of(5, 2, 3))
        return quiet, module(x_of(5, 2, 3)), module(x_of(5, 2, 3), torch.ones(1, 5, 4))

    compare(called)


@pytest.mark.parametrize("size", ["x", None, 2**70, 4.0, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_sizes_that_are_none(kind, size):
    def called(lib):
        module = getattr(lib, kind)(3, 4)
        vars(module)["hidden_size"] = size
        return module(x_of(2, 3), None if kind == "LSTM" else x_of(2, 4))

    compare(called)


@pytest.mark.parametrize("name", ["batch_first", "hidden_size"])
def test_a_property_in_place_of_an_option(name):
    """The class's, not what an instance's dictionary says."""

    def called(lib):
        value = {"batch_first": True, "hidden_size": 4}[name]
        own = property(lambda self: value, lambda self, given: vars(self).update({name: not value}))
        module = type("Own", (lib.LSTM,), {name: own})(3, 4)
        return module(x_of(5, 2, 3), (torch.ones(1, 5, 4), torch.ones(1, 5, 4)) if name == "batch_first" else None)

    compare(called)


@pytest.mark.parametrize("how", ["a base", "later", "a mixin, later", "an instance"])
@pytest.mark.parametrize("name", ["check_forward_args", "permute_hidden"])
def test_a_check_of_ones_own(how, name):
    """Asked as PyTorch asks it, whenever and wherever it was put there, with a gradient and without."""

    def called(lib):
        def own(*args):
            raise KeyError("asked")

        mixin = type("Mixin", (), {})
        if how == "a base":
            module = type("Of", (Registered, lib.LSTM), {name: own})(3, 4)
        else:
            module = type("Of", (mixin, lib.LSTM), {})(3, 4)
            module(x_of(5, 2, 3))
            setattr({"later": type(module), "a mixin, later": mixin, "an instance": module}[how], name, own)
        said = []
        packed = rnn.pack_sequence([x_of(5, 3), x_of(2, 3)])
        state = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
        for x, hx in ((x_of(5, 2, 3), None), (x_of(5, 2, 3), state), (packed, None), (packed, state)):
            for quiet in (torch.enable_grad(), torch.no_grad()):
                with quiet:
                    try:
                        module(x, hx)
                        said.append("nothing")
                    except KeyError as error:
                        said.append(str(error))
        return said

    assert called(ours) == called(nn)
    assert "'asked'" in called(ours)


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_an_rnn_cell_with_gradients_is_pytorchs(nonlinearity, table, monkeypatch):
    """Whose own is quicker, whatever wants one; other cells, and steps without, are rnncore's."""
    if not table:
        exchange = Exchange((torch.Tensor, nn.Parameter), None)
        for module in (ours.modules, ours.tensors):
            monkeypatch.setattr(module, "exchange", exchange)
        for module in (ours.modules, ours.ops, run):
            monkeypatch.setattr(module, "calls", run.calls_of(exchange))
    cell, lstm = ours.RNNCell(3, 4, nonlinearity=nonlinearity), ours.LSTMCell(3, 4)
    x, h = x_of(2, 3), x_of(2, 4)
    assert "Recurrence" in type(lstm(x)[0].grad_fn).__name__
    assert type(cell(x, h).grad_fn).__name__ == ("TanhBackward0" if nonlinearity == "tanh" else "ReluBackward0")
    cell.requires_grad_(False)
    with monkeypatch.context() as patch:
        patch.setattr(ours.RNNCell, "_elsewhere", None)
        quiet = cell(x, h)
    assert quiet.grad_fn is None
    for given in ((x.requires_grad_(), h), (x.detach(), h.requires_grad_())):
        found = cell(*given)
        assert found.grad_fn is not None and "Recurrence" not in type(found.grad_fn).__name__
        torch.testing.assert_close(found, quiet)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_one_row_through_large_weights_is_pytorchs(kind, dtype, monkeypatch):
    """Which reads them once, where rnncore would take their digest too; more rows, and smaller ones, are rnncore's."""
    calls, theirs = [], getattr(ours, kind)._theirs
    monkeypatch.setattr(getattr(ours, kind), "_theirs", lambda *args: calls.append(len(calls)) or theirs(*args))
    least, gates = getattr(ours, kind)._theirs_from, {"RNNCell": 1, "LSTMCell": 4, "GRUCell": 3}[kind]
    units = int((least / gates / 2 / dtype.itemsize) ** 0.5)
    for H, large in ((units - 2, False), (units + 2, True)):
        cell = getattr(ours, kind)(H, H, dtype=dtype).requires_grad_(False)
        twin = getattr(nn, kind)(H, H, dtype=dtype)
        twin.load_state_dict(cell.state_dict())
        for shape, left in (((H,), large), ((1, H), large), ((2, H), False)):
            x = torch.randn(shape, dtype=dtype)
            before = len(calls)
            torch.testing.assert_close(cell(x), twin.requires_grad_(False)(x))
            assert len(calls) - before == left, (H, shape)
    cell, x = cell.requires_grad_(), torch.randn(1, H, dtype=dtype)
    found = cell(x)
    assert "Recurrence" not in type((found[0] if kind == "LSTMCell" else found).grad_fn).__name__
    for wrong in (x[:, 1:], x[None, None], x.int()):
        with pytest.raises((RuntimeError, ValueError)) as said:
            cell(wrong)
        with pytest.raises(type(said.value)) as expected:
            twin(wrong)
        assert str(said.value) == str(expected.value)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_parameters_may_be_kept_in_another_dictionary(kind):
    """As in modules that older versions of PyTorch have pickled."""
    module, twin = getattr(ours, kind)(3, 4), getattr(nn, kind)(3, 4)
    twin.load_state_dict(module.state_dict())
    x = x_of(5, 3)
    expected = as_tuple(twin(x))
    module._parameters = OrderedDict(module._parameters)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for found, same in zip(as_tuple(module(x)), expected, strict=True):
                torch.testing.assert_close(found, same)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_one_step_of_one_sequence_through_large_weights_is_pytorchs(kind, monkeypatch):
    """But an LSTM's."""
    calls, elsewhere = [], getattr(ours, kind)._elsewhere
    monkeypatch.setattr(getattr(ours, kind), "_elsewhere", lambda *args: calls.append(args) or elsewhere(*args))
    module = getattr(ours, kind)(5, 7, 2, bidirectional=True)
    size = sum(weight.nbytes for weight in module.parameters() if weight.dim() == 2)
    for least, large in ((size + 1, False), (size, True)):
        if kind != "LSTM":
            monkeypatch.setattr(getattr(ours, kind), "_theirs_from", least)
        for shape, left in (((1, 5), large), ((1, 1, 5), large), ((2, 1, 5), False), ((1, 2, 5), False)):
            for grad in (True, False):
                calls.clear()
                with torch.set_grad_enabled(grad):
                    found = module(torch.ones(shape))
                    assert len(calls) == (left and kind != "LSTM"), (least, shape, grad)
                    torch.testing.assert_close(found, super(ours.modules._Recurrent, module).forward(torch.ones(shape)))
