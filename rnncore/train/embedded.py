"""Embedding and recurrent layer as one: tokens look up what W_ih makes of their vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

import numpy as np
from numpy.typing import ArrayLike

from .._kernels.step import Stack
from ..checks import as_array, as_bool, as_checkpoint, as_lengths, as_threads
from ..layers import GRU, LSTM, RNN
from ..recurrent import RNG, State, _Recurrent
from ..stream import Stream
from ..tape import Tape, open_tape
from ..weights import Weights
from .embedding import Embedding

__all__ = ["Embedded"]

TABLE_BYTES = 64_000_000  # of a whole vocabulary's sums, kept for inference as long as the parameters


class _Pair:
    """The parameters of both, as they are now, and what was made of them."""

    def __init__(self, embedding: Weights, layer: Weights) -> None:
        self.embedding, self.layer = embedding, layer
        self.whole: Weights | None = None  # with the whole vocabulary's sums
        self.seen = 0  # tokens without them
        self.stack: Stack | None = None  # of streams


class Embedded(Generic[State]):
    """An embedding and the recurrent layer that reads it, fused: tokens in, sequences out.

    What W_ih makes of a token's vector is the same at every time: it is formed once for each token, and each step
    copies it instead of multiplying. Backwards, gradients are summed by token first, and multiplied once for each.

    Parameters
    ----------
    embedding : Embedding
        V vectors of length E.
    layer : RNN, LSTM or GRU
        Of input size E and the same dtype. Both remain what they are, with parameters of their own: for an optimiser,
        and for calls of their own.

    Raises
    ------
    TypeError
        If they are something else.
    ValueError
        If sizes or dtypes do not fit.

    Notes
    -----
    Math, with the equations of the layer, for tokens k_t::

        (1)  S = E W_ihᵀ               one row for each token
        (2)  W_ih x_t = S[k_t]
        (2') dS[k] = Σ d(W_ih x_t) over the t with k_t = k
        (1') dE = dS W_ih              dW_ih = dSᵀ E

    Numbers out of the forward pass are those of ``layer(embedding(tokens))``, bit for bit (with the blas engine: but
    for rounding); gradients are the same but for rounding, since sums are taken in another order.

    In inference S is kept for the whole vocabulary, until a parameter changes, if it has no more than 64 MB and as many
    tokens have been read as there are in the vocabulary; before that, and in training, each call forms it for the
    tokens it has: V*4*H elements at most for an LSTM (3 for a GRU, 1 for an RNN) in each direction, while it runs. In
    place of x, a tape keeps the tokens, and the vectors of those that occur.

    Attributes ``embedding`` and ``layer`` are the two modules; ``dtype``, ``bidirectional`` and ``reverse`` are the
    layer's. Any number of threads may call at once.

    Examples
    --------
    >>> import rnncore as rc
    >>> from rnncore.train import Embedded, Embedding
    >>> model = Embedded(Embedding(10, 3, rng=0), rc.LSTM(3, 5, rng=1))
    >>> tokens = [[1, 2], [7, 2], [1, 1]]  # (T, N)
    >>> y, (h_n, c_n), tape = model.forward(tokens)
    >>> (dh_0, dc_0), embedding_grads, lstm_grads = model.backward(tape, y)
    >>> y.shape, embedding_grads["weight"].shape
    ((3, 2, 5), (10, 3))
    >>> bool((y == model.layer(model.embedding(tokens))[0]).all())
    True
    """

    def __init__(self, embedding: Embedding, layer: _Recurrent[State]) -> None:
        if not isinstance(embedding, Embedding):
            raise TypeError(f"expected an Embedding, got {type(embedding).__name__}")
        if not isinstance(layer, RNN | LSTM | GRU):
            raise TypeError(f"expected an RNN, LSTM or GRU, got {type(layer).__name__}")
        if layer.input_size != embedding.embedding_dim:
            raise ValueError(f"expected a layer of input size {embedding.embedding_dim}, got {layer.input_size}")
        if layer.dtype != embedding.dtype:
            raise ValueError(f"expected a layer of {embedding.dtype}, got {layer.dtype}")
        self.embedding, self.layer = embedding, layer
        self._pair = _Pair(embedding._weights, layer._weights)

    @property
    def _weights(self) -> _Pair:
        """Both modules' parameters, and what was made of them: another object once one of them has changed."""
        pair, embedding, layer = self._pair, self.embedding._weights, self.layer._weights
        if pair.embedding is not embedding or pair.layer is not layer:
            self._pair = pair = _Pair(embedding, layer)
        return pair

    def __call__(
        self,
        tokens: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        return_sequence: bool = True,
        out: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray | None, State]:
        """Run over sequences of tokens and keep nothing (inference).

        Parameters
        ----------
        tokens : array_like of int (T, N), or (N, T) with the layer's `batch_first`, or (T,) unbatched
            From 0 to V - 1. With `lengths`, what lies behind a sequence's end does not matter.
        state, lengths, return_sequence, out, n_threads
            As for a call of the layer.

        Returns
        -------
        y, state
            As from a call of the layer.

        Raises
        ------
        TypeError
            If the tokens are not integers, or as a call of the layer does.
        ValueError
            If a token is negative, or V or more, or as a call of the layer does.

        Notes
        -----
        A single step, which has no token twice to speak of, is a lookup and a call of the layer; many are for `stream`.
        A call with more than 64 MB of sums is a lookup and a call, too: `x` is then stored.

        Examples
        --------
        >>> import rnncore as rc
        >>> from rnncore.train import Embedded, Embedding
        >>> y, h_n = Embedded(Embedding(10, 3), rc.GRU(3, 5))([[1, 2], [7, 2], [1, 1]])
        >>> y.shape, h_n.shape
        ((3, 2, 5), (1, 2, 5))
        """
        pair, layer, E = self._weights, self.layer, self._weights.embedding["weight"]
        threads = 0 if n_threads is None else as_threads(n_threads)
        whole = as_bool(return_sequence, "return_sequence")
        state, lengths = layer._opened(state, "{}_0", lengths)
        ids, unbatched = self._tokens(tokens, lengths)
        plain = len(ids) == 1
        weights = None if plain else self._for_inference(pair, ids)
        looked = ids
        if weights is None and not plain:
            looked, used = self.embedding._used(ids)
            plain = self._bytes(len(used)) > TABLE_BYTES
            weights = None if plain else self._over(pair, E.take(used, 0))
        if weights is None:
            x = layer._as_given(E.take(ids, 0), unbatched)
            return layer(  # type: ignore[return-value]
                x, state, lengths=lengths, return_sequence=whole, out=out, n_threads=n_threads
            )
        return layer._read(  # type: ignore[return-value]
            weights, looked[..., None], unbatched, state, lengths, whole, out, threads
        )

    def forward(
        self,
        tokens: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        checkpoint: int | None = None,
        rng: RNG = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, State, Tape]:
        """Run over sequences of tokens and keep what `backward` needs (training).

        Parameters
        ----------
        tokens
            As for a call. The tape holds a copy.
        state, lengths, checkpoint, rng, n_threads
            As for the layer's `forward`.

        Returns
        -------
        y, state, tape
            As from the layer's `forward`; the tape is for `backward` of this object, until a parameter of either module
            changes.

        Raises
        ------
        TypeError, ValueError
            As a call does.

        Examples
        --------
        With `backward`, as in the example of the class:

        >>> import rnncore as rc
        >>> from rnncore.train import Embedded, Embedding
        >>> y, h_n, tape = Embedded(Embedding(10, 3), rc.GRU(3, 5)).forward([[1, 2], [7, 2], [1, 1]])
        """
        pair = self._weights
        threads, layer = as_threads(n_threads), self.layer
        key, every = layer._key(rng), as_checkpoint(checkpoint)
        state, lengths = layer._opened(state, "{}_0", lengths)
        ids, unbatched = self._tokens(tokens, lengths)
        looked, used = self.embedding._used(ids)
        rows = pair.embedding["weight"].take(used, 0)
        y, final, kept = layer._taped(
            self._over(pair, rows), looked[..., None], unbatched, state, lengths, every, key, threads
        )
        return y, final, Tape(self, pair, (rows, used, kept))  # type: ignore[return-value]

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: tuple[Mapping[str, np.ndarray] | None, Mapping[str, np.ndarray] | None] | None = None,
        flow: bool = False,
        check_finite: bool = False,
        n_threads: int | None = None,
    ) -> Any:
        """Propagate gradients back through time, from those of `y` and of the final state.

        Parameters
        ----------
        tape : Tape
            From `forward`; may be used again.
        dy, dstate, flow, check_finite, n_threads
            As for the layer's `backward`.
        accumulate : (embedding_grads, layer_grads), optional
            Arrays which the gradients of the two modules' parameters are added to: dicts keyed and shaped like
            `parameters()`, of the modules' dtype and C-contiguous; or None for one of them.

        Returns
        -------
        dstate
            Gradient with respect to the initial state.
        embedding_grads, layer_grads : dict of str to numpy.ndarray
            Gradients of the two modules' parameters: new arrays, or those of `accumulate`. Rows of tokens that did not
            occur are zero, or stay what they were.
        flow
            With `flow=True`: as from the layer's `backward`.

        Raises
        ------
        TypeError, ValueError
            As the layer's `backward` does; TypeError if `accumulate` is no pair. The name of the embedding's gradient
            is "embedding.weight" where `check_finite` says which are not finite.

        Notes
        -----
        Everything is checked before any array of `accumulate` changes.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> from rnncore.train import Embedded, Embedding
        >>> model = Embedded(Embedding(3, 2), rc.RNN(2, 4))
        >>> y, h_n, tape = model.forward([2, 0, 2])
        >>> dh_0, embedding_grads, rnn_grads = model.backward(tape, np.ones_like(y))
        >>> embedding_grads["weight"][1].tolist()
        [0.0, 0.0]
        """
        rows, used, kept = open_tape(tape, self)
        if accumulate is not None and (not isinstance(accumulate, tuple | list) or len(accumulate) != 2):
            got = f"{len(accumulate)} of them" if isinstance(accumulate, tuple | list) else type(accumulate).__name__
            raise TypeError(f"expected accumulate as (embedding_grads, layer_grads), got {got}")
        of_embedding, of_layer = (None, None) if accumulate is None else accumulate
        flows, finite = as_bool(flow, "flow"), as_bool(check_finite, "check_finite")
        layer, weights = self.layer, self._over(tape._weights, rows)
        packs = layer._packs(weights)[: len(layer._directions)]
        suffixes = layer._suffixes[: len(packs)]
        tables = {"table" + s: layer._cell.dtable(pack) for s, pack in zip(suffixes, packs, strict=True)}
        embedding_grads = self.embedding._grads(tape._weights.embedding, of_embedding)
        _, dstates, grads, *norms = layer._back(
            weights, kept, dy, dstate, of_layer, flows or finite, False, as_threads(n_threads), tables
        )
        fresh = of_layer is None and len(used) > 0
        for s, pack in zip(suffixes, packs, strict=True):
            dE = layer._cell.rows_backward(pack, grads.pop("table" + s), grads["weight_ih" + s], fresh)
            embedding_grads["weight"][used] += dE
        if finite:
            states, of_states = (value if isinstance(value, tuple) else (value,) for value in (dstates, norms[0]))
            layer._check_finite({"embedding.weight": embedding_grads["weight"]}, states, grads, of_states)
        return (dstates, embedding_grads, grads, *(norms if flows else ()))

    def stream(self, batch_size: int = 1) -> Stream[State]:
        """Return a stream over tokens: `batch_size` sequences that move on step by step, with a state of their own.

        Parameters
        ----------
        batch_size : int
            N, the sequences.

        Returns
        -------
        Stream
            Its ``step(tokens)`` takes integers (N,), or one where N is 1, and returns (N, H), or (H,).

        Raises
        ------
        TypeError
            If `batch_size` is no integer.
        ValueError
            If the layer is bidirectional or reversed, or `batch_size` is below 1.

        Notes
        -----
        A step multiplies with W_hh alone: what W_ih makes of the whole vocabulary, V*4*H elements for an LSTM (3 for a
        GRU, 1 for an RNN), is formed when the stream is made, and once more whenever a parameter has changed. All
        streams and calls share it.

        Examples
        --------
        >>> import rnncore as rc
        >>> from rnncore.train import Embedded, Embedding
        >>> model = Embedded(Embedding(10, 3, rng=0), rc.LSTM(3, 5, rng=1))
        >>> stream = model.stream()
        >>> y = [stream.step(token) for token in (1, 7, 1)]
        >>> bool((y[2] == model([1, 7, 1])[0][2]).all())
        True
        """
        return Stream(self, batch_size)

    # --- the door -----------------------------------------------------------------------------------------------------

    def _tokens(self, tokens: ArrayLike, lengths: Any) -> tuple[np.ndarray, bool]:
        """Return tokens (T, N), a copy, all in range, and whether they came without a batch dimension."""
        given = as_array(tokens, "tokens", "integers")
        if given.dtype.kind not in "iu":
            raise TypeError(f"expected tokens to be integers, got dtype {given.dtype}")
        if given.ndim not in (1, 2):
            batched = "(N, T)" if self.layer.batch_first else "(T, N)"
            raise ValueError(f"expected tokens of shape {batched} or (T,), got {given.shape}")
        unbatched = given.ndim == 1
        ids = given[:, None] if unbatched else given.T if self.layer.batch_first else given
        if lengths is not None:
            T, N = ids.shape
            ids = np.where(np.arange(T)[:, None] < as_lengths(lengths, N, unbatched), ids, 0)
        return self.embedding._tokens(np.ascontiguousarray(ids)), unbatched

    # --- what W_ih makes of tokens ------------------------------------------------------------------------------------

    def _bytes(self, rows: int) -> int:
        layer = self.layer
        return rows * layer._gates * layer.hidden_size * len(layer._directions) * layer.dtype.itemsize

    def _over(self, pair: _Pair, rows: np.ndarray) -> Weights:
        """Return the layer's parameters for tokens that are numbers of these rows."""
        packs, D = self.layer._packs(pair.layer), len(self.layer._directions)
        return pair.layer.with_packed((*[pack.over(rows) for pack in packs[:D]], *packs[D:]))

    def _for_inference(self, pair: _Pair, ids: np.ndarray) -> Weights | None:
        """Return them for the whole vocabulary, if that pays by now."""
        V = self.embedding.num_embeddings
        if self._bytes(V) > TABLE_BYTES:
            return None
        if pair.whole is None:
            pair.seen += ids.size
            if pair.seen < V:
                return None
        return self._whole(pair)

    def _whole(self, pair: _Pair) -> Weights:
        """Return them for the whole vocabulary; made once."""
        if pair.whole is None:
            pair.whole = self._over(pair, pair.embedding["weight"])
        return pair.whole

    # --- what a stream asks of a layer --------------------------------------------------------------------------------

    _stacked = True

    @property
    def _state_names(self) -> tuple[str, ...]:
        return self.layer._state_names

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of both modules' parameters, and of results."""
        return self.layer.dtype

    @property
    def bidirectional(self) -> bool:
        """Whether the layer runs in both directions."""
        return self.layer.bidirectional

    @property
    def reverse(self) -> bool:
        """Whether the layer runs backwards in time."""
        return self.layer.reverse

    def _state_shapes(self, N: int) -> list[tuple[int, ...]]:
        return self.layer._state_shapes(N)

    def _stack(self, pair: _Pair) -> Stack:
        pair.stack = stack = Stack(self.layer._cell, self.layer._packs(self._whole(pair)), self.dtype)
        return stack

    def __getstate__(self) -> dict[str, Any]:
        return {"embedding": self.embedding, "layer": self.layer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Embedded({self.embedding!r}, {self.layer!r})"
