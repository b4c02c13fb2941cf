"""Optimisers: every rule against torch and NumPy, continuing from a state, and steps that fail, wait or are cut off."""

from __future__ import annotations

import copy
import io
import math
import pickle
import random
import signal
import threading
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from common import DTYPES, import_peer

import rnncore as rc
from rnncore._kernels import leaf, memory
from rnncore._kernels import optim as kernel
from rnncore.train import SGD, Adam, AdamW, Embedding, Linear
from rnncore.weights import Module

RULES: list[tuple[Any, dict[str, Any]]] = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "weight_decay": 0.05}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05}),
    (Adam, {}),
    (Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}),
    (Adam, {"lr": 0.05, "weight_decay": 0.1}),
    (Adam, {"lr": 0.05, "betas": (0.0, 0.9)}),
    (Adam, {"lr": 0.05, "betas": (0.3, 0.0), "eps": 1e-3}),
    (AdamW, {"lr": 0.05}),
    (AdamW, {"lr": 0.05, "weight_decay": 0.3, "betas": (0.7, 0.9)}),
]
NAMES = [f"{rule.__name__}-{'-'.join(map(str, options.items()))}" for rule, options in RULES]
each_rule = pytest.mark.parametrize(("rule", "options"), RULES, ids=NAMES)


def modules(dtype: str = "float64") -> list[Module]:
    return [
        Linear(4, 3, dtype=dtype, rng=0),
        Embedding(6, 2, dtype=dtype, rng=1),
        Linear(2, 2, False, dtype=dtype, rng=2),
    ]


