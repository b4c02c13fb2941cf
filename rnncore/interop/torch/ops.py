"""rnncore's kernels as operators of PyTorch, `torch.ops.rnncore`: recurrent, forward, backward.

`recurrent` is what modules call. Where a gradient is wanted, autograd makes `forward` and `backward` of it, whose tape
is a list of tensors; a gradient of a gradient goes through PyTorch's own operators. All have fake kernels, so that
`torch.compile` and `torch.export` know their shapes. Where nothing watches operators, modules do without them: what
they cost is a good part of a short call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ...dropout import drop
from .run import GATES, Plan, Unfit, calls, dropout_key, plan_of
from .tensors import DTYPES, is_lazy

__all__ = ["advance", "recurrent"]

ARGUMENTS = (
    "Tensor input, Tensor?[] hx, Tensor[] weights, Tensor? batch_sizes, Tensor? key, float dropout, str mode, "
    "int num_layers, bool bias, bool batch_first, bool bidirectional"
)
library = torch.library.Library("rnncore", "DEF")
library.define(f"recurrent({ARGUMENTS}) -> (Tensor, Tensor[])", tags=torch.Tag.pt2_compliant_tag)
library.define(f"forward({ARGUMENTS}) -> (Tensor, Tensor[], Tensor[])", tags=torch.Tag.pt2_compliant_tag)
library.define(
    f"backward(Tensor? dy, Tensor?[] dhx, Tensor[] tape, {ARGUMENTS}) -> (Tensor, Tensor[], Tensor[])",
    tags=torch.Tag.pt2_compliant_tag,
)
ops = torch.ops.rnncore

# saved where nothing else is, so that PyTorch knows when a backward pass has been through
NOTHING = torch.empty(0, device="cpu")


def plan_for(
    input: Tensor,
    weights: Sequence[Tensor],
    dropout: float,
    mode: str,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    bidirectional: bool,
) -> Plan:
    """Return the plan of an operator's call, whose sizes are those of its weights."""
    if len(weights) < 2 or weights[0].dim() != 2 or weights[1].dim() != 2:
        raise ValueError(f"expected weights of two dimensions, got {weights!r:.80}")
    if input.dtype not in DTYPES or any(w.dtype is not input.dtype for w in weights):
        others = ", ".join(sorted({str(w.dtype) for w in weights}))
        raise RuntimeError(
            f"expected input and weights to be all float32 or all float64, got {input.dtype} and {others}"
        )
    H, I, P = int(weights[0].size(0)) // GATES.get(mode, 1), int(weights[0].size(1)), int(weights[1].size(1))
    proj_size = P if P != H else 0
    return plan_of(mode, I, H, num_layers, bias, batch_first, bidirectional, proj_size, input.dtype, dropout)


