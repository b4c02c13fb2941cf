"""PyTorch's recurrent modules and rnncore's side by side: each case runs twice, with the classes of `torch.nn` and with
rnncore's, from the same seed; results must agree, and so must exceptions, in type and in message."""

from importlib import import_module

import pytest
from common import import_peer

torch = import_peer("torch")
nn, rnn, utils = torch.nn, torch.nn.utils.rnn, torch.nn.utils
ours, run = import_module("rnncore.interop.torch"), import_module("rnncore.interop.torch.run")

__all__ = [
    "CELLS", "LAYERS", "CellNet", "Net", "as_tuple", "assert_alike", "cases", "compare", "grads", "nn",
    "one_thread", "ours", "outcome", "pytestmark", "rnn", "run", "steps", "torch", "utils", "x_of",
]  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "LSTM with projections is not supported with oneDNN",
        ".*torch.nn.utils.weight_norm.* is deprecated",
        ".*torch.jit.* is deprecated",
        "Named tensors and all their associated APIs",
        "Anomaly Detection has been enabled",
        "Converting a tensor to a Python",
        "The PyTorch API of nested tensors",
        "torch.quantize_per_tensor",
        "There is a performance drop because we have not yet implemented the batching rule",
    )
]

LAYERS, CELLS = ("RNN", "LSTM", "GRU"), ("RNNCell", "LSTMCell", "GRUCell")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here
    yield
    torch.set_num_threads(threads)


def cases():
    """A file's cases by name, functions of the library that has the modules, `torch.nn` or rnncore's; what adds one."""
    found = {}

    def case(function):
        found[function.__name__] = function
        return function

    return found, case


def outcome(function, lib):
    """What a function returns, or the exception it raises."""
    torch.manual_seed(0)
    try:
        return function(lib)
    except Exception as error:
        return error


def assert_alike(got, want, where=""):
    """Assert that results agree: types, shapes, what autograd would do with them, values; exceptions word by word."""
    if isinstance(want, Exception):
        assert isinstance(got, type(want)), f"expected {want!r}, got {got!r}"
        assert str(got) == str(want)
    elif isinstance(want, torch.Tensor):
        assert isinstance(got, torch.Tensor), where
        assert (got.shape, got.dtype, got.requires_grad, got.is_leaf) == (
            want.shape, want.dtype, want.requires_grad, want.is_leaf
        ), where  # fmt: skip
        if want.is_floating_point() and not want.is_meta:
            loose = {torch.float32: 1e-5, torch.float64: 1e-12}.get(want.dtype, 0)
            torch.testing.assert_close(got, want, rtol=10 * loose, atol=loose, equal_nan=True, msg=lambda m: where + m)
    elif isinstance(want, dict):
        assert_alike(list(got.items()), list(want.items()), where)
    elif isinstance(want, (tuple, list)):
        assert type(got).__name__ == type(want).__name__ and len(got) == len(want), where
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_alike(a, b, f"{where}[{k}] ")
    else:
        assert got == want, where


def compare(function):
    want = outcome(function, nn)
    got = outcome(function, ours)
    if isinstance(got, Exception) and not isinstance(want, Exception):
        raise got
    assert_alike(got, want)


def x_of(*shape, **options):
    return torch.randn(*(shape or (5, 2, 3)), **options)


def grads(module, *more):
    return [p.grad for p in module.parameters()] + [t.grad for t in more]


def steps(module, n=2):
    """Some steps of training: outputs, gradients and what becomes of the weights."""
    results, optimizer = [], torch.optim.SGD(module.parameters(), 0.5)
    for _ in range(n):
        optimizer.zero_grad()
        y, state = module(x_of())
        (y.square().mean() + sum(h.sin().sum() for h in as_tuple(state))).backward()
        results += [y, [g if g is None else g.clone() for g in grads(module)]]
        optimizer.step()
    return results, [p.detach().clone() for p in module.parameters()]


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


class Net(nn.Module):
    def __init__(self, lib, kind="LSTM", **options):
        super().__init__()
        self.rnn = getattr(lib, kind)(3, 4, **options)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y, state = self.rnn(x)
        return self.head(y), state


class CellNet(nn.Module):
    def __init__(self, lib, kind="LSTMCell"):
        super().__init__()
        self.cell = getattr(lib, kind)(3, 4)

    def forward(self, x):
        state, y = None, []
        for part in x.unbind():
            state = self.cell(part, state)
            y.append(as_tuple(state)[0])
        return torch.stack(y)