def random_grads(owners: list[Module], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    return [
        {name: rng.standard_normal(array.shape).astype(module.dtype) for name, array in module.parameters().items()}
        for module in owners
    ]


def reference(rule: Any, w: np.ndarray, gs: list[np.ndarray], **options: Any) -> np.ndarray:
    """The parameters after steps by the gradients, by the docstrings' equations, in float64."""
    lr, decay = options.get("lr", 1e-3), options.get("weight_decay", 1e-2 if rule is AdamW else 0)
    momentum, dampening, nesterov = (options.get(name, 0) for name in ("momentum", "dampening", "nesterov"))
    (beta1, beta2), eps = options.get("betas", (0.9, 0.999)), options.get("eps", 1e-8)
    w, b, m, v = (np.array(a, np.float64) for a in (w, 0 * w, 0 * w, 0 * w))
    for t, g in enumerate(gs, 1):
        if rule is AdamW:
            w = w - lr * decay * w  # (1)
        else:
            g = g + decay * w  # (1)
        if rule is SGD:
            b = g if t == 1 or not momentum else momentum * b + (1 - dampening) * g  # (2)
            w = w - lr * (g + momentum * b if nesterov else b)  # (3)
        else:
            m = m + (1 - beta1) * (g - m)  # (2)
            v = beta2 * v + (1 - beta2) * g**2  # (3)
            w = w - lr / (1 - beta1**t) * m / (np.sqrt(v) / np.sqrt(1 - beta2**t) + eps)  # (4)
    return w


def everything(owners: list[Module]) -> np.ndarray:
    return np.concatenate([array.ravel() for module in owners for array in module.parameters().values()])


# --- numbers ----------------------------------------------------------------------------------------------------------


@each_rule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_like_torch(rule: Any, options: dict[str, Any], dtype: str) -> None:
    torch = import_peer("torch")
    owners, rng = modules(dtype), np.random.default_rng(3)
    peers = [torch.nn.Parameter(torch.from_numpy(a)) for m in owners for a in m.state_dict().values()]
    opt, peer_opt = rule(owners, **options), getattr(torch.optim, rule.__name__)(peers, **options)
    before = everything(owners)
    for step in range(20):
        if step == 10:  # as a schedule would
            opt.lr *= 0.5
            peer_opt.param_groups[0]["lr"] *= 0.5
        grads = random_grads(owners, rng)
        for peer, g in zip(peers, (g for group in grads for g in group.values()), strict=True):
            peer.grad = torch.from_numpy(g.copy())
        opt.step(grads)
        peer_opt.step()
        expected = np.concatenate([peer.detach().numpy().ravel() for peer in peers])
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(everything(owners), expected, rtol=tolerance, atol=tolerance)
    assert np.abs(everything(owners) - before).min() > 0
    assert opt.steps == 20


@each_rule
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", leaf.available(), indirect=True)
def test_like_the_reference(rule: Any, options: dict[str, Any], dtype: str, isa: str) -> None:
    rng = np.random.default_rng(9)
    for n in (1, 2, 3, 7, 8, 15, 16, 17, 63, 1001, 30_011):
        head = Linear(n, 1, bias=False, dtype=dtype, rng=n)
        before = head.parameters()["weight"]
        gs = [rng.standard_normal((1, n)).astype(dtype) for _ in range(4)]
        opt = rule(head, **options)
        for g in gs:
            opt.step({"weight": g})
        w, expected = head.parameters()["weight"], reference(rule, before, gs, **options)
        tolerance = 1e-6 if dtype == "float32" else 1e-14
        assert w.dtype == dtype and w.shape == before.shape
        assert np.linalg.norm(w - expected) <= tolerance * np.linalg.norm(expected)
        np.testing.assert_allclose(w - before, expected - before, rtol=100 * tolerance, atol=20 * tolerance)


@each_rule
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", leaf.available(), indirect=True)
def test_the_same_bits_however_arrays_lie(rule: Any, options: dict[str, Any], dtype: str, isa: str) -> None:
    """In one piece, and in pieces of any size at any place, of none as well."""
    name, settings = rule(Linear(1, 1), **options)._rule(first=False)
    count = 2 if name == "adam" else int("momentum" in options)
    w, g, *moments = np.random.default_rng(10).random((2 + count, 100)).astype(dtype)
    whole, cut = [[np.zeros_like(w), w, g, *map(np.copy, moments)] for _ in range(2)]
    edges = [0, 0, 1, 2, 5, 22, 39, 55, 71, 99, 100]
    passes = [[a[i:j] for a in cut] for i, j in pairwise(edges)]
    for arrays in ([whole], passes):
        assert kernel.step(name, settings, [(*a[:3], a[3:]) for a in arrays], [], [])
    np.testing.assert_array_equal(cut, whole)
    assert not np.array_equal(whole[0], w)


@each_rule
def test_non_finite_numbers_like_torch(rule: Any, options: dict[str, Any]) -> None:
    torch = import_peer("torch")
    wrong = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38, 1e20, 0.0, 1.0], np.float32)
    head = Linear(64, 1, bias=False)
    head.load_state_dict({"weight": np.repeat(wrong, 8)[None]})
    peer = torch.nn.Parameter(torch.from_numpy(head.state_dict()["weight"]))
    opt, peer_opt = rule(head, **options), getattr(torch.optim, rule.__name__)([peer], **options)
    for g in (np.tile(wrong, 8), np.ones(64, np.float32), -np.tile(wrong, 8) / 2):
        peer.grad = torch.from_numpy(g[None].copy())
        opt.step({"weight": g[None]})
        peer_opt.step()
        np.testing.assert_allclose(head.parameters()["weight"], peer.detach().numpy(), rtol=1e-5)


@each_rule
def test_torch_has_the_same_defaults(rule: Any, options: dict[str, Any]) -> None:
    torch = import_peer("torch")
    peer = getattr(torch.optim, rule.__name__)([torch.nn.Parameter(torch.zeros(1))], **options)
    opt = rule(Linear(1, 1), **options)
    for name in opt._settings:
        assert getattr(opt, name) == peer.defaults[name], name


def test_sgd_by_hand() -> None:
    head = Linear(1, 1, bias=False, dtype="float64")
    head.load_state_dict({"weight": [[1.0]]})
    opt = SGD(head, lr=0.1, momentum=0.5, weight_decay=0.1)
    opt.step({"weight": np.array([[2.0]])})  # g = 2.1, b = 2.1
    assert head.parameters()["weight"].item() == pytest.approx(0.79, rel=1e-14)
    opt.step({"weight": np.array([[-1.0]])})  # g = -0.921, b = 0.129
    assert head.parameters()["weight"].item() == pytest.approx(0.79 - 0.0129, rel=1e-14)


