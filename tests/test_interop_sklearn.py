"""scikit-learn's estimators: its own checks, all of which pass, and what it does with sequences."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from common import import_peer

import rnncore as rc

import_peer("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from rnncore import model as module  # noqa: E402
from rnncore.interop.sklearn import RNNClassifier, RNNRegressor  # noqa: E402


@parametrize_with_checks(
    [RNNClassifier("gru"), RNNClassifier(early_stopping=True, validation_fraction=0.3), RNNRegressor("gru")]
)
def test_checks_of_sklearn(estimator, check):
    check(estimator)


def rising(n, seed=0):
    """Noisy ramps (T_i,) of several lengths, and whether they rise."""
    rng = np.random.default_rng(seed)
    y = rng.choice(["falls", "rises"], n)
    return [np.linspace(0, 1 if up else -1, rng.integers(3, 9)) + rng.normal(0, 0.2) for up in y == "rises"], y


SMALL = {"cell": "gru", "hidden": 8, "epochs": 30, "random_state": 0}


def test_forms_of_sequences():
    """Lists of (T_i,) and (T_i, 1), and arrays of the same length, are the same sequences."""
    X, y = rising(60)
    deep = [x[:, None] for x in X]
    a, b = RNNClassifier(**SMALL).fit(X, y), RNNClassifier(**SMALL).fit(deep, y)
    assert a.score(*rising(40, 1)) > 0.9 and a.n_features_in_ == b.n_features_in_ == 1
    assert a.classes_.tolist() == ["falls", "rises"] and set(a.predict(X)) == {"falls", "rises"}
    objects = np.empty(60, object)
    objects[:] = X
    for form in (X, tuple(X), deep, objects, [x.tolist() for x in X]):
        assert np.array_equal(a.predict_proba(form), b.predict_proba(form))
    same = np.array([x[:3] for x in X])
    for form in (same, same[:, :, None], list(same)):  # arrays of as many steps as they have
        assert np.array_equal(a.predict_proba(form), b.predict_proba([x[:3] for x in X]))
    for form, features in ((same, 3), (list(same), 3), (same.tolist(), 3), (same[:, :, None], 1), (list(deep), 1)):
        assert RNNClassifier(**SMALL | {"epochs": 1}).fit(form, y).n_features_in_ == features


def test_columns_are_steps():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 6))
    y = X.sum(axis=1) > 0
    flat, deep = RNNClassifier(**SMALL).fit(X, y), RNNClassifier(**SMALL).fit(X[:, :, None], y)
    assert flat.n_features_in_ == 6 and deep.n_features_in_ == 1
    assert np.array_equal(flat.predict_proba(X), deep.predict_proba(X[:, :, None]))
    assert flat.score(X, y) > 0.9 and flat.classes_.tolist() == [False, True]
    with pytest.raises(ValueError, match="X has 5 features, but RNNClassifier is expecting 6"):
        flat.predict(X[:, :5])
    assert flat.predict([X[0, :5], X[1, :2]]).shape == (2,) and flat.predict([X[0, :5]]).shape == (1,)
    wide = RNNClassifier(**SMALL).fit(rng.standard_normal((10, 5, 3)), [0, 1] * 5)
    assert wide.n_features_in_ == 3
    with pytest.raises(ValueError, match=r"expected X of shape \(N, T, 3\), got \(2, 5, 4\)"):
        wide.predict(np.ones((2, 5, 4)))


def test_tokens():
    """Whether a 3 is among them."""
    rng = np.random.default_rng(0)
    X = [rng.integers(0, 8, T) for T in rng.integers(1, 7, 200)]
    y = [int(3 in x) for x in X]
    classifier = RNNClassifier(vocabulary=8, embedding=4, **SMALL | {"epochs": 40}).fit(X[:150], y[:150])
    assert classifier.score(X[150:], y[150:]) > 0.9
    assert classifier.predict(np.array([[1, 3], [1, 2]])).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"expected X\[0\] from 0 to 7, got 8"):
        classifier.predict([[8]])
    with pytest.raises(TypeError, match="to be an array of integers"):
        classifier.predict([[0.5]])


def test_several_numbers():
    """Of any size: each is learned on its own scale."""
    rng = np.random.default_rng(0)
    X = [rng.uniform(-1, 1, 2) + rng.normal(0, 0.1, (T, 2)) for T in rng.integers(3, 9, 200)]
    y = np.array([x.mean(axis=0) for x in X]) * [1e-4, 1e6] + [5, -3e7]
    regressor = RNNRegressor(**SMALL).fit(X[:150], y[:150])
    assert regressor.predict(X).shape == (200, 2) and regressor.predict(X).dtype == np.float64
    assert regressor.score(X[150:], y[150:]) > 0.9
    near = RNNRegressor(**SMALL).fit(X, [x.mean() for x in X]).predict(X)
    for exponent in (-1000, 1023):  # whose squares leave the range of float64
        far = RNNRegressor(**SMALL).fit(X, [np.ldexp(x.mean(), exponent) for x in X])
        assert np.array_equal(np.ldexp(far.predict(X), -exponent), near)
    one = RNNRegressor(**SMALL).fit(X, np.full(200, 7.0))  # of no variance
    assert np.allclose(one.predict(X), 7, atol=0.1) and one.predict(X).shape == (200,)


@pytest.mark.parametrize("X,words", [
    ([], "Expected 2D array"),
    ([1.0, 2.0], "Expected 2D array"),
    ([[1.0, np.nan]], "contains NaN"),
    ([[1.0, np.inf], [1.0]], "infinity"),
    (np.ones((1, 2, 3, 4)), "dim"),
    (np.full((1, 2, 3), np.nan), "contains NaN"),
    (np.ones(3), "Expected 2D array"),
    ([[1, 2], [3]], "inconsistent numbers of samples"),
])  # fmt: skip
def test_sequences_that_are_none(X, words):
    with pytest.raises(ValueError, match=words):
        RNNClassifier().fit(X, ["a"])


def test_not_fitted():
    for method in (RNNClassifier().predict, RNNClassifier().predict_proba, RNNRegressor().predict):
        with pytest.raises(NotFittedError):
            method([[1.0]])


def test_early_stopping():
    X, y = rising(60)
    plain = RNNClassifier(**SMALL).fit(X, y)
    assert len(plain.history_.loss) == 30 and plain.history_.validation_loss == []
    rng = np.random.default_rng(5)
    noise = rng.choice(list("ab"), 60)
    options = SMALL | {"epochs": 500, "lr": 0.05}
    stopped = RNNClassifier(early_stopping=True, validation_fraction=0.25, patience=3, **options).fit(X, noise)
    losses = stopped.history_.validation_loss
    assert len(losses) == np.argmin(losses) + 4 < 500
    regressor = RNNRegressor(early_stopping=True, **SMALL).fit(X, rng.normal(size=60))
    assert len(regressor.history_.validation_loss) > 0


def test_seeds():
    X, y = rising(40)
    a, b, c = (RNNClassifier(**SMALL | {"random_state": seed, "epochs": 3}).fit(X, y) for seed in (0, 0, 1))
    assert np.array_equal(a.predict_proba(X), b.predict_proba(X))
    assert not np.array_equal(a.predict_proba(X), c.predict_proba(X))
    with_state = RNNClassifier(**SMALL | {"random_state": np.random.RandomState(0), "epochs": 3}).fit(X, y)
    assert np.array_equal(a.predict_proba(X), with_state.predict_proba(X))


def test_copies():
    X, y = rising(40)
    fitted = RNNClassifier(**SMALL | {"epochs": 3}).fit(X, y)
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert np.array_equal(other.predict_proba(X), fitted.predict_proba(X))
    fresh = clone(fitted.set_params(hidden=5))
    assert fresh.get_params() == fitted.get_params() and fresh.hidden == 5 and not hasattr(fresh, "model_")


def test_what_is_fitted_reads_as_it_learned():
    """Settings that change afterwards are those of the next fit."""
    X, y = rising(40)
    numbers = RNNClassifier(**SMALL | {"epochs": 3}).fit(X, y)
    tokens = RNNClassifier(vocabulary=3, **SMALL | {"epochs": 1}).fit([[0, 1], [2]], ["a", "b"])
    changes = (numbers, X, {"dtype": "int8"}), (numbers, X, {"vocabulary": 3}), (tokens, [[2, 1]], {"vocabulary": None})
    for fitted, given, settings in changes:
        expected = fitted.predict_proba(given)
        assert np.array_equal(fitted.set_params(**settings).predict_proba(given), expected)


def test_in_sklearns_hands():
    X, y = rising(60)
    scores = cross_val_score(RNNClassifier(**SMALL), X, y, cv=3)
    assert scores.shape == (3,) and scores.min() > 0.8
    search = GridSearchCV(RNNClassifier(**SMALL), {"epochs": [1, 30]}, cv=3).fit(X, y)
    assert search.best_params_ == {"epochs": 30} and search.predict(X).shape == (60,)
    rng = np.random.default_rng(0)
    flat = 1000 + 100 * rng.standard_normal((200, 5))
    pipeline = make_pipeline(StandardScaler(), RNNRegressor(**SMALL))
    assert pipeline.fit(flat[:150], flat[:150].sum(axis=1)).score(flat[150:], flat[150:].sum(axis=1)) > 0.8


def test_verbose_and_interrupted(capsys, monkeypatch):
    X, y = rising(20)
    RNNClassifier(**SMALL | {"epochs": 2}).fit(X, y)
    assert capsys.readouterr().err == ""
    RNNClassifier(verbose=True, **SMALL | {"epochs": 2}).fit(X, y)
    assert "2/2" in capsys.readouterr().err

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "clip_grad_norm", interrupted)
    with pytest.warns(UserWarning, match="Ctrl-C ended training early"):
        RNNClassifier(**SMALL).fit(X, y)


def test_settings_reach_the_model():
    X, y = rising(20)
    classifier = RNNClassifier("lstm", hidden=5, layers=2, bidirectional=True, dropout=0.5, dtype="float64", epochs=1)
    layer = classifier.fit(X, y).model_.modules["recurrent"]
    assert repr(layer) == "LSTM(1, 5, num_layers=2, bidirectional=True, dropout=0.5, dtype='float64')"
    assert isinstance(classifier.model_, rc.SequenceModel)
    with pytest.raises(ValueError, match="expected cell"):
        RNNClassifier("elman").fit(X, y)


def test_without_sklearn():
    code = (
        "import sys\n"
        "sys.modules['sklearn.base'] = None\n"
        "import rnncore\n"
        "try:\n"
        "    import rnncore.interop.sklearn\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "rnncore[sklearn]"' in done.stdout
