"""Threads inside a call: same bits for any number of them, many callers, fork, exit, denormal numbers, the settings."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from common import DTYPES, KINDS, as_tuple, equal, random_case
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES, layers, lengths_of

import rnncore as rc
from rnncore import runtime
from rnncore._kernels import driver


@pytest.fixture(autouse=True)
def panels():
    """Crews are of the panels engine: in the other bits depend on rows, and a child of fork may wait for BLAS.."""
    before = runtime.engine
    driver.use("panels")
    yield
    driver.use(before)


ROOT = Path(__file__).parent.parent


# --- the same bits ----------------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(0, 40), T=st.integers(0, 60), n_threads=st.integers(2, 7), data=st.data())
def test_any_number_of_threads(layer, N, T, n_threads, data):
    lengths = data.draw(lengths_of(N, T))
    case = random_case(layer, T, N)
    y, final = layer(case["x"], case["state"], lengths=lengths, n_threads=1)
    y_crew, final_crew = layer(case["x"], case["state"], lengths=lengths, n_threads=n_threads)
    assert equal(y_crew, y) and equal(as_tuple(final_crew), as_tuple(final))
    y_tape, final_tape, tape = layer.forward(case["x"], case["state"], lengths=lengths, n_threads=n_threads)
    assert equal(as_tuple(final_tape), as_tuple(final))
    assert y_tape.shape == y.shape
    back = [layer.backward(tape, case["dy"], case["dstate"], n_threads=n) for n in (1, n_threads)]
    assert equal((back[1][0], as_tuple(back[1][1]), back[1][2]), (back[0][0], as_tuple(back[0][1]), back[0][2]))


@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("H", [16, 64, 70, 200])
def test_by_rows_and_by_units(kind, options, H):
    """Batches on both sides of where a crew changes from sharing units to sharing rows, and beyond a chunk of rows."""
    check_by_rows_and_by_units(getattr(rc, kind)(20, H, rng=0, **options))


def test_by_rows_and_by_units_with_more_weights_than_a_megabyte():
    check_by_rows_and_by_units(rc.LSTM(20, 260, rng=0))


@pytest.mark.parametrize("output_nonlinearity", ["tanh", "softmax"])
@pytest.mark.parametrize("H", [64, 200])
def test_by_rows_and_by_units_of_a_jordan_network(output_nonlinearity, H):
    check_by_rows_and_by_units(rc.JordanRNN(20, H, 70, output_nonlinearity=output_nonlinearity, rng=0))


def check_by_rows_and_by_units(layer):
    x, lengths = np.random.default_rng(0).standard_normal((13, 210, 20)).astype(np.float32), np.arange(210) * 5 % 14
    y = layer(x, n_threads=1)[0]
    assert y.any()
    y_ragged = np.where(np.arange(13)[:, None, None] < lengths[:, None], y, 0)
    for N in (1, 2, 5, 7, 8, 15, 16, 17, 31, 64, 97, 210):
        for n_threads in (1, 2, 3, 7):
            assert equal(layer(x[:, :N], n_threads=n_threads)[0], y[:, :N])
            ragged = layer(x[:, :N], lengths=lengths[:N], n_threads=n_threads)[0]
            assert equal(ragged, y_ragged[:, :N])
    for N in (1, 3, 8, 17, 97):
        for some in (None, lengths[:N]):
            y, _, tape = layer.forward(x[:, :N], lengths=some)
            dx, _, grads = layer.backward(tape, y, n_threads=1)
            for n_threads in (2, 3):
                dx_crew, _, grads_crew = layer.backward(tape, y, n_threads=n_threads)
                assert equal(dx_crew, dx) and equal(grads_crew, grads)
            assert some is not None or (dx.any() and all(g.any() for g in grads.values()))


# --- the pool and its crews -------------------------------------------------------------------------------------------


SCARCE = """
import resource
import sys

import numpy as np

import rnncore as rc

layer, x = rc.LSTM(512, 512, rng=0), np.zeros((int(sys.argv[1]), int(sys.argv[2]), 512), np.float32)
layer(x, n_threads=2)  # weights are packed, there is a worker, and memory for y is kept
said, hard = set(), resource.getrlimit(resource.RLIMIT_AS)[1]