def test_adam_by_hand() -> None:
    head = Linear(1, 2, bias=False, dtype="float64")
    head.load_state_dict({"weight": [[1.0], [1.0]]})
    opt = Adam(head, lr=0.1, betas=(0.5, 0.75), eps=0.0)
    opt.step({"weight": np.array([[2.0], [-3.0]])})  # m̂ = g, √v̂ = |g|
    np.testing.assert_allclose(head.parameters()["weight"], [[0.9], [1.1]], rtol=1e-14)
    opt.step({"weight": np.array([[-1.0], [-3.0]])})  # m̂ = (1 - 0.5·... )
    m = (0.5 * 0.5 * 2 + 0.5 * -1) / (1 - 0.25)
    v = (0.75 * 0.25 * 4 + 0.25 * 1) / (1 - 0.5625)
    np.testing.assert_allclose(head.parameters()["weight"], [[0.9 - 0.1 * m / math.sqrt(v)], [1.2]], rtol=1e-14)


# --- moments and parameters -------------------------------------------------------------------------------------------


@each_rule
@pytest.mark.parametrize("way", ["state_dict", "savez", "pickle", "deepcopy"])
def test_continuing_exactly(rule: Any, options: dict[str, Any], way: str) -> None:
    owners, rng = modules(), np.random.default_rng(4)
    opt = rule(owners, **options)
    for _ in range(3):
        opt.step(random_grads(owners, rng))
    opt.lr *= 0.5
    if way in ("state_dict", "savez"):
        twins = modules()
        for twin, owner in zip(twins, owners, strict=True):
            twin.load_state_dict(owner.state_dict())
        state = opt.state_dict()
        if way == "savez":
            file = io.BytesIO()
            np.savez(file, **state)
            file.seek(0)
            state = dict(np.load(file))
        twin_opt = rule(twins, lr=7.0)
        twin_opt.load_state_dict(state)
        for value in state.values():
            if isinstance(value, np.ndarray) and value.ndim:
                value[...] = 1e9  # the optimiser has copies
    else:
        twin_opt, twins = pickle.loads(pickle.dumps((opt, owners))) if way == "pickle" else copy.deepcopy((opt, owners))
        assert all(a is b for a, b in zip(twin_opt.modules, twins, strict=True))
    for _ in range(3):
        grads = random_grads(owners, rng)
        opt.step(grads)
        twin_opt.step(grads)
    np.testing.assert_array_equal(everything(twins), everything(owners))
    assert twin_opt.lr == opt.lr and twin_opt.steps == opt.steps == 6
    assert repr(twin_opt) == repr(opt)


def test_a_shallow_copy_has_moments_of_its_own() -> None:
    head, twin_head = Linear(2, 2, rng=0), Linear(2, 2, rng=0)
    opt, plain = Adam(head), Adam(twin_head)
    g = {"weight": np.ones((2, 2)), "bias": -np.ones(2)}
    opt.step(g)
    plain.step(g)
    side = copy.copy(opt)
    kept = side.state_dict()
    for _ in range(3):
        opt.step(g)
        plain.step(g)
    np.testing.assert_array_equal(head.parameters()["weight"], twin_head.parameters()["weight"])
    for key, value in side.state_dict().items():
        np.testing.assert_array_equal(value, kept[key])


def test_state_dict_is_a_copy() -> None:
    head = Linear(2, 2, rng=0)
    opt = Adam(head)
    g = {"weight": np.ones((2, 2)), "bias": -np.ones(2)}
    opt.step(g)
    state = opt.state_dict()
    assert set(state) == {"lr", "betas", "eps", "weight_decay", "steps"} | {
        f"0.{name}.{moment}" for name in ("weight", "bias") for moment in ("exp_avg", "exp_avg_sq")
    }
    kept = {key: np.copy(value) for key, value in state.items()}
    opt.step(g)
    for key, value in state.items():
        np.testing.assert_array_equal(value, kept[key])
    state["0.bias.exp_avg"][:] = np.nan
    assert np.isfinite(opt.state_dict()["0.bias.exp_avg"]).all()


def test_moments_change_in_place_and_nothing_else_is_allocated() -> None:
    head, n = Linear(1000, 500, bias=False, rng=0), 1000 * 500 * 4
    opt, g = Adam(head), {"weight": np.ones((500, 1000), np.float32)}
    opt.step(g)
    moments = dict(opt._moments)
    tracemalloc.start()
    opt.step(g)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n <= now < 1.01 * n and peak < 1.01 * n  # the new weights; the old ones were not traced
    assert opt._moments.keys() == moments.keys() and all(opt._moments[key] is m for key, m in moments.items())


