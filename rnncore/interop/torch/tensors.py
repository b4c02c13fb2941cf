"""Tensors as arrays and arrays as tensors, in the same memory, and where tensors lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._kernels.tensors import Exchange, over

__all__ = ["DTYPES", "array_of", "exchange", "is_array", "is_lazy", "laid_out", "places_of", "tensor_of"]

DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
exchange = Exchange((Tensor, torch.nn.Parameter), getattr(Tensor, "__dlpack_c_exchange_api__", None))


def is_array(tensor: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether this is a tensor of such a shape that kernels can read."""
    return (
        isinstance(tensor, Tensor)
        and tensor.shape == shape
        and tensor.dtype is dtype
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not is_lazy(tensor)
    )


def is_lazy(tensor: Tensor) -> bool:
    """Whether this tensor has no memory of its own: zeros yet to be made, or one of a batch that is differentiated."""
    if torch.compiler.is_compiling() or exchange.holds(tensor):
        return False
    lazy: bool = tensor._is_zerotensor() or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return lazy or torch._C._functorch.is_legacy_batchedtensor(tensor)


def places_of(tensors: Sequence[Tensor]) -> Any:
    """Return where tensors lie, and how, as something to compare."""
    return exchange.places(tensors) or [(t.data_ptr(), t.shape, t.stride()) for t in tensors]


def array_of(tensor: Tensor, dtype: np.dtype[Any], step: bool = False) -> np.ndarray:
    """A tensor's numbers where they lie, which PyTorch does not know of: after `Tensor.numpy` it would not let anybody
    resize the tensor. Whoever keeps the array looks whether they still lie there. A cell's `step` has an axis less than
    the array."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if (array := exchange.array(tensor, step)) is not None:
        return array
    array = over(tensor.data_ptr(), tensor.shape, tensor.stride(), dtype, tensor)
    return array[None] if step else array


def tensor_of(array: np.ndarray, step: bool = False) -> Tensor:
    """An array as a tensor, of a cell's `step` without the first axis."""
    tensor: Tensor | None = exchange.tensor(array, step)
    return torch.from_numpy(array[0] if step else array) if tensor is None else tensor


def laid_out(tensor: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """A tensor's numbers as kernels want them, aligned and C-contiguous: where they lie, or a copy."""
    array: np.ndarray = np.ascontiguousarray(array_of(tensor, dtype))
    return array if array.flags.aligned else array.copy()
