"""The paired timer, the contenders, and the machine's limits."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from common import import_peer

from rnncore import runtime
from rnncore._kernels import leaf
from rnncore.measure import limits, peers, training
from rnncore.measure.paired import Contender, ContenderError, Workers, median_interval
from rnncore.measure.peers import Case
from rnncore.measure.worker import calibrated, each, timed

FEW = {"blocks": 6, "block_seconds": 0.001, "idle_seconds": 0.0}


# --- what contenders of these tests do, in their own processes --------------------------------------------------------


def sleeper(seconds, value=1.0):
    return lambda: time.sleep(seconds), lambda: np.full(3, value)


def idler():
    return lambda: None, lambda: np.ones(3)


def pair(second):
    return lambda: None, lambda: (np.ones(3), np.full((2, 2), second))


def preparer():
    """Work that fails if it was not prepared."""
    prepared = []
    return lambda: prepared.pop(), lambda: np.ones(3), lambda: prepared.append(1)


def raiser(when):
    def fail():
        raise LookupError(f"no luck\nin {when}")

    if when == "build":
        fail()
    return (fail, lambda: np.ones(3)) if when == "run" else (lambda: None, fail)


def dier(words=""):
    def die():
        print(words, file=sys.stderr, flush=True)
        os._exit(7)

    return die, lambda: np.ones(3)


def chatter():
    return lambda: print("a word"), lambda: os.write(1, b"on stdout") and np.ones(3)


def teller():
    """Tells what its process was given."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RNNCORE_NUM_THREADS")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return lambda: None, lambda: np.array([*(int(os.environ[name]) for name in names), cpus, os.getpid()])


def work(name, function, threads=1, **arguments):
    return Contender(name, f"test_measure:{function}", arguments, threads)


@pytest.fixture(scope="module")
def workers():
    with Workers() as shared:
        yield shared


# --- the paired timer -------------------------------------------------------------------------------------------------


class Counter:
    """Work that costs 3 seconds a call, on a clock that only work moves."""

    now = 0.0
    calls = 0

    def run(self):
        self.now += 3.0
        self.calls += 1


def test_time_of_preparation_does_not_count(workers):
    counter = Counter()
    assert timed(counter.run, 5, lambda: counter.now, counter.run) == 15.0
    assert counter.calls == 10
    assert calibrated(counter.run, 300.0, lambda: counter.now, counter.run) == 100
    workers.compare(work("a", "preparer"), [work("b", "sleeper", seconds=0)], **FEW)  # which fails unprepared


def test_timed_and_calibrated():
    counter = Counter()
    assert timed(counter.run, 5, lambda: counter.now) == 15.0
    assert counter.calls == 5
    assert calibrated(counter.run, 1.0, lambda: counter.now) == 1
    assert calibrated(counter.run, 300.0, lambda: counter.now) == 100
    assert calibrated(lambda: None, 1e-3, itertools.count(0.0, 1e-3).__next__) == 1


def test_single_calls():
    counter = Counter()
    assert each(counter.run, 4, lambda: counter.now) == [3.0] * 4
    clock = iter([0.0, 1.0, 5.0, 7.0])
    assert each(lambda: None, 2, lambda: next(clock)) == [1.0, 2.0]


def test_percentiles_of_single_calls(workers, monkeypatch):
    """Blocks alternate, and the calls in which a core wakes up do not count."""
    asked = []

    def ask(contender, command, calls):
        asked.append((contender.name, command, calls))
        return [1e3] * 11 + [float(len(asked))] * (calls - 11)

    monkeypatch.setattr(workers, "_ask", ask)
    found = workers.latencies([work("a", "idler"), work("b", "idler")], 10_000, idle_seconds=0)
    assert asked == [(name, "each", 1011) for name in "abba" * 5]
    assert [(levels["1"], levels["100"]) for levels in found] == [(1, 20), (2, 19)]
    monkeypatch.undo()
    contenders = [work("a", "idler"), work("b", "sleeper", seconds=0.002)]
    workers.compare(*contenders[:1], contenders[1:], **FEW)
    a, b = workers.latencies(contenders, 20)
    assert list(a.values()) == sorted(a.values()) and b["1"] >= 0.002


