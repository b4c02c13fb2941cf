"""Weights to and from torch: modules either way, tensors in a state dict, and no torch where none is asked for."""

import subprocess
import sys

import numpy as np
import pytest
from common import DTYPES, assert_close, import_peer

import rnncore as rc
from rnncore.train import Embedding, Linear

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

KINDS = [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {}), ("LSTM", {"proj_size": 3}), ("GRU", {})]
CELLS = [("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}), ("LSTMCell", {}), ("GRUCell", {})]


@pytest.fixture
def torch():
    torch = import_peer("torch")
    torch.set_num_threads(1)  # more only wait for each other here
    torch.manual_seed(0)
    return torch


def run_torch(module, x, state=None):
    """Results as a flat tuple of arrays."""
    torch = import_peer("torch")
    with torch.inference_mode():
        results = module(torch.tensor(x), None if state is None else state)
    return tuple(array.numpy() for array in flat(results))


def flat(results):
    return [a for r in results for a in flat(r)] if isinstance(results, tuple) else [results]


def assert_twins(ours, theirs, options):
    """The same options, names and bits, and results that agree."""
    for name, value in options.items():
        assert getattr(ours, name) == getattr(theirs, name) == value, name
    state = theirs.state_dict()
    assert list(ours.parameters()) == list(state)
    for name, array in ours.parameters().items():
        assert array.dtype == ours.dtype and np.array_equal(array, state[name].numpy()), name
        assert array.any()
    shape = (4, 3, 5) if hasattr(ours, "num_layers") else (3, 5)
    x = np.random.default_rng(0).standard_normal(shape).astype(ours.dtype)
    theirs.eval()
    assert_close(tuple(flat(ours(x))), run_torch(theirs, x), ours.dtype.name, "forward")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("kind,more", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers(torch, dtype, kind, more, L, bidirectional, batch_first, bias):
    options = {"num_layers": L, "bidirectional": bidirectional, "batch_first": batch_first, "bias": bias, **more}
    options["dropout"] = 0.25 if L == 2 else 0.0
    module = getattr(torch.nn, kind)(5, 7, **options, dtype=getattr(torch, dtype))
    layer = rc.from_torch(module)
    assert type(layer) is getattr(rc, kind) and layer.dtype == dtype
    assert_twins(layer, module, options | {"input_size": 5, "hidden_size": 7})
    again = layer.to_torch()
    assert type(again) is type(module) and again.weight_ih_l0.dtype == module.weight_ih_l0.dtype and again.training
    assert_twins(layer, again, options | {"input_size": 5, "hidden_size": 7})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind,more", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cells(torch, dtype, kind, more, bias):
    module = getattr(torch.nn, kind)(5, 7, bias=bias, **more, dtype=getattr(torch, dtype))
    cell = rc.from_torch(module)
    assert type(cell) is getattr(rc, kind) and cell.dtype == dtype
    again = cell.to_torch()
    assert type(again) is type(module)
    for theirs in (module, again):
        assert_twins(cell, theirs, more | {"input_size": 5, "hidden_size": 7, "bias": bias})


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("name", ["bias_ih", "bias_hh"])
def test_cells_with_one_bias(torch, kind, name):
    cell = getattr(torch.nn, kind)(3, 4)
    setattr(cell, name, None)
    with pytest.raises(ValueError, match=f"expected {name} to be a tensor, got NoneType"):
        rc.from_torch(cell)
    cell = getattr(torch.nn, kind)(3, 4, bias=False)
    for either in ("bias_ih", "bias_hh"):
        setattr(cell, either, torch.nn.Parameter(torch.ones(cell.weight_ih.shape[0])))
    x = np.ones((2, 3), np.float32)
    got, expected = rc.from_torch(cell)(x), cell(torch.from_numpy(x))
    for ours, theirs in zip(*((a if isinstance(a, tuple) else (a,)) for a in (got, expected)), strict=True):
        assert_close(ours, theirs.detach().numpy(), "float32", "forward")


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_and_embedding(torch, dtype):
    for bias in (True, False):
        module = torch.nn.Linear(5, 7, bias, dtype=getattr(torch, dtype))
        linear = rc.from_torch(module)
        assert type(linear) is Linear and linear.bias is bias and linear.dtype == dtype
        again = linear.to_torch()
        assert type(again) is torch.nn.Linear and (again.bias is not None) is bias
        x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(dtype)
        for theirs in (module, again):
            assert_close(linear(x), theirs(torch.tensor(x)).detach().numpy(), dtype, "forward")
    module = torch.nn.Embedding(9, 5, sparse=True, dtype=getattr(torch, dtype))
    embedding = rc.from_torch(module)
    assert type(embedding) is Embedding and embedding.dtype == dtype
    again = embedding.to_torch()
    assert type(again) is torch.nn.Embedding and (again.num_embeddings, again.embedding_dim) == (9, 5)
    for theirs in (module, again):
        assert np.array_equal(embedding([[1, 8], [0, 1]]), theirs(torch.tensor([[1, 8], [0, 1]])).detach())


def test_an_rnn_is_what_its_mode_says(torch):
    """As PyTorch runs it, whatever its other attribute says."""
    x = torch.randn(5, 2, 3)
    for name, value in (("nonlinearity", "relu"), ("mode", "RNN_RELU"), ("nonlinearity", "sigmoid")):
        module = torch.nn.RNN(3, 4)
        setattr(module, name, value)
        assert_close(rc.from_torch(module)(x.numpy())[0], module(x)[0].detach().numpy(), "float32", "forward")
    module.mode = "RNN_SIGN"
    with pytest.raises(ValueError, match="expected nonlinearity"):
        rc.from_torch(module)


def test_a_module_of_two_kinds(torch):
    both = type("Both", (torch.nn.LSTM, torch.nn.GRU), {"__init__": lambda self: torch.nn.Module.__init__(self)})
    with pytest.raises(TypeError, match=r"expected one of .* of torch\.nn, got LSTM and GRU"):
        rc.from_torch(both())


def test_a_weight_of_another_shape(torch):
    module = torch.nn.LSTM(3, 4)
    module.weight_hh_l0 = torch.nn.Parameter(torch.ones(16, 3))
    with pytest.raises(ValueError, match=r"expected weight_hh_l0 of shape \(16, 4\), got \(16, 3\)"):
        rc.from_torch(module)


@pytest.mark.parametrize("name,value", [("padding_idx", 0), ("max_norm", 1.0), ("scale_grad_by_freq", True)])
def test_options_of_an_embedding_that_rnncore_does_not_have(torch, name, value):
    with pytest.raises(ValueError, match=f"expected Embedding with {name}=(None|False), got {name}={value}"):
        rc.from_torch(torch.nn.Embedding(9, 5, **{name: value}))


@pytest.mark.parametrize("make,words", [
    (lambda: rc.LSTM(3, 5, peephole=True), "expected peephole=False, as torch.nn.LSTM has it, got True"),
    (lambda: rc.LSTM(3, 5, reverse=True), "expected reverse=False, as torch.nn.LSTM has it, got True"),
    (lambda: rc.RNN(3, 5, reverse=True), "expected reverse=False, as torch.nn.RNN has it, got True"),
    (lambda: rc.GRU(3, 5, reset_after=False), "expected reset_after=True, as torch.nn.GRU has it, got False"),
    (lambda: rc.GRUCell(3, 5, reset_after=False), "expected reset_after=True, as torch.nn.GRUCell has it, got False"),
    (lambda: rc.RNN(3, 5, nonlinearity="sigmoid"), "nonlinearity='tanh' or 'relu', as torch.nn.RNN has it, got 'sigm"),
    (lambda: rc.RNNCell(3, 5, nonlinearity="sigmoid"), "nonlinearity='tanh' or 'relu', as torch.nn.RNNCell has it"),
    (lambda: rc.JordanRNN(3, 5, 2), "expected a module that torch.nn has, got JordanRNN"),
])  # fmt: skip
def test_what_torch_does_not_have(torch, make, words):
    with pytest.raises(ValueError, match=words):
        make().to_torch()


def test_what_is_no_module_of_torch(torch):
    for other in (3, None, "LSTM", torch.nn.LSTM, torch.nn.Conv1d(3, 4, 1), rc.LSTM(3, 5), torch.ones(3)):
        with pytest.raises(TypeError, match=r"expected one of RNN, LSTM, GRU, .*, Linear, Embedding of torch.nn, got"):
            rc.from_torch(other)


def test_dtypes(torch):
    for dtype in (torch.float16, torch.bfloat16):
        module = torch.nn.LSTM(5, 7).to(dtype)
        lstm = rc.from_torch(module)
        assert lstm.dtype == np.float32
        for name, array in lstm.parameters().items():
            assert np.array_equal(array, getattr(module, name).detach().float()) and array.any()
    module.bias_ih_l0.data = module.bias_ih_l0.data.float()
    assert np.array_equal(rc.from_torch(module).parameters()["bias_ih_l0"], module.bias_ih_l0.detach())
    module.bias_ih_l0.data = module.bias_ih_l0.data.double()
    with pytest.raises(ValueError, match="expected weights of one dtype, got float32 and float64"):
        rc.from_torch(module)
    with pytest.raises(TypeError, match=r"expected weight_ih of float64, float32, .*, got torch.complex64"):
        rc.from_torch(torch.nn.GRUCell(5, 7, dtype=torch.complex64))
    with pytest.raises(TypeError, match=r"expected weight_ih to be an array of real numbers, got Parameter: .*no data"):
        rc.from_torch(torch.nn.GRUCell(5, 7, device="meta"))
    with pytest.raises(TypeError, match="expected weight to be an array of real numbers, got UninitializedParameter"):
        rc.from_torch(torch.nn.LazyLinear(3))


def test_weights_are_copies(torch):
    module = torch.nn.GRU(5, 7)
    layer = rc.from_torch(module)
    before, again = layer.state_dict(), layer.to_torch()
    with torch.no_grad():
        for parameter in (*module.parameters(), *again.parameters()):
            parameter.zero_()
    assert all(np.array_equal(array, before[name]) and array.any() for name, array in layer.parameters().items())
    again = layer.to_torch()
    with layer.editing() as params:
        params["weight_hh_l0"][...] = 0
    assert np.array_equal(again.weight_hh_l0.detach(), before["weight_hh_l0"])


def test_a_module_made_for_torch_trains_there(torch):
    """Its parameters are torch's own, made without a draw from torch's generator, on the CPU whatever the default."""
    layer = rc.LSTM(5, 7, 2, rng=0)
    before = torch.random.get_rng_state()
    with torch.device("meta"):
        module = layer.to_torch()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.requires_grad and p.is_leaf and p.device.type == "cpu" for p in module.parameters())
    assert list(layer.parameters()) == [name for name, _ in module.named_parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.ones(3, 2, 5))[0].sum().backward()
    optimiser.step()
    assert not np.array_equal(module.weight_hh_l1.detach(), layer.parameters()["weight_hh_l1"])


def test_parametrized_modules_by_their_computed_weights(torch):
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.LSTM(5, 7), "weight_hh_l0")
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0 *= 2
    layer = rc.from_torch(module)
    v = module.parametrizations.weight_hh_l0.original1.detach()
    expected = module.weight_hh_l0.detach()
    assert not np.allclose(expected, v)
    assert np.array_equal(layer.parameters()["weight_hh_l0"], expected)
    x = np.ones((4, 3, 5), np.float32)
    assert_close(tuple(flat(layer(x))), run_torch(module, x), "float32", "forward")
    with pytest.raises(ValueError, match=r"missing \['weight_hh_l0'\], unexpected \['parametrizations.weight_hh_l0"):
        layer.load_state_dict(module.state_dict())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_a_hook_computes_are_refused(torch):
    """They are those of the last call, and not what the parameters say."""
    module = torch.nn.utils.weight_norm(torch.nn.GRUCell(5, 7), "weight_hh")
    with pytest.raises(
        ValueError, match="expected weight_hh to be a parameter or parametrized, got a tensor that a hook"
    ):
        rc.from_torch(module)
    with pytest.raises(ValueError, match=r"missing \['weight_hh'\], unexpected \['weight_hh_g', 'weight_hh_v'\]"):
        rc.GRUCell(5, 7).load_state_dict(module.state_dict())
    torch.nn.utils.remove_weight_norm(module, "weight_hh")
    assert np.array_equal(rc.from_torch(module).parameters()["weight_hh"], module.weight_hh.detach())


def test_subclasses(torch):
    class Theirs(torch.nn.LSTM):
        def __init__(self):
            super().__init__(5, 7, batch_first=True)

    class Ours(rc.LSTM):
        def __init__(self):
            super().__init__(5, 7, batch_first=True)

    assert repr(rc.from_torch(Theirs())) == "LSTM(5, 7, batch_first=True)"
    assert type(Ours().to_torch()) is torch.nn.LSTM


# --- tensors in a state dict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_are_taken_as_they_come(torch, dtype):
    module = torch.nn.LSTM(5, 7)
    for given in ("float32", "float64", "float16", "bfloat16"):
        module.to(getattr(torch, given))
        layer = rc.LSTM(5, 7, dtype=dtype)
        assert layer.load_state_dict(dict(module.named_parameters())) == ([], [])  # they require gradients
        for name, array in layer.parameters().items():
            assert array.dtype == dtype and np.array_equal(array, module.state_dict()[name].to(getattr(torch, dtype)))
    before = layer.parameters()
    for value, words in [
        (torch.zeros(28, device="meta"), "expected bias_ih_l0 to be an array of real numbers, got Tensor: .*no data"),
        (torch.zeros(28).to_sparse(), "expected bias_ih_l0 to be an array of real numbers, got Tensor: .*Sparse"),
        (
            torch.zeros(28, dtype=torch.complex64),
            "expected bias_ih_l0 to be an array of real numbers, got dtype complex",
        ),
    ]:
        with pytest.raises(TypeError, match=words):
            layer.load_state_dict({"bias_ih_l0": value}, strict=False)
    with pytest.raises(ValueError, match=r"expected bias_ih_l0 of shape \(28,\), got \(7,\)"):
        layer.load_state_dict({"bias_ih_l0": torch.zeros(7)}, strict=False)
    assert all(np.array_equal(layer.parameters()[name], array) for name, array in before.items())
    layer.load_state_dict(
        {"bias_ih_l0": torch.arange(28).flip(0), "other": torch.zeros(2, device="meta")}, strict=False
    )
    assert layer.parameters()["bias_ih_l0"][0] == 27


def test_a_part_of_a_whole_models_state_dict(torch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(9, 5)
            self.encoder = torch.nn.GRU(5, 7, 2, bidirectional=True)
            self.norm = torch.nn.BatchNorm1d(14)
            self.decoder = torch.nn.LSTMCell(14, 4)
            self.head = torch.nn.Linear(4, 2)

        def forward(self, tokens):
            y, _ = self.encoder(self.embedding(tokens))
            h, _ = self.decoder(y[-1])
            return self.head(h)

    model, state = Model(), Model().state_dict()
    model.load_state_dict(state)
    embedding, encoder, decoder = Embedding(9, 5), rc.GRU(5, 7, 2, bidirectional=True), rc.LSTM(14, 4)
    head = Linear(4, 2)
    for part, prefix in ((embedding, "embedding."), (encoder, "encoder."), (decoder, "decoder."), (head, "head.")):
        assert part.load_state_dict(state, prefix=prefix) == ([], [])
    tokens = np.array([[1, 2], [8, 0], [3, 3]])
    y, _ = encoder(embedding(tokens))
    actual = head(decoder(y[-1:])[0][0])
    np.testing.assert_allclose(actual, model(torch.tensor(tokens)).detach(), rtol=1e-5, atol=1e-6)
    back = {f"encoder.{name}": torch.tensor(array) for name, array in encoder.state_dict().items()}
    assert not model.load_state_dict(back, strict=False).unexpected_keys


# --- without torch ----------------------------------------------------------------------------------------------------


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for run in (lambda: rc.from_torch(3), rc.LSTM(3, 5).to_torch, rc.GRUCell(3, 5).to_torch, Linear(3, 5).to_torch):
        with pytest.raises(ImportError, match=r'expected torch, .*: pip install "rnncore\[torch\]"'):
            run()
    lstm = rc.LSTM(3, 5, rng=0)
    assert lstm.load_state_dict(rc.LSTM(3, 5, rng=1).state_dict()) == ([], [])
    assert np.array_equal(lstm.parameters()["bias_hh_l0"], rc.LSTM(3, 5, rng=1).parameters()["bias_hh_l0"])


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        "import sys, rnncore as rc\n"
        "late = ('torch', 'safetensors', 'rnncore.interop', 'rnncore.train')\n"
        "def new(): return [name for name in late if name in sys.modules]\n"
        "print(new())\n"
        "rc.GRU(3, 5).load_state_dict(rc.GRU(3, 5).state_dict())\n"
        "print(new(), {'from_torch', 'load', 'save', 'train'} <= set(dir(rc)))\n"
        "rc.load, rc.save, rc.from_torch\n"
        "print(new())\n"
        "from rnncore import *\n"
        "print(save is rc.save, load is rc.load, from_torch.__module__, new())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kit = "['rnncore.interop', 'rnncore.train']"
    assert done.stdout == f"[]\n[] True\n{kit}\nTrue True rnncore.interop.convert {kit}\n"
    with pytest.raises(AttributeError, match="module 'rnncore' has no attribute 'from_onnx'"):
        rc.from_onnx  # noqa: B018