def within(more, f):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        while f():
            pass
    except MemoryError as error:
        said.add(str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


taken = []
within(0, lambda: taken.append(bytearray(1 << 16)) is None)  # what malloc has left over, which may be much
for more in range(0, 6 << 20, 1 << 17):
    within(more, lambda: layer(x, n_threads=2) is None)
print("no memory for a forward pass's workspace" in said)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell how much memory there is")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="sanitizers need address space of their own")
@pytest.mark.parametrize("T,N", [(100, 8), (20, 60)])
def test_a_crew_without_a_workspace_goes_home(T, N):
    """By units and by rows."""
    done = subprocess.run([sys.executable, "-c", SCARCE, str(T), str(N)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "True\n", (done.returncode, done.stderr[-500:])


@pytest.mark.parametrize("more", [[], ["-DYIELDS=0"], ["-DYIELDS=0", "-DTWO_SIDED"]], ids=["waits", "sleeps", "fences"])
def test_the_pools_own_c_test(tmp_path, more):
    """Crews, barriers, callers, children, denormal numbers, in C; .ci/full runs it under the thread sanitizer too."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    sources = [str(ROOT / "tests/pool_selftest.c"), str(ROOT / "rnncore/_kernels/pool.c")]
    flags = ["-O2", "-pthread", f"-I{ROOT / 'rnncore/_kernels'}", *more]
    subprocess.run([compiler, *flags, *sources, "-o", str(tmp_path / "test")], check=True)
    # without a sanitizer that pytest itself is under: a child may find its locks taken
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run([tmp_path / "test"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "pool: 0 failures\n", done.stdout


def test_a_storm_of_callers():
    """Threads that all ask for crews, of one layer and of several, get the numbers they would get alone."""
    layers = [
        rc.LSTM(8, 40, proj_size=9, rng=0), rc.RNN(8, 70, 2, rng=1), rc.LSTM(8, 24, bidirectional=True, rng=2),
        rc.GRU(8, 33, reset_after=False, rng=3), rc.JordanRNN(8, 33, 17, output_nonlinearity="softmax", rng=4),
    ]  # fmt: skip
    x = np.random.default_rng(0).standard_normal((30, 9, 8)).astype(np.float32)
    lengths = [None, [30, 0, 7, 7, 29, 1, 30, 15, 16]]
    expected = [[layer(x, lengths=some, n_threads=1)[0] for some in lengths] for layer in layers]
    wrong = []

    def call(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            k, j, n_threads = rng.integers(5), rng.integers(2), int(rng.integers(1, 6))
            if not equal(layers[k](x, lengths=lengths[j], n_threads=n_threads)[0], expected[k][j]):
                wrong.append((k, j, n_threads))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- fork, and handlers of signals ------------------------------------------------------------------------------------


def run_in_child(layer, x, expected):
    sys.exit(not equal(layer(x, n_threads=3)[0], expected))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_fork_works():
    """With the parent's workers parked, and with them at work."""
    layer = rc.LSTM(8, 64, rng=0)
    x = np.random.default_rng(0).standard_normal((200, 2, 8)).astype(np.float32)
    expected = layer(x, n_threads=3)[0]
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            layer(x, n_threads=3)

    thread = threading.Thread(target=busy)
    fork = multiprocessing.get_context("fork")
    try:
        for k in range(6):
            if k == 3:
                thread.start()
            child = fork.Process(target=run_in_child, args=(layer, x, expected))
            child.start()
            child.join(60)
            assert child.exitcode == 0
    finally:
        stop.set()
        if thread.ident:
            thread.join()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_handler_inside_a_call_has_its_denormal_numbers(n_threads):
    lstm, x, tiny, found = rc.LSTM(8, 300, rng=0), np.zeros((6000, 1, 8), np.float32), np.array([1e-310]), []
    before = signal.signal(signal.SIGALRM, lambda *_: found.append((tiny * 1.0)[0]))
    signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
    try:
        while len(found) < 5:
            lstm(x, return_sequence=False, n_threads=n_threads)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(found) == {1e-310}


FORKING_HANDLER = """
import os, signal, threading, time
import numpy as np, rnncore as rc
lstm = rc.LSTM(8, 200, rng=0)
x = np.zeros((6000, 1, 8), np.float32)
children = []
def handler(*_):
    child = os.fork()
    children.append(child)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    while not children:
        lstm(x, return_sequence=False, n_threads=2)
    told = False
except RuntimeError as error:
    told = "forked" in str(error)
if children[0] == 0:
    signal.alarm(0)
    again = lstm(x[:50], n_threads=2)[0]
    os._exit(7 if np.array_equal(again, lstm(x[:50], n_threads=1)[0]) else 8)
_, status = os.waitpid(children[0], 0)
print(os.waitstatus_to_exitcode(status), told)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_handler_that_forks_inside_a_call():
    """The child, which has no crew, is told so and works on; the parent notices nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING_HANDLER], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "7 False\n", done.stdout + done.stderr


FORKED = """
import os, signal, sys, threading
import numpy as np, rnncore as rc
lstm = rc.LSTM(3, 4, rng=0)
adam, stream, state = rc.train.Adam([lstm]), lstm.stream(), lstm.state_dict()
first = stream.step(np.ones(3))
inside, done = threading.Event(), threading.Event()

def wait(*_, **__):
    if threading.current_thread() is not threading.main_thread():
        inside.set()
        done.wait()
    return np.ones(3, np.float32)

class Input:
    __array__ = wait

def changes():
    lstm._replace = wait
    lstm.load_state_dict(state)

def steps():
    stream.step(Input())

def forms():
    layer, suffix = rc.RNN(3, 4), rc.RNN._suffix
    rc.RNN._suffix = staticmethod(lambda *at: (wait(), suffix(*at))[1])
    layer(np.ones((5, 2, 3)))

threading.Thread(target={where}, daemon=True).start()
inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    vars(lstm).pop("_replace", None)
    lstm.load_state_dict(state)
    with lstm.editing() as params:
        params["bias_hh_l0"][:] = 1
    adam.step({{name: np.ones_like(array) for name, array in state.items()}})
    h, c = stream.state
    assert np.array_equal(h[0, 0], first)
    stream.step(np.ones(3))
    stream.reset()
    rc.RNN(3, 4)(np.ones((5, 2, 3)))
    os._exit(7)
_, status = os.waitpid(child, 0)
try:
    stream.reset()
    refused = False
except RuntimeError:
    refused = True
done.set()
print(os.waitstatus_to_exitcode(status), refused)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("where", ["changes", "steps", "forms"])
def test_a_child_of_fork_inherits_no_other_threads_locks(where):
    """While a thread of the parent is inside a change of weights, a stream's step, or what a layer forms once."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED.format(where=where)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"7 {where == 'steps'}\n", done.stdout + done.stderr


STREAM_OF_A_HANDLER = """
import os, signal
import numpy as np, rnncore as rc
stream = rc.LSTM(3, 4, rng=0).stream()
told, children = [], []

class Input:
    def __array__(self, *_, **__):
        os.kill(os.getpid(), signal.SIGUSR1)
        return np.ones(3, np.float32)

def handler(*_):
    children.append(os.fork())
    try:
        stream.reset()
    except RuntimeError as error:
        told.append(str(error))

signal.signal(signal.SIGUSR1, handler)
y = stream.step(Input())
assert np.array_equal(y, stream.state[0][0, 0])
said = int(len(told) == 1 and told[0].startswith("this thread is inside this stream already"))
if children[0] == 0:
    os._exit(said)
print(said, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_handler_cannot_use_the_stream_that_it_interrupts():
    """Nor in a child that it has made: the step goes on there, too."""
    command = [sys.executable, "-W", "ignore", "-c", STREAM_OF_A_HANDLER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 1\n", done.stdout + done.stderr


# --- workers that wait, and start -------------------------------------------------------------------------------------


def test_exit_with_workers_parked_or_at_work():
    code = (
        "import numpy as np, rnncore as rc, threading\n"
        "lstm, x = rc.LSTM(8, 64, rng=0), np.zeros((2000, 2, 8), np.float32)\n"
        "lstm(x, n_threads=4)\n"
        "def forever():\n"
        "    while True: lstm(x, n_threads=4)\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
        "lstm(x)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
def test_workers_sleep_between_calls():
    """Parked workers use no time at all."""
    layer, x = rc.LSTM(8, 64, rng=0), np.zeros((100, 2, 8), np.float32)
    layer(x, n_threads=4)

    def used():
        stats = [
            task.joinpath("stat").read_text().rsplit(")", 1)[1].split() for task in Path("/proc/self/task").iterdir()
        ]
        return sorted(int(fields[11]) + int(fields[12]) for fields in stats), [fields[0] for fields in stats]

    def settled():
        return used()[1].count("S") >= 3  # the workers: asleep, not running

    for _ in range(200):
        if settled():
            break
        threading.Event().wait(0.02)
    before = used()[0]
    threading.Event().wait(0.3)
    after = used()[0]
    assert settled() and sum(after) - sum(before) <= 5  # hundredths of a second; spinning, they would use 90


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("N", [1, 5, 40])
@pytest.mark.parametrize("convert", [False, True])
def test_cells(kind, N, convert):
    cell = getattr(rc, kind)(20, 200, rng=0)
    x = np.random.default_rng(0).standard_normal((N, 20)).astype(np.float32)
    x = x.tolist() if convert else x
    state, expected = cell(x), None
    for n_threads in (1, 2, 3):
        after, tape = cell.forward(x, state, n_threads=n_threads)
        found = cell(x, state, n_threads=n_threads), after, *cell.backward(tape, after, n_threads=n_threads)
        expected = expected or found
        assert equal(found, expected)


IN_THREADS = """
import pathlib, time, numpy as np, rnncore as rc
threads = lambda: len(list(pathlib.Path("/proc/self/task").iterdir()))
def workers(n):  # one more thread, which asks the system for its fence, soon ends
    for _ in range(1000):
        if threads() - before > n - 1:
            time.sleep(0.01)
    return threads() - before
module, x = rc.KIND(64, 512, rng=0), np.zeros((64, 64), np.float32)
before = threads()
rc.set_num_threads(3)
found = []
for n in (1, 2, 3):
    y, tape = module.forward(x, n_threads=n if WHICH == 0 else 1)
    module.backward(tape, y, n_threads=n if WHICH == 1 else 1)
    module(x, n_threads=n if WHICH == 2 else 1)
    found.append(workers(n))
print(found)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("which", range(3), ids=["forward", "backward", "call"])
@pytest.mark.parametrize("kind", ["LSTMCell", "train.Linear"])
def test_as_many_workers_start_as_are_told(kind, which):
    code = IN_THREADS.replace("KIND", kind).replace("WHICH", str(which))
    environment = os.environ | {"RNNCORE_ENGINE": "panels"}  # BLAS has threads of its own
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "[0, 1, 2]\n"


# --- denormal numbers, and settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [1, 40])
def test_denormal_numbers_are_flushed(dtype, n_threads, N):
    """An identity map that would keep a denormal number in its state keeps zero; the caller's mode stays as it was."""
    tiny = np.finfo(dtype).smallest_normal / 8
    layer = rc.RNN(3, 64, nonlinearity="relu", bias=False, dtype=dtype, rng=0)
    with layer.editing() as params:
        params["weight_ih_l0"][...] = 0
        params["weight_hh_l0"][...] = np.eye(64)
    state = np.full((1, N, 64), tiny)
    y, h_n = layer(np.zeros((4, N, 3), dtype), state, n_threads=n_threads)
    assert not y.any() and not h_n.any()
    assert np.float64(np.finfo(np.float64).smallest_normal) / 4 > 0
    _, _, tape = layer.forward(np.zeros((4, N, 3), dtype), np.ones((1, N, 64)), n_threads=n_threads)
    _, dh_0, _ = layer.backward(tape, None, state)
    assert not dh_0.any()
    assert np.finfo(dtype).smallest_normal * np.dtype(dtype).type(0.5) > 0


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None, 10**30])
def test_numbers_of_threads_that_are_none(value):
    layer, x = rc.RNN(3, 4, rng=0), np.zeros((2, 1, 3), np.float32)
    with pytest.raises((TypeError, ValueError), match="n"):
        rc.set_num_threads(value)
    if value is not None:
        with pytest.raises((TypeError, ValueError), match="n_threads"):
            layer(x, n_threads=value)
        cell = rc.RNNCell(3, 4, rng=0)
        for call in (
            lambda: layer.forward(x, n_threads=value),
            lambda: cell(x[0], n_threads=value),
            lambda: cell.forward(x[0], n_threads=value),
            lambda: cell.backward(cell.forward(x[0])[1], n_threads=value),
        ):
            with pytest.raises((TypeError, ValueError), match="n_threads"):
                call()