def states_of(hx: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the states an operator is given, none for zeros. Modules give it a None for these, as AOTInductor has no
    empty lists."""
    return [h for h in hx if h is not None]


def recurrent(
    options: tuple[Any, ...],
    input: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    key: Tensor | None = None,
    *,
    looked: bool = False,
) -> tuple[Tensor, Sequence[Tensor]] | None:
    """Run a layer, whose options are those of a `Plan`: by the operator, or without where nobody would notice. With
    `looked` a quick look has found that nobody would, and that a gradient is wanted.

    None where rnncore cannot, though the modules' own checks say nothing against it.
    """
    if (
        options[5] and batch_sizes is None and input.dim() == 3 and not torch.compiler.is_compiling()
        and (looked or calls.wants_gradient(input, hx, weights))
    ):  # fmt: skip
        # a copy in order of time, as PyTorch keeps: who has the input may change it, or have it from inference mode
        turned = input.transpose(0, 1).contiguous()
        found = recurrent((*options[:5], False, *options[6:]), turned, hx, weights, None, key, looked=looked)
        return None if found is None else (found[0].transpose(0, 1), found[1])
    if looked or in_plain_view(weights, input, *hx):
        try:
            plan = plan_of(*options)
        except (ValueError, TypeError):  # an option that is no number, say, of which PyTorch has its own opinion
            return None
        try:
            if not (looked or calls.wants_gradient(input, hx, weights)):
                return plan.infer(input, hx, weights, batch_sizes, key)
            y, *finals = apply(Call(plan, len(hx), batch_sizes, key, None), input, *hx, *weights)
            return y, finals
        except Unfit:
            return None
    mode, _, _, num_layers, bias, batch_first, bidirectional, _, _, dropout = options
    result: tuple[Tensor, list[Tensor]] = ops.recurrent.default(
        input, hx or [None], weights, batch_sizes, key, dropout, mode, num_layers, bias, batch_first, bidirectional
    )
    return result


def advance(
    options: tuple[Any, ...], input: Tensor, hx: Sequence[Tensor], weights: Sequence[Tensor], *, looked: bool = False
) -> Sequence[Tensor] | None:
    """Run a cell, which is one step of a layer: the states after it, or None, as above."""
    if looked or in_plain_view(weights, input, *hx):
        try:
            plan = plan_of(*options)
        except (ValueError, TypeError):
            return None
        try:
            if not (looked or calls.wants_gradient(input, hx, weights)):
                return plan.advance(input, hx, weights)
            after: Sequence[Tensor] = apply(Call(plan, len(hx), None, None, None, True), input, *hx, *weights)
            return after
        except Unfit:
            return None
    result = recurrent(options, input.unsqueeze(0), [h.unsqueeze(0) for h in hx], weights)
    # in place where nothing compiles it: views can't be detached in place, as PyTorch's cells' states can
    squeeze = Tensor.squeeze if torch.compiler.is_compiling() else Tensor.squeeze_
    return None if result is None else [squeeze(h, 0) for h in result[1]]


def in_plain_view(weights: Sequence[Tensor], *tensors: Tensor) -> bool:
    """Whether nothing watches operators: no compiler, no mode, no tensor of a kind of its own; weights of one that has
    operators of its own are left to `Plan.weights`."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or has_torch_function(weights):
        return False  # the last is true in modes as well
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return False
    return True


# --- autograd ---------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """What `Recurrence` is called with beside input, states and weights."""

    plan: Plan
    states: int
    batch_sizes: Tensor | None
    key: Tensor | None
    options: tuple[Any, ...] | None  # of operators; None to do without them
    step: bool = False  # of a cell, which has no y


class Recurrence(torch.autograd.Function):
    """What autograd makes of `recurrent`: by operators, or by the plan itself.

    Without operators, and unless somebody has hooks on what is saved, what the forward pass keeps does not become
    tensors: it goes when the backward pass has been through, as saved tensors would. Nor is saved what wanted gradients
    do not depend on, though kernels read it: it may change meanwhile, as it may for PyTorch's modules.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, input: Any, *rest: Any) -> Any:
        plan, states, batch_sizes, key, options, step = call
        hx, weights = rest[:states], rest[states:]
        tape: Sequence[Tensor] = ()
        kept, several = None, True  # steps, unless an operator's sizes may be symbols
        if options is None:
            y, finals, kept = plan.forward(input, hx, weights, batch_sizes, key, step)
            several = kept.rows.T > 1
            if has_hooks():
                tape, kept = plan.tape(kept), None
        else:
            with torch._C._AutoDispatchBelowAutograd():
                y, finals, tape = ops.forward.default(input, hx, weights, batch_sizes, key, *options)
        given, (needed, free) = (input, *rest), plan.needed(ctx.needs_input_grad[1:], states, several)
        ctx.save_for_backward(*([*compress(given, needed), *tape] or [NOTHING]))
        others = [*compress(given, free)]
        ctx.call, ctx.kept, ctx.needed, ctx.others, ctx.versions = call, kept, needed, others, versions(others)
        ctx.set_materialize_grads(False)
        return tuple(finals) if step else (y, *finals)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        saved = ctx.saved_tensors
        plan, states, batch_sizes, key, options, step = ctx.call
        dy, *dhx = (None, *upstream) if step else upstream
        differentiated = is_differentiated(upstream)
        if ctx.kept is None or differentiated:
            of_saved, others = iter(saved), iter(ctx.others)
            input, *rest = [next(of_saved if needed else others) for needed in ctx.needed]
            hx, weights, tape = rest[:states], rest[states:], tuple(of_saved)
        if differentiated:
            if versions(ctx.others) != ctx.versions:
                raise RuntimeError(
                    "a tensor that a gradient of a gradient depends on has been modified by an inplace operation"
                )
            return (None, *again(plan, upstream, input, hx, weights, batch_sizes, key, step))
        if options is None:
            if ctx.kept is None:
                kept = plan.kept_on(tape, input, weights, batch_sizes, step)
            else:
                kept = plan.at_present(ctx.kept)
            if not torch._C._autograd._get_current_graph_task_keep_graph():
                ctx.kept, ctx.others = None, ()
            dinput, dstates, dweights = plan.backward(kept, dy, dhx, key, ctx.needs_input_grad[1:])
        else:
            dinput, dstates, dweights = ops.backward.default(
                dy, dhx, tape, input, hx, weights, batch_sizes, key, *options
            )
        return (None, dinput, *dstates[:states], *dweights)


# Without what `torch.func`'s transforms need, which no call in plain view has to do with.
apply = super(torch.autograd.Function, Recurrence).apply


def is_differentiated(upstream: Sequence[Tensor | None]) -> bool:
    """Whether a backward pass, whose upstream gradients these are, is differentiated in its turn, or batched."""
    if torch.is_grad_enabled() or torch.autograd.forward_ad._current_level >= 0:
        return True
    for d in upstream:
        if d is not None and is_lazy(d):
            return True
    return False


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """Return tensors' versions; those of inference mode have none."""
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def has_hooks() -> bool:
    """Whether somebody has hooks on what is saved for a backward pass: to keep it elsewhere, or not at all."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def again(
    plan: Plan,
    upstream: tuple[Tensor | None, ...],
    input: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    key: Tensor | None,
    step: bool,
) -> tuple[Tensor | None, ...]:
    """Return gradients by PyTorch's own operators: they can be differentiated in their turn, and taken in batches."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [t.view_as(t) for t in (input, *hx, *weights)]  # at which differentiation ends
        x, *states = [t.unsqueeze(0) for t in inputs[: 1 + len(hx)]] if step else inputs[: 1 + len(hx)]
        outputs = through_torch(plan, x, states, inputs[1 + len(hx) :], batch_sizes, key)
        if step:
            outputs = tuple([h.squeeze(0) for h in outputs[1:]])
    pairs = [(out, d) for out, d in zip(outputs, upstream, strict=True) if d is not None]
    wanted = [t for t in inputs if t.requires_grad]
    found: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if pairs:
        outs, ds = zip(*pairs, strict=True)
        found = torch.autograd.grad(outs, wanted, ds, create_graph=create_graph, allow_unused=True)
    rest = iter(found)
    return tuple([next(rest) if t.requires_grad else None for t in inputs])


def through_torch(
    plan: Plan,
    input: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    key: Tensor | None,
) -> tuple[Tensor, ...]:
    """Do what `recurrent` does by PyTorch's own operators, layer by layer, with the same dropout: y, final states."""
    run = getattr(torch._VF, plan.mode.lower())
    L, D, padded = plan.L, plan.D, batch_sizes is None
    unbatched, swapped = padded and input.dim() == 2, padded and plan.batch_first and input.dim() == 3
    x = input.unsqueeze(1) if unbatched else input.transpose(0, 1) if swapped else input
    N = x.size(1) if batch_sizes is None else int(batch_sizes[0])
    initial = [h.unsqueeze(1) if unbatched else h for h in hx] or [x.new_zeros(L * D, N, w) for w in plan.widths]
    each = len(weights) // L
    finals: list[tuple[Tensor, ...]] = []
    for k in range(L):
        own = tuple(h[k * D : (k + 1) * D] for h in initial)
        state = own if len(own) > 1 else own[0]
        sequence = (x, state) if padded else (x, batch_sizes, state)
        order = (False,) if padded else ()  # whether batch_first
        own_weights = list(weights[k * each : (k + 1) * each])
        with without_onednn():
            x, *after = run(*sequence, own_weights, plan.layer.bias, 1, 0.0, False, plan.bidirectional, *order)
        finals.append(tuple(after))
        if key is not None and k < L - 1:
            mask = np.ones((int(x.numel()) // int(x.size(-1)), int(x.size(-1))), plan.dtype)
            drop(mask, plan.dropout, dropout_key(key), k)  # type: ignore[arg-type]
            x = x * torch.from_numpy(mask).view(x.shape)
    results = [torch.cat(of_state) for of_state in zip(*finals, strict=True)]
    y = x.squeeze(1) if unbatched else x.transpose(0, 1) if swapped else x
    return (y, *(h.squeeze(1) if unbatched else h for h in results))


@contextmanager
def without_onednn() -> Iterator[None]:
    """Let PyTorch do without oneDNN, whose LSTM has no second derivative."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def _recurrent_autograd(input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any) -> Any:
    states = states_of(hx)
    if calls.wants_gradient(input, states, weights):
        plan = plan_for(input, weights, *options)
        y, *finals = Recurrence.apply(Call(plan, len(states), batch_sizes, key, options), input, *states, *weights)
        return y, finals
    with torch._C._AutoDispatchBelowAutograd():
        return ops.recurrent.default(input, hx, weights, batch_sizes, key, *options)


def _recurrent_autocast(input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any) -> Any:
    """Where a program that was exported calls it, which cannot call PyTorch's own instead: in the weights' dtype, or
    in float32, whatever comes from operators around it."""
    dtype = weights[0].dtype if weights and weights[0].dtype in DTYPES else torch.float32
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
        states, weights = [h if h is None else h.to(dtype) for h in hx], [w.to(dtype) for w in weights]
        return ops.recurrent.default(input.to(dtype), states, weights, batch_sizes, key, *options)


# --- kernels, on the CPU and for shapes alone -------------------------------------------------------------------------


def check_states(plan: Plan, input: Tensor, hx: Sequence[Tensor | None], batch_sizes: Tensor | None) -> None:
    """Raise ValueError unless states, or their gradients, fit an input; modules have looked at theirs already."""
    rows = plan.rows(input, batch_sizes)
    if len(hx) != len(plan.widths):
        raise ValueError(f"expected {len(plan.widths)} states, got {len(hx)}")
    for h, width in zip(hx, plan.widths, strict=True):
        shape = (plan.L * plan.D, *(() if rows.unbatched else (rows.N,)), width)
        if h is not None and (h.shape != shape or h.dtype != input.dtype):
            raise ValueError(f"expected a state {shape} of {input.dtype}, got {tuple(h.shape)} of {h.dtype}")


def _recurrent_cpu(input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any) -> Any:
    plan, hx = plan_for(input, weights, *options), states_of(hx)
    if hx:
        check_states(plan, input, hx, batch_sizes)
    return plan.infer(input, hx, weights, batch_sizes, key)


def _forward_cpu(input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any) -> Any:
    plan, hx = plan_for(input, weights, *options), states_of(hx)
    if hx:
        check_states(plan, input, hx, batch_sizes)
    y, finals, kept = plan.forward(input, hx, weights, batch_sizes, key)
    return y, finals, plan.tape(kept)


def _backward_cpu(
    dy: Any, dhx: Any, tape: Any, input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any
) -> Any:
    plan = plan_for(input, weights, *options)
    check_states(plan, input, dhx, batch_sizes)
    shape = (*input.shape[:-1], plan.D * plan.widths[0])
    if dy is not None and (dy.shape != shape or dy.dtype != input.dtype):
        raise ValueError(f"expected dy {shape} of {input.dtype}, got {tuple(dy.shape)} of {dy.dtype}")
    return plan.backward(plan.kept_on(tape, input, weights, batch_sizes), dy, dhx, key)


def _recurrent_fake(input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any) -> Any:
    return _forward_fake(input, hx, weights, batch_sizes, key, *options)[:2]


def _forward_fake(input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any) -> Any:
    plan, hx = plan_for(input, weights, *options), states_of(hx)
    padded, unbatched = batch_sizes is None, batch_sizes is None and input.dim() == 2
    T, N = input.size(0), 1
    if not padded:
        N = hx[0].size(1) if hx else torch.library.get_ctx().new_dynamic_size()
    elif not unbatched:
        T, N = (input.size(1), input.size(0)) if plan.batch_first else (input.size(0), input.size(1))
    shape, rows = ((T, N), T * N) if padded else ((T,), T)
    width = plan.D * plan.widths[0]
    y = input.new_empty((*shape, width))
    if padded:
        y = y[:, 0] if unbatched else y.transpose(0, 1) if plan.batch_first else y
    batch = () if unbatched else (N,)
    finals = [input.new_empty((plan.L * plan.D, *batch, w)) for w in plan.widths]
    tape = []
    for k in range(plan.L):
        tape += [input.new_empty((rows, width))] if k else []
        for _ in range(plan.D):
            tape += [input.new_empty((rows, w)) for w in plan.kept[:2] if w]
            tape += [input.new_empty((N + rows, w)) for w in plan.widths]
    return y, finals, tape


def _backward_fake(
    dy: Any, dhx: Any, tape: Any, input: Any, hx: Any, weights: Any, batch_sizes: Any, key: Any, *options: Any
) -> Any:
    plan = plan_for(input, weights, *options)
    _, finals, _ = _forward_fake(input, hx, weights, batch_sizes, key, *options)
    swapped = plan.batch_first and batch_sizes is None and input.dim() == 3
    dinput = input.new_empty(input.transpose(0, 1).shape).transpose(0, 1) if swapped else input.new_empty(input.shape)
    return dinput, finals, [w.new_empty(w.shape) for w in weights]


for name, on_cpu, fake in (
    ("recurrent", _recurrent_cpu, _recurrent_fake),
    ("forward", _forward_cpu, _forward_fake),
    ("backward", _backward_cpu, _backward_fake),
):
    library.impl(name, on_cpu, "CPU")
    torch.library.register_fake(f"rnncore::{name}", fake, lib=library)
library.impl("recurrent", _recurrent_autograd, "Autograd")
library.impl("recurrent", _recurrent_autocast, "AutocastCPU")
