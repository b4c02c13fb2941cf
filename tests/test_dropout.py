"""Dropout between layers: the mask itself, where it acts, what it depends on, and that backward knows it."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from common import (
    DTYPES,
    KINDS,
    as_tuple,
    assert_close,
    assert_same,
    equal,
    random_case,
    run_layer,
    state_of,
    state_shapes,
)

import rnncore as rc
from rnncore.dropout import drop, dropout_key

TORCHS_WARNING = (
    "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
    "num_layers greater than 1, but got dropout=0.5 and num_layers=1"
)
directions = pytest.mark.parametrize("direction", [{}, {"reverse": True}, {"bidirectional": True}])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_mask_has_its_rate_and_its_scale(p, dtype):
    y = np.ones((40, 60, 50), dtype)
    drop(y, p, dropout_key(0), 0)
    assert set(np.unique(y)) == {0, np.dtype(dtype).type(1 / (1 - p))}
    kept = y != 0
    for part in (kept, kept[:, 7], kept[3], kept[:, :, 11], kept[::2] & kept[1::2]):  # neighbours, independently
        rate = (1 - p) ** 2 if part.shape == (20, 60, 50) else 1 - p
        assert abs(part.mean() - rate) < 5 * (rate * (1 - rate) / part.size) ** 0.5
    assert abs(y.mean() - 1) < 5 * (p / (1 - p) / y.size) ** 0.5


def test_the_mask_depends_on_key_layer_and_place_alone():
    """Drawn again from any block of rows on, it is the same: that is how a part of a pass can be replayed."""
    masks = []
    for seed, layer in ((0, 0), (0, 1), (1, 0), (0, 0)):
        y = np.ones((300, 5, 7))
        drop(y, 0.5, dropout_key(seed), layer)
        masks.append(y)
    assert equal(masks[0], masks[3]) and not equal(masks[0], masks[1]) and not equal(masks[0], masks[2])
    rows = masks[0].reshape(-1, 7)
    first = np.ones((700, 7))
    drop(first, 0.5, dropout_key(0), 0)
    assert equal(first, rows[:700])
    blocks = [rows[start : start + 476] for start in (0, 512, 1024)]
    assert not any(equal(blocks[j], blocks[k]) for j in range(3) for k in range(j))
    flat = np.ones((1500, 7), np.float32)
    drop(flat, 0.5, dropout_key(0), 0)
    assert equal(flat, rows.astype(np.float32))  # of either dtype


@pytest.mark.parametrize("kind,options", KINDS)
def test_inference_has_none(kind, options):
    plain, dropping = (getattr(rc, kind)(3, 5, 3, dropout=p, rng=0, **options) for p in (0.0, 0.5))
    case = random_case(plain, 6, 4)
    assert equal(dropping(case["x"], case["state"]), plain(case["x"], case["state"]))
    lengths = [6, 0, 2, 5]
    assert equal(dropping(case["x"], lengths=lengths), plain(case["x"], lengths=lengths))
    assert equal(dropping.stream(4).step(case["x"][0]), plain.stream(4).step(case["x"][0]))


@pytest.mark.parametrize("kind,options", KINDS)
def test_none_at_rate_zero(kind, options):
    layer = getattr(rc, kind)(3, 5, 3, dropout=0.0, rng=0, **options)
    case = random_case(layer, 6, 4)
    assert equal(run_layer(layer, case | {"rng": 0}), run_layer(layer, case | {"rng": 1}))
    assert equal(run_layer(layer, case | {"rng": 0})["forward"]["y"], layer(case["x"], case["state"])[0])


def split(layer, kind, options, direction):
    """The stack's layers, each as a layer of its own."""
    D = 2 if layer.bidirectional else 1
    singles = []
    for k in range(layer.num_layers):
        width = D * state_shapes(layer, 1)[0][-1] if k else layer.input_size
        singles.append(getattr(rc, kind)(width, layer.hidden_size, dtype=layer.dtype, **options, **direction))
        mine = {name.replace(f"_l{k}", "_l0"): a for name, a in layer.parameters().items() if f"_l{k}" in name}
        singles[k].load_state_dict(mine)
    return singles


def of_layer(layer, state, k):
    """One layer's part of the stack's state."""
    D = 2 if layer.bidirectional else 1
    return state_of(layer, tuple(a[k * D : (k + 1) * D] for a in as_tuple(state)))


