"""Memory stays flat over thousands of calls of all kinds, in a process of their own.

`python tests/test_soak.py random_calls` prints what is measured there: the bytes that a call leaves behind.
"""

import ctypes
import gc
import re
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from common import DTYPES, NONLINEARITIES, OUTPUT_NONLINEARITIES, random_case, run_layer

import rnncore as rc
from rnncore._kernels import driver

CALLS = 20_000
EVERY = 250  # calls between two looks at memory
LIMIT = 100.0  # bytes a call: less than an empty NumPy array takes
MEMORY = Path("/proc/self/smaps_rollup")  # exact; the counter in statm lacks what each CPU has not yet added to it


def resident():
    """Bytes of memory, other than files, that this process has in RAM after it gave back what is free."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return int(re.findall(r"^Anonymous: +(\d+) kB", MEMORY.read_text(), re.MULTILINE)[0]) * 1024


def growth(call):
    """Return the bytes that each call of `call()` leaves behind."""
    sizes = []
    for k in range(CALLS):
        call()
        if k % EVERY == EVERY - 1:
            sizes.append(resident())
    # The first quarter is warm-up; medians, because a moment's size depends on which layers there are by chance.
    quarter = len(sizes) // 4
    return (statistics.median(sizes[-quarter:]) - statistics.median(sizes[quarter : 2 * quarter])) / (CALLS / 2)


def random_layer(rng):
    """A layer or cell of any kind, so small that a leak would stand out."""
    kind = rng.choice(["LSTM", "RNN", "GRU", "JordanRNN", "LSTMCell", "RNNCell", "GRUCell"])
    I, H = rng.integers(1, 20, 2).tolist()
    options = {"bias": bool(rng.integers(2)), "dtype": rng.choice(DTYPES), "rng": int(rng.integers(9))}
    if "RNN" in kind:
        options["nonlinearity"] = str(rng.choice(NONLINEARITIES))
    if "GRU" in kind:
        options["reset_after"] = bool(rng.integers(2))
    if kind == "LSTM":
        options |= {"proj_size": int(rng.integers(H)), "peephole": bool(rng.integers(2))}
    if kind == "JordanRNN":
        options |= {
            "output_size": int(rng.integers(1, 9)),
            "output_nonlinearity": str(rng.choice(OUTPUT_NONLINEARITIES)),
        }
    elif "Cell" not in kind:
        L = int(rng.integers(1, 4))
        options |= {"num_layers": L, "bidirectional": bool(rng.integers(2)), "dropout": 0.5 * (L > 1)}
    return getattr(rc, kind)(I, H, **options)


def random_call(rng, layers):
    """Something that a program does: mostly inference, at times training, new weights, a mistake or another layer."""
    k, choice = rng.integers(len(layers)), rng.random()
    layer = layers[k]
    T, N = rng.integers(0, 9, 2).tolist()
    if choice < 0.03:
        layers[k] = random_layer(rng)
        driver.use(str(rng.choice(["panels", "blas"])))
    elif choice < 0.1:
        with layer.editing() as params:
            for array in params.values():
                array *= 0.9
    elif choice < 0.2:
        with pytest.raises(ValueError):
            layer(np.ones((T, N, layer.input_size + 1), np.float32))
    elif isinstance(layer, rc.LSTMCell | rc.RNNCell | rc.GRUCell):
        x = rng.standard_normal((N, layer.input_size))
        if choice < 0.7:
            layer(x)
        else:
            layer.backward(layer.forward(x)[1])
    else:
        lengths = rng.integers(0, T + 1, N) if rng.integers(2) else None
        case = random_case(layer, T, N, k, lengths)
        if choice < 0.7:
            state = case["state"] if choice < 0.5 else None
            layer(case["x"], state, lengths=lengths, return_sequence=choice < 0.6)
        elif choice < 0.75 and N and not layer.bidirectional:
            stream, rows = layer.stream(N), np.flatnonzero(rng.integers(0, 2, N))
            stream.step(np.ones((len(rows), layer.input_size)), rows=rows)
            stream.write(rows, stream.read(rows))
        else:
            run_layer(layer, case)


def random_calls():
    rng = np.random.default_rng(0)
    layers = [random_layer(rng) for _ in range(8)]
    return partial(random_call, rng, layers)


def kept_results():
    """The control: calls of one layer whose results, 200 bytes each, are never let go."""
    layer, x, kept = rc.LSTM(3, 5, rng=0), np.ones((5, 2, 3), np.float32), []
    return lambda: kept.append(layer(x)[0])


@pytest.mark.skipif(not MEMORY.exists(), reason=f"no {MEMORY} here")
@pytest.mark.parametrize("calls,low,high", [(random_calls, -LIMIT, LIMIT), (kept_results, 2 * LIMIT, 10 * LIMIT)])
def test_memory_stays_flat(calls, low, high):
    command = [sys.executable, __file__, calls.__name__]
    assert low < float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) < high


if __name__ == "__main__":
    print(growth(globals()[sys.argv[1]]()))