def test_new_parameters_are_as_immutable_as_the_first() -> None:
    head = Linear(2, 2, rng=0)
    before, kept = head.parameters(), head.state_dict()
    opt, g = SGD(head, 0.1), {"weight": np.ones((2, 2)), "bias": -np.ones(2)}
    opt.step(g)
    after, kept_after = head.parameters(), head.state_dict()
    opt.step(g)
    for arrays, copies in ((before, kept), (after, kept_after)):
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, copies[name])
            assert array.flags.c_contiguous and array.flags.aligned
            while isinstance(array, np.ndarray):
                with pytest.raises(ValueError):
                    array.flags.writeable = True
                array = array.base
            assert type(array) is bytes and len(array) == arrays[name].nbytes + 64  # so that it begins at a cache line


def test_moments_that_fade_away_end_at_zero() -> None:
    head, zero = Linear(1, 3, bias=False, rng=0), {"weight": np.zeros((3, 1))}
    tiny = np.finfo(np.float32).tiny
    opt = SGD(head, 0.1, momentum=0.5)
    opt.step({"weight": np.array([[tiny], [8 * tiny], [1.0]])})
    opt.step(zero)
    np.testing.assert_array_equal(opt._moments["0.weight.momentum_buffer"], np.float32([[0], [4 * tiny], [0.5]]))
    assert np.float32(tiny) / np.float32(4) > 0  # the caller's arithmetic is as before


# --- whole steps or none ----------------------------------------------------------------------------------------------


def test_gradients_are_not_changed() -> None:
    for rule, options in RULES:
        owners = modules()
        opt, grads = rule(owners, **options), random_grads(owners, np.random.default_rng(5))
        for group in grads:
            for array in group.values():
                array.flags.writeable = False
        opt.step(grads)
        opt.step(grads)


def test_gradients_are_converted() -> None:
    head, twin = Linear(2, 2, rng=0), Linear(2, 2, rng=0)
    SGD(head, 0.1).step({"weight": [[1, 2], [3, 4]], "bias": np.asfortranarray([1.0, 2.0])})  # type: ignore[dict-item]
    SGD(twin, 0.1).step({"weight": np.array([[1, 2], [3, 4]], np.float32), "bias": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(everything([head]), everything([twin]))
    assert head.parameters()["weight"].dtype == np.float32


@each_rule
def test_a_failing_step_changes_nothing(rule: Any, options: dict[str, Any]) -> None:
    owners, rng = modules(), np.random.default_rng(6)
    opt = rule(owners, **options)
    opt.step(random_grads(owners, rng))
    weights, state = [m.parameters() for m in owners], opt.state_dict()
    good = random_grads(owners, rng)

    def spoiled(i: int, **changes: Any) -> list[dict[str, Any]]:
        grads: list[dict[str, Any]] = [dict(group) for group in good]
        grads[i].update(changes)
        return grads

    without = [{**good[0]}, good[1], good[2]]
    del without[0]["bias"]
    failures: list[tuple[Any, type[Exception], str]] = [
        (without, ValueError, r"module 0, a Linear; missing \['bias'\]"),
        (spoiled(2, bias=np.zeros(2)), ValueError, r"module 2, a Linear; missing \[\], unexpected \['bias'\]"),
        (spoiled(2, weight=np.zeros((2, 3))), ValueError, r"the gradient of weight of shape \(2, 2\), got \(2, 3\)"),
        (spoiled(1, weight=np.zeros((6, 2), complex)), TypeError, "the gradient of weight"),
        (spoiled(1, weight=None), TypeError, "the gradient of weight"),
        (good[:2], ValueError, "expected 3 dicts of gradients, one per module, got 2"),
        (good[0], ValueError, "expected 3 dicts of gradients, one per module, got 1"),
        ([good[0], good[1], good[2]["weight"]], TypeError, "expected gradients as a dict"),
        (None, TypeError, "expected gradients as a dict of names to arrays, or several, got NoneType"),
    ]
    for grads, error, message in failures:
        with pytest.raises(error, match=message):
            opt.step(grads)
    for module, before in zip(owners, weights, strict=True):
        assert all(np.array_equal(module.parameters()[name], array) for name, array in before.items())
    for key, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    twins = modules()
    for twin, before in zip(twins, weights, strict=True):
        twin.load_state_dict(before)
    twin_opt = rule(twins, **options)
    twin_opt.load_state_dict(state)
    opt.step(good)  # and it goes on as if nothing had happened
    twin_opt.step(good)
    np.testing.assert_array_equal(everything(owners), everything(twins))


@each_rule
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_step_that_ends_before_its_passes_changes_nothing(
    rule: Any, options: dict[str, Any], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    owners, rng = modules(), np.random.default_rng(7)
    opt, blank, calls = rule(owners, **options), memory.blank, []
    opt.step(random_grads(owners, rng))
    weights, state = everything(owners), opt.state_dict()

    def interrupted(*args: Any) -> np.ndarray:
        calls.append(args)
        if len(calls) == 3:
            raise error
        return blank(*args)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "blank", interrupted)
        with pytest.raises(error):
            opt.step(random_grads(owners, rng))
    np.testing.assert_array_equal(everything(owners), weights)
    for key, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, state[key])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer's signal")
def test_wherever_a_signal_comes_steps_are_whole() -> None:
    class Interrupt(Exception):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupt

    owners, twins, delay = modules(), modules(), random.Random(11)
    grads = random_grads(owners, np.random.default_rng(11))
    opt, twin_opt = Adam(owners), Adam(twins)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(100):
            try:
                # and again after a second: in the collector's callback, which Hypothesis has, an error is lost
                signal.setitimer(signal.ITIMER_REAL, delay.uniform(1e-4, 1e-3), 1)
                while True:
                    opt.step(grads)
            except Interrupt:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    thread = threading.Thread(target=opt.step, args=(grads,), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()  # no lock was left behind
    for _ in range(opt.steps):
        twin_opt.step(grads)
    np.testing.assert_array_equal(everything(owners), everything(twins))
    for key, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, twin_opt.state_dict()[key])


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["weights", "moments"])
def test_a_change_meanwhile_comes_before_the_step(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (head, opt), (twin, twin_opt) = [(head, Adam(head, lr=0.1)) for head in (Linear(2, 2, rng=0), Linear(2, 2, rng=0))]
    g, more = ({"weight": np.full((2, 2), x), "bias": np.full(2, -x)} for x in (1.0, 2.0))
    for each in (opt, twin_opt):
        each.step(g)
    state, blank, once = opt.state_dict(), memory.blank, iter([True])

    def act(head: Linear, opt: Adam) -> None:
        if change == "weights":
            head.load_state_dict({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})
        else:
            opt.step(more)
            opt.load_state_dict(state)

    def meanwhile(*args: Any) -> np.ndarray:
        if next(once, False):
            act(head, opt)
        return blank(*args)

    monkeypatch.setattr(memory, "blank", meanwhile)
    opt.step(g)
    act(twin, twin_opt)
    twin_opt.step(g)
    np.testing.assert_array_equal(everything([head]), everything([twin]))
    for key, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, twin_opt.state_dict()[key])


