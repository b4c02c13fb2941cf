"""Memory that begins at a cache line, and is used again."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest

import rnncore as rc
from rnncore._kernels import memory

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
KEPT = 256 << 20


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 0, 2), (7, 3), (100, 3, 33), (1, 2, 3, 4), (4097,), (70_001,)])
def test_empty(shape, dtype):
    arrays = [memory.empty(shape, dtype) for _ in range(3)]
    for k, array in enumerate(arrays):
        assert array.shape == shape and array.dtype == dtype and array.flags.carray
        assert array.ctypes.data % 64 == 0
        array[...] = k
    assert all((array == k).all() for k, array in enumerate(arrays))  # each has memory of its own


@pytest.mark.parametrize("shape", [(2**62,), (2**40, 2**40), (1, 2, 3, 4, 5)])
def test_what_cannot_be(shape):
    with pytest.raises((MemoryError, OverflowError, ValueError)):
        memory.empty(shape, F4)


@pytest.mark.parametrize("dtype", [np.dtype(int), np.dtype(np.float16), np.float32, None])
def test_other_numbers(dtype):
    with pytest.raises((TypeError, ValueError)):
        memory.empty((3,), dtype)


def test_it_is_used_again_and_views_keep_it():
    array = memory.empty((300, 100), F4)
    address, view = array.ctypes.data, array[10:]
    array[...] = 1
    del array
    assert memory.empty((300, 100), F4).ctypes.data != address  # a view is left
    assert (view == 1).all()
    del view
    addresses = {memory.empty((290, 101), F4).ctypes.data for _ in range(4)}  # of the same class of sizes
    assert address in addresses


def test_what_is_kept_is_bounded():
    """More than is ever kept goes back to the system, so that it could never be a leak."""
    resident = []
    for k in range(40):
        held = [memory.empty((300_000 + 1000 * k * j,), F8) for j in range(1, 12)]
        for array in held:
            array[...] = 0
        del held, array
        with open("/proc/self/statm") as statm:
            resident.append(int(statm.read().split()[1]) * 4096)
    assert max(resident[20:]) - min(resident) < 2.5 * KEPT


def fill(sizes):
    """Hold an array of each so many megabytes, and give all of them back; return where they were."""
    gc.collect()  # or what other tests left behind could come back in between
    held = [memory.empty((size << 18,), F4) for size in sizes]
    return {array.ctypes.data for array in held}


def test_more_than_is_kept_leaves_most_of_it():
    sizes = [1 + 3 * k for k in range(14)]  # 287 MB, each of a class of its own
    for _ in range(4):  # what others left makes room
        before = fill(sizes)
    assert len(fill(sizes) & before) >= 10


def test_sizes_that_nobody_wants_make_room():
    fill([64] * 4)  # all that is kept
    for _ in range(3):
        before = fill([33, 41, 49])
    assert fill([33, 41, 49]) == before


def test_one_that_cannot_be_kept_leaves_the_rest():
    fill([40, 50, 60])  # what others left makes room
    held = [memory.empty((size << 18,), F4) for size in (40, 50, 60)]
    for array in held:
        array[-1] = 7
    del held, array
    fill([300])
    held = [memory.empty((size << 18,), F4) for size in (40, 50, 60)]
    assert [array[-1] for array in held] == [7, 7, 7]  # the system's pages are zeros


def test_tracemalloc_sees_it():
    warm = memory.empty((1000, 1000), F4)
    del warm
    gc.collect()
    tracemalloc.start()
    array = memory.empty((1000, 1000), F4)
    assert 4e6 <= tracemalloc.get_traced_memory()[0] < 4.1e6  # whether or not it was there before
    del array
    assert tracemalloc.get_traced_memory()[0] < 1e5
    tracemalloc.stop()


def test_many_threads():
    wrong = []

    def work(value):
        for k in range(300):
            array = memory.empty((5000 + 100 * (k % 7),), F8)
            array[...] = value
            if (array != value).any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_do_not_depend_on_what_was_there():
    """Memory that is used again holds other numbers, NaN among them: nothing may be read before it is written."""
    rng = np.random.default_rng(0)
    for layer in (rc.LSTM(20, 40, 2, bidirectional=True, proj_size=9, rng=0), rc.GRU(20, 40, reset_after=False, rng=0)):
        x = rng.standard_normal((50, 12, 20)).astype(np.float32)
        lengths, first = rng.integers(0, 51, 12), None
        for filled in (0, np.nan, np.inf):
            held = [memory.empty((n,), F4) for n in (5000, 10_000, 20_000, 30_000, 50_000, 100_000) for _ in range(8)]
            for array in held:
                array[...] = filled
            del held, array
            y, _, tape = layer.forward(x, lengths=lengths)
            results = [y, *layer.backward(tape, y)[2].values()]
            assert first is None or all(np.array_equal(a, b) for a, b in zip(results, first, strict=True))
            first = results


def test_blocks_that_python_made():
    with pytest.raises((TypeError, ValueError)):
        np.frombuffer(memory.Block())
