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
    from . import train

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "JordanRNN",
    "LSTMCell",
    "RNNCell",
    "Stream",
    "Tape",
    "__version__",
    "get_num_threads",
    "info",
    "set_num_threads",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the training kit when it is first asked for: serving a model needs none of it."""
    if name == "train":
        return import_module(".train", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
