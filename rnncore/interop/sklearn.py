"""Recurrent networks as scikit-learn's estimators: `RNNClassifier` and `RNNRegressor`, over `rnncore.SequenceModel`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('expected scikit-learn of version 1.6 or newer: pip install "rnncore[sklearn]"') from error

from ..model import SequenceModel

__all__ = ["RNNClassifier", "RNNRegressor"]


class _Estimator(BaseEstimator):
    """What both have in common: settings, what they read as sequences, how they learn."""

    _columns: bool  # whether it was fitted to an array (n, T)

    def __init__(
        self,
        cell: str = "lstm",
        *,
        hidden: int = 64,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        vocabulary: int | None = None,
        embedding: int = 32,
        epochs: int = 50,
        batch_size: int = 32,
        lr: float = 0.01,
        max_norm: float = 1.0,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        dtype: str = "float32",
        random_state: Any = None,
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden = hidden
        self.layers = layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.vocabulary = vocabulary
        self.embedding = embedding
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.max_norm = max_norm
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.dtype = dtype
        self.random_state = random_state
        self.n_threads = n_threads
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _sequences(self, X: Any, reset: bool = False) -> Any:
        """Return X as the model takes it, or with `reset` the one that will be: then note what its features are."""
        numbers = self.vocabulary is None if reset else "embedding" not in self.model_.modules
        dtype = "numeric" if not numbers else self.dtype if reset else self.model_._dtype
        if isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype == object:
            X = list(X)
        if isinstance(X, list | tuple) and len(X) and np.ndim(X[0]):
            items = [
                check_array(x, dtype=dtype, ensure_2d=False, ensure_min_samples=0, input_name="X", estimator=self)
                for x in X
            ]
            columns = items[0].ndim == 1 and len({x.shape for x in items}) == 1  # as good as an array (n, T)
            features = len(items[0]) if columns else items[0].shape[-1] if items[0].ndim > 1 else 1
            sequences = [x[:, None] if numbers and x.ndim == 1 else x for x in items]
        elif getattr(X, "ndim", 2) == 3:
            sequences = check_array(X, dtype=dtype, allow_nd=True, input_name="X", estimator=self)
            features, columns = sequences.shape[2], False
        else:
            columns = reset or self._columns
            if columns:
                X = validate_data(self, X, dtype=dtype, reset=reset)
            else:
                X = check_array(X, dtype=dtype, input_name="X", estimator=self)
            features, sequences = X.shape[1], X[:, :, None] if numbers else X
        if reset:
            self.n_features_in_, self._columns = features, columns
        return sequences

    def _learn(self, X: Any, y: np.ndarray, outputs: int, loss: str, classes: np.ndarray | None) -> None:
        """Fit a model to sequences and targets as it takes them."""
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        rng = np.random.default_rng(seed)
        kind = {"inputs": X[0].shape[-1]} if self.vocabulary is None else {"vocabulary": self.vocabulary}
        self.model_ = SequenceModel(
            self.cell, **kind, outputs=outputs, hidden=self.hidden, layers=self.layers,
            bidirectional=self.bidirectional, embedding=self.embedding, dropout=self.dropout, loss=loss,
            dtype=self.dtype, rng=rng,
        )  # fmt: skip
        validation = None
        if self.early_stopping:
            X, X_held, y, y_held = train_test_split(
                X, y, test_size=self.validation_fraction, stratify=classes, random_state=seed
            )
            validation = X_held, y_held
        self.history_ = self.model_.fit(
            X, y, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, max_norm=self.max_norm,
            weight_decay=self.weight_decay, validation=validation,
            patience=self.patience if self.early_stopping else None, progress=bool(self.verbose), rng=rng,
            n_threads=self.n_threads,
        )  # fmt: skip
        if self.history_.interrupted:
            warnings.warn("Ctrl-C ended training early", stacklevel=3)


class RNNClassifier(ClassifierMixin, _Estimator):
    """Classifies sequences by a recurrent network: scikit-learn's face of `rnncore.SequenceModel`.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}
    hidden, layers : int
        Units per layer and direction, and recurrent layers.
    bidirectional : bool
        Whether sequences are read in both directions.
    dropout : float
        Probability with which an output of each recurrent layer but the last is dropped in training.
    vocabulary : int, optional
        How many tokens there are, for sequences of integers 0 to vocabulary - 1.
    embedding : int
        Size of the vector that stands for a token.
    epochs, batch_size : int
        How often to go through all sequences, and how many are in a step.
    lr, max_norm, weight_decay : float
        Of AdamW, and to which the norm of a step's gradient is clipped.
    early_stopping : bool
        Whether to hold sequences back, and to end when the loss on them has not fallen for a while; the model then has
        the weights with which it was least.
    validation_fraction : float
        Of the sequences, to hold back.
    patience : int
        Epochs to wait for a smaller loss on them.
    dtype : {"float32", "float64"}
    random_state : int, numpy.random.RandomState or None
        Draws weights, orders, dropout masks and what is held back.
    n_threads : int, optional
        As for a layer.
    verbose : bool
        Whether to show a progress bar, by tqdm.

    Attributes
    ----------
    classes_ : ndarray
        The labels.
    model_ : rnncore.SequenceModel
    history_ : rnncore.model.History
        The losses of each epoch.
    n_features_in_ : int
        Columns of a 2-D array that was fitted; else the features of a step, 1 for tokens.
    feature_names_in_ : ndarray of str
        Of a data frame that was fitted.

    Notes
    -----
    X is one of

    - an array (n, T, I): n sequences of T steps of I features;
    - a list of n sequences of any lengths, each an array (T_i, I), or (T_i,) for one feature;
    - an array or data frame (n, T) of numbers, read as n sequences of **T steps of one feature**, the columns from left
      to right. Once fitted to one, or to a list like one, other arrays need as many columns; sequences of other lengths
      come as a list.

    With `vocabulary`, a list of (T_i,) or an array (n, T) of integers. Numbers should be of a size around 1: put a
    `StandardScaler` in front of 2-D arrays that are not.

    Examples
    --------
    Does it rise or fall?

    >>> import numpy as np
    >>> from rnncore.interop.sklearn import RNNClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.choice(["falls", "rises"], 60)
    >>> X = [np.linspace(0, 1 if up else -1, rng.integers(3, 9)) + rng.normal(0, 0.1) for up in y == "rises"]
    >>> classifier = RNNClassifier("gru", hidden=8, epochs=30, random_state=0).fit(X[:40], y[:40])
    >>> classifier.score(X[40:], y[40:])
    1.0
    """

    def fit(self, X: Any, y: Any) -> RNNClassifier:
        """Learn from sequences, beginning anew.

        Parameters
        ----------
        X
            Sequences, as the notes of the class have it.
        y : array_like (n,)
            Labels of any kind.

        Returns
        -------
        RNNClassifier
            Itself. A warning says so if Ctrl-C ended training: the weights are then those of the last whole step.

        Raises
        ------
        ImportError
            If there is no tqdm, with `verbose`.
        TypeError, ValueError
            If a setting, X or y are not what they should be, or a gradient or validation loss is not finite.

        Examples
        --------
        >>> from rnncore.interop.sklearn import RNNClassifier
        >>> classifier = RNNClassifier(vocabulary=3, hidden=4, epochs=1).fit([[0, 1], [2, 1, 1]], ["a", "b"])
        >>> classifier.classes_.tolist()
        ['a', 'b']
        """
        y = validate_data(self, X="no_validation", y=y)
        check_classification_targets(y)
        X = self._sequences(X, reset=True)
        check_consistent_length(X, y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self._learn(X, codes, len(self.classes_), "softmax", codes)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest label of each sequence.

        Parameters
        ----------
        X
            Sequences, as the notes of the class have it.

        Returns
        -------
        numpy.ndarray (n,)

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it was not fitted.
        TypeError, ValueError
            If X is not what it should be.

        Examples
        --------
        >>> from rnncore.interop.sklearn import RNNClassifier
        >>> classifier = RNNClassifier(hidden=8, lr=0.05, random_state=0).fit([[0, 1], [1, 0]], ["up", "down"])
        >>> classifier.predict([[0, 1], [1, 0, 0]]).tolist()
        ['up', 'down']
        """
        check_is_fitted(self)
        found: np.ndarray = self.classes_[self.model_.predict(self._sequences(X), n_threads=self.n_threads)]
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each label, for each sequence.

        Parameters
        ----------
        X
            Sequences, as the notes of the class have it.

        Returns
        -------
        numpy.ndarray (n, classes)
            In the order of `classes_`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it was not fitted.
        TypeError, ValueError
            If X is not what it should be.

        Examples
        --------
        >>> from rnncore.interop.sklearn import RNNClassifier
        >>> classifier = RNNClassifier(hidden=8, lr=0.05, random_state=0).fit([[0, 1], [1, 0]], ["up", "down"])
        >>> classifier.predict_proba([[0, 1], [1, 0]]).round().tolist()
        [[0.0, 1.0], [1.0, 0.0]]
        """
        check_is_fitted(self)
        found: np.ndarray = self.model_.predict_proba(self._sequences(X), n_threads=self.n_threads)
        return found


class RNNRegressor(RegressorMixin, _Estimator):
    """Predicts numbers from sequences by a recurrent network: scikit-learn's face of `rnncore.SequenceModel`.

    Parameters
    ----------
    cell, hidden, layers, bidirectional, dropout, vocabulary, embedding, epochs, batch_size, lr, max_norm, weight_decay,
    early_stopping, validation_fraction, patience, dtype, random_state, n_threads, verbose
        As `RNNClassifier`'s.

    Attributes
    ----------
    model_ : rnncore.SequenceModel
        It predicts numbers of mean 0 and variance 1, which are then scaled back.
    history_ : rnncore.model.History
        The losses of each epoch, on this scale.
    n_features_in_ : int
        Columns of a 2-D array that was fitted; else the features of a step, 1 for tokens.
    feature_names_in_ : ndarray of str
        Of a data frame that was fitted.

    Notes
    -----
    X is what `RNNClassifier` takes: an array (n, T) of numbers is read as sequences of **T steps of one feature**. The
    numbers in y may be of any size; those in X should be around 1.

    Examples
    --------
    How much is it in the mean?

    >>> import numpy as np
    >>> from rnncore.interop.sklearn import RNNRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.uniform(-1, 1) + rng.normal(0, 0.1, T) for T in rng.integers(3, 9, 200)]
    >>> y = [1000 * x.mean() for x in X]
    >>> regressor = RNNRegressor("gru", hidden=8, epochs=30, random_state=0).fit(X[:150], y[:150])
    >>> regressor.score(X[150:], y[150:]) > 0.9
    True
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> RNNRegressor:
        """Learn from sequences, beginning anew.

        Parameters
        ----------
        X
            Sequences, as the notes of `RNNClassifier` have it.
        y : array_like (n,) or (n, K)
            A number, or K numbers, for each.

        Returns
        -------
        RNNRegressor
            Itself. A warning says so if Ctrl-C ended training: the weights are then those of the last whole step.

        Raises
        ------
        ImportError
            If there is no tqdm, with `verbose`.
        TypeError, ValueError
            If a setting, X or y are not what they should be, or a gradient or validation loss is not finite.

        Examples
        --------
        >>> from rnncore.interop.sklearn import RNNRegressor
        >>> regressor = RNNRegressor(hidden=4, epochs=1).fit([[0, 1], [1, 0]], [[1, 2, 3], [4, 5, 6]])
        >>> regressor.predict([[0, 1]]).shape
        (1, 3)
        """
        y = validate_data(self, X="no_validation", y=y, multi_output=True, y_numeric=True)
        X = self._sequences(X, reset=True)
        check_consistent_length(X, y)
        y = np.asarray(y, np.float64)
        _, exponent = np.frexp(np.abs(y).max(axis=0))
        y = np.ldexp(y, -exponent)  # at most 1, as squares of what is far from it leave the range of float64
        mean, spread = y.mean(axis=0), y.std(axis=0)
        self._mean, self._spread = np.ldexp(mean, exponent), np.where(spread > 0, np.ldexp(spread, exponent), 1.0)
        targets = (y - mean) / np.where(spread > 0, spread, 1.0)
        self._learn(X, targets, 1 if y.ndim == 1 else y.shape[1], "squared", None)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the number, or numbers, for each sequence.

        Parameters
        ----------
        X
            Sequences, as the notes of `RNNClassifier` have it.

        Returns
        -------
        numpy.ndarray (n,) or (n, K)
            As y had it; float64.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it was not fitted.
        TypeError, ValueError
            If X is not what it should be.

        Examples
        --------
        >>> import numpy as np
        >>> from rnncore.interop.sklearn import RNNRegressor
        >>> regressor = RNNRegressor(hidden=8, lr=0.05, random_state=0).fit([[0, 1], [1, 0]], [-40, 40])
        >>> np.sign(regressor.predict([[0, 1], [1, 0]])).tolist()
        [-1.0, 1.0]
        """
        check_is_fitted(self)
        found = self.model_.predict(self._sequences(X), n_threads=self.n_threads).astype(np.float64)
        whole: np.ndarray = (found if np.ndim(self._mean) else found[:, 0]) * self._spread + self._mean
        return whole
