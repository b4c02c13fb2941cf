"""The contenders of training: gradients of a layer, a step of the demo's training, and the bytes that gradients take.

A layer's weights change before each call, as an optimiser would change them: outside the time, but what a library
makes of new weights, and may keep, counts.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from ..demo import CharLM
from ..train import Adam, clip_grad_norm
from . import limits
from .peers import (
    CHAINED,
    DEFINITIONS,
    Built,
    Case,
    checked,
    jax_step,
    jax_weights,
    layer_of,
    parameters,
    products,
    sequence,
    torch_module,
    torch_packed,
    within,
    zero_state,
)
from .worker import timed

__all__ = ["build"]

TRIAL_SECONDS = 0.05  # for each way to write a layer for JAX
VOCABULARY = "".join(map(chr, range(32, 135)))  # as many characters as the demo's text has
RATE, MAX_NORM = 1e-4, 1.0  # small, so that thousands of steps on the same characters do not learn them by heart


def build(name: str, case: dict[str, Any]) -> Built:
    """Build a case of kind "training", "step" or "memory" for a library, which is imported now."""
    given = Case(**case)
    builders = BUILDERS[given.kind]
    if name not in builders:
        raise ValueError(f"expected one of {', '.join(builders)} for {given.kind}, got {name}")
    return builders[name](checked(name, given))


def initial_state(case: Case) -> tuple[np.ndarray, ...]:
    """Return states (L*D, N, H), the same at every call."""
    rng = np.random.default_rng(3)
    return tuple(rng.uniform(-1, 1, zero.shape).astype(case.dtype) for zero in zero_state(case))


def upstream(case: Case) -> np.ndarray:
    """Return dy (T, N, D*H)."""
    return np.random.default_rng(4).standard_normal((case.T, case.N, case.D * case.H)).astype(case.dtype)


# --- gradients of a layer: dx, those of the initial states, those of the parameters in torch's order ------------------


def rnncore_passes(case: Case) -> tuple[Any, Callable[[], Any], Callable[[Any], Any]]:
    """Return the layer, its forward pass (y and a tape), and its backward pass."""
    layer, x, state, dy = layer_of(case), sequence(case), initial_state(case), upstream(case)
    begin = state if case.cell == "lstm" else state[0]
    lengths = case.lengths if case.ragged else None
    return layer, lambda: layer.forward(x, begin, lengths=lengths)[::2], lambda tape: layer.backward(tape, dy)


def rnncore(case: Case) -> Built:
    if case.module:
        return by_module(case)
    layer, forward, backward = rnncore_passes(case)

    def prepare() -> None:
        with layer.editing():
            pass

    def run() -> Any:
        _, tape = forward()
        return backward(tape)

    def results() -> tuple[np.ndarray, ...]:
        dx, dstate, grads = run()
        return dx, *(dstate if case.cell == "lstm" else (dstate,)), *grads.values()

    return run, results, prepare


def torch_forward(case: Case) -> tuple[list[Any], Callable[[], Any]]:
    """Return x, the initial states and the parameters, all of which get gradients, and the forward pass to y."""
    import torch

    module, lengths = torch_module(case), torch.from_numpy(case.lengths)
    x, *state = (torch.from_numpy(array).requires_grad_() for array in (sequence(case), *initial_state(case)))
    begin = tuple(state) if case.cell == "lstm" else state[0]
    leaves = [x, *state, *module.parameters()]
    if case.ragged:
        return leaves, lambda: torch_packed(module, x, begin, lengths)[0]
    return leaves, lambda: module(x, begin)[0]


def torch(case: Case) -> Built:
    import torch

    leaves, forward = torch_forward(case)
    dy = torch.from_numpy(upstream(case))

    def prepare() -> None:
        with torch.no_grad():
            for tensor in leaves:
                tensor.grad = None
                tensor.mul_(1)

    def run() -> None:
        forward().backward(dy)

    def results() -> tuple[np.ndarray, ...]:
        prepare()
        run()
        return tuple(tensor.grad.numpy() for tensor in leaves)

    return run, results, prepare


def by_module(case: Case, of_whole: bool = False) -> Built:
    """The work of rnncore's module for PyTorch. A ragged batch is packed already, or with `of_whole` padded, of which
    no gradient comes from behind the lengths."""
    import torch
    from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

    module, lengths = torch_module(case), torch.from_numpy(case.lengths)
    x, *state = (torch.from_numpy(array) for array in (sequence(case), *initial_state(case)))
    dy = torch.from_numpy(upstream(case) * within(case))
    packed = None
    if case.ragged and not of_whole:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        x, dy = packed.data.clone(), pack_padded_sequence(dy, lengths, enforce_sorted=False).data
    leaves = [x.requires_grad_(), *(s.requires_grad_() for s in state), *module.parameters()]
    begin = tuple(state) if case.cell == "lstm" else state[0]
    factors = cycle((1 + 2**-20, 1 / (1 + 2**-20)))

    def prepare() -> None:
        with torch.no_grad():
            for tensor in leaves:
                tensor.grad = None
            factor = next(factors)
            for tensor in module.parameters():
                tensor.mul_(factor)

    def run() -> None:
        if packed is None:
            module(x, begin)[0].backward(dy)
        else:
            module(packed._replace(data=x), begin)[0].data.backward(dy)

    def results() -> tuple[np.ndarray, ...]:
        prepare()
        run()
        dx, *rest = (tensor.grad for tensor in leaves)
        if packed is not None:
            dx, _ = pad_packed_sequence(PackedSequence(dx, *packed[1:]), total_length=case.T)
        return tuple(tensor.numpy() for tensor in (dx, *rest))

    return run, results, prepare


def jax(case: Case) -> Built:
    """The fastest of some ways to write it, which depends on the sizes: x W_ih before the scan, with steps unrolled or
    not, or with weights in torch's layout; or in the scan."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    step = jax_step(case.cell)
    state = tuple(jnp.asarray(array[0]) for array in initial_state(case))
    x, dy = jnp.asarray(sequence(case)), jnp.asarray(upstream(case))

    def before(unroll: int, x: Any, state: Any, W_ih: Any, W_hh: Any, b: Any, *b_n: Any) -> Any:
        a = x @ W_ih + b
        return jax.lax.scan(lambda s, a_t: step(s, a_t, s[0] @ W_hh, *b_n), state, a, unroll=unroll)[1]

    def turned(x: Any, state: Any, W_ih: Any, W_hh: Any, b: Any, *b_n: Any) -> Any:
        return before(1, x, state, W_ih.T, W_hh.T, b, *b_n)

    def inside(x: Any, state: Any, W_ih: Any, W_hh: Any, b: Any, *b_n: Any) -> Any:
        return jax.lax.scan(lambda s, x_t: step(s, x_t @ W_ih + b, s[0] @ W_hh, *b_n), state, x)[1]

    def built(layer: Callable[..., Any]) -> Built:
        weights = jax_weights(case)
        if layer is turned:
            weights[:2] = [jnp.asarray(W.T.copy()) for W in weights[:2]]

        gradients = jax.jit(lambda dy, *arguments: jax.vjp(layer, *arguments)[1](dy))

        def prepare() -> None:
            weights[:] = jax.block_until_ready([jnp.copy(array) for array in weights])

        def run() -> Any:
            return jax.block_until_ready(gradients(dy, x, state, *weights))

        def results() -> tuple[np.ndarray, ...]:
            dx, dstate, dW_ih, dW_hh, db, *db_n = run()
            dW = (dW_ih, dW_hh) if layer is turned else (dW_ih.T, dW_hh.T)
            db_hh = jnp.concatenate([db[: 2 * case.H], *db_n]) if db_n else db
            return tuple(np.asarray(array) for array in (dx, *(d[None] for d in dstate), *dW, db, db_hh))

        return run, results, prepare

    ways: list[Callable[..., Any]] = [partial(before, 1), partial(before, 4), turned, inside]
    return min(map(built, ways), key=least_seconds)


