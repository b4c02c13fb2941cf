"""A module of PyTorch and rnncore's with the same parameters: outputs and gradients of both agree."""

from __future__ import annotations

import pytest
from alike import CELLS, LAYERS, nn, torch
from alike import ours as interop

__all__ = [
    "CELLS", "LAYERS", "assert_close", "assert_twins", "interop", "nn", "pytestmark", "random_state", "results",
    "seeded", "tensors", "torch", "twins",
]  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning"),
]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more only wait for each other here


def twins(name, *sizes, **options):
    """PyTorch's module and rnncore's, with the same parameters."""
    theirs = getattr(nn, name)(*sizes, **options)
    ours = getattr(interop, name)(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def tensors(result):
    """All tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for part in result if part is not None for t in tensors(part)]


def random_state(module, N, lstm, batched=True):
    k = module.num_layers * (2 if module.bidirectional else 1)
    widths = (module.proj_size or module.hidden_size, module.hidden_size)[: 1 + lstm]
    dtype = module.weight_ih_l0.dtype
    states = tuple(torch.randn(k, *((N,) if batched else ()), w, dtype=dtype, requires_grad=True) for w in widths)
    return states if lstm else states[0]


def results(module, *inputs):
    """Outputs, and gradients of all inputs and parameters, from random gradients on all outputs."""
    outputs = tensors(module(*inputs))
    smooth = [t for t in outputs if t.is_floating_point()]  # a PackedSequence has integers, too
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in smooth]
    wanted = [t for t in (*tensors([i for i in inputs if i is not None]), *module.parameters()) if t.requires_grad]
    return outputs, torch.autograd.grad(smooth, wanted, upstream, allow_unused=True)


def assert_close(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            assert a.shape == e.shape and a.dtype == e.dtype
            scale = max(1.0, float(e.detach().abs().max())) if e.numel() else 1.0
            torch.testing.assert_close(a, e, rtol=0, atol=TOLERANCE.get(e.dtype, 0) * scale)


def assert_twins(theirs, ours, *inputs):
    for actual, expected in zip(results(ours, *inputs), results(theirs, *inputs), strict=True):
        assert_close(actual, expected)
    with torch.no_grad():
        assert_close(tensors(ours(*inputs)), tensors(theirs(*inputs)))
    with torch.inference_mode():
        assert_close(tensors(ours(*inputs)), tensors(theirs(*inputs)))
