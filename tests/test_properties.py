"""What holds for every layer and input: chunks, dirty memory, NaN, threads, seeds, Ctrl-C."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from common import (
    DTYPES,
    KINDS,
    NONLINEARITIES,
    OUTPUT_NONLINEARITIES,
    as_tuple,
    assert_close,
    equal,
    pick,
    random_case,
    run_layer,
    run_reference,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import rnncore as rc
from rnncore._kernels import cell, pack, step

EXAMPLES = int(os.environ.get("RNNCORE_EXAMPLES", "60"))  # the slow tier asks for more


@st.composite
def layers(draw, directions=("forward", "reverse", "bidirectional")):
    """Any layer with any of its options; a JordanRNN, which has one direction, where that is asked for."""
    kind = draw(st.sampled_from(["RNN", "LSTM", "GRU"] + ["JordanRNN"] * ("forward" in directions)))
    I, H = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    options = {"bias": draw(st.booleans()), "dtype": draw(st.sampled_from(DTYPES)), "rng": draw(st.integers(0, 9))}
    if kind in ("RNN", "JordanRNN"):
        options["nonlinearity"] = draw(st.sampled_from(NONLINEARITIES))
    if kind == "JordanRNN":
        output_nonlinearity = draw(st.sampled_from(OUTPUT_NONLINEARITIES))
        return rc.JordanRNN(I, H, draw(st.integers(1, 9)), output_nonlinearity=output_nonlinearity, **options)
    if kind == "GRU":
        options["reset_after"] = draw(st.booleans())
    if kind == "LSTM":
        options |= {"proj_size": draw(st.integers(0, H - 1)), "peephole": draw(st.booleans())}
    direction = draw(st.sampled_from(directions))
    options |= {"bidirectional": direction == "bidirectional", "reverse": direction == "reverse"}
    return getattr(rc, kind)(I, H, num_layers=draw(st.integers(1, 3)), **options)


def lengths_of(N, T):
    """The lengths of N sequences of up to T steps; None for no such argument."""
    return st.none() | st.lists(st.integers(0, T), min_size=N, max_size=N)


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(("forward",)), N=st.integers(1, 5), T=st.integers(1, 30), data=st.data())
def test_chunks_are_the_whole(layer, N, T, data):
    """Carrying the state over cuts anywhere gives the whole sequence's numbers."""
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"])
    cuts = sorted(data.draw(st.lists(st.integers(0, T), max_size=5)))
    state, parts = case["state"], []
    for start, end in zip([0, *cuts], [*cuts, T], strict=True):
        part, state = layer(case["x"][start:end], state)
        parts.append(part)
    dtype = layer.dtype.name
    assert_close(np.concatenate(parts), y, dtype, "forward")
    assert_close(as_tuple(state), as_tuple(final), dtype, "forward")


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(("forward",)), N=st.integers(1, 5), T=st.integers(2, 30), data=st.data())
def test_backward_in_chunks_is_backward_of_the_whole(layer, N, T, data):
    """Passing dstate back over a cut gives the whole sequence's gradients; dropping it truncates BPTT there."""
    case = random_case(layer, T, N)
    whole = run_layer(layer, case)["backward"]
    cut = data.draw(st.integers(0, T))
    _, state, first = layer.forward(case["x"][:cut], case["state"])
    _, _, second = layer.forward(case["x"][cut:], state)
    dx_2, dstate, grads_2 = layer.backward(second, case["dy"][cut:], case["dstate"])
    dx_1, dstate, grads_1 = layer.backward(first, case["dy"][:cut], dstate)
    dtype = layer.dtype.name
    assert_close(np.concatenate([dx_1, dx_2]), whole["dx"], dtype, "backward")
    assert_close(as_tuple(dstate), whole["dstate"], dtype, "backward")
    grads = [grads_1[name] + grads_2[name] for name in whole["grads"]]
    flat = [np.concatenate([g.ravel() for g in some]) for some in (grads, whole["grads"].values())]
    assert_close(*flat, dtype, "backward")  # of all together: what is left where chunks cancel is rounding errors alone


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(1, 5), T=st.integers(0, 12), data=st.data())
def test_a_ragged_batch_is_each_sequence_alone(layer, N, T, data):
    """Forward and backward; gradients of parameters are sums."""
    lengths = data.draw(lengths_of(N, T).filter(bool))
    case = random_case(layer, T, N, lengths=lengths)
    together, dtype = run_layer(layer, case), layer.dtype.name
    total = {name: np.zeros(array.shape) for name, array in layer.parameters().items()}
    for n, length in enumerate(lengths):
        one = {name: case[name][:length, [n]] for name in ("x", "dy")}
        alone = run_layer(layer, one | {name: pick(layer, case[name], [n]) for name in ("state", "dstate")})
        for what, sequence, state in (("forward", "y", "state"), ("backward", "dx", "dstate")):
            assert_close(together[what][sequence][:length, [n]], alone[what][sequence], dtype, what)
            assert_close(tuple(a[..., [n], :] for a in together[what][state]), alone[what][state], dtype, what)
            assert not together[what][sequence][length:, n].any()
        for name, g in alone["backward"]["grads"].items():
            total[name] += g
    flat = [np.concatenate([g.ravel() for g in some.values()]) for some in (together["backward"]["grads"], total)]
    assert_close(*flat, dtype, "backward")


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(0, 5), T=st.integers(0, 30), data=st.data())
def test_dirty_memory_changes_nothing(layer, N, T, data):
    """Every array that kernels get uninitialised is full of NaN here: none of it is read before it is written."""
    case = random_case(layer, T, N, lengths=data.draw(lengths_of(N, T)))
    if isinstance(layer, rc.JordanRNN) and data.draw(st.booleans()):
        case["targets"] = random_case(layer, T, N, 1)["dy"]
    chosen = data.draw(st.permutations(range(N)))[: N // 2 + 1]

    def run():
        inferred = layer(case["x"], case["state"], lengths=case.get("lengths"))
        if layer.bidirectional or layer.reverse or N * T == 0:
            return run_layer(layer, case), inferred
        stream = layer.stream(N)
        return (
            run_layer(layer, case),
            inferred,
            stream.step(case["x"][0]),
            stream.step(case["x"][0, chosen], rows=chosen),
        )

    expected = run()

    def dirty(shape, dtype=float):
        value = {"f": np.nan, "u": 255, "i": 1}[np.dtype(dtype).kind]  # four or eight bytes of 255 are a NaN too
        return np.full(shape, value, dtype)

    def dirty_like(array):
        return np.full_like(array, np.nan)

    names = {name: getattr(np, name) for name in dir(np) if not name.startswith("__")}
    fake = SimpleNamespace(**names | {"empty": dirty, "empty_like": dirty_like})
    with pytest.MonkeyPatch.context() as patch:
        for module in (cell, pack, step, rc.layers, rc.jordan):
            patch.setattr(module, "np", fake)
        actual = run()
    assert equal(actual, expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(2, 6), T=st.integers(1, 10), data=st.data())
def test_nan_and_inf_come_out_and_stay_in_their_row(layer, N, T, data):
    row, t = data.draw(st.integers(0, N - 1)), data.draw(st.integers(0, T - 1))
    bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    lengths = data.draw(lengths_of(N, T))
    case = random_case(layer, T, N)
    y, state = layer(case["x"], case["state"], lengths=lengths)
    x = case["x"].copy()
    x[t, row] = bad
    with np.errstate(all="ignore"):
        y_bad, state_bad = layer(x, case["state"], lengths=lengths)
    length = T if lengths is None else lengths[row]
    others = np.arange(N) != row if t < length else np.full(N, True)
    assert_close(y_bad[:, others], y[:, others], layer.dtype.name, "forward")
    for a, b in zip(as_tuple(state_bad), as_tuple(state), strict=True):
        assert_close(a[..., others, :], b[..., others, :], layer.dtype.name, "forward")
    if np.isnan(bad) and t < length:
        assert np.isnan(y_bad[t, row]).any() and np.isnan(y_bad[length - 1 if not layer.reverse else 0, row]).any()


@pytest.mark.parametrize("kind,options", KINDS + [("RNN", {"nonlinearity": f}) for f in NONLINEARITIES[1:]])
def test_nan_in_a_gradient_comes_out(kind, options):
    rnn = getattr(rc, kind)(3, 5, rng=0, **options)
    case = random_case(rnn, 4, 3)
    x = case["x"].copy()
    x[2, 1] = np.nan
    _, _, tape = rnn.forward(x)
    dx, dstate, grads = rnn.backward(tape, case["dy"])
    dh_0 = as_tuple(dstate)[0]
    assert np.isnan(grads["weight_ih_l0"]).any() and np.isnan(grads["weight_hh_l0"]).any()
    if options != {"nonlinearity": "relu"}:  # whose slope is 0 or 1, even at NaN, as in torch
        assert np.isnan(dx[:, 1]).any() and np.isnan(dh_0[0, 1]).any()
    assert np.isfinite(dx[:, [0, 2]]).all() and np.isfinite(dh_0[0, [0, 2]]).all()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_nan_and_inf_in_an_upstream_gradient(nonlinearity):
    """As the reference has it, in the row they came in, and stopped by a ReLU that is off."""
    rnn = rc.RNN(3, 5, nonlinearity=nonlinearity, dtype="float64", rng=0)
    case = random_case(rnn, 4, 3)
    case["dy"][2, 1] = np.nan, np.inf, -np.inf, 1, 2
    with np.errstate(invalid="ignore"):
        actual, expected = run_layer(rnn, case)["backward"], run_reference(rnn, case)["backward"]
    assert np.array_equal(np.isfinite(actual["dx"]), np.isfinite(expected["dx"]))
    assert np.isfinite(actual["dx"][:, [0, 2]]).all() and not np.isfinite(actual["dx"][:, 1]).all()


@pytest.mark.parametrize("kind,options", KINDS)
def test_threads_share_a_layer(kind, options):
    """Promise 3: any number of threads may call one layer at once, in inference and in training."""
    layer = getattr(rc, kind)(16, 24, 2, bidirectional=True, rng=0, **options)
    cases = [random_case(layer, 5 + k, 1 + k % 4, k, [4, 0, 5, 1][: 1 + k % 4] if k % 2 else None) for k in range(12)]
    expected = [run_layer(layer, case) for case in cases]
    barrier = threading.Barrier(8)

    def work(worker):
        barrier.wait()
        for k in [(worker + j) % len(cases) for j in range(len(cases))]:
            y, _ = layer(cases[k]["x"], cases[k]["state"], lengths=cases[k].get("lengths"))
            assert_close(y, expected[k]["forward"]["y"], "float32", "forward")
            actual = run_layer(layer, cases[k])
            for what in ("forward", "backward"):
                assert_close(actual[what], expected[k][what], "float32", what)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def ran_meanwhile(call):
    """Whether a waiting thread got to run Python during `call`: it does only if the call lets go of the GIL."""
    ready, gate, turns = threading.Event(), threading.Lock(), []

    def other():
        ready.set()
        with gate:
            turns.append(time.perf_counter())

    thread, interval = threading.Thread(target=other), sys.getswitchinterval()
    gate.acquire()
    thread.start()
    ready.wait()
    time.sleep(0.02)  # until it stands at the gate
    sys.setswitchinterval(100)  # seconds: nobody takes the GIL from a thread that does not offer it
    try:
        gate.release()
        begin = time.perf_counter()
        call()
        end = time.perf_counter()
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    return begin <= turns[0] <= end


def test_the_gil_is_released():
    lstm = rc.LSTM(64, 256, rng=0)
    x = np.zeros((100, 4, 64), np.float32)
    _, _, tape = lstm.forward(x)
    dy = np.ones((100, 4, 256), np.float32)
    holding = ctypes.PyDLL(None).usleep
    assert any(ran_meanwhile(lambda: lstm(x, return_sequence=False)) for _ in range(20))
    assert any(ran_meanwhile(lambda: lstm.backward(tape, dy)) for _ in range(20))
    assert not any(ran_meanwhile(lambda: holding(20_000)) for _ in range(20))  # a call that keeps it


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(layer=layers(), N=st.integers(1, 5), T=st.integers(1, 30), data=st.data())
def test_same_input_same_bits(layer, N, T, data):
    """Promise 5: the same call gives the same bits, forward and backward."""
    case = random_case(layer, T, N, lengths=data.draw(lengths_of(N, T)))
    assert equal(run_layer(layer, case), run_layer(layer, case))


SEEDED = """
import hashlib, numpy as np, rnncore as rc
x, digest = np.random.default_rng(0).standard_normal((80, 24, 64)).astype("f4"), hashlib.sha256()
for layer, options in (
    (rc.LSTM(64, 96, 2, bidirectional=True, rng=5), {}),
    (rc.GRU(64, 70, 2, dropout=0.5, rng=5), {"lengths": np.arange(24) * 3, "rng": 6}),
):
    y, _, tape = layer.forward(x, **options)
    dx, _, grads = layer.backward(tape, y)
    for a in (y, dx, *grads.values()):
        digest.update(a.tobytes())
print(digest.hexdigest())
"""


def test_same_seed_same_bits_from_run_to_run():
    command = [sys.executable, "-c", SEEDED]
    results = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(results) == 1 and len(results.pop()) == 65


def seconds(call):
    """How long a call takes now: others may be at work meanwhile, and later no more."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interrupted_inside(call, after=0.05):
    """Whether one SIGINT, sent so many seconds after the call began, was answered inside the kernel."""

    def interrupt():
        time.sleep(after)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        call()
        thread.join()  # a signal that came too late is raised here
        time.sleep(0.01)
    except KeyboardInterrupt as error:
        thread.join()
        name = traceback.extract_tb(error.__traceback__)[-1].name.removeprefix("rnncore._kernels.")
        return name in ("driver.forward", "driver.backward", "matmul.matmul")  # which have no Python of their own
    return False


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_ctrl_c_is_answered_inside_a_kernel():
    """Some tries, since a signal may also arrive in the Python code around a kernel; the layer goes on working."""
    lstm = rc.LSTM(8, 512, rng=0)
    x, dy = np.zeros((4000, 1, 8), np.float32), np.zeros((4000, 1, 512), np.float32)
    y, _, tape = lstm.forward(x)
    dx = lstm.backward(tape, dy)[0]
    assert any(interrupted_inside(lambda: lstm(x, return_sequence=False)) for _ in range(20))
    assert any(interrupted_inside(lambda: lstm.backward(tape, dy)) for _ in range(20))
    assert np.array_equal(lstm(x)[0], y) and np.array_equal(lstm.backward(tape, dy)[0], dx)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_is_answered_inside_a_single_step(engine, threads):
    """The gradients of a great many sequences' one step: some have been added, others have not."""
    gru, N = rc.GRU(64, 128, rng=0), 60_000
    x = np.random.default_rng(1).standard_normal((1, N, 64)).astype(np.float32)
    y, _, tape = gru.forward(x)
    dx, _, grads = gru.backward(tape, y, n_threads=threads)

    def cut_short(share):
        added = {name: np.zeros_like(g) for name, g in grads.items()}
        whole = seconds(lambda: gru.backward(tape, y, n_threads=threads))
        inside = interrupted_inside(lambda: gru.backward(tape, y, accumulate=added, n_threads=threads), share * whole)
        return inside and 0 < sum(bool(g.any()) for g in added.values()) < len(added)

    assert any(cut_short(share) for _ in range(5) for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.2, 0.3, 0.9))
    again = gru.backward(tape, y, n_threads=threads)
    assert np.array_equal(again[0], dx) and all(np.array_equal(again[2][name], grads[name]) for name in grads)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_ctrl_c_is_answered_inside_a_linear_layer(engine):
    linear = rc.train.Linear(512, 2048, rng=0)
    x = np.ones((16_000, 512), np.float32)
    y, tape = linear.forward(x)
    for call in (lambda: linear(x), lambda: linear.backward(tape, y)):
        assert any(interrupted_inside(call, share * seconds(call)) for _ in range(5) for share in (0.4, 0.6, 0.8))
    assert np.array_equal(linear(x), y)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_what_a_handler_raises_is_not_lost(monkeypatch):
    """Wherever a pass is when the signal comes: in its kernels, or where these ask which thread they are in."""
    lost, raised = [], 0
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    layer = rc.LSTM(256, 256, num_layers=6, rng=0)
    y, _, tape = layer.forward(np.zeros((8, 16, 256)))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for k in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.00005 * (k % 100))
                layer.backward(tape, y, n_threads=1)
                time.sleep(10)
            except KeyboardInterrupt:
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised == 200 and not lost