def layer_by_layer(layer, singles, case, key):
    """Forward and backward of the stack, with the masks between layers put where they belong here."""
    lengths = case.get("lengths")
    T, N, _ = case["x"].shape
    full = np.full(N, T) if lengths is None else lengths
    order = np.argsort(-full, kind="stable")
    there = [(t, n) for t in range(T) for n in order if full[n] > t]  # rows as they are packed: time, sequence

    def dropped(sequence, k):
        rows, out = np.array([sequence[place] for place in there]), np.zeros_like(sequence)
        drop(rows, layer.dropout, key, k)
        for place, row in zip(there, rows, strict=True):
            out[place] = row
        return out

    x, tapes, finals, initials, grads = case["x"], [], [], [], {}
    for k, single in enumerate(singles):
        y, state, tape = single.forward(x, of_layer(layer, case["state"], k), lengths=lengths)
        tapes.append(tape)
        finals.append(as_tuple(state))
        x = dropped(y, k) if k + 1 < len(singles) else y
    dy = case["dy"]
    for k, single in reversed(list(enumerate(singles))):
        dx, dstate, g = single.backward(tapes[k], dy, of_layer(layer, case["dstate"], k))
        initials.insert(0, as_tuple(dstate))
        grads |= {name.replace("_l0", f"_l{k}"): array for name, array in g.items()}
        dy = dropped(dx, k - 1) if k else dx

    def joined(states):
        return tuple(np.concatenate(arrays) for arrays in zip(*states, strict=True))

    return {
        "forward": {"y": y, "state": joined(finals)},
        "backward": {
            "dx": dx, "dstate": joined(initials), "grads": {name: grads[name] for name in layer.parameters()},
        },
    }  # fmt: skip


@directions
@pytest.mark.parametrize("lengths", [None, [3, 0, 9, 1, 9, 4]])
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_between_layers_and_nowhere_else(engine, dtype, kind, options, lengths, direction):
    """Outputs of all layers but the last, of both directions, not their states; and the same places on the way back."""
    layer = getattr(rc, kind)(3, 5, 3, dropout=0.4, dtype=dtype, rng=0, **options, **direction)
    case = random_case(layer, 9, 6, lengths=lengths) | {"rng": 7}
    expected = layer_by_layer(layer, split(layer, kind, options, direction), case, dropout_key(7))
    assert_same(run_layer(layer, case), expected, dtype)


def test_over_several_blocks_of_a_mask():
    layer = rc.GRU(3, 5, 2, dropout=0.4, rng=0)
    case = random_case(layer, 300, 5, lengths=[300, 200, 299, 150, 300]) | {"rng": 7}
    expected = layer_by_layer(layer, split(layer, "GRU", {}, {}), case, dropout_key(7))
    assert_same(run_layer(layer, case), expected, "float32")


@pytest.mark.parametrize("lengths", [None, [4, 0, 1, 3]])
@pytest.mark.parametrize("kind,options", KINDS)
def test_gradients_are_derivatives_under_the_same_mask(kind, options, lengths):
    """Numerically, in float64, along a random direction in x, in each state and in each parameter."""
    layer = getattr(rc, kind)(3, 4, 2, dropout=0.5, dtype="float64", bidirectional=True, rng=0, **options)
    case = random_case(layer, 4, 4, lengths=lengths) | {"rng": 3}
    gradients = run_layer(layer, case)["backward"]
    states = as_tuple(case["state"])
    arguments = {"x": case["x"]} | dict(enumerate(states)) | layer.state_dict()

    def loss(name, change):
        moved = arguments | {name: arguments[name] + change}
        layer.load_state_dict({name: moved[name] for name in layer.parameters()})
        state = state_of(layer, tuple(moved[k] for k in range(len(states))))
        y, final, _ = layer.forward(moved["x"], state, lengths=lengths, rng=3)
        results, upstream = (y, *as_tuple(final)), (case["dy"], *as_tuple(case["dstate"]))
        return sum((a * da).sum() for a, da in zip(results, upstream, strict=True))

    rng = np.random.default_rng(0)
    for name, g in ({"x": gradients["dx"]} | dict(enumerate(gradients["dstate"])) | gradients["grads"]).items():
        step = 1e-5 * rng.standard_normal(g.shape)
        slope = (loss(name, step) - loss(name, -step)) / 2
        assert slope == pytest.approx((g * step).sum(), rel=1e-5, abs=1e-12), name


