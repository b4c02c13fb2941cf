"""The contenders: rnncore and the libraries it is compared with, on the same weights and inputs.

Each function of `BUILDERS` builds one case for one library, in a process of its own, whose environment and CPUs
`paired` has set. Peers are imported there and nowhere else: they are found, not required. Here is inference;
`training` has a table of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

import rnncore as rc

from ..reference import gru, lstm, rnn
from . import limits
from .paired import Contender

__all__ = ["PEERS", "REFERENCE", "Case", "contender", "does", "missing"]

Built = tuple[Callable[[], Any], ...]  # as `Contender` says
Step = Callable[[Any], Any]

PEERS = {"torch": ("torch",), "ort": ("onnxruntime", "onnx"), "openvino": ("openvino", "onnx"), "jax": ("jax",)}
"""What each peer needs installed."""

REFERENCE, LIMIT = "reference", "limit"
"""What is always there to compare with: the definition in NumPy, and a perfect kernel."""

CHAINED = 3  # steps whose last hidden state is compared
STREAM_STEPS = 10_000  # of the work of "streams", by all its threads: so many that starting these does not count


@dataclass(frozen=True)
class Case:
    """One piece of work.

    Attributes
    ----------
    kind : str
        "sequence": T steps in one call, from zero state. "call": one step a call, with the state of the last.
        "stream": the same through `Stream.step`, where there is such a thing. "streams": steps of as many streams as
        threads, each in a Python thread of its own. "training": forward and backward over T steps from a random state,
        all gradients, with weights that changed before each call. "step": one of the demo's training, from the
        embedding, of size I, to the optimiser. "memory": bytes that "training" takes, no work.
    L, D : int
        Layers and directions.
    ragged : bool
        Whether sequences are only as long as `lengths` says, and padded to T.
    module : bool
        Whether rnncore's contender is its module for PyTorch, of which ragged sequences are packed beforehand.
    """

    kind: Literal["sequence", "call", "stream", "streams", "training", "step", "memory"]
    cell: Literal["rnn", "lstm", "gru"]
    N: int
    H: int
    T: int = 1
    I: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 1
    L: int = 1
    D: Literal[1, 2] = 1
    ragged: bool = False
    module: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "I", self.I or self.H)

    @property
    def group(self) -> str:
        """Return all but the sizes."""
        stack = f"L={self.L} D={self.D} " * (self.L * self.D > 1)
        kind = "ragged " * self.ragged + self.kind + " by module" * self.module
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        return f"{self.cell.upper()} {stack}{self.dtype} {kind}, {threads}"

    @property
    def sizes(self) -> str:
        sizes = [f"N={self.N}", f"H={self.H}"] + [f"I={self.I}"] * (self.I != self.H) + [f"T={self.T}"] * (self.T > 1)
        return " ".join(sizes)

    def __str__(self) -> str:
        return f"{self.group}, {self.sizes}"

    @property
    def lengths(self) -> np.ndarray:
        """Return each sequence's steps (N,): T, or if ragged evenly spread over T/4 … T, in a fixed, shuffled order."""
        shortest = self.T / 4 if self.ragged else self.T
        spread = np.linspace(shortest, self.T, self.N).round().astype(np.int64)
        return np.random.default_rng(2).permutation(spread)

    @property
    def tolerance(self) -> float:
        return 1e-4 if self.dtype == "float32" else 1e-10


def missing(peer: str) -> list[str]:
    """Return what of a peer's modules is not installed."""
    return [module for module in PEERS.get(peer, ()) if find_spec(module) is None]


def does(name: str, case: Case) -> bool:
    """Return whether a contender has a way to do a case, as far as is known without its libraries."""
    plain, float32 = case.L * case.D == 1, case.dtype == "float32"
    steps = case.kind in ("sequence", "call", "stream")
    return {
        "torch": case.kind != "streams",
        "ort": steps and float32 and not case.ragged and (plain or case.kind == "sequence"),
        "openvino": case.kind == "sequence" and float32 and not case.ragged,
        "jax": (steps or case.kind == "training") and plain and not case.ragged,
        REFERENCE: (steps or case.kind == "training") and plain,
        LIMIT: steps or case.kind == "training",
    }.get(name, True)


def contender(name: str, case: Case) -> Contender:
    """Return a library at work on a case."""
    process = f"{name} {case.kind}" if case.kind == "streams" else name  # sets its threads otherwise
    process += " by module" * case.module
    home = f"{__package__}.training" if case.kind in ("training", "step", "memory") else __name__
    return Contender(process, f"{home}:build", {"name": name, "case": asdict(case)}, case.threads)


