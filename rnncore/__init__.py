"""Recurrent networks on CPUs: fused forward and BPTT kernels behind the interface of `torch.nn`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cells import GRUCell, LSTMCell, RNNCell
from .jordan import JordanRNN
from .layers import GRU, LSTM, RNN
from .runtime import get_num_threads, info, set_num_threads
from .stream import Stream
from .tape import Tape

if TYPE_CHECKING:
    from . import decode, plot, train
    from .interop.convert import from_torch
    from .interop.files import load, save
    from .model import SequenceModel

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "JordanRNN",
    "LSTMCell",
    "RNNCell",
    "SequenceModel",
    "Stream",
    "Tape",
    "__version__",
    "decode",
    "from_torch",
    "get_num_threads",
    "info",
    "load",
    "plot",
    "save",
    "set_num_threads",
    "train",
]

_LATER = {
    "SequenceModel": ".model",
    "from_torch": ".interop.convert",
    "load": ".interop.files",
    "save": ".interop.files",
}


def __getattr__(name: str) -> Any:
    """Import decoding, the training kit, the model on top, pictures, and the ways to torch and to files when they are
    first asked for: serving a layer needs none of them."""
    if name in ("decode", "plot", "train"):
        return import_module(f".{name}", __name__)
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