def least_seconds(built: Built) -> float:
    run = built[0]
    run()  # JAX compiles it
    least = total = timed(run, 1)
    while total < TRIAL_SECONDS:
        seconds = timed(run, 1)
        least, total = min(least, seconds), total + seconds
    return least


def limit(case: Case) -> Built:
    """Return the work that no kernel can do without, which has no results."""
    return limits.perfect_training(case.cell, case.dtype, products(case), case.threads), lambda: None


def reference(case: Case) -> Built:
    """Of a ragged batch, no gradient comes from behind the lengths."""
    cell, x, weights = DEFINITIONS[case.cell], sequence(case), parameters(case)
    dy, initial = upstream(case) * within(case), [array[0] for array in initial_state(case)]
    end = [np.zeros_like(array) for array in initial]

    def run() -> Any:
        y, *rest = cell.forward(x, *initial, *weights)
        tape = rest[len(initial) :]  # an RNN has none
        return cell.backward(dy, *end, *tape, x, y, *initial, *weights[:2])

    def results() -> tuple[np.ndarray, ...]:
        dx, *rest = run()[: 5 + len(initial)]
        return dx, *(d[None] for d in rest[: len(initial)]), *rest[len(initial) :]

    return run, results


# --- a step of the demo's training ------------------------------------------------------------------------------------


def model(case: Case) -> CharLM:
    return CharLM(VOCABULARY, cell=case.cell, hidden=case.H, layers=case.L, embedding=case.I, rng=0)


def characters(case: Case) -> np.ndarray:
    """Return codes (T+1, N), each the target of the one before."""
    return np.random.default_rng(1).integers(len(VOCABULARY), size=(case.T + 1, case.N))


