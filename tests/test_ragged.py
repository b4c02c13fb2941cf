"""Sequences of several lengths in one call: each is as if alone, and what lies behind its end does not matter."""

import tracemalloc

import numpy as np
import pytest
from common import (
    DTYPES,
    KINDS,
    as_tuple,
    assert_close,
    assert_same,
    equal,
    pick,
    random_case,
    run_layer,
    run_reference,
)

import rnncore as rc
from rnncore._kernels.cell import Ragged
from rnncore._kernels.memory import empty

pytestmark = pytest.mark.usefixtures("engine")
panels = pytest.mark.parametrize("engine", ["panels"], indirect=True)  # where one is enough, or bits are promised
directions = pytest.mark.parametrize("direction", [{}, {"reverse": True}, {"bidirectional": True}])

# of 7 sequences with up to 6 steps: falling, rising, any order, none at all, all T, none as long as T, one alone
LENGTHS = [
    [6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6], [3, 0, 6, 1, 6, 0, 2], [0] * 7, [6] * 7, [4, 4, 1, 0, 4, 2, 2],
    [0, 0, 0, 5, 0, 0, 0],
]  # fmt: skip


def behind(case):
    """Where in (T, N) the sequences have ended."""
    return np.arange(len(case["x"]))[:, None] >= case["lengths"]


def infer(layer, case, **options):
    """What a call returns, as `run_layer` has it."""
    y, state = layer(case["x"], case["state"], lengths=case["lengths"], **options)
    return {"y": y, "state": as_tuple(state)}


def check(layer, case):
    """Against the reference, with NaN behind the ends; there y and dx are zero. No steps leave the state as it is."""
    dtype, expected, padding, none = layer.dtype.name, run_reference(layer, case), behind(case), case["lengths"] == 0
    case["x"][padding] = case["dy"][padding] = np.nan
    actual = run_layer(layer, case)
    assert_same(actual, expected, dtype)
    inferred = infer(layer, case)
    assert_close(inferred, expected["forward"], dtype, "forward")
    for array in (actual["forward"]["y"], inferred["y"], actual["backward"]["dx"]):
        assert not array[padding].any()
    for states, before in [
        (actual["forward"]["state"], case["state"]), (inferred["state"], case["state"]),
        (actual["backward"]["dstate"], case["dstate"]),
    ]:  # fmt: skip
        for after, initial in zip(states, as_tuple(before), strict=True):
            assert equal(after[:, none], initial[:, none])


@directions
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_stacks_and_directions(dtype, kind, options, direction):
    layer = getattr(rc, kind)(3, 5, 3, dtype=dtype, rng=0, **options, **direction)
    check(layer, random_case(layer, 6, 7, lengths=LENGTHS[2]))


@panels
@directions
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind,options", KINDS)
def test_any_lengths(kind, options, lengths, direction):
    layer = getattr(rc, kind)(3, 5, 2, rng=0, **options, **direction)
    check(layer, random_case(layer, 6, 7, lengths=lengths))


