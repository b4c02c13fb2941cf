"""The recurrent layers but `JordanRNN`: what each has of its own. What they share is in `recurrent`."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ._kernels import gru as _gru
from ._kernels import lstm as _lstm
from ._kernels import rnn as _rnn
from ._kernels.cell import Cell
from .checks import as_bool, as_int, positive_int
from .recurrent import RNG, _Recurrent
from .weights import once

__all__ = ["GRU", "LSTM", "RNN", "as_nonlinearity"]


class RNN(_Recurrent[np.ndarray]):
    """Vanilla (Elman) RNN over sequences, as `torch.nn.RNN`, with the sigmoid besides.

    Parameters
    ----------
    input_size : int
        I, the features of each x_t.
    hidden_size : int
        H, the hidden units.
    num_layers : int
        L: each layer above the first reads the sequence of the one below.
    nonlinearity : {"tanh", "relu", "sigmoid"}
        f below.
    bias : bool
        Whether b_ih and b_hh exist.
    batch_first : bool
        Whether sequences are (N, T, ·) instead of (T, N, ·). States are not affected.
    dropout : float
        Probability with which an output of each layer but the last is dropped in training (`forward`), 0 to 1.
    bidirectional : bool
        Whether a second direction runs from the last step to the first; D is 2 then, else 1.
    reverse : bool
        Whether the one direction runs from the last step to the first.
    dtype : {"float32", "float64"}
        Of parameters and results.
    rng : numpy.random.Generator, int or None
        Draws the initial parameters, uniform in ±1/sqrt(H).

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be.

    Notes
    -----
    Math, for one layer and direction::

        (1)  a_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
        (2)  h_t = f(a_t)

    Parameters are named ``weight_ih_l{k}`` (H, I or D*H), ``weight_hh_l{k}`` (H, H), ``bias_ih_l{k}``,
    ``bias_hh_l{k}`` (H,), with the suffix ``_reverse`` for the second direction. The state is ``h`` (L*D, N, H).

    References
    ----------
    J. L. Elman, Finding structure in time, Cognitive Science 14 (1990), doi:10.1207/s15516709cog1402_1

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> rnn = rc.RNN(3, 5, nonlinearity="relu", rng=0)
    >>> y, h_n = rnn(np.ones((7, 2, 3)))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    """

    _gates = 1
    _state_names = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reverse: bool = False,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        self.nonlinearity = as_nonlinearity(nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, rng
        )

    @property
    def _cell(self) -> Cell:
        return _rnn.cells[self.nonlinearity]

    def _repr_words(self) -> list[str]:
        return [] if self.nonlinearity == "tanh" else [f"nonlinearity={self.nonlinearity!r}"]


def as_nonlinearity(name: object) -> str:
    """Return `name` if an RNN has a kernel for it."""
    if not isinstance(name, str) or name not in _rnn.cells:
        raise ValueError(f"expected nonlinearity to be one of {', '.join(_rnn.cells)}, got {name!r}")
    return name


class LSTM(_Recurrent[tuple[np.ndarray, np.ndarray]]):
    """Long short-term memory over sequences, as `torch.nn.LSTM`.

    Parameters
    ----------
    input_size : int
        I, the features of each x_t.
    hidden_size : int
        H, the hidden units.
    num_layers : int
        L: each layer above the first reads the sequence of the one below.
    bias : bool
        Whether b_ih and b_hh exist.
    batch_first : bool
        Whether sequences are (N, T, ·) instead of (T, N, ·). States are not affected.
    dropout : float
        Probability with which an output of each layer but the last is dropped in training (`forward`), 0 to 1.
    bidirectional : bool
        Whether a second direction runs from the last step to the first; D is 2 then, else 1.
    proj_size : int
        P below, less than H; 0 for no projection.
    peephole : bool
        Whether the gates see c (the p below).
    reverse : bool
        Whether the one direction runs from the last step to the first.
    dtype : {"float32", "float64"}
        Of parameters and results.
    rng : numpy.random.Generator, int or None
        Draws the initial parameters, uniform in ±1/sqrt(H).

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be.

    Notes
    -----
    Math, for one layer and direction (σ the logistic sigmoid, * elementwise)::

        (1)  z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh        rows in the order i f g o
        (2)  i_t = σ(z_i + p_i * c_{t-1})       (3)  f_t = σ(z_f + p_f * c_{t-1})
        (4)  g_t = tanh(z_g)                    (5)  o_t = σ(z_o + p_o * c_t)
        (6)  c_t = f_t * c_{t-1} + i_t * g_t
        (7)  m_t = o_t * tanh(c_t)
        (8)  h_t = W_hr m_t, or m_t without projection

    Parameters are named ``weight_ih_l{k}`` (4*H, I or D*H), ``weight_hh_l{k}`` (4*H, H), ``bias_ih_l{k}``,
    ``bias_hh_l{k}`` (4*H,), with the suffix ``_reverse`` for the second direction. The state is ``(h, c)``, each
    (L*D, N, H). With projections there is ``weight_hr_l{k}`` (P, H), ``weight_hh_l{k}`` is (4*H, P), a layer above the
    first reads D*P, and ``h`` is (L*D, N, P). With peepholes there is ``weight_peephole_l{k}`` (3*H,): p_i, p_f, p_o.

    References
    ----------
    S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997), doi:10.1162/neco.1997.9.8.1735;
    with the forget gate of F. A. Gers, J. Schmidhuber, F. Cummins, Learning to forget, Neural Computation 12 (2000),
    doi:10.1162/089976600300015015; peepholes: F. A. Gers, N. N. Schraudolph, J. Schmidhuber, Learning precise timing
    with LSTM recurrent networks, Journal of Machine Learning Research 3 (2002); projections: H. Sak, A. Senior, F.
    Beaufays, Long short-term memory recurrent neural network architectures for large scale acoustic modeling,
    Interspeech 2014, doi:10.21437/Interspeech.2014-80

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> lstm = rc.LSTM(3, 5, rng=0)
    >>> y, (h_n, c_n), tape = lstm.forward(np.ones((7, 2, 3)))
    >>> dx, (dh_0, dc_0), grads = lstm.backward(tape, dy=np.ones_like(y))
    >>> y.shape, dx.shape, grads["weight_hh_l0"].shape
    ((7, 2, 5), (7, 2, 3), (20, 5))
    """

    _gates = 4
    _state_names = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: bool = False,
        reverse: bool = False,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        P, H = as_int(proj_size, "proj_size"), positive_int(hidden_size, "hidden_size")
        if not 0 <= P < H:
            raise ValueError(f"expected proj_size from 0 to hidden_size - 1 = {H - 1}, got {P}")
        self.proj_size = P
        self.peephole = as_bool(peephole, "peephole")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, rng,
            P, self.peephole,
        )  # fmt: skip

    @property
    def _cell(self) -> Cell:
        return _lstm.cell

    @once
    def _widths(self) -> tuple[int, ...]:
        return self.proj_size or self.hidden_size, self.hidden_size

    def _repr_words(self) -> list[str]:
        words = [f"proj_size={self.proj_size}"] if self.proj_size else []
        return words + ["peephole=True"] * self.peephole


class GRU(_Recurrent[np.ndarray]):
    """Gated recurrent unit over sequences, as `torch.nn.GRU`; the original's convention besides.

    Parameters
    ----------
    input_size : int
        I, the features of each x_t.
    hidden_size : int
        H, the hidden units.
    num_layers : int
        L: each layer above the first reads the sequence of the one below.
    bias : bool
        Whether b_ih and b_hh exist.
    batch_first : bool
        Whether sequences are (N, T, ·) instead of (T, N, ·). States are not affected.
    dropout : float
        Probability with which an output of each layer but the last is dropped in training (`forward`), 0 to 1.
    bidirectional : bool
        Whether a second direction runs from the last step to the first; D is 2 then, else 1.
    reverse : bool
        Whether the one direction runs from the last step to the first.
    reset_after : bool
        Whether r_t is applied after the product with W_hn, as torch, cuDNN and Keras do; or before it, as in the
        original (ONNX: ``linear_before_reset=0``).
    dtype : {"float32", "float64"}
        Of parameters and results.
    rng : numpy.random.Generator, int or None
        Draws the initial parameters, uniform in ±1/sqrt(H).

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be.

    Notes
    -----
    Math, for one layer and direction (σ the logistic sigmoid, * elementwise)::

        (1)  a_t = W_ih x_t + b_ih          (2)  s_t = W_hh h_{t-1} + b_hh      rows in the order r z n
        (3)  r_t = σ(a_r + s_r)             (4)  z_t = σ(a_z + s_z)
        (5)  n_t = tanh(a_n + r_t * s_n)
        (6)  h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    Without `reset_after`, s_n = W_hn (r_t * h_{t-1}) + b_hn and n_t = tanh(a_n + s_n).

    Parameters are named ``weight_ih_l{k}`` (3*H, I or D*H), ``weight_hh_l{k}`` (3*H, H), ``bias_ih_l{k}``,
    ``bias_hh_l{k}`` (3*H,), with the suffix ``_reverse`` for the second direction. The state is ``h`` (L*D, N, H).

    References
    ----------
    K. Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine translation, EMNLP
    2014, doi:10.3115/v1/D14-1179

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> gru = rc.GRU(3, 5, rng=0)
    >>> y, h_n = gru(np.ones((7, 2, 3)), lengths=[7, 4])
    >>> y.shape, h_n.shape, float(np.abs(y[4:, 1]).max())
    ((7, 2, 5), (1, 2, 5), 0.0)
    """

    _gates = 3
    _state_names = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        reverse: bool = False,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        self.reset_after = as_bool(reset_after, "reset_after")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, rng
        )

    @property
    def _cell(self) -> Cell:
        return _gru.cells[self.reset_after]

    def _repr_words(self) -> list[str]:
        return [] if self.reset_after else ["reset_after=False"]
