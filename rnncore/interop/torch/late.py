"""Modules of PyTorch that must be told of rnncore's, but take long to import: they are told when somebody else does."""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["when_imported"]


class Waiting(MetaPathFinder):
    """Calls `tell` with the module of this name when it has been imported."""

    def __init__(self, name: str, tell: Callable[[ModuleType], None]) -> None:
        self.name, self.tell, self.asking = name, tell, False

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name or self.asking:
            return None
        self.asking = True
        try:
            spec = find_spec(name)  # of the others
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                execute(module)
                self.tell(module)

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec


def when_imported(name: str, tell: Callable[[ModuleType], None]) -> None:
    """Call `tell` with a module now, if it is there, or else as soon as it is."""
    if name in sys.modules:
        tell(sys.modules[name])
    else:
        sys.meta_path.insert(0, Waiting(name, tell))