def build(name: str, case: dict[str, Any]) -> Built:
    """Build a case for a library, which is imported now."""
    return BUILDERS[name](checked(name, Case(**case)))


def checked(name: str, case: Case) -> Case:
    if not does(name, case):
        raise ValueError(f"expected a case that {name} does, got {case}")
    return case


def layer_of(case: Case) -> Any:
    """Return rnncore's layer, whose seeded weights are everybody's."""
    kind = getattr(rc, case.cell.upper())
    return kind(case.I, case.H, case.L, bidirectional=case.D == 2, dtype=case.dtype, rng=0)


def parameters(case: Case) -> list[np.ndarray]:
    """Return W_ih, W_hh, b_ih and b_hh, writable, of each direction of each layer."""
    return list(layer_of(case).state_dict().values())


def sequence(case: Case) -> np.ndarray:
    """Return the input (T, N, I)."""
    return np.random.default_rng(1).standard_normal((case.T, case.N, case.I)).astype(case.dtype)


def zero_state(case: Case) -> tuple[np.ndarray, ...]:
    """Return the states that a cell begins with, each (L*D, N, H)."""
    shape = case.L * case.D, case.N, case.H
    return tuple(np.zeros(shape, case.dtype) for _ in range(2 if case.cell == "lstm" else 1))


def carried(step: Step, zero: Any, h: Callable[[Any], Any]) -> Built:
    """Return work of one step a call, each from the state the last one returned; `h` takes h_t (N, H) out of one."""
    state = zero

    def run() -> None:
        nonlocal state
        state = step(state)

    def results() -> np.ndarray:
        nonlocal state
        state = zero
        for _ in range(CHAINED):
            run()
        return np.array(h(state)).reshape(-1)

    return run, results


# --- rnncore ----------------------------------------------------------------------------------------------------------


