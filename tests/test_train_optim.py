"""Optimisers: every rule against torch, continuing from a state, and steps that fail."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
from common import import_peer

from rnncore.train import SGD, Adam, AdamW, Embedding, Linear, optim
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
    (AdamW, {"lr": 0.05}),
    (AdamW, {"lr": 0.05, "weight_decay": 0.3, "betas": (0.7, 0.9)}),
]
NAMES = [f"{rule.__name__}-{'-'.join(options)}" for rule, options in RULES]
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


def everything(owners: list[Module]) -> np.ndarray:
    return np.concatenate([array.ravel() for module in owners for array in module.parameters().values()])


@each_rule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_like_torch(rule: Any, options: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = import_peer("torch")
    monkeypatch.setattr(optim, "_BLOCK", 5)  # so that parameters span several blocks
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


def test_two_sets_of_moments_take_turns() -> None:
    head = Linear(2, 2, rng=0)
    opt, g = Adam(head), {"weight": np.ones((2, 2)), "bias": -np.ones(2)}
    seen = []  # the arrays themselves, so that no id is used twice
    for _ in range(6):
        opt.step(g)
        seen.append(opt._moments["0.weight.exp_avg"])
    assert len(set(map(id, seen))) == 2


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
        assert all(module.parameters()[name] is array for name, array in before.items())
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
def test_an_interrupted_step_changes_nothing(
    rule: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    owners, rng = modules(), np.random.default_rng(7)
    opt = rule(owners, **options)
    opt.step(random_grads(owners, rng))
    opt.step(random_grads(owners, rng))
    weights, state, update, calls = everything(owners), opt.state_dict(), opt._update, []

    def interrupted(*blocks: Any) -> None:
        update(*blocks)
        calls.append(blocks)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opt, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(random_grads(owners, rng))
    np.testing.assert_array_equal(everything(owners), weights)
    for key, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, state[key])


def test_a_step_against_another_edit_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Linear(2, 2, rng=0)
    opt = Adam(head)
    g = {"weight": np.ones((2, 2)), "bias": np.ones(2)}
    opt.step(g)
    state, update = opt.state_dict(), opt._update

    def meanwhile(*blocks: Any) -> None:
        update(*blocks)
        head.load_state_dict({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})

    with monkeypatch.context() as patch:
        patch.setattr(opt, "_update", meanwhile)
        with pytest.raises(RuntimeError, match="another edit"):
            opt.step(g)
    np.testing.assert_array_equal(everything([head]), 0)
    for key, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, state[key])


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
    assert head.parameters()["weight"] is before
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
