from collections.abc import Callable, Sequence
from typing import Any, final
from weakref import ref

import numpy as np

from .tensors import Exchange

CHECKS: tuple[str, ...]

@final
class Calls:
    def __init__(
        self,
        exchange: Exchange,
        plan_of: Callable[..., Any],
        unfit: type[Exception],
        array_of: Callable[[Any, bool], np.ndarray],
        tensor_of: Callable[[np.ndarray, bool], Any],
        watchers: tuple[Callable[[], object], ...],
        has_functions: Callable[[Sequence[Any]], bool],
        is_grad_enabled: Callable[[], bool],
        forward_ad: Any,
    ) -> None: ...
    def wants_gradient(self, input: Any, states: Sequence[Any], weights: Sequence[Any]) -> bool: ...
    def infer(self, plan: Any, input: Any, states: Sequence[Any], weights: Sequence[Any], step: bool) -> Any: ...
    def is_one_row(self, module: Any, input: Any, least: int) -> bool: ...
    def may_want_gradient(self, module: Any, input: Any, hx: Any) -> bool: ...
    def known(self, plan: Any, weights: Sequence[Any]) -> tuple[Any, Any]: ...
    def taped(self, plan: Any, input: Any, states: Sequence[Any], weights: Sequence[Any], step: bool) -> Any: ...
    def back(
        self,
        plan: Any,
        held: Any,
        layers: Sequence[Any],
        dy: Any,
        dstates: Sequence[Any],
        step: bool,
        of_x: bool,
        of_weights: tuple[bool, ...],
    ) -> Any: ...
    def layer(self, module: Any, input: Any, hx: Any) -> tuple[Any, Any]: ...
    def cell(self, module: Any, mode: str | None, input: Any, hx: Any, weights: list[Any]) -> tuple[Any, Any]: ...

def same(refs: list[ref[Any] | None], names: list[str], parameters: dict[str, Any]) -> bool: ...
