"""Parity with torch.nn, forward and backward, through one state dict."""

import numpy as np
import pytest
from common import DTYPES, as_tuple, assert_close, assert_same, import_peer, random_case, run_layer

import rnncore as rc


def twin(layer):
    """The torch module with the layer's parameters."""
    torch = import_peer("torch")
    options = {"batch_first": layer.batch_first, "bias": layer.bias, "dtype": getattr(torch, layer.dtype.name)}
    if isinstance(layer, rc.RNN | rc.LSTM):
        options |= {"num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    if isinstance(layer, rc.RNN):
        options["nonlinearity"] = layer.nonlinearity
    module = getattr(torch.nn, type(layer).__name__)(layer.input_size, layer.hidden_size, **options)
    module.load_state_dict({name: torch.tensor(array) for name, array in layer.state_dict().items()})
    return module


def run_torch(module, case):
    torch = import_peer("torch")
    x, *state = (torch.tensor(a, requires_grad=True) for a in (case["x"], *as_tuple(case["state"])))
    y, final = module(x, tuple(state) if len(state) > 1 else state[0])
    final = as_tuple(final)
    loss = (y * torch.tensor(case["dy"])).sum()
    for a, da in zip(final, as_tuple(case["dstate"]), strict=True):
        loss = loss + (a * torch.tensor(da)).sum()
    loss.backward()
    return {
        "forward": {"y": y.detach().numpy(), "state": tuple(a.detach().numpy() for a in final)},
        "backward": {
            "dx": x.grad.numpy(),
            "dstate": tuple(a.grad.numpy() for a in state),
            "grads": {name: p.grad.numpy() for name, p in module.named_parameters()},
        },
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("kind", ["tanh", "relu", "lstm"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers(dtype, kind, L, bidirectional, bias):
    options = {"num_layers": L, "bidirectional": bidirectional, "bias": bias, "dtype": dtype, "rng": 3}
    layer = rc.LSTM(5, 7, **options) if kind == "lstm" else rc.RNN(5, 7, nonlinearity=kind, **options)
    case = random_case(layer, 9, 4)
    assert_same(run_layer(layer, case), run_torch(twin(layer), case), dtype)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_batch_first_and_unbatched(kind):
    layer = getattr(rc, kind)(5, 7, 2, batch_first=True, bidirectional=True, rng=3)
    case = random_case(layer, 9, 4)
    case |= {"x": case["x"].swapaxes(0, 1), "dy": case["dy"].swapaxes(0, 1)}
    assert_same(run_layer(layer, case), run_torch(twin(layer), case), "float32")

    case |= {"x": case["x"][1], "dy": case["dy"][1]}
    for name in ("state", "dstate"):
        rows = tuple(a[:, 1] for a in as_tuple(case[name]))
        case[name] = rows if kind == "LSTM" else rows[0]
    assert_same(run_layer(layer, case), run_torch(twin(layer), case), "float32")


def test_a_state_dict_goes_either_way():
    torch = import_peer("torch")
    module = torch.nn.LSTM(5, 7, 2, bidirectional=True)
    layer = rc.LSTM(5, 7, 2, bidirectional=True)
    layer.load_state_dict(module.state_dict())  # tensors are array-like
    x = np.random.default_rng(0).standard_normal((9, 4, 5)).astype(np.float32)
    with torch.inference_mode():
        assert_close(layer(torch.tensor(x))[0], module(torch.tensor(x))[0].numpy(), "float32", "forward")
    with pytest.raises(TypeError, match="expected x to be an array of real numbers, got Tensor"):
        layer(torch.tensor(x, requires_grad=True))


def test_positional_arguments_are_torchs():
    torch = import_peer("torch")
    for arguments in [(5, 7, 2, False, True, 0.0, True, 0)]:
        ours, theirs = rc.LSTM(*arguments), torch.nn.LSTM(*arguments)
        assert {n: a.shape for n, a in ours.parameters().items()} == {
            n: tuple(p.shape) for n, p in theirs.named_parameters()
        }
    arguments = (5, 7, 2, "relu", False, True, 0.0, True)
    ours, theirs = rc.RNN(*arguments), torch.nn.RNN(*arguments)
    assert list(ours.parameters()) == [name for name, _ in theirs.named_parameters()]
    assert ours.nonlinearity == theirs.nonlinearity and ours.batch_first == theirs.batch_first


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_default_initialisation_has_torchs_distribution(kind):
    layer = getattr(rc, kind)(50, 64, 2, rng=0)
    for array in layer.parameters().values():
        assert np.abs(array).max() <= 1 / 8
        if array.size > 1000:
            assert abs(array.std() * 8 - 3**-0.5) < 0.02 and abs(array.mean()) < 0.01


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cells(dtype, kind):
    torch = import_peer("torch")
    cell = getattr(rc, kind)(5, 7, dtype=dtype, rng=1)
    module = getattr(torch.nn, kind)(5, 7, dtype=getattr(torch, dtype))
    module.load_state_dict({name: torch.tensor(array) for name, array in cell.state_dict().items()})
    rng = np.random.default_rng(0)
    states = 2 if kind == "LSTMCell" else 1
    x, *arrays = (rng.standard_normal(s).astype(dtype) for s in [(4, 5)] + [(4, 7)] * (2 * states))
    state, dstate = arrays[:states], arrays[states:]
    wrap = tuple if states == 2 else lambda arrays: arrays[0]

    after, tape = cell.forward(x, wrap(state))
    dx, dbefore, grads = cell.backward(tape, wrap(dstate))

    tensors = [torch.tensor(a, requires_grad=True) for a in (x, *state)]
    expected = as_tuple(module(tensors[0], wrap(tensors[1:])))
    sum((a * torch.tensor(d)).sum() for a, d in zip(expected, dstate, strict=True)).backward()
    assert_close(as_tuple(after), tuple(a.detach().numpy() for a in expected), dtype, "forward")
    assert_close((dx, *as_tuple(dbefore)), tuple(t.grad.numpy() for t in tensors), dtype, "backward")
    assert_close(grads, {n: p.grad.numpy() for n, p in module.named_parameters()}, dtype, "backward")
