"""A model of sequences, ready to fit: embedding (of tokens), recurrent layer, linear head."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._kernels.matmul import matmul
from .checks import as_array, as_bool, as_integers, as_real, as_scalar, as_threads, check_shape, positive_int
from .layers import GRU, LSTM, RNN
from .recurrent import RNG
from .tape import open_tape
from .train import AdamW, Embedded, Embedding, Linear, clip_grad_norm, mean_squared_error, softmax_cross_entropy
from .weights import once

__all__ = ["History", "SequenceModel"]

CELLS: dict[str, Any] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
LOSSES: dict[str, Any] = {"softmax": softmax_cross_entropy, "squared": mean_squared_error}
STEPS = 32768  # padded steps of a batch of inference, unless one sequence has more: what bounds its memory


class History(NamedTuple):
    """What `SequenceModel.fit` did. A loss is the mean over all targets; of numbers, over all their elements."""

    loss: list[float]  # of each epoch: the mean over its steps, each before it changed the weights
    validation_loss: list[float]  # after each epoch; empty without validation data
    interrupted: bool  # whether Ctrl-C ended it


class SequenceModel:
    """Classes or numbers for sequences, or for each of their steps: embedding (of tokens), recurrent layer, head.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}
    inputs : int, optional
        I, the numbers of a step.
    vocabulary : int, optional
        V, the number of tokens, 0 to V - 1, for sequences of integers: one of `inputs` and `vocabulary`.
    outputs : int
        K, the classes, or the numbers to predict.
    hidden, layers : int
        H, units per layer and direction, and L, recurrent layers.
    bidirectional : bool
        Whether sequences are read in both directions.
    embedding : int
        Size of the vector that stands for a token; without `vocabulary` there is none.
    dropout : float
        Probability with which an output of each recurrent layer but the last is dropped in training.
    per_step : bool
        Whether there is an output for each step, instead of one for the sequence, from the final state.
    loss : {"softmax", "squared"}
        Cross-entropy of classes, or squared error of numbers.
    dtype : {"float32", "float64"}
    rng : numpy.random.Generator, int or None
        Initialises the weights.

    Raises
    ------
    TypeError
        If a size is not an integer, or a flag no bool.
    ValueError
        If a size is below 1, there is no such cell, loss or dtype, or both or none of `inputs` and `vocabulary` are
        given.

    Notes
    -----
    Wherever sequences are taken, X is a list of arrays of any lengths, each (T_i, I) of numbers or, with `vocabulary`,
    (T_i,) of integers; or one array (N, T, I) or (N, T) of sequences of the same length. A sequence of length 0 is
    allowed: what is said of it is what the head makes of a final state of zeros. y is (N,) of classes, 0 to K - 1, or
    (N, K) of numbers; with `per_step` a list of such arrays, with T_i in place of N, or one array of them. With K = 1
    the last axis of numbers may be missing.

    ``modules`` is a dict of the model's parts: ``"embedding"`` (with `vocabulary`), ``"recurrent"`` and ``"head"``.

    Batches are ragged: the recurrent layer's work is that of the steps there are. A bidirectional model's final state
    is that of both directions, the second one's after the sequence's first step.

    Examples
    --------
    Is the sum of one to eight numbers positive?

    >>> import numpy as np, rnncore as rc
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((T, 1)) for T in rng.integers(1, 9, 400)]
    >>> y = [int(x.sum() > 0) for x in X]
    >>> model = rc.SequenceModel("gru", inputs=1, outputs=2, hidden=16, rng=0)
    >>> history = model.fit(X[:300], y[:300], epochs=30, lr=0.01, rng=1)
    >>> float(np.mean(model.predict(X[300:]) == y[300:])) > 0.9
    True
    """

    def __init__(
        self,
        cell: str = "lstm",
        *,
        inputs: int | None = None,
        vocabulary: int | None = None,
        outputs: int,
        hidden: int = 64,
        layers: int = 1,
        bidirectional: bool = False,
        embedding: int = 32,
        dropout: float = 0.0,
        per_step: bool = False,
        loss: str = "softmax",
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        if not isinstance(cell, str) or cell not in CELLS:
            raise ValueError(f"expected cell {' or '.join(map(repr, CELLS))}, got {cell!r}")
        if not isinstance(loss, str) or loss not in LOSSES:
            raise ValueError(f"expected loss {' or '.join(map(repr, LOSSES))}, got {loss!r}")
        if (inputs is None) == (vocabulary is None):
            raise ValueError(f"expected either inputs or vocabulary, got {'neither' if inputs is None else 'both'}")
        self.per_step = as_bool(per_step, "per_step")
        self.loss = loss
        self.modules: dict[str, Any] = {}
        rng = np.random.default_rng(rng)
        if vocabulary is not None:
            V, inputs = positive_int(vocabulary, "vocabulary"), positive_int(embedding, "embedding")
            self.modules["embedding"] = Embedding(V, inputs, dtype=dtype, rng=rng)
        I, H, L = positive_int(inputs, "inputs"), positive_int(hidden, "hidden"), positive_int(layers, "layers")
        self.modules["recurrent"] = CELLS[cell](
            I, H, L, dropout=dropout, bidirectional=bidirectional, dtype=dtype, rng=rng
        )
        width = 2 * H if bidirectional else H
        self.modules["head"] = Linear(width, positive_int(outputs, "outputs"), dtype=dtype, rng=rng)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters of all modules.

        Returns
        -------
        dict of str to numpy.ndarray
            Read-only arrays, by names such as ``"recurrent.weight_ih_l0"``. They stay what they are when the model
            learns.

        Examples
        --------
        >>> import rnncore as rc
        >>> list(rc.SequenceModel(inputs=3, outputs=2).parameters())[-2:]
        ['head.weight', 'head.bias']
        """
        return {f"{of}.{name}": array for of, m in self.modules.items() for name, array in m.parameters().items()}

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int = 20,
        batch_size: int = 32,
        lr: float = 0.005,
        max_norm: float = 1.0,
        weight_decay: float = 0.0,
        validation: tuple[Any, Any] | None = None,
        patience: int | None = None,
        progress: bool = False,
        rng: np.random.Generator | int | None = None,
        n_threads: int | None = None,
    ) -> History:
        """Learn from sequences, by AdamW. Called again, it goes on from the weights there are, with moments anew.

        Parameters
        ----------
        X, y
            Sequences and what to say of them, as the notes of the class have it.
        epochs : int
            How often to go through all of them, each time in another order.
        batch_size : int
            Sequences of a step.
        lr : float
            Learning rate.
        max_norm : float
            To which the norm of a step's gradient is clipped; infinity leaves it as it is.
        weight_decay : float
            Of AdamW.
        validation : (X, y), optional
            Sequences whose loss is taken after each epoch.
        patience : int, optional
            End when the validation loss has not fallen below its least for so many epochs. Whether that happens or
            not, the model then has the weights of the epoch where it was least.
        progress : bool
            Whether to show a bar, by tqdm, on stderr.
        rng : numpy.random.Generator, int or None
            Draws orders and dropout masks: the same weights, data and seed give the same weights again.
        n_threads : int, optional
            Of the layer, as there; head and optimiser have as many as `rnncore.set_num_threads` allows.

        Returns
        -------
        History
            Its ``interrupted`` is True if Ctrl-C (KeyboardInterrupt) ended training. The model is then as the last
            whole step left it, with `patience`, too.

        Raises
        ------
        ImportError
            If there is no tqdm: ``pip install "rnncore[cli]"``.
        TypeError
            If a number is not one, or X or y hold something else than they should.
        ValueError
            If there is no sequence, a shape does not fit, a token, a class or a setting is out of range, or there is
            `patience` without `validation`: nothing has been learned then. If a gradient or a validation loss is not
            finite: the model is as the last whole step left it, with `patience`, too.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> model = rc.SequenceModel("rnn", vocabulary=4, outputs=2, hidden=8, rng=0)
        >>> X, y = [[1, 2], [3, 0, 0], [2]], [0, 1, 0]
        >>> history = model.fit(X, y, epochs=60, lr=0.02, validation=(X, y), rng=0)
        >>> len(history.loss), history.validation_loss[-1] < 0.1, model.predict(X).tolist()
        (60, True, [0, 1, 0])
        """
        epochs, batch_size = positive_int(epochs, "epochs"), positive_int(batch_size, "batch_size")
        max_norm, n_threads = as_scalar(max_norm, "max_norm", low=0), as_threads(n_threads) or None
        modules = list(self.modules.values())
        adam, rng = AdamW(modules, lr, weight_decay=weight_decay), np.random.default_rng(rng)
        patience = None if patience is None else positive_int(patience, "patience")
        X, y = self._opened(X, y)
        if validation is not None:
            if not isinstance(validation, tuple | list) or len(validation) != 2:
                raise TypeError(f"expected validation as a pair (X, y), got {type(validation).__name__}")
            validation = self._opened(*validation)
        sequences, targets = self._data(X, y)
        held = None if validation is None else self._data(*validation)
        if patience is not None and held is None:
            raise ValueError("expected validation data with patience, got none")
        starts = range(0, len(sequences), batch_size)
        losses: list[float] = []
        validation_losses: list[float] = []
        least, kept, since, interrupted = math.inf, [m.parameters() for m in modules], 0, False
        with _bar(epochs * len(starts)) if as_bool(progress, "progress") else nullcontext() as bar:
            try:
                for _ in range(epochs):
                    order, total, count = rng.permutation(len(sequences)), 0.0, 0
                    for start in starts:
                        batch = order[start : start + batch_size]
                        wanted = np.concatenate([targets[i] for i in batch])
                        loss, grads = self._gradients([sequences[i] for i in batch], wanted, rng, n_threads)
                        clip_grad_norm(grads, max_norm, error_if_nonfinite=True)
                        adam.step(grads)
                        total, count = total + loss * len(wanted), count + len(wanted)
                        if bar is not None:
                            bar.set_postfix(loss=f"{total / max(count, 1):.4f}", refresh=False)
                            bar.update()
                    losses.append(total / max(count, 1))
                    if held is not None:
                        validation_losses.append(self._mean_loss(*held, n_threads))
                        if not math.isfinite(validation_losses[-1]):
                            got = f"{validation_losses[-1]} after epoch {len(losses)}"
                            raise ValueError(f"expected a finite validation loss, got {got}")
                        if validation_losses[-1] < least:
                            least, kept, since = validation_losses[-1], [m.parameters() for m in modules], 0
                        else:
                            since += 1
                        if since == patience:
                            break
            except KeyboardInterrupt:  # a step is done whole or not at all
                interrupted = True
        if patience is not None and not interrupted:
            for module, arrays in zip(modules, kept, strict=True):
                module.load_state_dict(arrays)
        return History(losses, validation_losses, interrupted)

    def predict(self, X: Any, *, n_threads: int | None = None) -> Any:
        """Return the likeliest classes, or numbers.

        Parameters
        ----------
        X
            Sequences, as the notes of the class have it.
        n_threads : int, optional
            Of the layer, as there; the head has as many as `rnncore.set_num_threads` allows.

        Returns
        -------
        numpy.ndarray (N,) of int64 or (N, K) of the model's dtype; with `per_step` a list of N, (T_i,) or (T_i, K)
            Classes, with the softmax loss, or numbers, with the squared one.

        Raises
        ------
        TypeError
            If X holds something else than it should.
        ValueError
            If a shape does not fit, or a token is out of range.

        Notes
        -----
        Sequences are read a few at a time: memory beyond X and the results does not grow with their number. The head's
        products are taken in float64.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> model = rc.SequenceModel(inputs=3, outputs=5, per_step=True, rng=0)
        >>> [classes.shape for classes in model.predict([np.ones((4, 3)), np.ones((2, 3))])]
        [(4,), (2,)]
        """
        if self.loss == "softmax":
            return self._mapped(X, lambda o: o.argmax(axis=1), n_threads)
        return self._mapped(X, lambda o: o.astype(self._dtype), n_threads)

    def predict_proba(self, X: Any, *, n_threads: int | None = None) -> Any:
        """Return the probability of each class.

        Parameters
        ----------
        X
            Sequences, as the notes of the class have it.
        n_threads : int, optional
            Of the layer, as there; the head has as many as `rnncore.set_num_threads` allows.

        Returns
        -------
        numpy.ndarray (N, K), with `per_step` a list of N arrays (T_i, K)
            Of the model's dtype. Rows sum to 1.

        Raises
        ------
        TypeError
            If X holds something else than it should.
        ValueError
            If the loss is not softmax, a shape does not fit, or a token is out of range.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> model = rc.SequenceModel(inputs=3, outputs=5, rng=0)
        >>> p = model.predict_proba(np.ones((2, 7, 3)))
        >>> p.shape, p.sum(axis=1).round(5).tolist()
        ((2, 5), [1.0, 1.0])
        """
        if self.loss != "softmax":
            raise ValueError(f"expected a model with the loss 'softmax', for probabilities, got {self.loss!r}")
        return self._mapped(X, lambda o: _softmax(o).astype(self._dtype), n_threads)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file, of the kind that `rnncore.save` writes: no pickle.

        Parameters
        ----------
        path : path-like
            Its end names the format: ``.safetensors`` (``pip install "rnncore[safetensors]"``) or ``.npz``.

        Raises
        ------
        ImportError
            If there is no safetensors, and `path` asks for it.
        OSError
            If the file cannot be written; it is then as it was, or not there if it was not.
        ValueError
            If `path` ends otherwise.

        Notes
        -----
        `rnncore.load` finds the modules in it under ``"embedding."``, ``"recurrent."`` and ``"head."``.

        Examples
        --------
        >>> import os, tempfile, rnncore as rc
        >>> model = rc.SequenceModel("gru", inputs=3, outputs=2, hidden=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(os.path.join(folder, "model.npz"))
        ...     rc.load(os.path.join(folder, "model.npz"), prefix="recurrent.")
        GRU(3, 8)
        """
        from .interop.files import write_modules

        modules = {f"{name}.": module for name, module in self.modules.items()}
        write_modules(path, modules, model={"per_step": self.per_step, "loss": self.loss})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SequenceModel:
        """Return the model that `save` wrote.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        SequenceModel

        Raises
        ------
        ImportError
            If there is no safetensors, and `path` asks for it.
        OSError
            If the file cannot be read.
        ValueError
            If it is not such a file, not all of it, or holds what does not belong together. No code of a file runs, and
            memory stays within a small multiple of its size, as with `rnncore.load`.

        Examples
        --------
        >>> import os, tempfile, rnncore as rc
        >>> model = rc.SequenceModel("gru", inputs=3, outputs=2, hidden=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(os.path.join(folder, "model.npz"))
        ...     rc.SequenceModel.load(os.path.join(folder, "model.npz"))
        SequenceModel(GRU(3, 8), Linear(8, 2, bias=True, dtype='float32'), per_step=False, loss='softmax')
        """
        from .interop.files import read_modules

        path = os.fspath(path)
        try:
            found, noted = read_modules(path, ("embedding.", "recurrent.", "head."))
        except TypeError as error:  # of what the file holds
            raise ValueError(str(error)) from error
        model = object.__new__(cls)
        model.modules = {prefix[:-1]: module for prefix, module in found.items()}
        match noted.get("model"):
            case {"per_step": bool(per_step), "loss": str(loss)} if loss in LOSSES:
                model.per_step, model.loss = per_step, loss
            case other:
                raise ValueError(f"{path}: expected what SequenceModel.save notes of a model, got {other!r:.200}")
        if not _belong_together(**model.modules):
            got = ", ".join(map(repr, model.modules.values())) or "none"
            raise ValueError(f"{path}: expected an embedding or none, a layer and a head that fit, got {got}")
        return model

    def __repr__(self) -> str:
        modules = ", ".join(map(repr, self.modules.values()))
        return f"{type(self).__name__}({modules}, per_step={self.per_step}, loss={self.loss!r})"

    # --- the door -----------------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> np.dtype[Any]:
        return self.modules["recurrent"].dtype  # type: ignore[no-any-return]

    def _opened(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Return sequences and targets with what `as_array` makes of them, or of each."""
        items, numbers = self._items(X), "integers" if "embedding" in self.modules else "real numbers"
        if not isinstance(items, np.ndarray) or items.dtype == object:
            items = [as_array(x, f"X[{i}]", numbers) for i, x in enumerate(items)]
        numbers = "integers" if self.loss == "softmax" else "real numbers"
        if self.per_step and not (type(y) is np.ndarray and y.ndim):
            try:
                given = enumerate(y)
            except TypeError as error:
                got = type(y).__name__
                raise TypeError(f"expected y as a list of arrays, or one array of them, got {got}") from error
            return items, [as_array(rows, f"y[{i}]", numbers) for i, rows in given]
        return items, as_array(y, "y", numbers)

    def _data(self, X: Any, y: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the sequences, and the rows of targets that each has: one for each step, or one; of what `_opened`
        returns."""
        sequences = [self._sequence(x, f"X[{i}]") for i, x in enumerate(self._items(X))]
        if not sequences:
            raise ValueError("expected at least one sequence, got none")
        if self.per_step:
            targets = [self._target(rows, f"y[{i}]", "T") for i, rows in enumerate(y)]
        else:
            whole = self._target(y, "y", "N")
            targets = [whole[i : i + 1] for i in range(len(whole))]
        if len(targets) != len(sequences):
            raise ValueError(f"expected y for {len(sequences)} sequences, got it for {len(targets)}")
        if self.per_step:
            for i, (x, rows) in enumerate(zip(sequences, targets, strict=True)):
                check_shape(rows.shape, (len(x), *rows.shape[1:]), f"y[{i}]")
        return sequences, targets

    def _items(self, X: Any) -> Sequence[Any] | np.ndarray:
        """Return what can be counted and iterated over: sequences, not looked at yet."""
        if isinstance(X, list | tuple):
            return X
        array = as_array(X, "X", "sequences")
        if array.ndim == 1 and array.dtype == object:
            return array
        if array.ndim == 0 and not isinstance(X, np.ndarray):
            raise TypeError(f"expected X as a list of sequences, or one array of them, got {type(X).__name__}")
        tokens = "embedding" in self.modules
        check_shape(array.shape, ("N", "T") if tokens else ("N", "T", self.modules["recurrent"].input_size), "X")
        return array

    def _sequence(self, x: Any, name: str) -> np.ndarray:
        """Return a sequence as an array (T, I) of the model's dtype, or (T,) of tokens."""
        if "embedding" in self.modules:
            return _codes(x, self.modules["embedding"].num_embeddings, name, "T")
        array = as_real(x, self._dtype, name)
        check_shape(array.shape, ("T", self.modules["recurrent"].input_size), name)
        return array

    def _target(self, value: ArrayLike, name: str, rows: str) -> np.ndarray:
        """Return targets as an array of classes, or one (rows, K) of the model's dtype."""
        K = self.modules["head"].out_features
        if self.loss == "softmax":
            return _codes(value, K, name, rows)
        array = as_real(value, self._dtype, name)
        if K == 1 and array.ndim == 1:
            array = array[:, None]
        check_shape(array.shape, (rows, K), name)
        return array

    # --- forward and backward -----------------------------------------------------------------------------------------

    @once
    def _reader(self) -> Any:
        """What reads a padded batch: the layer, or with tokens embedding and layer as one."""
        layer = self.modules["recurrent"]
        return Embedded(self.modules["embedding"], layer) if "embedding" in self.modules else layer

    def _read_back(self, tape: Any, dy: np.ndarray | None, dstate: Any, n_threads: int | None) -> list[Any]:
        """Return the gradients of what reads, module by module."""
        if "embedding" in self.modules:
            return [*self._reader.backward(tape, dy, dstate, n_threads=n_threads)[1:]]
        layer = self._reader
        kept, threads = open_tape(tape, layer), as_threads(n_threads)
        return [layer._back(layer._weights, kept, dy, dstate, None, False, False, threads, of_x=False)[2]]

    def _gradients(
        self, sequences: list[np.ndarray], targets: np.ndarray, rng: np.random.Generator, n_threads: int | None
    ) -> tuple[float, list[dict[str, np.ndarray]]]:
        """Return the mean loss over some sequences, and its gradients, module by module."""
        x, lengths = _padded(sequences)
        y, state, read_tape = self._reader.forward(x, lengths=lengths, rng=rng, n_threads=n_threads)
        head = self.modules["head"]
        o, tape = head.forward(self._rows(y, state, lengths))
        loss, do = LOSSES[self.loss](o, targets, reduction="mean")
        drows, head_grads = head.backward(tape, do)
        dy, dstate = self._rows_backward(drows, y, state, lengths)
        return loss, [*self._read_back(read_tape, dy, dstate, n_threads), head_grads]

    def _rows(self, y: np.ndarray, state: Any, lengths: np.ndarray) -> np.ndarray:
        """Return what the head reads: y of the steps there are, sequence after sequence, or h_n (N, D*H)."""
        if self.per_step:
            return y.swapaxes(0, 1)[_valid(lengths, len(y))]  # type: ignore[no-any-return]
        h_n = state[0] if isinstance(state, tuple) else state
        return np.concatenate(h_n[-self._D :], axis=1)

    def _rows_backward(
        self, drows: np.ndarray, y: np.ndarray, state: Any, lengths: np.ndarray
    ) -> tuple[np.ndarray | None, Any]:
        """Return the gradients of y and of the final state, of which one is None."""
        if self.per_step:
            dy = np.zeros_like(y)
            dy.swapaxes(0, 1)[_valid(lengths, len(y))] = drows
            return dy, None
        dstate = tuple(map(np.zeros_like, state)) if isinstance(state, tuple) else (np.zeros_like(state),)
        dstate[0][-self._D :] = drows.reshape(len(drows), self._D, -1).swapaxes(0, 1)
        return None, dstate if len(dstate) > 1 else dstate[0]

    @property
    def _D(self) -> int:
        return 2 if self.modules["recurrent"].bidirectional else 1

    # --- inference ----------------------------------------------------------------------------------------------------

    def _batches(self, X: Any) -> Iterator[list[np.ndarray]]:
        """Yield all sequences in their order, as many at once as STEPS allows."""
        batch: list[np.ndarray] = []
        longest = 1
        for i, item in enumerate(self._items(X)):
            x = self._sequence(item, f"X[{i}]")
            if batch and max(longest, len(x)) * (len(batch) + 1) > STEPS:
                yield batch
                batch, longest = [], 1
            batch.append(x)
            longest = max(longest, len(x))
        if batch:
            yield batch

    def _outputs(self, sequences: list[np.ndarray], n_threads: int | None) -> np.ndarray:
        """Return what the head says of some sequences, (N or sum of lengths, K) of float64.

        In float64 it does not matter, but for rounding far below float32's, how many rows a product has at once.
        """
        x, lengths = _padded(sequences)
        y, state = self._reader(x, lengths=lengths, return_sequence=self.per_step, n_threads=n_threads)
        weights = self.modules["head"].parameters()
        rows = self._rows(y, state, lengths).astype(np.float64)
        products: np.ndarray = matmul(rows, weights["weight"].astype(np.float64), trans_b=True)
        return products + weights["bias"]  # type: ignore[no-any-return]

    def _mapped(self, X: Any, function: Callable[[np.ndarray], np.ndarray], n_threads: int | None) -> Any:
        """Return a function of the outputs (·, K): an array, or with `per_step` one for each sequence."""
        found: list[np.ndarray] = []
        for batch in self._batches(X):
            rows = function(self._outputs(batch, n_threads))
            found += np.split(rows, np.cumsum([len(x) for x in batch])[:-1]) if self.per_step else [rows]
        if self.per_step:
            return found
        return np.concatenate([function(np.empty((0, self.modules["head"].out_features))), *found])

    def _mean_loss(self, sequences: list[np.ndarray], targets: list[np.ndarray], n_threads: int | None) -> float:
        total, count, done = 0.0, 0, 0
        for batch in self._batches(sequences):
            wanted = np.concatenate(targets[done : done + len(batch)])
            loss, _ = LOSSES[self.loss](self._outputs(batch, n_threads), wanted, reduction="mean")
            total, count, done = total + loss * len(wanted), count + len(wanted), done + len(batch)
        return total / max(count, 1)


def _codes(value: Any, limit: int, name: str, letter: str) -> np.ndarray:
    """Return integers from 0 to limit - 1, in one dimension."""
    array = as_integers(value, name)
    check_shape(array.shape, (letter,), name)
    if array.size and (array.min() < 0 or array.max() >= limit):
        raise ValueError(f"expected {name} from 0 to {limit - 1}, got {array[(array < 0) | (array >= limit)][0]}")
    return array


def _padded(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences side by side, (T, N, ...), with zeros behind their ends, and their lengths (N,)."""
    lengths = np.array([len(x) for x in sequences])
    padded = np.zeros((lengths.max(), len(sequences), *sequences[0].shape[1:]), sequences[0].dtype)
    for n, x in enumerate(sequences):
        padded[: len(x), n] = x
    return padded, lengths


def _valid(lengths: np.ndarray, T: int) -> np.ndarray:
    """Return which steps there are, (N, T)."""
    return np.arange(T) < lengths[:, None]


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _belong_together(recurrent: Any = None, head: Any = None, embedding: Any = None) -> bool:
    """Return whether modules, each of any class or None, make a model."""
    if not isinstance(recurrent, RNN | LSTM | GRU) or not isinstance(head, Linear) or recurrent.batch_first:
        return False
    width = (getattr(recurrent, "proj_size", 0) or recurrent.hidden_size) * (2 if recurrent.bidirectional else 1)
    if head.in_features != width or not head.bias or head.dtype != recurrent.dtype:
        return False
    if embedding is None:
        return True
    fits = isinstance(embedding, Embedding) and embedding.embedding_dim == recurrent.input_size
    return fits and embedding.dtype == recurrent.dtype


def _bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('expected tqdm, for a progress bar: pip install "rnncore[cli]"') from error
    return tqdm(total=total, unit="step")