@pytest.mark.parametrize("kind,options", [("LSTM", {"proj_size": 96}), ("LSTM", {"peephole": True}), ("GRU", {})])
def test_steps_and_gradients_that_are_cut(kind, options, engine):
    """A step of more sequences than are done at once, backwards, is that of a few at a time: gradients add up."""
    layer, N, few = getattr(rc, kind)(160, 128, rng=0, **options), 9_000, 1_500
    x = np.random.default_rng(1).standard_normal((1, N, 160)).astype(np.float32)
    state = as_tuple(layer(x, return_sequence=False)[1])
    y, _, tape = layer.forward(x, state if len(state) > 1 else state[0])
    dy = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    dx, _, grads = layer.backward(tape, dy)
    total = {name: np.zeros(g.shape) for name, g in grads.items()}
    for n in range(0, N, few):
        part = slice(n, n + few)
        before = tuple(s[:, part] for s in state)
        some, _, of_some = layer.forward(x[:, part], before if len(before) > 1 else before[0])
        d_some, _, g_some = layer.backward(of_some, dy[:, part])
        np.testing.assert_allclose(some, y[:, part], rtol=0, atol=0 if engine == "panels" else 1e-5)
        np.testing.assert_allclose(d_some, dx[:, part], rtol=0, atol=0 if engine == "panels" else 1e-5)
        for name, g in g_some.items():
            total[name] += g
    for name, g in grads.items():
        np.testing.assert_allclose(g, total[name], rtol=0, atol=1e-5 * np.abs(total[name]).max())
    assert dx.any() and all(g.any() for g in grads.values())


