"""How exact the kernels' exp, tanh, sigmoid and relu are, and the two they apply to a panel's sums. test_leaf.py looks
at a sample; by hand, for every float32:

    python tests/ulp.py                                # all 2^32 against double, some minutes a function
    python tests/ulp.py --function tanh --isa avx2 --from 0x3f000000 --to 0x40000000    # a piece, as bit patterns
    python tests/ulp.py --dtype float64 --samples 1e8  # some float64 against long double

Errors are in units in the last place (ULP) of the correctly rounded result, where that is a normal number. Where it is
subnormal or zero, the absolute error counts instead, and must not exceed the smallest normal number. NaN must stay NaN,
infinities and signs must be right. The exit status is 1 after any other result, or an error above LIMIT.
"""

import argparse
import sys

import numpy as np

from rnncore._kernels import leaf

FUNCTIONS = ("exp", "tanh", "sigmoid", "relu", "tanh_2", "sigmoid_2")
LIMIT = {"float32": 2.5, "float64": 4.0}  # ULP
CHUNK = 1 << 14  # elements at a time: all that is computed of them stays in the cache
WIDE = {"float32": np.float64, "float64": np.longdouble}
BITS = {"float32": np.uint32, "float64": np.uint64}


def exact(function, x):
    """The function by NumPy, in the precision of x."""
    if function == "relu":
        return np.where(x < 0, 0, x)
    if function == "sigmoid":
        return 1 / (1 + np.exp(-x))
    if function == "sigmoid_2":
        return 1 / (1 + np.exp2(x))
    if function == "tanh_2":
        return np.tanh(x * (np.log(x.dtype.type(2)) / 2))
    return getattr(np, function)(x)


def every_float32(start, end):
    """Yield the numbers with the bit patterns from `start` up to `end`."""
    for first in range(start, end, CHUNK):
        yield (np.uint32(first) + np.arange(min(CHUNK, end - first), dtype=np.uint32)).view(np.float32)