@pytest.mark.parametrize("lengths", [None, [6, 0, 2, 5]])
@pytest.mark.parametrize("kind,options", KINDS)
def test_everything_dropped(kind, options, lengths):
    """p = 1: the layer above reads zeros, and nothing comes back from it."""
    layer = getattr(rc, kind)(3, 5, 2, dropout=1.0, rng=0, **options)
    case = random_case(layer, 6, 4, lengths=lengths)
    case["dstate"] = state_of(layer, tuple(a * [[[0]], [[1]]] for a in as_tuple(case["dstate"])))
    lower, upper = split(layer, kind, options, {})
    run = run_layer(layer, case)
    state = of_layer(layer, case["state"], 1)
    y, _, _ = upper.forward(np.zeros((6, 4, upper.input_size)), state, lengths=lengths)
    assert_close(run["forward"]["y"], y, "float32", "forward")
    _, final = lower(case["x"], of_layer(layer, case["state"], 0), lengths=lengths)
    assert_close(tuple(a[:1] for a in run["forward"]["state"]), as_tuple(final), "float32", "forward")
    assert not run["backward"]["dx"].any()
    for name, g in run["backward"]["grads"].items():
        assert g.any() == (name.endswith("_l1") and name != "weight_ih_l1"), name


@pytest.mark.parametrize("lengths", [None, [6, 0, 2, 5]])
def test_a_seed_repeats_and_a_generator_moves_on(lengths):
    layer = rc.LSTM(3, 5, 2, dropout=0.5, rng=0)
    case = random_case(layer, 6, 4, lengths=lengths)
    one, again, other = (run_layer(layer, case | {"rng": seed}) for seed in (1, 1, 2))
    assert equal(one, again) and not equal(one["forward"]["y"], other["forward"]["y"])
    generator = np.random.default_rng(5)
    first, second = (run_layer(layer, case | {"rng": generator}) for _ in range(2))
    assert not equal(first["forward"]["y"], second["forward"]["y"])
    generator = np.random.default_rng(5)
    assert equal(run_layer(layer, case | {"rng": generator}), first)
    assert equal(run_layer(layer, case | {"rng": generator}), second)
    new = [run_layer(layer, case | {"rng": None})["forward"]["y"] for _ in range(2)]
    assert not equal(*new)


def test_a_tape_replays_its_mask():
    """Backward after backward, whatever was drawn in between."""
    layer = rc.GRU(3, 5, 3, dropout=0.5, rng=0)
    case = random_case(layer, 6, 4)
    generator = np.random.default_rng(5)
    _, _, tape = layer.forward(case["x"], rng=generator)
    expected = layer.backward(tape, case["dy"])
    layer.forward(case["x"], rng=generator)
    assert equal(layer.backward(tape, case["dy"]), expected)


def test_a_generator_rests_where_nothing_is_dropped():
    generator = np.random.default_rng(5)
    before = generator.bit_generator.state
    for layer in (rc.GRU(3, 5, 3, rng=0), rc.JordanRNN(3, 5, 4, rng=0)):
        layer.forward(np.ones((6, 4, 3)), rng=generator)
    assert generator.bit_generator.state == before


def test_what_lies_behind_an_end_does_not_matter():
    layer = rc.LSTM(3, 5, 3, dropout=0.5, bidirectional=True, rng=0)
    case = random_case(layer, 6, 4, lengths=[6, 0, 2, 5]) | {"rng": 1}
    expected = run_layer(layer, case)
    behind = np.arange(6)[:, None] >= case["lengths"]
    case["x"][behind] = case["dy"][behind] = np.nan
    actual = run_layer(layer, case)
    assert equal(actual, expected)
    assert not actual["forward"]["y"][behind].any() and not actual["backward"]["dx"][behind].any()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_one_layer_has_nothing_to_drop(kind):
    with pytest.warns(UserWarning) as caught:
        layer = getattr(rc, kind)(3, 5, dropout=0.5, rng=0)
    assert [str(w.message) for w in caught] == [TORCHS_WARNING] and caught[0].filename == __file__
    case = random_case(layer, 6, 4)
    assert equal(run_layer(layer, case | {"rng": 0}), run_layer(getattr(rc, kind)(3, 5, rng=0), case))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(rc, kind)(3, 5, 2, dropout=0.5)


def test_threads_train_one_layer_at_once():
    """Each with its own seed gets what it would get alone."""
    layer = rc.LSTM(8, 24, 3, dropout=0.5, rng=0)
    cases = [random_case(layer, 40, 5, k, lengths=[40, 3, 0, 20, 39]) | {"rng": k} for k in range(2)]
    expected = [run_layer(layer, case) for case in cases]

    def train(k):
        return all(equal(run_layer(layer, cases[k]), expected[k]) for _ in range(20))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(train, range(2)))
