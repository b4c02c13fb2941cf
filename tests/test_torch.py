"""Parity with torch.nn, forward and backward, through one state dict."""

import warnings

import numpy as np
import pytest
from common import DTYPES, TOLERANCE, as_tuple, assert_close, assert_same, import_peer, pick, random_case, run_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES

import rnncore as rc
from rnncore.dropout import drop, dropout_key

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

KINDS = [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {}), ("LSTM", {"proj_size": 3}), ("GRU", {})]


def twin(layer):
    """The torch module with the layer's parameters."""
    torch = import_peer("torch")
    torch.set_num_threads(1)  # more only wait for each other here
    options = {"batch_first": layer.batch_first, "bias": layer.bias, "dtype": getattr(torch, layer.dtype.name)}
    for name in ("num_layers", "bidirectional", "dropout", "nonlinearity", "proj_size"):
        if hasattr(layer, name):
            options[name] = getattr(layer, name)
    module = getattr(torch.nn, type(layer).__name__)(layer.input_size, layer.hidden_size, **options)
    module.load_state_dict({name: torch.tensor(array) for name, array in layer.state_dict().items()})
    return module


def run_torch(module, case):
    """Forward and backward; with lengths through a packed sequence."""
    torch = import_peer("torch")
    x, *state = (torch.tensor(a, requires_grad=True) for a in (case["x"], *as_tuple(case["state"])))
    initial = tuple(state) if len(state) > 1 else state[0]
    if "lengths" in case:
        first, rnn = module.batch_first, torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(x, torch.tensor(case["lengths"]), first, enforce_sorted=False)
        y, final = module(packed, initial)
        y, _ = rnn.pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])
    else:
        y, final = module(x, initial)
    final = as_tuple(final)
    loss = (y * torch.tensor(case["dy"])).sum()
    for a, da in zip(final, as_tuple(case["dstate"]), strict=True):
        loss = loss + (a * torch.tensor(da)).sum()
    loss.backward()
    return {
        "forward": {"y": y.detach().numpy(), "state": tuple(a.detach().numpy() for a in final)},
        "backward": {
            "dx": x.grad.numpy(),
            "dstate": tuple(a.grad.numpy() for a in state),
            "grads": {name: p.grad.numpy() for name, p in module.named_parameters()},
        },
    }


class Dropping:
    """The twin of a layer with dropout: single layers of torch, with the layer's own masks of a seed between them."""

    def __init__(self, layer, seed):
        self.batch_first, self.p, self.key = layer.batch_first, layer.dropout, dropout_key(seed)
        self.D = 2 if layer.bidirectional else 1
        self.singles = []
        for k in range(layer.num_layers):
            own = {name.replace(f"_l{k}", "_l0"): a for name, a in layer.parameters().items() if f"_l{k}" in name}
            options = {name: getattr(layer, name) for name in ("bias", "batch_first", "bidirectional", "dtype")}
            options |= {n: getattr(layer, n) for n in ("nonlinearity", "proj_size") if hasattr(layer, n)}
            single = type(layer)(own["weight_ih_l0"].shape[1], layer.hidden_size, **options)
            single.load_state_dict(own)
            self.singles.append(twin(single))

    def named_parameters(self):
        for k, single in enumerate(self.singles):
            yield from ((name.replace("_l0", f"_l{k}"), p) for name, p in single.named_parameters())

    def __call__(self, x, state):
        torch = import_peer("torch")
        finals = []
        for k, single in enumerate(self.singles):
            parts = tuple(s[k * self.D : (k + 1) * self.D] for s in as_tuple(state))
            x, final = single(x, parts if len(parts) > 1 else parts[0])
            finals.append(as_tuple(final))
            if k + 1 < len(self.singles):
                x = self.packed(x, k) if isinstance(x, torch.nn.utils.rnn.PackedSequence) else x * self.mask(x, k)
        final = tuple(torch.cat(states) for states in zip(*finals, strict=True))
        return x, final if len(final) > 1 else final[0]

    def mask(self, y, k):
        mask = np.ones_like(self.in_time(y.detach().numpy()), order="C")
        drop(mask, self.p, self.key, k)
        return import_peer("torch").tensor(self.in_time(mask))

    def in_time(self, y):
        return y.swapaxes(0, 1) if self.batch_first and y.ndim == 3 else y

    def packed(self, packed, k):
        """Masks are drawn for the rows there are: step by step, the longest sequence first."""
        torch = import_peer("torch")
        padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed)
        order = np.argsort(-lengths.numpy(), kind="stable")
        there = [(t, n) for t in range(len(padded)) for n in order if lengths[n] > t]
        rows, mask = np.ones((len(there), padded.shape[2]), padded.detach().numpy().dtype), torch.zeros_like(padded)
        drop(rows, self.p, self.key, k)
        mask[tuple(zip(*there, strict=True))] = torch.tensor(rows)
        mask = torch.nn.utils.rnn.pack_padded_sequence(mask, lengths, enforce_sorted=False)
        return packed._replace(data=packed.data * mask.data)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers(dtype, kind, options, L, bidirectional, bias):
    layer = getattr(rc, kind)(5, 7, L, bidirectional=bidirectional, bias=bias, dtype=dtype, rng=3, **options)
    case = random_case(layer, 9, 4)
    assert_same(run_layer(layer, case), run_torch(twin(layer), case), dtype)
    case["lengths"] = np.array([3, 9, 1, 8])
    assert_same(run_layer(layer, case), run_torch(twin(layer), case), dtype)


