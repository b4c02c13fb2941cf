"""rnncore's modules and operators for PyTorch: the same results, gradients and errors, and what runs on operators."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import (  # noqa: F401
    CELLS,
    LAYERS,
    assert_close,
    assert_twins,
    interop,
    nn,
    pytestmark,
    random_state,
    seeded,
    tensors,
    torch,
    twins,
)
from test_properties import EXAMPLES

import rnncore as rc
from rnncore.interop.torch import run
from rnncore.interop.torch.ops import without_onednn

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
