"""rnncore's modules and operators for PyTorch: the same results, gradients and errors, and what runs on operators."""

from __future__ import annotations

import copy
import doctest
import gc
import importlib
import io
import os
import pickle
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from common import import_peer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES

torch = import_peer("torch")
nn = torch.nn

import rnncore as rc  # noqa: E402
import rnncore.interop.torch as interop  # noqa: E402
from rnncore.interop.torch import accelerate, restore, run  # noqa: E402
from rnncore.interop.torch.ops import without_onednn  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning"),
]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")


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


# --- the same as PyTorch ----------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_layers(data):
    """A random walk over all options: padded, packed, unbatched; with states and without."""
    draw = data.draw
    name, dtype = draw(st.sampled_from(LAYERS)), draw(st.sampled_from([torch.float32, torch.float64]))
    I, H, T, N = (draw(st.integers(low, 6)) for low in (1, 2, 1, 1))
    options = {
        "num_layers": draw(st.integers(1, 3)), "bias": draw(st.booleans()), "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()), "dtype": dtype,
    }  # fmt: skip
    if name == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if name == "LSTM":
        options["proj_size"] = draw(st.integers(0, H - 1))
    theirs, ours = twins(name, I, H, **options)
    form = draw(st.sampled_from(["padded", "packed", "sorted", "unbatched"]))
    shape = (T, I) if form == "unbatched" else (N, T, I) if options["batch_first"] else (T, N, I)
    x = torch.randn(shape, dtype=dtype)
    x.requires_grad_(draw(st.booleans()))
    hx = draw(st.sampled_from([None, random_state(theirs, N, name == "LSTM", form != "unbatched")]))
    if form in ("packed", "sorted"):
        lengths = draw(st.lists(st.integers(1, T), min_size=N, max_size=N))
        lengths = sorted(lengths, reverse=True) if form == "sorted" else lengths

        def through(module):
            def call(x, *hx):
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths, options["batch_first"], form == "sorted")
                return module(packed, *hx)

            call.parameters = module.parameters
            return call

        assert type(ours(nn.utils.rnn.pack_padded_sequence(x, lengths, options["batch_first"], False))[0]) is (
            nn.utils.rnn.PackedSequence
        )
        assert_twins(through(theirs), through(ours), x, hx)
    else:
        assert_twins(theirs, ours, x, hx)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_cells(data):
    draw = data.draw
    name, dtype = draw(st.sampled_from(CELLS)), draw(st.sampled_from([torch.float32, torch.float64]))
    I, H, N = (draw(st.integers(1, 6)) for _ in range(3))
    options = {"bias": draw(st.booleans()), "dtype": dtype}
    if name == "RNNCell":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    theirs, ours = twins(name, I, H, **options)
    batch = draw(st.sampled_from([(), (N,)]))
    x = torch.randn(*batch, I, dtype=dtype, requires_grad=draw(st.booleans()))
    hx = tuple(torch.randn(*batch, H, dtype=dtype, requires_grad=True) for _ in range(1 + (name == "LSTMCell")))
    assert_twins(theirs, ours, x, draw(st.sampled_from([None, hx if len(hx) > 1 else hx[0]])))


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_it_is_the_same_module_from_outside(name):
    theirs, ours = twins(name, 3, 4)
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if name in LAYERS:
        assert ours._flat_weights_names == theirs._flat_weights_names
        assert all(a is b for a, b in zip(ours._flat_weights, ours.parameters(), strict=True))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mistake", [
    lambda m, x, h: (x.double(), h), lambda m, x, h: (x[..., :2], h), lambda m, x, h: (x[None], h),
    lambda m, x, h: (x[0, 0], h), lambda m, x, h: (x[:0], h), lambda m, x, h: (x, "h"), lambda m, x, h: ([x], h),
    lambda m, x, h: (x, (h, h, h)), lambda m, x, h: (x, torch.zeros(1, 5, 4)), lambda m, x, h: (x[:, 0], h),
    lambda m, x, h: (x, torch.zeros(1, 2, 4, dtype=torch.float64)), lambda m, x, h: (x.int(), h),
    lambda m, x, h: (x.to_sparse(), h), lambda m, x, h: (None, None), lambda m, x, h: (x.to("meta"), None),
])  # fmt: skip
def test_errors_are_pytorchs(name, mistake):
    theirs, ours = twins(name, 3, 4)
    x, h = torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
    inputs = mistake(theirs, x, (h, h) if name == "LSTM" else h)

    def outcome(module):
        try:
            return [t.shape for t in tensors(module(*inputs))]
        except Exception as error:
            return type(error), str(error)

    assert outcome(ours) == outcome(theirs)