@pytest.mark.parametrize("n", [6, 7, 8, 9, 12, 15])
def test_interval_holds_the_median_as_often_as_it_says(n):
    """Against all 2^n ways for values to lie on either side of the median."""
    values = list(range(n))
    interval = median_interval(values[::-1])
    k = int(interval.low) + 1
    assert interval.high == n - k
    assert interval.median == (n - 1) / 2

    def confidence(k):
        inside = sum(k <= sum(below) <= n - k for below in itertools.product((0, 1), repeat=n))
        return inside / 2**n

    assert confidence(k) >= 0.95 > confidence(k + 1)


def test_interval_needs_six():
    with pytest.raises(ValueError, match="expected at least 6 values for a confidence of 95%, got 5"):
        median_interval([1.0] * 5)


def test_known_ratio(workers, monkeypatch):
    """Blocks of known length, which get slower, by turns from either end: the ratio is that of neighbours."""
    asked = []

    def ask(contender, command, *arguments):
        if command != "block":
            return None
        asked.append(contender.name)
        return {"a": 1.0, "b": 4.0, "c": 0.5}[contender.name] * (1 + len(asked) / 10)

    monkeypatch.setattr(workers, "_ask", ask)
    result = workers.compare(work("a", "idler"), [work("b", "idler"), work("c", "idler")], **FEW)
    assert "".join(asked) == "abccba" * 3
    b, c = result.ratios
    assert b.low < 4 < b.high and c.low < 0.5 < c.high
    assert result.others[0].median == pytest.approx(4 * result.seconds.median, rel=0.5)


def test_slower_work_takes_longer(workers):
    result = workers.compare(work("a", "idler"), [work("b", "sleeper", seconds=0.005)], **FEW)
    (ratio,) = result.ratios
    assert 1 < ratio.low <= ratio.median <= ratio.high
    assert result.others[0].median >= 0.005


@pytest.mark.parametrize("when", ["build", "results", "run"])
def test_contender_that_raises(workers, when):
    good, bad = work("good", "sleeper", seconds=0), work("bad", "raiser", when=when)
    with pytest.raises(ContenderError, match=f"^bad: LookupError: no luck\nin {when}$") as caught:
        workers.compare(good, [bad], **FEW)
    assert caught.value.contender == bad
    workers.compare(good, [work("bad", "sleeper", seconds=0)], **FEW)  # its process lives on


@pytest.mark.parametrize(("words", "last"), [("one\ntwo", "two"), ("", "without a word")])
def test_contender_that_dies(workers, words, last):
    good, bad = work("good", "sleeper", seconds=0), work("mortal", "dier", words=words)
    with pytest.raises(ContenderError, match=f"^mortal: died with status 7: {last}$"):
        workers.compare(good, [bad], **FEW)
    workers.compare(good, [work("mortal", "sleeper", seconds=0)], **FEW)  # in a new process


@pytest.mark.parametrize("value", [1.001, math.nan, math.inf])
def test_other_results(workers, value):
    good, bad = work("good", "sleeper", seconds=0), work("bad", "sleeper", seconds=0, value=value)
    with pytest.raises(ContenderError, match=r"^bad: has other results than good: norm of the difference"):
        workers.compare(good, [bad], **FEW)


def test_several_results(workers):
    """Each is compared by itself: a small one that differs counts as much as a large one."""
    first, same = work("first", "pair", second=1e-9), work("same", "pair", second=1e-9)
    workers.compare(first, [same], **FEW)
    with pytest.raises(ContenderError, match=r"^other: has other results than first"):
        workers.compare(first, [work("other", "pair", second=2e-9)], **FEW)
    with pytest.raises(ContenderError, match=r"has results of shapes \[\(3,\)\], first \[\(3,\), \(2, 2\)\]"):
        workers.compare(first, [work("one", "sleeper", seconds=0)], **FEW)


def test_contender_may_print(workers):
    workers.compare(work("chatter", "chatter"), **FEW)


def test_function_that_is_not_there(workers):
    with pytest.raises(ContenderError, match="bad: ModuleNotFoundError: No module named 'nowhere'"):
        workers.compare(Contender("bad", "nowhere:nothing"), **FEW)


