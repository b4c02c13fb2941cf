"""PyTorch: its recurrent modules run by rnncore, and models whose modules change over in place.

Importing it sets Dynamo's option `allow_rnn`, without which `torch.compile` refuses every subclass of `torch.nn.RNN`,
`LSTM` and `GRU`: it then sees rnncore's as operators, and tries PyTorch's own, too, as `torch.export` always does.
"""

from ..convert import _torch

_torch()  # without it, says what to install

from . import dynamo, flops  # noqa: E402
from .accelerate import Report, accelerate, restore  # noqa: E402
from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell  # noqa: E402

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "Report", "accelerate", "restore"]

dynamo.prepare()
flops.prepare()