@pytest.mark.parametrize("T,N", [(50, 6), (3, 150)])
def test_sums_of_a_very_wide_layer_are_those_of_one_sequence(T, N):
    """W_ih of more than 8 MB, which blocks of their own size are for, and parts of the batch."""
    rnn, rng = rc.RNN(2100, 1100, rng=0), np.random.default_rng(1)
    x, lengths = rng.standard_normal((T, N, 2100)).astype(np.float32), rng.integers(0, T + 1, N)
    lengths[[0, N - 1]] = T
    y, ragged = rnn(x)[0], rnn(x, lengths=lengths)[0]
    for n in {0, N // 2, N * 2 // 3, N - 1}:
        alone = rnn(x[:, n : n + 1])[0]
        assert alone.any() and np.array_equal(alone, y[:, n : n + 1])
        assert np.array_equal(alone[: lengths[n], 0], ragged[: lengths[n], n])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_steps_of_many_units_that_are_cut_are_those_of_one_sequence(kind):
    """Forwards a step of so many units and sequences is several slices of units, in either direction."""
    layer = getattr(rc, kind)(16, 2048 if kind == "RNN" else 900, rng=0)
    x = np.random.default_rng(1).standard_normal((3, 150, 16)).astype(np.float32)
    y = layer(x, n_threads=1)[0]
    for n in (0, 77, 149):
        alone = layer(x[:, n : n + 1], n_threads=1)[0]
        assert alone.all() and np.array_equal(alone, y[:, n : n + 1])