def test_an_edit_that_would_lose_a_step_is_refused() -> None:
    head = Linear(2, 2, rng=0)
    with pytest.raises(RuntimeError, match="meanwhile"), head.editing() as params:
        params["bias"][...] = 7
        SGD(head, 1.0).step({"weight": np.zeros((2, 2)), "bias": -np.ones(2)})
    assert (head.parameters()["bias"] <= 2).all()


@pytest.mark.parametrize("rule,options", [RULES[2], RULES[-1]])
def test_the_same_bits_for_any_threads(rule: Any, options: dict[str, Any]) -> None:
    """Arrays of many parts, of one that is not whole, and of less than one."""
    before, found = rc.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            rc.set_num_threads(threads)
            modules = [Linear(601, 703, rng=0), Embedding(3, 5, dtype="float64", rng=1)]
            optimiser, rng = rule(modules, **options), np.random.default_rng(2)
            for _ in range(3):
                optimiser.step([{n: rng.standard_normal(w.shape) for n, w in m.parameters().items()} for m in modules])
            found.append([w for m in modules for w in m.parameters().values()])
    finally:
        rc.set_num_threads(before)
    for arrays in found[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(arrays, found[0], strict=True))


def test_steps_of_many_threads_all_count() -> None:
    """Of one optimiser, and of another one that holds the same modules in another order."""
    a, b = (Linear(300, 100, bias=False, dtype="float64") for _ in range(2))
    for module in (a, b):
        module.load_state_dict({"weight": np.zeros((100, 300))})
    opts = [SGD([a, b], 2.0**-10), SGD([b, a], 2.0**-10)]
    g = {"weight": np.ones((100, 300))}

    def train(opt: SGD) -> None:
        for _ in range(50):
            opt.step([g, g])

    threads = [threading.Thread(target=train, args=(opt,), daemon=True) for opt in opts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [opt.steps for opt in opts] == [100, 100]
    for module in (a, b):
        np.testing.assert_array_equal(module.parameters()["weight"], -200 * 2.0**-10)


def test_a_state_taken_meanwhile_is_one_steps() -> None:
    head = Linear(1000, 300, bias=False)
    opt, g = SGD(head, 1e-3, momentum=1.0), {"weight": np.ones((300, 1000), np.float32)}
    opt.step(g)
    stop = threading.Event()

    def train() -> None:
        while not stop.is_set():
            opt.step(g)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    for _ in range(20):
        for state in (opt.state_dict(), copy.copy(opt).state_dict()):
            assert (state["0.weight.momentum_buffer"] == state["steps"]).all()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


# --- bad input --------------------------------------------------------------------------------------------------------


def test_the_kernels_own_door() -> None:
    """Not public, but locked all the same."""
    w, wide, frozen = np.ones(4, np.float32), np.ones(4), memory.blank((4,), np.float32)
    settings = {"rate": 1.0, "decay": 0.0, "momentum": 0.0, "gain": 1.0, "nesterov": False}
    adam = Adam(Linear(1, 1))._rule(first=True)
    wrong: list[Any] = [
        (w, w, wide, []), (w, w, w[:3], []), (w, w[None], w, []), (w, np.ones(8, np.float32)[::2], w, []),
        (w, w.astype(int), w, []), (w, w.astype(">f4"), w, []), (w, None, w, []), (None, w, w, []), (w, w, w, [frozen]),
        (w, w, w, [w, w]), (w, w, w), (w, w, w, None), None,
    ]  # fmt: skip
    for bad in wrong:
        with pytest.raises((TypeError, ValueError)):
            kernel.step("sgd", settings, [(w, w, w, []), bad], [], [])
    for arguments in [
        ("adam", settings, [], [], []), ("sgd", {}, [], [], []), ("adagrad", settings, [], [], []),
        (*adam, [(w, w, w, [])], [], []), (*adam, [(w, w, w, [w, frozen])], [], []), ("sgd", None, [], [], []),
        ("sgd", settings, None, [], []),
    ]:  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            kernel.step(*arguments)  # type: ignore[arg-type]
    np.testing.assert_array_equal(w, 1)
    for x in (None, [1.0], np.ones(3, int), np.ones(6)[::2]):
        with pytest.raises((TypeError, ValueError)):
            kernel.sum_of_squares(x)  # type: ignore[arg-type]


def test_the_kernels_door_for_softmax() -> None:
    rows, parts = np.ones((3, 4), np.float32), np.zeros((3, 2))
    for bad in [
        (rows[0], parts), (rows, parts[:2]), (rows, parts[0]), (rows, np.empty((3, 3))), (rows, parts.astype("f4")),
        (rows[:, ::2], parts), (memory.blank((3, 4), np.float32), parts), (rows.astype(int), parts), (rows, None),
    ]:  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            kernel.softmax(*bad, 1.0)
    kernel.softmax(rows, parts, 0.5)
    assert (rows == 0.125).all() and (parts == [1, 4]).all()
    kernel.softmax(np.empty((3, 0)), parts, 1.0)
    assert (parts == [1, 4]).all()


def test_momentum_may_begin_later() -> None:
    head = Linear(1, 1, bias=False, dtype="float64", rng=0)
    opt = SGD(head, lr=1.0)
    g = {"weight": np.array([[1.0]])}
    opt.step(g)
    before = head.parameters()["weight"].item()
    opt.momentum = 0.5
    opt.step(g)
    opt.step(g)
    assert head.parameters()["weight"].item() == pytest.approx(before - 1 - 1.5, rel=1e-14)


def test_bad_construction() -> None:
    head = Linear(2, 2)
    for rule in (SGD, Adam, AdamW):
        with pytest.raises(ValueError, match="each once"):
            rule([head, head], lr=0.1)
        with pytest.raises(ValueError, match="at least one"):
            rule([], lr=0.1)
        with pytest.raises(TypeError, match="expected modules, got ndarray"):
            rule([head, np.zeros(3)], lr=0.1)  # type: ignore[list-item]
        with pytest.raises(TypeError, match="expected modules, got NoneType"):
            rule(None, lr=0.1)
        with pytest.raises(
            TypeError, match="expected gradients as a dict of names to arrays, or several, got NoneType"
        ):
            rule(head, lr=0.1).step(None)
        for lr in (-0.1, math.nan, math.inf):
            with pytest.raises(ValueError, match="expected lr of at least 0 and less than inf"):
                rule(head, lr=lr)
        with pytest.raises(TypeError, match="lr"):
            rule(head, lr="0.1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="weight_decay"):
            rule(head, lr=0.1, weight_decay=-1.0)
    with pytest.raises(ValueError, match="nesterov, got momentum 0 and dampening 0"):
        SGD(head, 0.1, nesterov=True)
    with pytest.raises(ValueError, match=r"nesterov, got momentum 0\.9 and dampening 0\.1"):
        SGD(head, 0.1, momentum=0.9, dampening=0.1, nesterov=True)
    with pytest.raises(TypeError, match="nesterov"):
        SGD(head, 0.1, momentum=0.9, nesterov=1)  # type: ignore[arg-type]
    wrong: Any
    for wrong in (0.9, (0.9,), (0.9, 0.99, 0.999), "ab"):
        with pytest.raises(ValueError, match="expected betas as two numbers"):
            Adam(head, betas=wrong)
    for betas in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9)):
        with pytest.raises(ValueError, match=r"expected betas\[[01]\] of at least 0 and less than 1"):
            Adam(head, betas=betas)


