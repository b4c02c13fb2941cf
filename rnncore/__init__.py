"""Recurrent networks on CPUs: fused forward and BPTT kernels behind the interface of `torch.nn`."""

from . import train
from .cells import LSTMCell, RNNCell
from .layers import LSTM, RNN
from .runtime import get_num_threads, info, set_num_threads
from .stream import Stream
from .tape import Tape

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "RNN",
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