def some_float64(samples, seed):
    """Yield random numbers: one in four of any bit pattern, the others between 2^-64 and 2^11 in magnitude."""
    rng = np.random.default_rng(seed)
    for first in range(0, samples, CHUNK):
        pattern = rng.integers(1 << 64, size=min(CHUNK, samples - first), dtype=np.uint64)
        exponent = rng.integers(1023 - 64, 1023 + 11, len(pattern) * 3 // 4, np.uint64)
        pattern[: len(exponent)] &= ~np.uint64(0x7FF << 52)
        pattern[: len(exponent)] |= exponent << np.uint64(52)
        yield pattern.view(np.float64)


class Errors:
    """What is known so far of one function of one instruction set."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.tiny, self.eps = np.finfo(dtype).tiny, np.finfo(dtype).eps
        self.exponent = np.array(np.inf, dtype).view(BITS[dtype])  # as a mask
        self.normal = self.not_rounded = self.small = self.zeroed = self.faults = 0
        self.worst, self.worst_small = [0.0], [0.0]  # error, and where: x, f(x), the kernel's f(x)
        self.fault = ()  # the first one

    def add(self, x, expected, rounded, y):
        """Take in y = f(x), whose exact value, rounded to the dtype, is `rounded`."""
        magnitude = np.abs(rounded)
        if magnitude.min() >= self.tiny and magnitude.max() < np.inf:  # nearly every chunk
            self._add_normal(x, expected, rounded, y)
        else:
            normal = (magnitude >= self.tiny) & (magnitude < np.inf)
            self._add_normal(*(a[normal] for a in (x, expected, rounded, y)))
            self._add_other(*(a[~normal] for a in (x, expected, rounded, y)))

    def _add_normal(self, x, expected, rounded, y):
        self.normal += len(x)
        self.not_rounded += np.count_nonzero(y != rounded)
        error = np.abs(y - expected) / (rounded.view(BITS[self.dtype]) & self.exponent).view(self.dtype)
        self.worst = self._worse(self.worst, error, self.eps, x, expected, y)

    def _add_other(self, x, expected, rounded, y):
        """Results that are zero, subnormal, infinite or NaN."""
        finite = np.abs(rounded) < np.inf
        self.small += np.count_nonzero(finite & (rounded != 0))
        self.zeroed += np.count_nonzero((rounded != 0) & (y == 0))
        error = np.zeros_like(expected)
        np.subtract(y, expected, out=error, where=finite)
        self.worst_small = self._worse(self.worst_small, np.abs(error), self.tiny, x, expected, y)
        right = np.where(finite, np.abs(error) <= self.tiny, y == rounded) & (np.signbit(y) == np.signbit(rounded))
        wrong = ~np.where(np.isnan(rounded), np.isnan(y), right)
        if wrong.any() and not self.faults:
            self.fault = tuple(a[wrong][0] for a in (x, expected, y))
        self.faults += np.count_nonzero(wrong)

    @staticmethod
    def _worse(worst, error, unit, *where):
        if not len(error):
            return worst
        k = error.argmax()  # of a NaN, if there is one
        largest = np.inf if np.isnan(error[k]) else float(error[k] / unit)
        return [largest, *(a[k] for a in where)] if largest > worst[0] else worst

    def good(self):
        return self.worst[0] <= LIMIT[self.dtype] and not self.faults

    def lines(self):
        share = f"{self.not_rounded / max(self.normal, 1):.2%} of {self.normal} not correctly rounded"
        yield f"normal results: {share}; largest error {self.worst[0]:.4f} ULP{self._at(*self.worst[1:])}"
        at = self._at(*self.worst_small[1:])
        yield (
            f"zero and subnormal results: {self.zeroed} of {self.small} subnormal ones came as zero; largest error "
            f"{self.worst_small[0]:.3g} times the smallest normal number{at}"
        )
        if self.faults:
            yield f"{self.faults} FAULTS, the first{self._at(*self.fault)}"

    def _at(self, *where):
        if not where:
            return ""
        x, expected, y = where
        digits = np.dtype(self.dtype).itemsize * 2
        return f" at x = {x} (0x{x.view(BITS[self.dtype]):0{digits}x}): {y} for {expected}"


def measure(function, isas, chunks, dtype):
    """Return the errors of a function over chunks of inputs, by instruction set."""
    found = {isa: Errors(dtype) for isa in isas}
    for x in chunks:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # as results go out of range
            expected = exact(function, x.astype(WIDE[dtype]))
            rounded = expected.astype(dtype)
            for isa, errors in found.items():
                errors.add(x, expected, rounded, leaf.apply(function, x, isa))
    return found


def progress(chunks, total, label):
    """The chunks, with a bar on a terminal, if there is tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return chunks
    return tqdm(chunks, label, total=-(-total // CHUNK), leave=False, disable=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    pattern = {"type": lambda text: int(text, 0), "metavar": "BITS"}
    parser.add_argument("--function", action="append", choices=FUNCTIONS, help="default: all")
    parser.add_argument("--isa", action="append", choices=leaf.available(), help="default: all this machine has")
    parser.add_argument("--dtype", choices=tuple(WIDE), default="float32")
    parser.add_argument("--from", dest="start", default=0, **pattern, help="float32: the first bit pattern")
    parser.add_argument("--to", dest="end", default=1 << 32, **pattern, help="float32: the one behind the last")
    parser.add_argument("--samples", type=float, default=1e7, help="float64: how many")
    parser.add_argument("--seed", type=int, default=0, help="float64: of the sample")
    args = parser.parse_args()
    if not 0 <= args.start < args.end <= 1 << 32:
        parser.error("expected 0 <= from < to <= 2^32")
    if args.dtype == "float64" and np.finfo(np.longdouble).nmant < 63:
        parser.error("long double is no wider than float64 here")

    good = True
    for function in args.function or FUNCTIONS:
        if args.dtype == "float32":
            total, chunks = args.end - args.start, every_float32(args.start, args.end)
        else:
            total, chunks = int(args.samples), some_float64(int(args.samples), args.seed)
        isas = args.isa or leaf.available()
        for isa, errors in measure(function, isas, progress(chunks, total, function), args.dtype).items():
            print(f"{function} {args.dtype} {isa}", *errors.lines(), sep="\n    ", flush=True)
            good &= errors.good()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