def steps(begin: Callable[[], tuple[Callable[[], float], Callable[[], list[np.ndarray]]]]) -> Built:
    """Return work of one training step a call; `begin` makes, for a new model, its step, which returns the loss, and
    what returns its parameters. Results are the losses of some steps, and the parameters after them."""
    step, _ = begin()

    def results() -> tuple[np.ndarray, ...]:
        step, parameters = begin()
        return np.array([step() for _ in range(CHAINED)]), *parameters()

    return step, results


def rnncore_step(case: Case) -> Built:
    window = characters(case)

    def begin() -> Any:
        lm, state = model(case), None
        modules = list(lm.modules.values())
        adam = Adam(modules, RATE)

        def step() -> float:
            nonlocal state
            loss, state, grads = lm._gradients(window[:-1], window[1:], state)
            clip_grad_norm(grads, MAX_NORM)
            adam.step(grads)
            return loss

        return step, lambda: [array for module in modules for array in module.parameters().values()]

    return steps(begin)


def torch_step(case: Case) -> Built:
    import torch

    torch.set_num_threads(case.threads)
    window = torch.from_numpy(characters(case))
    V = len(VOCABULARY)

    def begin() -> Any:
        embedding = torch.nn.Embedding(V, case.I)
        recurrent = getattr(torch.nn, case.cell.upper())(case.I, case.H, case.L)
        modules, state = [embedding, recurrent, torch.nn.Linear(case.H, V)], None
        for module, ours in zip(modules, model(case).modules.values(), strict=True):
            module.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
        parameters = [tensor for module in modules for tensor in module.parameters()]
        adam = torch.optim.Adam(parameters, RATE, fused=True)

        def step() -> float:
            nonlocal state
            embedding, recurrent, head = modules
            y, state = recurrent(embedding(window[:-1]), state)
            state = tuple(s.detach() for s in state) if case.cell == "lstm" else state.detach()
            loss = torch.nn.functional.cross_entropy(head(y).reshape(-1, V), window[1:].reshape(-1))
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
            adam.step()
            return float(loss.detach())

        return step, lambda: [tensor.detach().numpy().copy() for tensor in parameters]

    return steps(begin)


# --- memory -----------------------------------------------------------------------------------------------------------
#
# Bytes that are there because of a layer's gradients, from the forward pass to the end of the backward pass: x, y, all
# that is kept in between and, for rnncore alone, the workspace of its backward pass. Neither parameters nor dy nor
# results: dx, dstate, grads. What both sides hold alike makes the ratio tamer, not the order another. Results are
# these bytes, and those of packed weights, which are made once for all calls with the same weights.


def rnncore_memory(case: Case) -> Built:
    """As allocated through NumPy, `_kernels.memory` and Python, which `tracemalloc` follows: the most that there ever
    is until backward returns. Two or three kB of Python objects are among it; of PyTorch's own nothing is. (C code
    allocates nothing itself in the backward pass, where malloc would go unseen; in the forward pass, what is gone when
    it returns.) Beside, what a tape says of itself, and the most that there ever is because of a call without one, with
    its results."""
    layer, forward, backward = rnncore_passes(case)
    x, lengths = sequence(case), case.lengths if case.ragged else None

    def passes() -> int:
        """Return the bytes of the results."""
        _y, tape = forward()  # y is the caller's, until the end
        dx, dstate, grads = backward(tape)
        states = dstate if case.cell == "lstm" else (dstate,)
        return sum(array.nbytes for array in (dx, *states, *grads.values()))

    def results() -> np.ndarray:
        passes()  # what is made once in a process
        with layer.editing():
            pass
        tracemalloc.start()
        try:
            passes()
            panels, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            returned = passes()
            _, most = tracemalloc.get_traced_memory()
            layer(x, lengths=lengths)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            layer(x, lengths=lengths)
            _, call = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return np.array([x.nbytes + most - panels - returned, panels, forward()[1].nbytes, call - before])

    return lambda: None, results


def torch_memory(case: Case) -> Built:
    """What autograd saves for the backward pass (oneDNN's workspace is among it), each storage once. The workspace of
    the backward pass itself is not seen."""
    import torch

    leaves, forward = torch_forward(case)
    x, parameters = leaves[0], leaves[1 + len(zero_state(case)) :]

    def results() -> np.ndarray:
        saved: dict[int, Any] = {}

        def save(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            y = forward()
        save(x), save(y)
        for tensor in parameters:
            saved.pop(tensor.untyped_storage().data_ptr(), None)
        return np.array([sum(storage.nbytes() for storage in saved.values()), 0])

    return lambda: None, results


BUILDERS: dict[str, dict[str, Callable[[Case], Built]]] = {
    "training": {
        "rnncore": rnncore,
        "torch": torch,
        "jax": jax,
        "limit": limit,
        "reference": reference,
        "whole": partial(by_module, of_whole=True),
    },
    "step": {"rnncore": rnncore_step, "torch": torch_step},
    "memory": {"rnncore": rnncore_memory, "torch": torch_memory},
}