def test_dropout_is_drawn_from_pytorchs_generator():
    ours = interop.LSTM(3, 64, num_layers=2, dropout=0.5)
    x = torch.randn(20, 8, 3)
    torch.manual_seed(3)
    a, b = ours(x)[0], ours(x)[0]
    torch.manual_seed(3)
    assert torch.equal(ours(x)[0], a) and not torch.equal(a, b)
    ours.eval()
    whole = ours(x)[0]
    assert torch.equal(ours(x)[0], whole) and not torch.equal(whole, a)
    ours.train()
    for context in (torch.no_grad(), torch.device("meta")):  # without a tape; where new tensors are of another device
        with context:
            torch.manual_seed(3)
            assert torch.equal(ours(x)[0], a)


def test_autocast_and_other_dtypes_run_as_ever():
    theirs, ours = twins("LSTM", 3, 4)
    x = torch.randn(5, 2, 3)
    with without_onednn():  # whose LSTM of bfloat16 needs AVX-512
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(ours(x)[0], theirs(x)[0])
        assert torch.equal(ours.bfloat16()(x.bfloat16())[0], theirs.bfloat16()(x.bfloat16())[0])
    assert ours.to("meta")(x.bfloat16().to("meta"))[0].shape == (5, 2, 4)


def test_zeros_without_memory_are_zeros():
    """Which PyTorch makes for itself, in gradients and tangents; its LSTM by oneDNN reads what is not there."""
    theirs, ours = twins("GRU", 3, 4)
    x, zeros = torch.randn(5, 2, 3), torch._efficientzerotensor(1, 2, 4)
    assert_close(tensors(ours(x, zeros)), tensors(theirs(x, zeros)))
    zeros = torch._efficientzerotensor(5, 2, 3)
    assert_close(tensors(ours(zeros)), tensors(theirs(zeros)))


# --- operators --------------------------------------------------------------------------------------------------------


def operator_arguments(
    mode, *, L=1, bidirectional=False, batch_first=False, proj=0, form="padded", bias=True, state=True, dropout=0.0,
    N=3, dtype=torch.float32,
):  # fmt: skip
    kind = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(mode, nn.RNN)
    options = {"proj_size": proj} if mode == "LSTM" else {"nonlinearity": mode[4:].lower()} if kind is nn.RNN else {}
    options |= {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional, "dtype": dtype}
    module = kind(4, 6, L, **options)
    shape = {"packed": (10, 4), "unbatched": (5, 4), "padded": (N, 5, 4) if batch_first else (5, N, 4)}[form]
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    hx = random_state(module, N, mode == "LSTM", form != "unbatched") if state else ()
    batch_sizes = torch.tensor([3, 3, 2, 1, 1]) if form == "packed" else None
    key = torch.randint(-(2**63), 2**63 - 1, (2,)) if dropout else None
    hx = list(hx) if isinstance(hx, tuple) else [hx]
    return x, hx, module._flat_weights, batch_sizes, key, dropout, mode, L, bias, batch_first, bidirectional


