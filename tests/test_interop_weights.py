"""Weights to and from torch: tensors in a state dict."""

import numpy as np
import pytest
from common import DTYPES, import_peer

import rnncore as rc
from rnncore.train import Embedding, Linear


@pytest.fixture
def torch():
    torch = import_peer("torch")
    torch.set_num_threads(1)  # more only wait for each other here
    torch.manual_seed(0)
    return torch


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
    assert all(layer.parameters()[name] is array for name, array in before.items())
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
