"""Training with NumPy alone: embedding, linear head, losses, clipping, optimisers, initial values.

Nothing here records what you do: a module's `forward` returns a tape, its `backward` takes it and returns gradients,
and you write the lines between. On a sequence too long for one tape, **truncated BPTT** goes chunk by chunk: the final
state of one chunk starts the next, so the network remembers; the gradient stops at the boundary, because `dstate`,
what `backward` returns for the initial state, is thrown away. `truncated_bptt` does the same over an array, and lets
gradients go back further than one chunk.

>>> import numpy as np
>>> import rnncore as rc
>>> from rnncore.train import Adam, Embedding, Linear, clip_grad_norm, softmax_cross_entropy
>>> embedding, lstm, head = Embedding(5, 8, rng=0), rc.LSTM(8, 16, rng=1), Linear(16, 5, rng=2)
>>> opt = Adam([embedding, lstm, head], lr=0.03)
>>> tokens = np.array([0, 1, 0, 2, 0, 3, 4] * 60)[:, None]  # (T, N): what follows a 0 takes memory
>>> state = None
>>> for t in range(0, 400, 10):
...     x, x_tape = embedding.forward(tokens[t : t + 10])
...     y, state, y_tape = lstm.forward(x, state)  # goes on where the last chunk ended
...     z, z_tape = head.forward(y)
...     loss, dz = softmax_cross_entropy(z, tokens[t + 1 : t + 11], reduction="mean")
...     dy, head_grads = head.backward(z_tape, dz)
...     dx, dstate, lstm_grads = lstm.backward(y_tape, dy)  # dstate goes nowhere
...     _, embedding_grads = embedding.backward(x_tape, dx)
...     grads = [embedding_grads, lstm_grads, head_grads]
...     norm = clip_grad_norm(grads, max_norm=1.0)
...     opt.step(grads)
>>> loss < 0.1
True
"""

from . import init
from .clip import clip_grad_norm, clip_grad_value
from .embedded import Embedded
from .embedding import Embedding
from .linear import Linear
from .losses import mean_squared_error, softmax_cross_entropy
from .optim import SGD, Adam, AdamW
from .truncated import truncated_bptt

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Embedded",
    "Embedding",
    "Linear",
    "clip_grad_norm",
    "clip_grad_value",
    "init",
    "mean_squared_error",
    "softmax_cross_entropy",
    "truncated_bptt",
]
