"""`accelerate` and `restore`: models whose recurrent layers are replaced in place."""

from __future__ import annotations

import copy
import doctest
import importlib
import pickle

import pytest
from parity import (  # noqa: F401
    assert_close,
    interop,
    nn,
    pytestmark,
    results,
    seeded,
    tensors,
    torch,
)

from rnncore.interop.torch import accelerate, restore


class Own(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input * 2, hx)


class Named(nn.LSTM):
    """A subclass with no forward of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.note = "kept"


def mixed():
    model = nn.ModuleDict({
        "rnn": nn.RNN(3, 4), "deep": nn.Sequential(nn.GRU(4, 4), nn.Linear(4, 4)), "cell": nn.LSTMCell(3, 4),
        "own": Own(3, 4), "named": Named(3, 4), "patched": nn.GRUCell(3, 4), "ours": interop.GRU(3, 4),
        "normed": nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"),
    })  # fmt: skip
    model["patched"].forward = lambda x: x
    return model


def test_accelerate_and_restore():
    model = mixed()
    kinds = {name: type(m) for name, m in model.named_modules()}
    before = {name: p for name, p in model.named_parameters()}
    children = dict(model.named_modules())
    report = accelerate(model)
    assert report.replaced == {
        "rnn": "RNN", "deep.0": "GRU", "cell": "LSTMCell", "named": "Named", "normed": "LSTM"
    }  # fmt: skip
    assert set(report.left) == {"own", "patched", "ours"} and "forward of its own" in report.left["own"]
    assert "rnn: RNN, run by rnncore" in str(report) and "own: left alone: Own has a forward" in str(report)
    assert {name: id(m) for name, m in model.named_modules()} == {name: id(m) for name, m in children.items()}
    assert all(p is before[name] for name, p in model.named_parameters())
    assert type(model["rnn"]) is interop.RNN and isinstance(model["named"], (Named, interop.LSTM))
    assert model["named"].note == "kept"
    assert accelerate(model).replaced == {}

    restore(model)
    assert {name: type(m) for name, m in model.named_modules() if name != "normed"} == {
        name: kind for name, kind in kinds.items() if name != "normed"
    }
    assert not isinstance(model["normed"], interop.LSTM) and isinstance(model["normed"], nn.LSTM)
    assert type(model["ours"]) is interop.GRU


def test_subclasses_that_nobody_may_subclass_are_left_alone():
    class Tagged(nn.LSTM):
        def __init_subclass__(cls, *, tag):
            super().__init_subclass__()

    model = nn.Sequential(Tagged(3, 4), nn.GRU(4, 4))
    report = accelerate(model)
    assert report.replaced == {"1": "GRU"} and "no subclass of Tagged can be made: " in report.left["0"]
    assert type(model[0]) is Tagged and "_accelerated_from" not in vars(model[0])


def test_accelerated_models_compute_the_same():
    model = mixed()
    x = torch.randn(5, 2, 3)
    names = ("rnn", "named", "normed")
    expected = [results(model[name], x) for name in names]
    accelerate(model)
    for name, (outputs, gradients) in zip(names, expected, strict=True):
        actual = results(model[name], x)
        assert_close(actual[0], outputs)
        assert_close(actual[1], gradients)


def test_wrappers_of_forward_outlive_restore():
    """Hooks of some libraries keep a module's forward and put one of their own in its place."""
    model = nn.ModuleDict({"layer": nn.LSTM(3, 4), "named": Named(3, 4), "cell": nn.GRUCell(3, 4)})
    x = torch.randn(5, 3)
    expected = [tensors(module(x)) for module in model.values()]
    accelerate(model)
    for module in model.values():
        module.forward = lambda *inputs, kept=module.forward: kept(*inputs)
    restore(model)
    for module, result in zip(model.values(), expected, strict=True):
        assert not isinstance(module, (interop.LSTM, interop.GRUCell))
        assert_close(tensors(module(x)), result)


@pytest.mark.parametrize("first", ["parametrize", "accelerate"])
def test_parametrizations_come_and_go(first):
    model = nn.Sequential(nn.LSTM(3, 4))
    steps = [
        lambda: nn.utils.parametrizations.weight_norm(model[0], "weight_hh_l0"), lambda: accelerate(model)
    ]  # fmt: skip
    for step in steps if first == "parametrize" else steps[::-1]:
        step()
    x = torch.randn(5, 2, 3)
    assert isinstance(model[0], interop.LSTM)
    y = model(x)[0]
    nn.utils.parametrize.remove_parametrizations(model[0], "weight_hh_l0")
    assert type(model[0]) is interop.LSTM
    torch.testing.assert_close(model(x)[0], y)
    restore(model)
    assert type(model[0]) is nn.LSTM
    torch.testing.assert_close(model(x)[0], y)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copy_of):
    model = nn.ModuleDict({"plain": nn.LSTM(3, 4), "named": Named(3, 4), "cell": nn.GRUCell(3, 4)})
    accelerate(model)
    x = torch.randn(5, 2, 3)
    other = copy_of(model)
    for name in ("plain", "named"):
        assert type(other[name]) is type(model[name]) and isinstance(other[name], interop.LSTM)
        assert torch.equal(other[name](x)[0], model[name](x)[0])
        with torch.no_grad():
            other[name].weight_hh_l0.mul_(2)
        assert not torch.equal(other[name](x)[0], model[name](x)[0])
    restore(other)
    assert [type(m) for m in other.values()] == [nn.LSTM, Named, nn.GRUCell]
    assert isinstance(model["plain"], interop.LSTM)


def test_optimisers_go_on():
    """An accelerated model, half-way through training, takes the same way as before."""

    def train(accelerated):
        torch.manual_seed(0)
        model = nn.ModuleDict({"rnn": nn.LSTM(3, 8), "head": nn.Linear(8, 1)}).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(6):
            if accelerated and step == 3:
                accelerate(model)
            x, target = torch.randn(5, 4, 3).double(), torch.randn(4, 1).double()
            loss = (model["head"](model["rnn"](x)[0][-1]) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    assert_close(train(True), train(False))


def test_the_model_itself_and_what_is_none():
    module = nn.LSTM(3, 4)
    assert str(accelerate(module)) == "the model itself: LSTM, run by rnncore" and type(module) is interop.LSTM
    assert str(accelerate(nn.Linear(2, 2))) == "no recurrent module found"
    for wrong in (None, nn.LSTM, [module]):
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
            accelerate(wrong)
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
            restore(wrong)


def test_docstrings():
    for module in map(importlib.import_module, [f"rnncore.interop.torch.{name}" for name in ("accelerate", "modules")]):
        assert doctest.testmod(module).failed == 0