def test_set_num_threads():
    before = rc.get_num_threads()
    try:
        rc.set_num_threads(3)
        assert rc.get_num_threads() == rc.info()["threads"] == 3
        rc.set_num_threads(10_000)
        assert rc.get_num_threads() == 256
    finally:
        rc.set_num_threads(before)


@pytest.mark.parametrize(
    "value,shown", [("3", "3"), ("0" * 30 + "3", "3"), ("", None), ("0", ""), ("two", ""), ("-1", ""), ("²", "")]
)
def test_threads_from_the_environment(value, shown):
    code = "import rnncore; print(rnncore.get_num_threads())"
    environment = os.environ | {"RNNCORE_NUM_THREADS": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if shown == "":
        assert (
            done.returncode != 0
            and f"expected RNNCORE_NUM_THREADS to be a positive integer, got {value!r}" in done.stderr
        )
    else:
        assert done.stdout.strip() == (shown or str(runtime.usable_cpus()))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_threads_follow_the_affinity_mask():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import rnncore; print(rnncore.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RNNCORE_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.skipif(runtime.usable_cpus() < 2 or not os.path.isdir("/proc/self/task"), reason="one CPU, or no /proc")
@pytest.mark.parametrize("asked,expected", [("", 1), ("2", 2)])
def test_threads_follow_an_affinity_mask_that_comes_later(asked, expected):
    """As in servers that give each process its CPU; who has asked for more gets more."""
    code = (
        "import os, numpy as np, rnncore as rc\n"
        "layer, linear, x = rc.LSTM(256, 256), rc.train.Linear(256, 256), np.ones((20, 64, 256), np.float32)\n"
        "adam, grads = rc.train.Adam([layer]), {n: np.ones_like(w) for n, w in layer.parameters().items()}\n"
        "def threads():\n"
        "    y, _, tape = layer.forward(x)\n"
        "    layer.backward(tape, y), layer(x), linear(x), adam.step([grads])\n"
        "    return len(os.listdir('/proc/self/task'))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(rc.get_num_threads(), 1 + threads() - before)"
    )
    environment = os.environ | {"RNNCORE_NUM_THREADS": asked, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected} {expected}\n"


@pytest.mark.parametrize(
    "membership,files,expected",
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "max 100000\n"}, [1.5]),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n", "cpu.max": "x"}, [4.0]),
        ("0::/\n", {}, []),
        (
            "5:cpu,cpuacct:/c\n3:memory:/c\n",
            {"cpu,cpuacct/c/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/c/cpu.cfs_period_us": "100000\n"},
            [0.5],
        ),
        ("5:cpu:/c\n", {"cpu/c/cpu.cfs_quota_us": "-1\n", "cpu/c/cpu.cfs_period_us": "100000\n"}, []),
        ("nonsense\n", {}, []),
    ],
)
def test_quotas_of_cgroups(tmp_path, membership, files, expected):
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "self").write_text(membership)
    assert runtime._quotas(tmp_path / "self", root) == expected
    assert runtime._quotas(tmp_path / "missing", root) == []