@pytest.mark.parametrize("H", [16, 17, 37, 64, 70])
@pytest.mark.parametrize("kind,options", KINDS)
def test_sizes(kind, options, H):
    layer = getattr(rc, kind)(H // 3, H, rng=H, **options)
    check(layer, random_case(layer, 4, 9, lengths=[1, 4, 0, 3, 2, 4, 1, 1, 3]))


@directions
@pytest.mark.parametrize(
    "T,lengths", [(1200, [513, 0, 1200, 1]), (3, [3, 1, 0] * 200), (170, [170, 90, 1, 0, 86, 170])]
)
@pytest.mark.parametrize("kind,options", [KINDS[0], KINDS[4], KINDS[6]])
def test_several_blocks_of_time(kind, options, T, lengths, direction):
    """Against the layer itself with the sequences of each length alone; parameters' gradients are sums."""
    layer = getattr(rc, kind)(3, 4, 2, dtype="float64", rng=0, **options, **direction)
    case = random_case(layer, T, len(lengths), lengths=lengths)
    actual = run_layer(layer, case)
    assert_close(infer(layer, case), actual["forward"], "float64", "forward")
    first = getattr(rc, kind)(3, 4, 2, batch_first=True, dtype="float64", rng=0, **options, **direction)
    inferred = infer(first, case | {"x": case["x"].swapaxes(0, 1)})
    inferred["y"] = inferred["y"].swapaxes(0, 1)
    assert_close(inferred, actual["forward"], "float64", "forward")
    total = {name: np.zeros_like(array) for name, array in layer.parameters().items()}
    for length in np.unique(lengths):
        chosen = np.flatnonzero(case["lengths"] == length)
        part = {name: case[name][:length, chosen] for name in ("x", "dy")}
        part |= {name: pick(layer, case[name], chosen) for name in ("state", "dstate")}
        expected = run_layer(layer, part)
        for what, sequence, state in (("forward", "y", "state"), ("backward", "dx", "dstate")):
            assert_close(actual[what][sequence][:length, chosen], expected[what][sequence], "float64", what)
            assert_close(tuple(a[:, chosen] for a in actual[what][state]), expected[what][state], "float64", what)
        for name, g in expected["backward"]["grads"].items():
            total[name] += g
    assert_close(actual["backward"]["grads"], total, "float64", "backward")


@panels
@directions
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_sequence_has_the_bits_it_has_alone(dtype, kind, options, direction):
    layer = getattr(rc, kind)(5, 37, 2, dtype=dtype, rng=0, **options, **direction)
    case = random_case(layer, 60, 12, lengths=[60, 1, 33, 0, 60, 59, 2, 17, 16, 31, 32, 8])
    together = infer(layer, case)
    assert equal(run_layer(layer, case)["forward"], together)
    for n, length in enumerate(case["lengths"]):
        y, state = layer(case["x"][:length, [n]], pick(layer, case["state"], [n]))
        assert equal(together["y"][:length, [n]], y)
        assert equal(tuple(a[:, [n]] for a in together["state"]), as_tuple(state))


@panels
@directions
@pytest.mark.parametrize("H", [17, 200])
@pytest.mark.parametrize("N", [2, 9, 70])
@pytest.mark.parametrize("kind,options", [KINDS[0], KINDS[4], KINDS[5], KINDS[6]])
def test_any_number_of_threads(kind, options, N, H, direction):
    """By rows and by units, as batch and layer are small or large."""
    layer = getattr(rc, kind)(5, H, rng=0, **options, **direction)
    first = getattr(rc, kind)(5, H, batch_first=True, rng=0, **options, **direction)
    case = random_case(layer, 21, N, lengths=np.random.default_rng(N).integers(0, 22, N))
    expected = infer(layer, case, n_threads=1)
    for n_threads in (2, 3):
        assert equal(infer(layer, case, n_threads=n_threads), expected)
        assert equal(run_layer(layer, case | {"n_threads": n_threads})["forward"], expected)
        turned = infer(first, case | {"x": case["x"].swapaxes(0, 1)}, n_threads=n_threads)
        assert equal(turned | {"y": turned["y"].swapaxes(0, 1)}, expected)


@panels
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("N,lengths", [
    (200, [50] * 4 + [1] * 196), (210, np.arange(210) * 5 % 14), (300, [0] * 100 + [2] * 199 + [40]),
    (70, [1] * 69 + [9]), (600, np.random.default_rng(0).geometric(0.3, 600)),
])  # fmt: skip
@pytest.mark.parametrize("H", [17, 200])
def test_few_long_sequences_among_many_short_ones(H, N, lengths, n_threads):
    """All are run, however their batch is cut: the bits of a batch of full length, as far as they go."""
    layer = rc.GRU(3, H, rng=0)
    case = random_case(layer, max(lengths), N, lengths=lengths)
    full, _ = layer(case["x"], case["state"], n_threads=1)
    actual = infer(layer, case, n_threads=n_threads)
    assert equal(actual["y"], np.where(behind(case)[:, :, None], np.float32(0), full))
    last = np.concatenate([case["state"], full])[case["lengths"], np.arange(N)]
    assert equal(actual["state"][0][0], last)


@pytest.mark.parametrize("kind,options", KINDS)
def test_all_of_full_length_is_no_lengths_at_all(kind, options):
    layer = getattr(rc, kind)(3, 5, 2, rng=0, **options)
    case = random_case(layer, 6, 4)
    assert equal(run_layer(layer, case | {"lengths": [6] * 4}), run_layer(layer, case))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind,options", KINDS)
def test_layouts(kind, options, bidirectional):
    plain, first = (
        getattr(rc, kind)(3, 5, 2, bidirectional=bidirectional, batch_first=batch_first, rng=0, **options)
        for batch_first in (False, True)
    )
    case = random_case(plain, 6, 7, lengths=LENGTHS[2])
    turned = case | {name: case[name].swapaxes(0, 1) for name in ("x", "dy")}
    expected, actual = run_layer(plain, case), run_layer(first, turned)
    for part, name in (("forward", "y"), ("backward", "dx")):
        actual[part][name] = actual[part][name].swapaxes(0, 1)
    assert equal(actual, expected)
    inferred = infer(first, turned)
    assert equal(inferred | {"y": inferred["y"].swapaxes(0, 1)}, infer(plain, case))


@pytest.mark.parametrize("length", [0, 4, 6])
@pytest.mark.parametrize("kind,options", KINDS)
def test_unbatched(kind, options, length):
    """The length is a number, or one in an array; `batch_first` says nothing."""
    plain, first = (
        getattr(rc, kind)(3, 5, 2, batch_first=batch_first, rng=0, **options) for batch_first in (False, True)
    )
    case = random_case(plain, 6, 1, lengths=[length])
    expected = run_layer(plain, case)
    one = {"x": case["x"][:, 0], "dy": case["dy"][:, 0]}
    one |= {name: pick(plain, case[name], 0) for name in ("state", "dstate")}
    for layer in (plain, first):
        for lengths in (length, [length], np.int8(length)):
            actual = run_layer(layer, one | {"lengths": lengths})
            for what, sequence, state in (("forward", "y", "state"), ("backward", "dx", "dstate")):
                assert equal(actual[what][sequence], expected[what][sequence][:, 0])
                assert equal(actual[what][state], tuple(a[:, 0] for a in expected[what][state]))
            assert equal(actual["backward"]["grads"], expected["backward"]["grads"])
            assert_close(infer(layer, one | {"lengths": lengths}), actual["forward"], "float32", "forward")


@directions
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("kind,options", [KINDS[0], KINDS[4], KINDS[6]])
def test_out(kind, options, L, direction):
    """Direct, strided, and batch-first, each full of old values; even x itself."""
    layer = getattr(rc, kind)(10, 5, L, rng=0, **options, **direction)
    first = getattr(rc, kind)(10, 5, L, batch_first=True, rng=0, **options, **direction)
    case = random_case(layer, 6, 7, lengths=LENGTHS[5])
    turned = case | {"x": case["x"].swapaxes(0, 1)}
    expected = infer(layer, case)
    y = expected["y"]
    T, N, width = y.shape
    for out in (np.ones_like(y), np.ones((T, 2 * N, width + 3), np.float32)[:, ::2, 1 : 1 + width]):
        actual = infer(layer, case, out=out)
        assert actual["y"] is out and equal(actual, expected)
    for out in (np.ones((N, T, width), np.float32), np.ones((T, N, width), np.float32).swapaxes(0, 1)):
        actual = infer(first, turned, out=out)
        assert actual["y"] is out and equal(actual | {"y": out.swapaxes(0, 1)}, expected)
    into = np.ascontiguousarray(case["x"])
    assert equal(infer(layer, case | {"x": into}, out=into[:, :, :width]), expected)


@directions
@pytest.mark.parametrize("kind,options", KINDS)
def test_return_sequence_false_keeps_the_state_only(kind, options, direction):
    layer = getattr(rc, kind)(3, 5, 2, rng=0, **options, **direction)
    case = random_case(layer, 300, 5, lengths=[300, 0, 7, 257, 299])
    alone = infer(layer, case, return_sequence=False)
    assert alone["y"] is None and equal(alone["state"], infer(layer, case)["state"])


@pytest.mark.parametrize("kind,options", KINDS)
def test_accumulate(kind, options):
    layer = getattr(rc, kind)(3, 5, 2, rng=0, **options)
    case = random_case(layer, 6, 7, lengths=LENGTHS[2])
    _, _, tape = layer.forward(case["x"], case["state"], lengths=case["lengths"])
    dx, _, grads = layer.backward(tape, case["dy"], case["dstate"])
    total = {name: np.full_like(g, 0.5) for name, g in grads.items()}
    dx_again, _, returned = layer.backward(tape, case["dy"], case["dstate"], accumulate=total)
    assert equal(dx_again, dx)
    for name, g in grads.items():
        assert returned[name] is total[name]
        np.testing.assert_allclose(total[name], g + 0.5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind,options", KINDS)
def test_no_gradient_of_the_output_is_a_zero_one(kind, options):
    layer = getattr(rc, kind)(3, 5, 2, rng=0, **options)
    case = random_case(layer, 6, 7, lengths=LENGTHS[2])
    _, _, tape = layer.forward(case["x"], case["state"], lengths=case["lengths"])
    none, zero = (layer.backward(tape, dy, case["dstate"]) for dy in (None, 0 * case["dy"]))
    assert equal(none, zero) and any(g.any() for g in none[2].values())


@pytest.mark.parametrize("kind,options", KINDS)
def test_a_tape_is_the_callers_no_more(kind, options):
    """What was handed in, but for x, and what came out may be overwritten."""
    layer = getattr(rc, kind)(3, 5, 2, rng=0, **options)
    case = random_case(layer, 6, 7, lengths=LENGTHS[2])
    y, state, tape = layer.forward(case["x"], case["state"], lengths=case["lengths"])
    expected = layer.backward(tape, case["dy"], case["dstate"])
    for array in (*as_tuple(case["state"]), y, *as_tuple(state)):
        array[...] = np.nan
    case["lengths"][...] = 0
    assert equal(layer.backward(tape, case["dy"], case["dstate"]), expected)


@pytest.mark.parametrize("make", [
    list, tuple, lambda a: a.astype(np.int8), lambda a: a.astype(np.uint64), lambda a: a.astype(">i4"),
    lambda a: np.repeat(a, 2)[::2], lambda a: np.broadcast_to(a, a.shape),
])  # fmt: skip
def test_any_integers_are_lengths(make):
    layer = rc.LSTM(3, 5, rng=0)
    case = random_case(layer, 6, 7, lengths=LENGTHS[2])
    given = make(case["lengths"])
    assert equal(run_layer(layer, case | {"lengths": given}), run_layer(layer, case))
    assert list(given) == LENGTHS[2]


@pytest.mark.parametrize("T,N,lengths", [(0, 3, [0, 0, 0]), (4, 0, []), (0, 0, [])])
@directions
@pytest.mark.parametrize("kind,options", KINDS)
def test_empty_sequences_and_batches(kind, options, direction, T, N, lengths):
    layer = getattr(rc, kind)(3, 5, 2, rng=0, **options, **direction)
    case = random_case(layer, T, N)
    assert equal(run_layer(layer, case | {"lengths": lengths}), run_layer(layer, case))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_work_is_what_there_is(lengths):
    """Rows that run, of the whole and of any part of it, are as many as steps; the longest sequence comes first."""
    ragged = Ragged(np.array(lengths), 6)
    assert ragged.offsets[-1] == sum(lengths) and ragged.T == max(lengths)
    assert list(np.diff(ragged.offsets)) == [sum(length > t for length in lengths) for t in range(max(lengths))]
    assert list(ragged.lengths) == sorted(lengths, reverse=True) == [lengths[n] for n in ragged.order]
    for t in range(ragged.T + 1):
        first, second = ragged.cut(0, t), ragged.cut(t, ragged.T)
        assert first.offsets[-1] + second.offsets[-1] == sum(lengths)
        assert list(first.lengths + second.lengths) == list(ragged.lengths)


@panels
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("L", [1, 2])
def test_memory_of_inference_does_not_grow_with_time(L, batch_first):
    """Promise 4: without the sequence, more steps take no more memory, but for how many sequences each of them has."""
    layer = rc.GRU(3, 5, L, batch_first=batch_first, rng=0)
    peaks = []
    for T in (20_000, 200_000):
        x, lengths = np.zeros((2, T, 3) if batch_first else (T, 2, 3), np.float32), [T, T // 2]
        layer(x, lengths=lengths, return_sequence=False)
        tracemalloc.start()
        layer(x, lengths=lengths, return_sequence=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 9 * 180_000


@pytest.mark.parametrize("checkpoint", [None, 4])
@pytest.mark.parametrize("lengths", [None, LENGTHS[2]])
@pytest.mark.parametrize("kind,options", KINDS)
def test_memory_in_order_of_time_is_read_where_it_lies(kind, options, lengths, checkpoint):
    """With `batch_first`, of x and dy: the same bits as of C-contiguous ones, and nobody writes there."""
    layer = getattr(rc, kind)(3, 5, 2, batch_first=True, dropout=0.5, rng=0, **options)
    case = random_case(layer, 6, 7, lengths=lengths)
    x, dy = (case[name].swapaxes(0, 1).copy() for name in ("x", "dy"))
    results = []
    for turned in (False, True):
        given = [a.swapaxes(0, 1).copy().swapaxes(0, 1) if turned else a.copy() for a in (x, dy)]
        y, state, tape = layer.forward(given[0], case["state"], lengths=lengths, checkpoint=checkpoint, rng=1)
        results.append((y, state, layer.backward(tape, given[1], case["dstate"])))
        assert np.array_equal(given[0], x) and np.array_equal(given[1], dy)
    assert equal(*results) and np.any(results[0][2][0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_memory_that_was_in_use_before_is_zero_behind_the_end(options, batch_first):
    """Results lie in memory that earlier ones gave back, here full of NaN."""
    layer = rc.LSTM(16, 16, batch_first=batch_first, rng=0, **options)
    D = 2 if layer.bidirectional else 1
    lengths = np.array([3, 0, 50, 17])
    x = np.ones((4, 50, 16) if batch_first else (50, 4, 16), np.float32)
    ends = np.arange(50) >= lengths[:, None]
    ends = ends if batch_first else ends.T

    def spoil():
        arrays = [empty((50, 4, width), np.dtype(np.float32)) for width in (16, 16, 16, 32, 32, 32)]
        for array in arrays:
            array.fill(np.nan)

    spoil()
    out = np.full((*x.shape[:2], 16 * D), np.nan, np.float32)
    for y in (layer(x, lengths=lengths)[0], layer(x, lengths=lengths, out=out)[0]):
        assert np.isfinite(y).all() and not y[ends].any() and y[~ends].any()
    spoil()
    y, _, tape = layer.forward(x, lengths=lengths)
    assert np.isfinite(y).all() and not y[ends].any() and y[~ends].any()
    spoil()
    dx, _, _ = layer.backward(tape, np.ones_like(y))
    assert np.isfinite(dx).all() and not dx[ends].any() and dx[~ends].any()
