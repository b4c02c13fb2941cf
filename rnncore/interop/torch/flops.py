"""What `torch.utils.flop_counter` must know of rnncore's operators: how many floating-point operations they are.

It counts those of matrix products, two for each weight and row; a backward pass has two products for each of a forward
pass. Operators form all gradients, wanted or not.
"""

from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

from .late import when_imported
from .ops import ops

__all__ = ["prepare"]


def forward(input: Sequence[int], hx: Any, weights: Sequence[Sequence[int]], *options: Any, **out: Any) -> int:
    """Return the operations of a forward pass, from the shapes of its tensors."""
    return 2 * prod(input[:-1]) * sum(prod(shape) for shape in weights if len(shape) == 2)


def backward(dy: Any, dhx: Any, tape: Any, *arguments: Any, **out: Any) -> int:
    return 2 * forward(*arguments)


def tell(counter: ModuleType) -> None:
    counter.register_flop_formula([ops.recurrent, ops.forward])(forward)
    counter.register_flop_formula(ops.backward)(backward)


def prepare() -> None:
    """Tell the counter how to count."""
    when_imported("torch.utils.flop_counter", tell)