def test_a_bad_lr_is_found_before_anything_changes() -> None:
    head = Linear(2, 2, rng=0)
    before = head.parameters()["weight"]
    opt = Adam(head)
    opt.lr = math.nan
    with pytest.raises(ValueError, match="lr"):
        opt.step({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    assert np.array_equal(head.parameters()["weight"], before)
    opt.lr = np.float64(0.1)  # what a schedule written with NumPy gives
    opt.step({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    np.testing.assert_allclose(head.parameters()["weight"], before - np.float32(0.1), rtol=1e-5)


def test_bad_state_changes_nothing() -> None:
    head = Linear(2, 2, rng=0)
    g = {"weight": np.ones((2, 2)), "bias": np.ones(2)}
    opt = Adam(head)
    opt.step(g)
    state = opt.state_dict()
    target = Adam(head, lr=0.5)
    missing = {key: value for key, value in state.items() if key != "0.bias.exp_avg_sq"}
    failures: list[tuple[Any, type[Exception], str]] = [
        (missing, ValueError, r"missing \['0.bias.exp_avg_sq'\]"),
        ({**state, "1.bias.exp_avg": np.ones(2)}, ValueError, r"unexpected \['1.bias.exp_avg'\]"),
        ({**state, "0.bias.exp_avg": np.ones(3)}, ValueError, r"0.bias.exp_avg of shape \(2,\), got \(3,\)"),
        ({**state, "0.bias.exp_avg": "x"}, TypeError, "0.bias.exp_avg"),
        ({**state, "lr": -1.0}, ValueError, "lr"),
        ({**state, "steps": 1.5}, ValueError, "steps"),
        (SGD(head, 0.1).state_dict(), ValueError, r"missing \['betas', 'eps'\]"),
        ({"lr": 0.1, "betas": (0.9, 0.9), "eps": 0.0, "weight_decay": 0.0, "steps": 3}, ValueError, "missing"),
        ([1], TypeError, "mapping"),
    ]
    for wrong, error, message in failures:
        with pytest.raises(error, match=message):
            target.load_state_dict(wrong)
    assert target.state_dict() == Adam(head, lr=0.5).state_dict()
    target.load_state_dict(Adam(head, lr=0.25).state_dict())  # from before its first step
    assert target.lr == 0.25 and target.steps == 0


# --- learning ---------------------------------------------------------------------------------------------------------


def test_training_finds_the_answer() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((64, 3))
    V = np.array([[1.0, -2.0, 0.5]])
    choices: list[tuple[Any, dict[str, Any]]] = [(SGD, {"lr": 0.1, "momentum": 0.5}), (Adam, {"lr": 0.1})]
    for rule, options in choices:
        head = Linear(3, 1, dtype="float64", rng=0)
        opt = rule(head, **options)
        for _ in range(300):
            o, tape = head.forward(x)
            opt.step(head.backward(tape, 2 * (o - x @ V.T - 3) / len(x))[1])
        np.testing.assert_allclose(head.parameters()["weight"], V, atol=1e-3)
        np.testing.assert_allclose(head.parameters()["bias"], [3], atol=1e-3)
