"""rnncore's PyTorch modules under `torch.compile`, `torch.export` and TorchScript."""

from __future__ import annotations

import io

import pytest
from parity import (  # noqa: F401
    LAYERS,
    assert_close,
    interop,
    nn,
    pytestmark,
    results,
    seeded,
    tensors,
    torch,
    twins,
)

from rnncore.interop.torch import accelerate
from rnncore.interop.torch.ops import without_onednn


class Model(nn.Module):
    """A layer, a cell in a loop, and a head."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.rnn = interop.GRU(3, 4, num_layers=2, batch_first=True, dropout=dropout)
        self.cell, self.head = interop.LSTMCell(4, 4), nn.Linear(4, 2)

    def forward(self, x, h=None):
        y, h = self.rnn(x, h)
        state = None
        for t in range(3):
            state = self.cell(y[:, t], state)
        return self.head(state[0]), h


@pytest.fixture
def dynamo():
    """Without what an earlier test compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compile(dynamo):
    model = Model().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for T in (4, 6, 9):  # the second makes T a symbol
        x = torch.randn(2, T, 3)
        with torch.no_grad():
            assert_close(tensors(compiled(x)), tensors(model(x)))
        for a, b in zip(results(compiled, x), results(model, x), strict=True):
            assert_close(a, b)
    model.rnn.weight_hh_l0.data.mul_(2)
    with torch.no_grad():
        assert_close(tensors(compiled(x)), tensors(model(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compile_to_code(dynamo):
    """By Inductor, which needs a C++ compiler; training, with dropout."""
    model = Model(dropout=0.5)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(2, 5, 3)
    y, _ = compiled(x)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    assert_close(tensors(compiled(x)), tensors(model(x)))


@pytest.fixture
def graphs(dynamo):
    """The operators of the graphs that Dynamo hands to `record`, a backend."""
    found = []

    def record(graph, inputs):
        found.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    return found, record


@pytest.mark.parametrize("name", LAYERS)
def test_compile_leaves_pytorchs_layers_alone(graphs, name):
    """As without rnncore: Inductor fails at some LSTMs, and unrolls GRUs."""
    (theirs, ours), (found, record), x = twins(name, 3, 4), graphs, torch.randn(5, 2, 3)
    assert_close(tensors(torch.compile(theirs, backend=record)(x)), tensors(theirs(x)))
    assert found == [] and not torch._dynamo.config.allow_rnn
    assert_close(tensors(torch.compile(ours, backend=record, fullgraph=True)(x)), tensors(theirs(x)))
    assert torch.ops.rnncore.recurrent.default in found


def test_compile_breaks_the_graph_where_pytorch_takes_over(graphs):
    (theirs, ours), (found, record) = twins("LSTM", 3, 4), graphs
    compiled = torch.compile(ours, backend=record)
    with without_onednn(), torch.autocast("cpu", torch.bfloat16):
        assert_close(tensors(compiled(torch.ones(5, 2, 3))), tensors(theirs(torch.ones(5, 2, 3))))
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        compiled(torch.randn(0, 2, 3))
    empty = torch.randn(5, 0, 3)
    assert_close(tensors(compiled(empty)), tensors(theirs(empty)))

    def gradients(parameters, x):
        return torch.func.grad(lambda p: torch.func.functional_call(ours, p, (x,))[0].sum())(parameters)

    given = {name: p.detach() for name, p in ours.named_parameters()}, torch.randn(5, 2, 3)
    expected = list(gradients(*given).values())
    assert_close(list(torch.compile(gradients, backend=record)(*given).values()), expected)
    assert not any("lstm" in str(target) for target in found)
    x = torch.randn(5, 2, 3).bfloat16()
    with without_onednn():
        assert_close(tensors(torch.export.export(ours.bfloat16(), (x,), strict=True).module()(x)), tensors(ours(x)))
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(ours, backend=record, fullgraph=True)(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("strict", [False, True])
def test_export(dynamo, strict):
    model = Model().eval()
    x = torch.randn(2, 5, 3)
    steps = torch.export.Dim("T", min=3, max=100)
    program = torch.export.export(model, (x,), dynamic_shapes=({1: steps},), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert "rnncore.recurrent.default" in targets and not any("aten.gru" in t or "aten.lstm" in t for t in targets)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for T in (5, 8):
        x = torch.randn(2, T, 3)
        assert_close(tensors(loaded(x)), tensors(model(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_an_exported_program_under_autocast(dynamo, kind):
    """Its operator gets bfloat16 from others, or has bfloat16 for weights; and says so outside of autocast."""
    model, x = nn.Sequential(nn.Linear(3, 3), getattr(interop, kind)(3, 4)), torch.randn(5, 2, 3)
    expected = tensors(model(x))
    program = torch.export.export(model, (x,), strict=False).module()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for k in range(2):
            program.zero_grad()
            found = tensors(program(x))
            for a, b in zip(found, expected, strict=True):
                assert a.dtype == torch.float32
                torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
            found[0].sum().backward()
            assert all(p.grad.dtype == p.dtype and p.grad.abs().sum() > 0 for p in program.parameters())
            if k == 0:
                program.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"all float64, got torch\.bfloat16 and torch\.bfloat16"):
        program(x.bfloat16())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_export_to_code(dynamo, tmp_path):
    """By AOTInductor, which hands on an empty list of tensors, as of states that were not given, as None."""
    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        pytest.skip("came with PyTorch 2.6")
    model, x = interop.GRU(3, 4).eval(), torch.randn(5, 2, 3)
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, (x,)), package_path=str(tmp_path / "model.pt2")
    )
    assert_close(tensors(torch._inductor.aoti_load_package(package)(x)), tensors(model(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_gets_pytorchs_own():
    model = nn.Sequential(interop.LSTM(3, 4, batch_first=True))
    x = torch.randn(2, 5, 3)
    scripted, traced = torch.jit.script(model), torch.jit.trace(model, x)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    assert b"rnncore" not in file.getvalue()
    for other in (scripted, traced):
        assert_close(tensors(other(x)), tensors(model(x)))
    assert type(model[0]) is nn.LSTM  # PyTorch puts what it scripts in its place
    assert accelerate(model).replaced
    assert_close(tensors(scripted(x)), tensors(model(x)))