OPERATOR_CASES = [
    {"mode": "LSTM"}, {"mode": "LSTM", "L": 2, "bidirectional": True, "batch_first": True, "proj": 3},
    {"mode": "GRU", "L": 2, "bidirectional": True, "dtype": torch.float64}, {"mode": "RNN_RELU", "form": "unbatched"},
    {"mode": "RNN_TANH", "L": 2, "form": "packed"}, {"mode": "LSTM", "L": 2, "form": "packed", "dropout": 0.5},
    {"mode": "GRU", "batch_first": True, "N": 1, "state": False}, {"mode": "LSTM", "bias": False, "state": False},
]  # fmt: skip


def detached(value):
    if isinstance(value, (list, tuple)):
        return [detached(v) for v in value]
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("case", OPERATOR_CASES, ids=str)
def test_operators_keep_pytorchs_rules(case):
    x, hx, *rest = operator_arguments(**case)
    arguments = x, hx or [None], *rest
    torch.library.opcheck(torch.ops.rnncore.recurrent.default, arguments)
    plain = tuple(detached(arguments))
    torch.library.opcheck(torch.ops.rnncore.forward.default, plain)
    y, finals, tape = torch.ops.rnncore.forward.default(*plain)
    gradients = torch.randn_like(y), [torch.randn_like(h) for h in finals]
    torch.library.opcheck(torch.ops.rnncore.backward.default, (*gradients, tape, *plain))
    torch.library.opcheck(torch.ops.rnncore.backward.default, (None, [None for _ in finals], tape, *plain))


@pytest.mark.parametrize("case", OPERATOR_CASES, ids=str)
def test_operators_and_what_goes_without_them_agree(case):
    x, hx, weights, batch_sizes, key, dropout, mode, *options = operator_arguments(**case)
    L, bias, batch_first, bidirectional = options
    sizes = 4, 6, L, bias, batch_first, bidirectional, case.get("proj", 0), x.dtype, dropout
    y, finals = interop.ops.recurrent((mode, *sizes), x, hx, weights, batch_sizes, key)
    by_operator = torch.ops.rnncore.recurrent(x, hx, weights, batch_sizes, key, dropout, mode, *options)
    inputs = [x, *hx, *weights]
    both = [(y, *finals), (by_operator[0], *by_operator[1])]
    for a, b in zip(*both, strict=True):
        assert torch.equal(a, b)
    gradients = [torch.autograd.grad([t.square().sum() for t in outs], inputs) for outs in both]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("wrong", [
    {"mode": "LSTN"}, {"weights": slice(0, 3)}, {"weights": slice(1, None)}, {"x": torch.zeros(5, 3, 5)},
    {"x": torch.zeros(5, 3, 4, dtype=torch.int64)}, {"x": torch.zeros(5)}, {"batch_sizes": torch.tensor([1, 3])},
    {"batch_sizes": torch.tensor([3.0])}, {"hx": [torch.zeros(1, 4, 6), torch.zeros(1, 4, 6)]},
    {"hx": [torch.zeros(1, 3, 6)]}, {"hx": [torch.zeros(1, 3, 6, dtype=torch.float64)] * 2}, {"L": 2}, {"L": 0},
    {"hx": [None, torch.zeros(1, 3, 6)]},
])  # fmt: skip
def test_operators_refuse_what_does_not_fit(wrong):
    x, hx, weights, batch_sizes, key, dropout, mode, L, *options = detached(operator_arguments("LSTM"))
    x, hx, L = wrong.get("x", x), wrong.get("hx", hx), wrong.get("L", L)
    weights = weights[wrong.get("weights", slice(None))]
    batch_sizes, mode = wrong.get("batch_sizes", batch_sizes), wrong.get("mode", mode)
    arguments = x, hx, weights, batch_sizes, key, dropout, mode, L, *options
    error = (ValueError, TypeError) if x.is_floating_point() else RuntimeError  # PyTorch's for wrong dtypes
    for operator in torch.ops.rnncore.recurrent, torch.ops.rnncore.forward:
        with pytest.raises(error, match="expected"):
            operator(*arguments)


