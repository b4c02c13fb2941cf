"""What `torch.compile` must know of rnncore's modules."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from .run import Known, Plan

__all__ = ["prepare"]

FRAMES = "torch._dynamo.eval_frame"


def tell(frames: ModuleType) -> None:
    """Let Dynamo look into subclasses of PyTorch's recurrent modules, but not at what runs where it gave up."""
    frames.config.allow_rnn = True
    for kind in (Plan, Known):
        for value in vars(kind).values():
            if hasattr(value, "__code__"):
                frames.skip_code(value.__code__)


class Waiting(MetaPathFinder):
    """Tells Dynamo when it is imported, by whoever needs it: it takes more than a second."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != FRAMES:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                tell(module)

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec


def prepare() -> None:
    """Tell Dynamo now, if it is there, or else as soon as it is."""
    if FRAMES in sys.modules:
        tell(sys.modules[FRAMES])
    else:
        sys.meta_path.insert(0, Waiting())
