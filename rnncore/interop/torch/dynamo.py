"""What `torch.compile` must know of rnncore's modules."""

import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

from . import modules
from .late import when_imported

__all__ = ["prepare"]

FRAMES, BUILDER = "torch._dynamo.eval_frame", "torch._dynamo.variables.builder"
PACKAGE = __name__.partition(".")[0]


def tell(frames: ModuleType) -> None:
    """Let Dynamo not look at what runs where it gave up."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == PACKAGE and module is not modules:
            for value in vars(module).values():
                if getattr(value, "__module__", None) == name:
                    for code in codes(value):
                        frames.skip_code(code)


def let_through(builder: ModuleType) -> None:
    """Let Dynamo look into rnncore's layers, as if its option `allow_rnn` were set, without which it refuses PyTorch's
    and their subclasses. Where another version looks at the option elsewhere, it is set for all."""
    config = builder.config
    wrap: Any = getattr(getattr(builder, "VariableBuilder", None), "wrap_module", None)
    if "allow_rnn" not in getattr(getattr(wrap, "__code__", None), "co_names", ()):
        config.allow_rnn = True
        return

    def wrap_module(self: Any, value: Any) -> Any:
        with config.patch(allow_rnn=config.allow_rnn or isinstance(value, modules._Ours)):
            return wrap(self, value)

    builder.VariableBuilder.wrap_module = wrap_module


def codes(value: Any) -> Iterator[CodeType]:
    """Yield the code of a function, of what a decorator made of one, or of a class's functions."""
    if isinstance(value, type):
        for own in vars(value).values():
            if not isinstance(own, type):
                yield from codes(own)
    for name in ("__code__", "__wrapped__", "__func__", "fget", "func"):
        own = getattr(value, name, None)
        if isinstance(own, CodeType):
            yield own
        elif hasattr(own, "__code__"):
            yield from codes(own)


def prepare() -> None:
    """Tell Dynamo, whose import takes more than a second."""
    when_imported(FRAMES, tell)
    when_imported(BUILDER, let_through)