def test_a_wrong_tape_is_refused():
    plain = detached(operator_arguments("LSTM", L=2))
    y, finals, tape = torch.ops.rnncore.forward(*plain)
    for wrong in (tape[1:], [t[:-1] for t in tape], [t.double() for t in tape], []):
        with pytest.raises((ValueError, TypeError), match="expected"):
            torch.ops.rnncore.backward(y, finals, wrong, *plain)
    with pytest.raises((ValueError, TypeError), match="expected"):
        torch.ops.rnncore.backward(y[:-1], finals, tape, *plain)


@pytest.mark.parametrize("name,options", [
    ("LSTM", {"bidirectional": True, "num_layers": 2, "proj_size": 2}), ("GRU", {"batch_first": True}),
    ("RNN", {"num_layers": 2}), ("LSTM", {"num_layers": 2, "dropout": 0.4}),
])  # fmt: skip
@pytest.mark.parametrize("form", ["padded", "packed", "unbatched"])
def test_gradients_and_their_gradients(name, options, form):
    module = getattr(interop, name)(2, 3, dtype=torch.float64, **options)
    names = [n for n, _ in module.named_parameters()]
    shape = (3, 2) if form == "unbatched" else (2, 3, 2) if module.batch_first else (3, 2, 2)
    x = torch.randn(shape, dtype=torch.float64)
    hx = tensors(random_state(module, 2, name == "LSTM", form != "unbatched"))

    def call(x, *rest):
        torch.manual_seed(0)  # the same dropout each time
        state = rest[: len(hx)] if len(hx) > 1 else rest[0]
        if form == "packed":
            x = nn.utils.rnn.pack_padded_sequence(x, [2, 3], module.batch_first, enforce_sorted=False)
        weights = dict(zip(names, rest[len(hx) :], strict=True))
        return tuple(tensors(torch.func.functional_call(module, weights, (x, state)))[: 2 if form == "packed" else 3])

    inputs = (x.requires_grad_(), *hx, *module.parameters())

    def floats(*inputs):
        return tuple(t for t in call(*inputs) if t.is_floating_point())

    assert torch.autograd.gradcheck(floats, inputs)
    assert torch.autograd.gradgradcheck(floats, inputs)


def test_gradients_of_gradients_in_float32():
    """For which PyTorch's own LSTM, run by oneDNN, has none."""
    theirs, ours = twins("LSTM", 3, 4)
    exact = copy.deepcopy(theirs).double()
    x = torch.randn(5, 2, 3)

    def penalty(module, x):
        x = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), list(module.parameters()))

    enabled = torch._C._get_mkldnn_enabled()
    for a, e in zip(penalty(ours, x), penalty(exact, x.double()), strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-5)
    assert torch._C._get_mkldnn_enabled() == enabled


# --- compilers and exporters ------------------------------------------------------------------------------------------