def turned(case):
    """The same for a batch-first layer."""
    return case | {name: np.ascontiguousarray(case[name].swapaxes(0, 1)) for name in ("x", "dy")}


def unbatched(layer, case, n):
    """One sequence of a case in (T, N, ·)."""
    return {"x": case["x"][:, n], "dy": case["dy"][:, n]} | {
        name: pick(layer, case[name], n) for name in ("state", "dstate")
    }


@pytest.mark.parametrize("kind,options", KINDS)
def test_batch_first_and_unbatched(kind, options):
    layer = getattr(rc, kind)(5, 7, 2, batch_first=True, bidirectional=True, rng=3, **options)
    case = random_case(layer, 9, 4)
    for given_case in (turned(case), turned(case) | {"lengths": np.array([3, 9, 1, 8])}, unbatched(layer, case, 1)):
        assert_same(run_layer(layer, given_case), run_torch(twin(layer), given_case), "float32")


def flat(results):
    """All arrays in one."""
    if isinstance(results, dict):
        results = tuple(results.values())
    return np.concatenate([flat(r) for r in results]) if isinstance(results, tuple) else results.ravel()


def assert_close_together(actual, expected, dtype, what):
    """Relative to all numbers, taken as 1 on average if they are smaller: one sum that cancels counts little."""
    a, e = flat(actual), flat(expected)
    assert a.dtype == e.dtype == dtype and len(a) == len(e)
    assert np.linalg.norm(a - e) <= TOLERANCE[dtype, what] * max(np.linalg.norm(e), len(e) ** 0.5)