def rnncore(case: Case) -> Built:
    if case.module:
        return by_module(case)
    layer, x = layer_of(case), sequence(case)
    if case.ragged:
        lengths = case.lengths
        return lambda: layer(x, lengths=lengths), lambda: layer(x, lengths=lengths)[0]
    if case.kind == "sequence":
        return lambda: layer(x), lambda: layer(x)[0]
    if case.kind == "call":
        return carried(lambda state: layer(x, state)[1], None, lambda state: state[0] if case.cell == "lstm" else state)
    streams = [layer.stream(case.N) for _ in range(case.threads)]
    x_t = x[0]

    def steps(stream: Any, count: int) -> Any:
        for _ in range(count):
            h_t = stream.step(x_t)
        return h_t

    def results() -> np.ndarray:
        streams[0].reset()
        h_t: np.ndarray = steps(streams[0], CHAINED)
        return h_t.reshape(-1)

    if case.kind == "stream":
        step = streams[0].step
        return lambda: step(x_t), results

    rc.set_num_threads(1)

    def run() -> None:
        threads = [threading.Thread(target=steps, args=(stream, STREAM_STEPS // len(streams))) for stream in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run, results


def padded(case: Case) -> Built:
    """Return rnncore's work on all steps of a ragged batch, whose results count within the lengths."""
    layer, x = layer_of(case), sequence(case)
    return lambda: layer(x), lambda: layer(x)[0] * within(case)


def limit(case: Case) -> Built:
    """Return the work that no kernel can do without, which has no results."""
    return limits.perfect(case.cell, case.dtype, products(case), case.threads), lambda: None


def products(case: Case) -> list[limits.Product]:
    """Return the matrix products that a layer's forward pass consists of."""
    rows, T = int(case.lengths.sum()), int(case.lengths.max())
    inputs = [case.I, *[case.D * case.H] * (case.L - 1)]
    both = [[limits.Product(rows, K, case.H, 1), limits.Product(rows, case.H, case.H, T)] for K in inputs]
    return [product for pair in both for product in pair * case.D]


# --- the definition ---------------------------------------------------------------------------------------------------


DEFINITIONS: dict[str, Any] = {"rnn": rnn, "lstm": lstm, "gru": gru}


def reference(case: Case) -> Built:
    cell, x, weights = DEFINITIONS[case.cell], sequence(case), parameters(case)
    zero = [array[0] for array in zero_state(case)]
    if case.kind == "sequence":
        return lambda: cell.forward(x, *zero, *weights), lambda: cell.forward(x, *zero, *weights)[0] * within(case)

    def step(state: Any) -> Any:
        return cell.forward(x, *state, *weights)[1 : 1 + len(zero)]

    return carried(step, zero, lambda state: state[0])


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def torch_module(case: Case) -> Any:
    """Return the layer, PyTorch's or rnncore's, held to the case's threads as all of the process."""
    import torch

    torch.set_num_threads(case.threads)
    library = torch.nn
    if case.module:
        from ..interop import torch as library
    kind, dtype = getattr(library, case.cell.upper()), getattr(torch, case.dtype)
    module = kind(case.I, case.H, case.L, bidirectional=case.D == 2, dtype=dtype)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in layer_of(case).state_dict().items()})
    return module


def torch_packed(module: Any, x: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
    """Run over a ragged batch, padded in and padded out."""
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    y, state = module(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
    return pad_packed_sequence(y, total_length=len(x))[0], state


def torch(case: Case) -> Built:
    import torch

    module = torch_module(case)
    x, lengths = torch.from_numpy(sequence(case)), torch.from_numpy(case.lengths)

    def run() -> Any:
        with torch.inference_mode():
            return module(x)

    def run_packed() -> Any:
        with torch.inference_mode():
            return torch_packed(module, x, None, lengths)

    def step(state: Any) -> Any:
        with torch.inference_mode():
            return module(x, state)[1]

    if case.ragged:
        return run_packed, lambda: run_packed()[0].numpy()
    if case.kind == "sequence":
        return run, lambda: run()[0].numpy()
    zero = tuple(torch.from_numpy(array) for array in zero_state(case))
    if case.cell == "lstm":
        return carried(step, zero, lambda state: state[0].numpy())
    return carried(step, zero[0], lambda state: state.numpy())


def by_module(case: Case) -> Built:
    """Return the work of rnncore's module; of a ragged batch, which is packed already, results are padded."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    module, x = torch_module(case), torch.from_numpy(sequence(case))
    given = pack_padded_sequence(x, torch.from_numpy(case.lengths), enforce_sorted=False) if case.ragged else x

    def run() -> Any:
        with torch.inference_mode():
            return module(given)

    def results() -> np.ndarray:
        y = run()[0]
        array: np.ndarray = (pad_packed_sequence(y, total_length=case.T)[0] if case.ragged else y).numpy()
        return array

    return run, results


def whole(case: Case) -> Built:
    """Return the work of rnncore's module on all steps of a ragged batch, whose results count within the lengths."""
    run, results = by_module(replace(case, ragged=False))
    return run, lambda: results() * within(case)


def within(case: Case) -> np.ndarray:
    """Return which steps (T, N, 1) there are."""
    steps: np.ndarray = np.arange(case.T)[:, None, None] < case.lengths[:, None]
    return steps


# --- ONNX Runtime and OpenVINO ----------------------------------------------------------------------------------------


GATE_ORDER = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
"""ONNX's order of gates, LSTM i o f c and GRU z r h, as places in torch's i f g o and r z n."""


def onnx_model(case: Case) -> bytes:
    """Return a model of one node a layer, with constant weights: Y (T, D, N, H) from X, or for single steps the states
    from X and states."""
    from onnx import TensorProto, helper, numpy_helper

    def gates(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, len(GATE_ORDER[case.cell]))
        return np.concatenate([parts[k] for k in GATE_ORDER[case.cell]])

    kind = TensorProto.FLOAT if case.dtype == "float32" else TensorProto.DOUBLE
    states = ["h", "c"] if case.cell == "lstm" else ["h"]
    attributes: dict[str, Any] = {"linear_before_reset": 1} if case.cell == "gru" else {}
    attributes |= {"hidden_size": case.H, "direction": "forward" if case.D == 1 else "bidirectional"}

    def values(names: list[str], *shape: int) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name in names]

    x = values(["X"], case.T, case.N, case.I)
    if case.kind == "sequence":
        before: list[str] = []
        inputs, outputs = x, values(["Y"], case.T, case.D, case.N, case.H)
        names = ["Y"]
    else:
        before = ["", *(f"{name}_0" for name in states)]  # no lengths
        inputs = x + values(before[1:], 1, case.N, case.H)
        names = ["", *(f"{name}_n" for name in states)]  # no sequence
        outputs = values(names[1:], 1, case.N, case.H)
    constants = {"joined": np.array([0, 0, -1])} if case.L > 1 else {}
    arrays = [gates(array) for array in parameters(case)]
    nodes, below = [], "X"
    for layer in range(case.L):
        directions = slice(4 * case.D * layer, 4 * case.D * (layer + 1))
        W_ih, W_hh, b_ih, b_hh = (np.stack(arrays[directions][k::4]) for k in range(4))
        own = {f"W{layer}": W_ih, f"R{layer}": W_hh, f"B{layer}": np.concatenate([b_ih, b_hh], axis=1)}
        constants |= own
        above = names if layer + 1 == case.L else [f"Y{layer}"]
        nodes.append(helper.make_node(case.cell.upper(), [below, *own, *before], above, **attributes))
        if layer + 1 < case.L:  # (T, D, N, H) to (T, N, D*H)
            below = f"X{layer + 1}"
            nodes.append(helper.make_node("Transpose", above, [f"turned{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"turned{layer}", "joined"], [below]))
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, case.cell, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def joined(Y: np.ndarray) -> np.ndarray:
    """Return y (T, N, D*H), a copy, from ONNX's Y (T, D, N, H)."""
    return np.concatenate(Y.swapaxes(0, 1), axis=2)


def ort(case: Case) -> Built:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(case), options, providers=["CPUExecutionProvider"])
    feed = {"X": sequence(case)}
    if case.kind == "sequence":
        return lambda: session.run(None, feed), lambda: joined(session.run(None, feed)[0])
    names = [value.name for value in session.get_inputs()[1:]]

    def step(state: Any) -> Any:
        feed.update(zip(names, state, strict=True))
        return session.run(None, feed)

    return carried(step, zero_state(case), lambda state: state[0])


def openvino(case: Case) -> Built:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": case.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(onnx_model(case)), "CPU", settings).create_infer_request()
    x = sequence(case)

    def run() -> Any:
        return request.infer([x], share_inputs=True, share_outputs=True)

    return run, lambda: joined(run()[0])


# --- JAX --------------------------------------------------------------------------------------------------------------


def jax_weights(case: Case) -> list[Any]:
    """Return W_ih^T, W_hh^T, the biases' sum and, of a GRU, b_n, which the reset gate multiplies too, apart."""
    import jax.numpy as jnp

    W_ih, W_hh, b_ih, b_hh = parameters(case)
    b, apart = b_ih + b_hh, []
    if case.cell == "gru":
        b[2 * case.H :] = b_ih[2 * case.H :]
        apart = [b_hh[2 * case.H :]]
    return [jnp.asarray(array) for array in (W_ih.T.copy(), W_hh.T.copy(), b, *apart)]


def jax_step(cell: str) -> Callable[..., Any]:
    """Return one step: the state (h, …) and h_t, from the state before, the parts a over x and s over h of the gates,
    and b_n."""
    import jax
    import jax.numpy as jnp

    def rnn(state: Any, a: Any, s: Any) -> Any:
        h = jnp.tanh(a + s)
        return (h,), h

    def lstm(state: Any, a: Any, s: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(a + s, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def gru(state: Any, a: Any, s: Any, b_n: Any) -> Any:
        (h,) = state
        a_r, a_z, a_n = jnp.split(a, 3, axis=1)
        s_r, s_z, s_n = jnp.split(s, 3, axis=1)
        r, z = jax.nn.sigmoid(a_r + s_r), jax.nn.sigmoid(a_z + s_z)
        n = jnp.tanh(a_n + r * (s_n + b_n))
        h = n + z * (h - n)
        return (h,), h

    steps: dict[str, Callable[..., Any]] = {"rnn": rnn, "lstm": lstm, "gru": gru}
    return steps[cell]


def jax(case: Case) -> Built:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    weights, step = jax_weights(case), jax_step(case.cell)
    zero = tuple(jnp.asarray(array[0]) for array in zero_state(case))
    x = jnp.asarray(sequence(case))

    def layer(x: Any, W_ih: Any, W_hh: Any, b: Any, *b_n: Any) -> Any:
        a = x @ W_ih + b  # for all steps at once
        return jax.lax.scan(lambda state, a_t: step(state, a_t, state[0] @ W_hh, *b_n), zero, a)[1]

    if case.kind != "sequence":
        W_ih, W_hh, *biases = weights
        once = jax.jit(lambda state: step(state, x[0] @ W_ih + biases[0], state[0] @ W_hh, *biases[1:])[0])
        return carried(lambda state: jax.block_until_ready(once(state)), zero, lambda state: state[0])
    compiled = jax.jit(layer)

    def run() -> Any:
        return compiled(x, *weights).block_until_ready()

    return run, lambda: np.asarray(run())


BUILDERS: dict[str, Callable[[Case], Built]] = {
    "rnncore": rnncore,
    "padded": padded,
    "whole": whole,
    LIMIT: limit,
    REFERENCE: reference,
    "torch": torch,
    "ort": ort,
    "openvino": openvino,
    "jax": jax,
}