class Model(nn.Module):
    """A layer, a cell in a loop, and a head."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.rnn = interop.GRU(3, 4, num_layers=2, batch_first=True, dropout=dropout)
        self.cell, self.head = interop.LSTMCell(4, 4), nn.Linear(4, 2)

    def forward(self, x, h=None):
        y, h = self.rnn(x, h)
        state = None
        for t in range(3):
            state = self.cell(y[:, t], state)
        return self.head(state[0]), h


@pytest.fixture
def dynamo():
    """Without what an earlier test compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compile(dynamo):
    model = Model().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for T in (4, 6, 9):  # the second makes T a symbol
        x = torch.randn(2, T, 3)
        with torch.no_grad():
            assert_close(tensors(compiled(x)), tensors(model(x)))
        for a, b in zip(results(compiled, x), results(model, x), strict=True):
            assert_close(a, b)
    model.rnn.weight_hh_l0.data.mul_(2)
    with torch.no_grad():
        assert_close(tensors(compiled(x)), tensors(model(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compile_to_code(dynamo):
    """By Inductor, which needs a C++ compiler; training, with dropout."""
    model = Model(dropout=0.5)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(2, 5, 3)
    y, _ = compiled(x)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    assert_close(tensors(compiled(x)), tensors(model(x)))


@pytest.fixture
def graphs(dynamo):
    """The operators of the graphs that Dynamo hands to `record`, a backend."""
    found = []

    def record(graph, inputs):
        found.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    return found, record


@pytest.mark.parametrize("name", LAYERS)
def test_compile_leaves_pytorchs_layers_alone(graphs, name):
    """As without rnncore: Inductor fails at some LSTMs, and unrolls GRUs."""
    (theirs, ours), (found, record), x = twins(name, 3, 4), graphs, torch.randn(5, 2, 3)
    assert_close(tensors(torch.compile(theirs, backend=record)(x)), tensors(theirs(x)))
    assert found == [] and not torch._dynamo.config.allow_rnn
    assert_close(tensors(torch.compile(ours, backend=record, fullgraph=True)(x)), tensors(theirs(x)))
    assert torch.ops.rnncore.recurrent.default in found


def test_compile_breaks_the_graph_where_pytorch_takes_over(graphs):
    (theirs, ours), (found, record) = twins("LSTM", 3, 4), graphs
    compiled = torch.compile(ours, backend=record)
    with without_onednn(), torch.autocast("cpu", torch.bfloat16):
        assert_close(tensors(compiled(torch.ones(5, 2, 3))), tensors(theirs(torch.ones(5, 2, 3))))
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        compiled(torch.randn(0, 2, 3))
    empty = torch.randn(5, 0, 3)
    assert_close(tensors(compiled(empty)), tensors(theirs(empty)))

    def gradients(parameters, x):
        return torch.func.grad(lambda p: torch.func.functional_call(ours, p, (x,))[0].sum())(parameters)

    given = {name: p.detach() for name, p in ours.named_parameters()}, torch.randn(5, 2, 3)
    expected = list(gradients(*given).values())
    assert_close(list(torch.compile(gradients, backend=record)(*given).values()), expected)
    assert not any("lstm" in str(target) for target in found)
    x = torch.randn(5, 2, 3).bfloat16()
    with without_onednn():
        assert_close(tensors(torch.export.export(ours.bfloat16(), (x,), strict=True).module()(x)), tensors(ours(x)))
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(ours, backend=record, fullgraph=True)(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("strict", [False, True])
def test_export(dynamo, strict):
    model = Model().eval()
    x = torch.randn(2, 5, 3)
    steps = torch.export.Dim("T", min=3, max=100)
    program = torch.export.export(model, (x,), dynamic_shapes=({1: steps},), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert "rnncore.recurrent.default" in targets and not any("aten.gru" in t or "aten.lstm" in t for t in targets)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for T in (5, 8):
        x = torch.randn(2, T, 3)
        assert_close(tensors(loaded(x)), tensors(model(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_an_exported_program_under_autocast(dynamo, kind):
    """Its operator gets bfloat16 from others, or has bfloat16 for weights; and says so outside of autocast."""
    model, x = nn.Sequential(nn.Linear(3, 3), getattr(interop, kind)(3, 4)), torch.randn(5, 2, 3)
    expected = tensors(model(x))
    program = torch.export.export(model, (x,), strict=False).module()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for k in range(2):
            program.zero_grad()
            found = tensors(program(x))
            for a, b in zip(found, expected, strict=True):
                assert a.dtype == torch.float32
                torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
            found[0].sum().backward()
            assert all(p.grad.dtype == p.dtype and p.grad.abs().sum() > 0 for p in program.parameters())
            if k == 0:
                program.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"all float64, got torch\.bfloat16 and torch\.bfloat16"):
        program(x.bfloat16())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_export_to_code(dynamo, tmp_path):
    """By AOTInductor, which hands on an empty list of tensors, as of states that were not given, as None."""
    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        pytest.skip("came with PyTorch 2.6")
    model, x = interop.GRU(3, 4).eval(), torch.randn(5, 2, 3)
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, (x,)), package_path=str(tmp_path / "model.pt2")
    )
    assert_close(tensors(torch._inductor.aoti_load_package(package)(x)), tensors(model(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_gets_pytorchs_own():
    model = nn.Sequential(interop.LSTM(3, 4, batch_first=True))
    x = torch.randn(2, 5, 3)
    scripted, traced = torch.jit.script(model), torch.jit.trace(model, x)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    assert b"rnncore" not in file.getvalue()
    for other in (scripted, traced):
        assert_close(tensors(other(x)), tensors(model(x)))
    assert type(model[0]) is nn.LSTM  # PyTorch puts what it scripts in its place
    assert accelerate(model).replaced
    assert_close(tensors(scripted(x)), tensors(model(x)))


# --- weights are always those of now ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("change", [
    lambda w: w.data.mul_(-1), lambda w: w.data.view(-1)[3].neg_(), lambda w: w.data.numpy().__setitem__((1, 2), 5.0),
    lambda w: torch.no_grad()(w.add_)(0.5), lambda w: setattr(w, "data", w.data + 1),
    lambda w: setattr(w, "data", w.data.t().contiguous().t().neg()), lambda w: w.data.copy_(torch.randn_like(w)),
    lambda w: w.data.set_(torch.randn(w.shape)), lambda w: np.negative(w.detach().numpy(), out=w.detach().numpy()),
])  # fmt: skip
def test_changes_are_seen(mode, change):
    theirs, ours = twins("GRU", 3, 4, 2)
    x = torch.randn(5, 2, 3)
    with mode():
        ours(x)
        for _ in range(2):
            for module in (theirs, ours):
                torch.manual_seed(4)
                change(module.weight_hh_l1)
            assert_close(tensors(ours(x)), tensors(theirs(x)))


def test_inference_tensors_change_unseen_by_versions():
    theirs, ours = twins("LSTM", 3, 4)
    x = torch.randn(5, 2, 3)
    with torch.inference_mode():
        for module in (theirs, ours):
            module.weight_ih_l0 = nn.Parameter(module.weight_ih_l0.clone())
        for _ in range(3):
            assert_close(tensors(ours(x)), tensors(theirs(x)))
            for module in (theirs, ours):
                module.weight_ih_l0.mul_(-0.5)


def test_panels_are_used_again_and_go_with_their_module():
    module = interop.LSTM(3, 4)
    plan = run.plan_of("LSTM", 3, 4, 1, True, False, False, 0, torch.float32, 0.0)
    plan.known.clear()
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        module(x)
        (known,) = plan.known.values()
        weights = known.weights
        module(x)
        assert known.weights is weights and len(plan.known) == 1
        module.weight_hh_l0.data[0, 0] += 1
        module(x)
        assert known.weights is not weights and len(plan.known) == 1
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None and not plan.known


def test_fresh_weights_leave_nothing_behind():
    module = interop.LSTM(3, 4)
    nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    plan = run.plan_of("LSTM", 3, 4, 1, True, False, False, 0, torch.float32, 0.0)
    plan.known.clear()
    for _ in range(50):
        module(torch.randn(5, 2, 3))[0].sum().backward()
    gc.collect()
    assert len(plan.known) <= 2


def test_a_change_between_forward_and_backward_is_an_error():
    module = interop.LSTM(3, 4)
    y, _ = module(torch.randn(5, 2, 3))
    with torch.no_grad():
        module.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_tape_is_gone_after_its_backward_pass():
    module = interop.LSTM(3, 4)
    y, _ = module(torch.randn(5, 2, 3))
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


# --- accelerate and restore -------------------------------------------------------------------------------------------


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
    for module, results in zip(model.values(), expected, strict=True):
        assert not isinstance(module, (interop.LSTM, interop.GRUCell))
        assert_close(tensors(module(x)), results)


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


# --- processes and imports --------------------------------------------------------------------------------------------


def test_import_rnncore_imports_no_torch():
    code = "import sys, rnncore, rnncore.train, rnncore.interop; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_the_error_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import rnncore.interop.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'ImportError: expected torch, to have its modules: pip install "rnncore[torch]"' in done.stderr


def test_the_counter_of_operations_is_told_whenever_it_comes():
    late = "import rnncore.interop.torch, sys; assert 'torch.utils.flop_counter' not in sys.modules"
    later = "import torch.utils.flop_counter as c, torch; assert torch.ops.rnncore.recurrent in c.flop_registry"
    subprocess.run([sys.executable, "-c", f"{late}; {later}"], check=True)
    subprocess.run(
        [sys.executable, "-c", f"import torch.utils.flop_counter, rnncore.interop.torch; {later}"], check=True
    )


def test_dynamo_is_told_whenever_it_comes():
    late = "import rnncore.interop.torch, sys; assert 'torch._dynamo' not in sys.modules; import torch._dynamo"
    early = "import torch._dynamo, rnncore.interop.torch"
    told = "assert torch._dynamo.variables.builder.VariableBuilder.wrap_module.__module__.startswith('rnncore')"
    for code in (late, early):
        subprocess.run([sys.executable, "-c", f"{code}; {told}"], check=True)


def test_a_dynamo_of_another_make_looks_into_all_layers():
    config = SimpleNamespace(allow_rnn=False)
    interop.dynamo.let_through(SimpleNamespace(config=config))
    assert config.allow_rnn


def test_threads_follow_pytorchs():
    before = rc.get_num_threads()
    try:
        rc.set_num_threads(4)
        torch.set_num_threads(1)
        plan = run.plan_of("LSTM", 3, 5, 1, True, False, False, 0, torch.float32, 0.0)
        assert plan.threads((7, 2, 3)) == -1
        torch.set_num_threads(4)
        assert plan.threads((7, 2, 3)) == 0
    finally:
        rc.set_num_threads(before)
        torch.set_num_threads(1)


def test_idle_threads_stay_where_a_call_is_short(monkeypatch):
    """Of 2e7 operations a call has more, or a step of a cell less."""
    calls, before = [], rc.get_num_threads()
    monkeypatch.setattr(run, "release_idle_threads", lambda: calls.append(1))
    try:
        rc.set_num_threads(2)
        torch.set_num_threads(2)
        cell, layer = interop.LSTMCell(128, 128), interop.LSTM(128, 128)
        for mode in (torch.inference_mode(), torch.enable_grad()):
            with mode:
                cell(torch.ones(1, 128))
                cell(torch.ones(128))
                layer(torch.ones(3, 1, 128))
                assert not calls
                layer(torch.ones(100, 1, 128))
                assert calls.pop() and not calls
    finally:
        rc.set_num_threads(before)
        torch.set_num_threads(1)


IDLE_THREADS = """
import os, signal, sys, time, torch
import rnncore as rc, rnncore.interop.torch as rt

torch.set_num_threads(2)
rc.set_num_threads(2)
module, x, big = rt.LSTM(64, 64), torch.randn(100, 16, 64), torch.ones(1 << 20)
count = lambda: len(os.listdir("/proc/self/task"))

def wait(gone):
    while not gone():  # a thread that has ended is listed for a moment yet
        time.sleep(0.001)

alone = count()
rc.LSTM(64, 64)(x.numpy())
wait(lambda: count() == alone + 1)  # rnncore's worker stays; what makes its barrier's fence one-sided has ended

def gradients():
    module.zero_grad()
    module(x)[0].sum().backward()
    return [p.grad.clone() for p in module.parameters()]

expected = gradients()
big.mul_(1)
before = count()
with torch.no_grad():
    module(x[:1])
assert count() == before, "a short pass leaves them alone"
with torch.no_grad():
    module(x)
wait(lambda: count() < before)  # a long one ends them
big.mul_(2)
assert count() == before and big.sum() == 2 << 20, "PyTorch makes new ones"
assert all(map(torch.equal, gradients(), expected))
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that waits for threads it does not have is killed
    with torch.no_grad():
        module(x)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "a child of fork has no such threads"
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted as Linux shows them")
def test_idle_threads_of_pytorch_leave_the_cores_to_long_passes():
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    subprocess.run([sys.executable, "-c", IDLE_THREADS], env=environment, check=True, timeout=120)
