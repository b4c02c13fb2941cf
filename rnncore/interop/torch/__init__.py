"""PyTorch: its recurrent modules run by rnncore, and models whose modules change over in place.

Importing it lets `torch.compile` look into rnncore's layers, which it then sees as operators: otherwise it refuses
subclasses of PyTorch's, as it does these themselves.
"""

from ..convert import _torch

_torch()  # without it, says what to install

from . import dynamo, flops  # noqa: E402
from .accelerate import Report, accelerate, restore  # noqa: E402
from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell  # noqa: E402

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "Report", "accelerate", "restore"]

dynamo.prepare()
flops.prepare()