def test_process_is_held_to_its_threads(workers):
    contender = work("teller", "teller")
    workers.compare(contender, **FEW)
    first = workers._ask(contender, "results")
    assert list(first[:5]) == [1] * 5
    workers.compare(contender, **FEW)
    assert workers._ask(contender, "results")[5] == first[5] != os.getpid()
    with pytest.raises(ValueError, match=r"expected at most \d+ threads on this machine, got 10000"):
        workers.compare(replace(contender, threads=10000), **FEW)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_interrupt_ends_all_workers():
    code = """if True:
        import sys, test_measure
        from rnncore.measure.paired import Workers
        with Workers() as workers:
            workers.compare(test_measure.work("teller", "teller"), **test_measure.FEW)
            print(int(workers._ask(test_measure.work("teller", "teller"), "results")[5]), flush=True)
            workers.compare(test_measure.work("teller", "sleeper", seconds=100), **test_measure.FEW)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
        start_new_session=True,
    )  # fmt: skip
    worker = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


# --- contenders -------------------------------------------------------------------------------------------------------

SEQUENCE = Case("sequence", "lstm", N=2, H=16, T=5, I=9)
GRU, GRU_CALL = replace(SEQUENCE, cell="gru"), Case("call", "gru", 2, 16)
STACK = replace(SEQUENCE, L=2, D=2)
RAGGED = replace(SEQUENCE, N=5, T=12, ragged=True)
TRAINING = replace(SEQUENCE, kind="training")
STEP, MEMORY = replace(SEQUENCE, kind="step"), replace(SEQUENCE, kind="memory")


@pytest.mark.parametrize(
    ("peer", "cases"),
    [
        ("torch", [SEQUENCE, replace(SEQUENCE, cell="rnn", dtype="float64"), Case("call", "lstm", 1, 16)]),
        ("ort", [SEQUENCE, replace(SEQUENCE, cell="rnn"), Case("call", "lstm", 1, 16), Case("call", "rnn", 2, 16)]),
        ("openvino", [SEQUENCE, replace(SEQUENCE, cell="rnn")]),
        ("jax", [SEQUENCE, replace(SEQUENCE, cell="rnn"), Case("stream", "lstm", 2, 16)]),
        ("torch", [STACK, replace(STACK, L=3, D=1)]),
        ("ort", [STACK, replace(STACK, L=3, D=1)]),
        ("torch", [GRU, replace(GRU, dtype="float64"), GRU_CALL]),
        ("ort", [GRU, GRU_CALL]),
        ("openvino", [GRU]),
        ("jax", [GRU, GRU_CALL, replace(GRU, dtype="float64")]),
        ("torch", [RAGGED]),
        ("padded", [RAGGED]),
        ("reference", [SEQUENCE, RAGGED, Case("call", "lstm", 2, 16), Case("stream", "rnn", 1, 16, dtype="float64")]),
        ("reference", [replace(TRAINING, cell=cell) for cell in ("lstm", "rnn", "gru")]),
        ("reference", [GRU, GRU_CALL, replace(RAGGED, kind="training")]),
        *itertools.product(("torch", "jax"), ([replace(TRAINING, cell=cell)] for cell in ("lstm", "rnn", "gru"))),
        *itertools.product(("torch", "jax"), [[replace(TRAINING, dtype="float64")]]),
        ("torch", [replace(RAGGED, kind="training"), replace(STACK, kind="training")]),
        ("torch", [STEP, replace(STEP, cell="rnn")]),
    ],
)
def test_peers_agree(workers, peer, cases):
    for module in peers.PEERS.get(peer, ()):
        import_peer(module)
    for case in cases:
        result = workers.compare(
            peers.contender("rnncore", case), [peers.contender(peer, case)], tolerance=case.tolerance, **FEW
        )
        assert result.ratios[0].median > 0


@pytest.mark.parametrize("case", [SEQUENCE, GRU, TRAINING, replace(TRAINING, cell="rnn")], ids=str)
def test_modules_agree_with_layers(workers, case):
    """A module and the layer behind it, each in a process of its own."""
    import_peer("torch")
    case = replace(case, module=True)
    module, layer = peers.contender("rnncore", case), peers.contender("rnncore", replace(case, module=False))
    assert module.name != layer.name
    assert workers.compare(module, [layer], tolerance=case.tolerance, **FEW).ratios[0].median > 0


@pytest.mark.parametrize("kind", ["sequence", "training"])
def test_packed_modules_agree_with_whole_ones(workers, kind):
    import_peer("torch")
    case = replace(RAGGED, kind=kind, module=True)
    workers.compare(peers.contender("rnncore", case), [peers.contender("whole", case)], tolerance=case.tolerance, **FEW)


def test_weights_of_a_module_change_before_each_call():
    """So that what it packs counts, as it does for the layer."""
    import_peer("torch")
    from rnncore.interop.torch import run

    _, results, _ = training.build("rnncore", asdict(replace(TRAINING, module=True)))
    contents = set()
    plan = run.plan_of("LSTM", TRAINING.I, TRAINING.H, 1, True, False, False, 0, __import__("torch").float32, 0.0)
    for _ in range(3):
        results()
        contents |= {known.contents for known in plan.known.values()}
    assert len(contents) >= 2


@pytest.mark.parametrize("name", ["rnncore", "torch"])  # JAX in this process would mind other tests' forks
def test_gradients_are_all_there(name):
    """dx, those of both states, and those of the parameters, after which these are as they were; weights are new."""
    for module in peers.PEERS.get(name, ()):
        import_peer(module)
    _, results, prepare = training.build(name, asdict(TRAINING))
    T, N, I, H = TRAINING.T, TRAINING.N, TRAINING.I, TRAINING.H
    before = results()
    assert [d.shape for d in before] == [(T, N, I), (1, N, H), (1, N, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    assert all(d.any() for d in before)
    before = [d.copy() for d in before]
    prepare()
    assert all(np.array_equal(a, b) for a, b in zip(results(), before, strict=True))


def test_weights_are_packed_at_every_call(monkeypatch):
    layers = []
    monkeypatch.setattr(training, "layer_of", lambda case: layers.append(peers.layer_of(case)) or layers[0])
    run, _, prepare = training.build("rnncore", asdict(TRAINING))
    run()
    used = layers[0]._weights
    prepare()
    assert used._packed and layers[0]._weights is not used and not layers[0]._weights._packed


def test_the_fastest_way_to_write_it():
    """The first call of a candidate, which compiles it, does not count."""
    delays = {"slow": [0.0, *[0.02] * 100], "fast": [0.2, *[0.001] * 100]}

    def built(name):
        return lambda: time.sleep(delays[name].pop(0)), lambda: name

    assert min(map(built, delays), key=training.least_seconds)[1]() == "fast"


def test_steps_begin_anew():
    """Results are those of the first steps, however many went before."""
    run, results = training.build("rnncore", asdict(STEP))
    before = results()
    run(), run()
    after = results()
    assert len(before[0]) == peers.CHAINED and len(before) == 1 + 1 + 4 + 2
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("case", [MEMORY, replace(MEMORY, cell="rnn", dtype="float64"), replace(RAGGED, kind="memory")])
def test_memory(case):
    """What a tape and y take, and not much besides; the same at every call."""
    layer, x = peers.layer_of(case), peers.sequence(case)
    _, results = training.build("rnncore", asdict(case))
    taken, panels, tape_bytes, call = results()
    y, _, tape = layer.forward(x, lengths=case.lengths if case.ragged else None)
    assert taken >= tape.nbytes + y.nbytes
    assert taken <= 3 * (tape.nbytes + y.nbytes) + 4096
    assert tape_bytes == tape.nbytes and y.nbytes <= call <= 3 * y.nbytes + 65536
    assert panels >= sum(array.nbytes for array in layer.parameters().values())
    assert results()[0] == pytest.approx(taken, abs=512)


def test_memory_that_torch_saves():
    """Of an RNN, x, y and about as much again; parameters, which take more here, are not among them."""
    torch = import_peer("torch")
    case = replace(MEMORY, cell="rnn", dtype="float64", H=64)
    _, results = training.build("torch", asdict(case))
    saved, panels = results()
    assert panels == 0
    sequence = case.T * case.N * 8
    assert sequence * (case.I + case.H) <= saved <= sequence * (case.I + 3 * case.H)
    assert saved < sum(p.numel() for p in torch.nn.RNN(case.I, case.H).parameters()) * 8
    assert saved == results()[0]


def test_padded_results_count_within_the_lengths(workers):
    import_peer("torch")
    packed, padded = peers.contender("torch", RAGGED), peers.contender("padded", RAGGED)
    workers.compare(packed, [padded], tolerance=RAGGED.tolerance, **FEW)
    with pytest.raises(ContenderError, match="torch: has other results than padded"):
        workers.compare(padded, [peers.contender("torch", replace(RAGGED, ragged=False))], **FEW)


@pytest.mark.parametrize("kind", ["sequence", "call", "stream", "streams", "training", "step", "memory"])
@pytest.mark.parametrize("change", [{}, {"ragged": True}, {"L": 2}, {"D": 2}, {"dtype": "float64"}], ids=str)
@pytest.mark.parametrize("name", [*peers.PEERS, peers.REFERENCE, peers.LIMIT])
def test_who_does_what_is_known(name, kind, change):
    """What a contender is said not to do, it refuses; what it is said to do, it builds."""
    if kind in ("call", "stream") and change.get("ragged"):
        return
    case = replace(
        SEQUENCE, kind=kind, T=SEQUENCE.T if kind in ("sequence", "training", "step", "memory") else 1, **change
    )
    if name in ("jax", "openvino") and peers.does(name, case):
        return  # `test_peers_agree`, in other processes: their threads mind other tests' forks
    build = training.build if kind in ("training", "step", "memory") else peers.build
    if peers.does(name, case):
        for module in peers.PEERS.get(name, ()):
            import_peer(module)
        build(name, asdict(case))
    else:
        with pytest.raises(ValueError, match=f"expected a case that {name} does, got {case}|expected one of rnncore,"):
            build(name, asdict(case))


def test_case():
    assert SEQUENCE.I == 9 and Case("call", "rnn", 1, 8).I == 8
    assert str(SEQUENCE) == "LSTM float32 sequence, 1 thread, N=2 H=16 I=9 T=5"
    assert str(Case("call", "rnn", 1, 8, threads=2)) == "RNN float32 call, 2 threads, N=1 H=8"
    assert str(STACK) == "LSTM L=2 D=2 float32 sequence, 1 thread, N=2 H=16 I=9 T=5"
    assert str(TRAINING) == "LSTM float32 training, 1 thread, N=2 H=16 I=9 T=5"
    assert str(RAGGED) == "LSTM float32 ragged sequence, 1 thread, N=5 H=16 I=9 T=12"
    assert len({SEQUENCE, replace(SEQUENCE), STACK, RAGGED}) == 3
    assert peers.contender("torch", SEQUENCE) == peers.contender("torch", SEQUENCE)


@pytest.mark.parametrize("N", [2, 8, 32, 64])
def test_ragged_lengths(N):
    """Evenly spread over T/4 … T, the same at every call, and in no order."""
    case = Case("sequence", "lstm", N, 16, T=100, ragged=True)
    assert sorted(case.lengths) == [round(25 + 75 * n / (N - 1)) for n in range(N)]
    assert np.array_equal(case.lengths, replace(case, threads=2).lengths)
    assert N == 2 or sorted(case.lengths) not in (list(case.lengths), list(case.lengths[::-1]))
    assert list(replace(case, ragged=False).lengths) == [100] * N


def test_chained_steps_begin_at_zero():
    run, results = peers.carried(lambda state: state + 1, 0, lambda state: state)
    run()
    assert results() == results() == peers.CHAINED


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found_limits():
    numbers = limits.thread_numbers(min(runtime.usable_cpus(), 2))
    return [limits.measure(seconds=0.03, threads=n) for n in numbers]


def test_limits_are_sane(found_limits):
    """No rate is compared with another: the machine is not ours alone."""
    for n, found in enumerate(found_limits, 1):
        assert list(found.bandwidth) == [*found.caches, "DRAM"] and found.threads == n
        assert all(1e7 < rate < 1e15 for rate in (*found.flops.values(), *found.bandwidth.values()))
        assert list(found.caches.values()) == sorted(found.caches.values())
        assert str(found).startswith(f"limits, {n} thread")


def test_threads_share_the_last_level(monkeypatch):
    read = []
    monkeypatch.setattr(limits, "cache_sizes", lambda: {"L1": 64 << 10, "L2": 1 << 20, "L3": 64 << 20})
    monkeypatch.setattr(limits, "reader", lambda size: read.append(size) or (lambda rounds: 1.0))
    monkeypatch.setattr(limits, "best", lambda run, *seconds: run(1))
    monkeypatch.setattr(leaf, "multiply_add", lambda name, rounds: {"float32": 16, "float64": 8}[name] * rounds)
    found = limits.measure(threads=4)
    assert read == [32 << 10] * 4 + [256 << 10] * 4 + [2 << 20] * 4 + [64 << 20] * 4
    assert found.bandwidth == {"L1": 4, "L2": 4, "L3": 4, "DRAM": 4}
    assert found.flops == {"float32": 64, "float64": 32}


@pytest.mark.parametrize(
    ("cpus", "numbers"), [(1, [1]), (3, [1, 2, 3]), (12, [*range(1, 9), 12]), (64, [*range(1, 9), 16, 32, 64])]
)
def test_numbers_of_threads(cpus, numbers):
    assert limits.thread_numbers(cpus) == numbers


def test_operations_of_multiply_adds():
    assert leaf.multiply_add("float32", 10) == 20 * 12 * leaf.width("float32")
    assert leaf.multiply_add("float64", 0) == 0


def test_read_of_nothing():
    leaf.read(np.zeros(1, np.uint8), 3)
    with pytest.raises(IndexError):
        leaf.read(np.zeros(0, np.uint8), 1)


class Leaf:
    """Stands in for the kernels: says what it was asked for, and takes longer for one of two things."""

    def __init__(self, slow):
        self.done, self.slow = [], slow

    def multiply_add(self, dtype, rounds):
        self.done.append((dtype, rounds))
        time.sleep(0.002 * (self.slow == "multiply_add" and rounds > 1))
        return 10 * rounds

    def read(self, x, times):
        self.done.append(("read", x.size, times))
        time.sleep(0.002 * (self.slow == "read"))


PLAIN = Case("sequence", "lstm", N=5, H=64, T=3, I=32)


@pytest.mark.parametrize(("cell", "G"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
@pytest.mark.parametrize("threads", [1, 2])
def test_perfect_kernel(monkeypatch, cell, G, threads):
    """The operations of both products, or the weights of x once and those of h at each step, whichever is slower."""
    case = replace(PLAIN, cell=cell, threads=threads)
    for slow in ("multiply_add", "read"):
        monkeypatch.setattr(limits, "leaf", fake := Leaf(slow))
        run, results = peers.build("limit", asdict(case))
        fake.done.clear()
        run()
        operations = 2 * 3 * 5 * G * 64 * (32 + 64)
        reads = [("read", G * 64 * K * 4 // threads, times) for K, times in ((32, 1), (64, 3))]
        expected = [("float32", operations // 10 // threads)] if slow == "multiply_add" else reads
        assert fake.done == expected
        assert results() is None


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        (PLAIN, [(15, 32, 1), (15, 64, 3)]),
        (replace(PLAIN, L=2), [(15, 32, 1), (15, 64, 3), (15, 64, 1), (15, 64, 3)]),
        (replace(PLAIN, D=2), [(15, 32, 1), (15, 64, 3)] * 2),
        (replace(PLAIN, L=2, D=2), [(15, 32, 1), (15, 64, 3)] * 2 + [(15, 128, 1), (15, 64, 3)] * 2),
        (RAGGED, [(38, 9, 1), (38, 16, 12)]),
        (Case("stream", "gru", 2, 16), [(2, 16, 1), (2, 16, 1)]),
    ],
    ids=str,
)
def test_products_of_a_layer(case, rows):
    found = peers.products(case)
    assert [(product.rows, product.K, product.reads) for product in found] == rows
    assert all(product.H == case.H for product in found)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_perfect_training(monkeypatch, threads):
    """Three times the operations of the forward pass, in equal shares."""
    monkeypatch.setattr(limits, "leaf", fake := Leaf("neither"))
    case = replace(PLAIN, kind="training", cell="gru", dtype="float64", threads=threads)
    run, _ = training.build("limit", asdict(case))
    fake.done.clear()
    run()
    assert fake.done == [("float64", 3 * 2 * 3 * 5 * 3 * 64 * (32 + 64) // 10 // threads)] * threads


def test_cache_sizes(tmp_path):
    caches = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K")]
    for index, (level, kind, size) in enumerate(caches):
        folder = tmp_path / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert limits.cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 2 << 20}
    (folder / "size").write_text("much\n")
    assert limits.cache_sizes(tmp_path) == limits.cache_sizes(tmp_path / "nowhere") == limits.USUAL_CACHES