@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
@settings(max_examples=3 * EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_options_together(data):
    def one_of(*values):
        return data.draw(st.sampled_from(values))

    def number(low, high):
        return data.draw(st.integers(low, high))

    kind, I, H, T, N = one_of("RNN", "LSTM", "GRU"), number(1, 9), number(1, 20), number(1, 12), number(1, 6)
    options = {name: one_of(True, False) for name in ("bias", "batch_first", "bidirectional")}
    options |= {"num_layers": number(1, 3), "dtype": one_of(*DTYPES), "rng": number(0, 99)}
    options["dropout"] = one_of(0.0, 0.0, 0.3, 0.9, 1.0)
    if kind == "RNN":
        options["nonlinearity"] = one_of("tanh", "relu")
    if kind == "LSTM":
        options["proj_size"] = number(0, H - 1)
    layer = getattr(rc, kind)(I, H, **options)
    case = random_case(layer, T, N, seed=number(0, 99))
    form = one_of("padded", "packed", "unbatched")
    if form == "unbatched":
        case = unbatched(layer, case, N - 1)
    elif layer.batch_first:
        case = turned(case)
    if form == "packed":
        case["lengths"] = np.array(data.draw(st.lists(st.integers(1, T), min_size=N, max_size=N)))
    actual = run_layer(layer, case | {"n_threads": one_of(None, 1, 2, 3), "rng": (seed := number(0, 99))})
    expected = run_torch(Dropping(layer, seed) if layer.dropout else twin(layer), case)
    y, state = layer(case["x"], case["state"], lengths=case.get("lengths"))
    called = run_torch(twin(layer).eval(), case) if layer.dropout else expected
    dtype = layer.dtype.name
    assert_close_together(actual["forward"], expected["forward"], dtype, "forward")
    assert_close_together((y, *as_tuple(state)), called["forward"], dtype, "forward")
    assert_close_together(actual["backward"], expected["backward"], dtype, "backward")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("lengths", [None, [3, 9, 1, 8]])
def test_dropout(kind, options, bidirectional, lengths):
    """At rate 1, where torch's mask is known, and in evaluation, where there is none."""
    layer = getattr(rc, kind)(5, 7, 3, dropout=1.0, bidirectional=bidirectional, rng=3, **options)
    case = random_case(layer, 9, 4, lengths=lengths)
    module = twin(layer)
    assert module.training and module.dropout == 1
    assert_same(run_layer(layer, case), run_torch(module, case), "float32")

    y, state = layer(case["x"], case["state"], lengths=lengths)
    assert_close({"y": y, "state": as_tuple(state)}, run_torch(module.eval(), case)["forward"], "float32", "forward")


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_dropout_of_one_layer_warns_in_torchs_words(kind):
    torch = import_peer("torch")
    texts = []
    for home in (rc, torch.nn):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            getattr(home, kind)(5, 7, dropout=0.25)
        texts.append([(str(w.message), w.category) for w in caught])
    assert len(texts[0]) == 1 and texts[0] == texts[1]


@pytest.mark.parametrize("kind,options", KINDS)
def test_a_state_dict_goes_either_way(kind, options):
    torch = import_peer("torch")
    module = getattr(torch.nn, kind)(5, 7, 2, bidirectional=True, **options)
    layer = getattr(rc, kind)(5, 7, 2, bidirectional=True, **options)
    assert set(layer.state_dict()) == set(module.state_dict())
    assert ("weight_hr_l1_reverse" in layer.state_dict()) == ("proj_size" in options)
    layer.load_state_dict(module.state_dict())  # tensors are array-like
    x = np.random.default_rng(0).standard_normal((9, 4, 5)).astype(np.float32)
    with torch.inference_mode():
        assert_close(layer(torch.tensor(x))[0], module(torch.tensor(x))[0].numpy(), "float32", "forward")
    with pytest.raises(TypeError, match="expected x to be an array of real numbers, got Tensor"):
        layer(torch.tensor(x, requires_grad=True))


def test_positional_arguments_are_torchs():
    torch = import_peer("torch")
    for kind, arguments in [
        ("LSTM", (5, 7, 2, False, True, 0.0, True, 0)), ("LSTM", (5, 7, 2, True, True, 0.5, True, 3)),
        ("GRU", (5, 7, 2, False, True, 0.5, True)),
    ]:  # fmt: skip
        ours, theirs = getattr(rc, kind)(*arguments), getattr(torch.nn, kind)(*arguments)
        assert {n: a.shape for n, a in ours.parameters().items()} == {
            n: tuple(p.shape) for n, p in theirs.named_parameters()
        }
        for name in ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size"):
            assert getattr(ours, name, 0) == getattr(theirs, name), name
    arguments = (5, 7, 2, "relu", False, True, 0.0, True)
    ours, theirs = rc.RNN(*arguments), torch.nn.RNN(*arguments)
    assert list(ours.parameters()) == [name for name, _ in theirs.named_parameters()]
    assert ours.nonlinearity == theirs.nonlinearity and ours.batch_first == theirs.batch_first


@pytest.mark.parametrize("kind,options", [("RNN", {}), ("LSTM", {}), ("LSTM", {"proj_size": 20}), ("GRU", {})])
def test_default_initialisation_has_torchs_distribution(kind, options):
    layer = getattr(rc, kind)(50, 64, 2, rng=0, **options)
    for array in layer.parameters().values():
        assert np.abs(array).max() <= 1 / 8
        if array.size > 1000:
            assert abs(array.std() * 8 - 3**-0.5) < 0.02 and abs(array.mean()) < 0.01


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cells(dtype, kind):
    torch = import_peer("torch")
    cell = getattr(rc, kind)(5, 7, dtype=dtype, rng=1)
    module = getattr(torch.nn, kind)(5, 7, dtype=getattr(torch, dtype))
    module.load_state_dict({name: torch.tensor(array) for name, array in cell.state_dict().items()})
    rng = np.random.default_rng(0)
    states = 2 if kind == "LSTMCell" else 1
    x, *arrays = (rng.standard_normal(s).astype(dtype) for s in [(4, 5)] + [(4, 7)] * (2 * states))
    state, dstate = arrays[:states], arrays[states:]
    wrap = tuple if states == 2 else lambda arrays: arrays[0]

    after, tape = cell.forward(x, wrap(state))
    dx, dbefore, grads = cell.backward(tape, wrap(dstate))

    tensors = [torch.tensor(a, requires_grad=True) for a in (x, *state)]
    expected = as_tuple(module(tensors[0], wrap(tensors[1:])))
    sum((a * torch.tensor(d)).sum() for a, d in zip(expected, dstate, strict=True)).backward()
    assert_close(as_tuple(after), tuple(a.detach().numpy() for a in expected), dtype, "forward")
    assert_close((dx, *as_tuple(dbefore)), tuple(t.grad.numpy() for t in tensors), dtype, "backward")
    assert_close(grads, {n: p.grad.numpy() for n, p in module.named_parameters()}, dtype, "backward")
