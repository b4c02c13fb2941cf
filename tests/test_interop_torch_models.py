"""Whole models with rnncore in place of PyTorch's recurrent modules; memory, other processes, compilers."""

import gc
import warnings
from importlib import import_module

import pytest
from alike import (  # noqa: F401
    as_tuple,
    assert_alike,
    compare,
    grads,
    nn,
    one_thread,
    ours,
    pytestmark,
    rnn,
    run,
    torch,
    utils,
    x_of,
)  # fmt: skip

# --- whole models, changed over in place ------------------------------------------------------------------------------


class Dropped(nn.Module):
    """A language model after AWD-LSTM: each call gives the layers other recurrent weights."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layers = nn.Embedding(20, 6), nn.ModuleList([nn.LSTM(6, 8), nn.LSTM(8, 6)])
        for layer in self.layers:
            w = layer.weight_hh_l0
            del layer._parameters["weight_hh_l0"]
            layer.register_parameter("raw", nn.Parameter(w.data))

    def forward(self, words):
        y = self.embedding(words)
        for layer in self.layers:
            layer.weight_hh_l0 = nn.functional.dropout(layer.raw, 0.5, self.training)
            y, _ = layer(y)
        return y @ self.embedding.weight.T


class Reader(nn.Module):
    """An encoder of packed sequences and a decoder of cells with attention, as for speech and translation."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)
        self.cells, self.out = nn.ModuleList([nn.LSTMCell(4 + 6, 6), nn.LSTMCell(6, 6)]), nn.Linear(6, 4)

    def forward(self, x, lengths, targets):
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = self.encoder(packed)
        memory, _ = rnn.pad_packed_sequence(y, batch_first=True)
        h, c = (torch.cat([part[-2], part[-1]], 1) for part in state)
        states, results = [(h, c), (c, h)], []
        for part in targets.unbind(1):
            weight = torch.softmax((memory * states[-1][0][:, None]).sum(2), 1)
            below = torch.cat([part, (weight[..., None] * memory).sum(1)], 1)
            for k, cell in enumerate(self.cells):
                states[k] = cell(below, states[k])
                below = states[k][0]
            results.append(self.out(below))
        return torch.stack(results, 1)


class Stream(nn.Module):
    """Steps of one, with states that are reset in between and detached in place."""

    def __init__(self):
        super().__init__()
        self.layer, self.cell = nn.LSTM(4, 5), nn.GRUCell(5, 5)

    def forward(self, x, ends):
        h, c, s, results = torch.zeros(1, 3, 5).to(x), torch.zeros(1, 3, 5).to(x), None, []
        for part, end in zip(x.unbind(), ends.unbind(), strict=True):
            keep = (~end).view(1, -1, 1)
            y, (h, c) = self.layer(part[None], (keep * h, keep * c))
            s = self.cell(y[0], s)
            results.append(s)
            s = s.clone().detach_()
        return torch.stack(results)


MODELS = [
    (Dropped, lambda: (torch.randint(0, 20, (7, 3)),)),
    (Reader, lambda: (x_of(3, 6, 4, dtype=torch.float64), torch.tensor([3, 6, 1]), x_of(3, 4, 4, dtype=torch.float64))),
    (Stream, lambda: (x_of(6, 3, 4, dtype=torch.float64), torch.rand(6, 3) < 0.3)),
]


@pytest.mark.parametrize("kind,inputs", MODELS)
def test_models(kind, inputs):
    def train(lib):
        model = kind().double()
        if lib is ours:
            ours.accelerate(model)
        optimizer, results = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), []
        for _ in range(3):
            y = model(*inputs())
            optimizer.zero_grad()
            y.square().mean().backward()
            results += [y, [g.clone() for g in grads(model)]]
            utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            return results, model.eval()(*inputs()), model.state_dict()

    compare(train)


# --- memory, processes, compilers -------------------------------------------------------------------------------------


def known():
    """How many sets of weights are packed at the moment."""
    gc.collect()
    return sum(len(plan.known) for plan in gc.get_objects() if type(plan) is run.Plan)


@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_hh"])
def test_fresh_weights_leave_nothing_behind(name):
    """Whichever of the weights is another one each time."""
    before = known()
    layer, cell = ours.LSTM(3, 4), ours.GRUCell(3, 4)
    for module, suffix in ((layer, "_l0"), (cell, "")):
        w = getattr(module, name + suffix).detach()
        delattr(module, name + suffix)
        for _ in range(50):
            setattr(module, name + suffix, nn.Parameter(w.clone()))
            results = module(x_of(2, 3))
            as_tuple(results)[0].sum().backward()
            with torch.no_grad():
                module(x_of(2, 3))
    assert known() - before <= 2
    del layer, cell, module, results
    assert known() == before


def change(module, asked, done):
    asked.wait(60)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2)
    done.set()


def test_another_process_changes_weights():
    context = torch.multiprocessing.get_context("spawn")
    module, x = ours.LSTM(3, 4).share_memory(), x_of()
    asked, done = context.Event(), context.Event()
    process = context.Process(target=change, args=(module, asked, done))
    with torch.no_grad():
        module(x)
    process.start()
    asked.set()
    assert done.wait(60)
    process.join()
    plain = nn.LSTM(3, 4)
    plain.load_state_dict(module.state_dict())
    assert_alike(module(x)[0], plain(x)[0])


class Sharded(nn.Module):
    def __init__(self, lib):
        super().__init__()
        self.layer, self.both, self.cell = lib.GRU(3, 4, 2), lib.LSTM(4, 5, bidirectional=True), lib.LSTMCell(10, 6)

    def forward(self, x):
        y, state = self.both(self.layer(x)[0])[0], None
        for y_t in y.unbind():
            state = self.cell(y_t, state)
        return state[0]


def train_sharded(rank, file, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    torch.set_num_threads(1)
    for lib in (nn, ours):
        torch.manual_seed(0)
        model, outputs = Sharded(lib), []
        for part in (*model.children(), model):
            import_module("torch.distributed.fsdp").fully_shard(part, mesh=mesh)
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            y = model(torch.randn(2, 5, 4, 3)[rank])
            y.square().mean().backward()
            optimizer.step()
            outputs.append(y.detach())
        outputs += [p.detach().full_tensor() for p in model.parameters()]
        results.put((rank, lib is ours, [t.tolist() for t in outputs]))
    torch.distributed.destroy_process_group()


def test_shards_in_two_processes(tmp_path):
    if not hasattr(import_module("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("came with PyTorch 2.6")
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=train_sharded, args=(k, tmp_path / "meet", results)) for k in range(2)]
    for process in processes:
        process.start()
    found = {result[:2]: result[2] for result in (results.get(timeout=120) for _ in range(4))}
    for process in processes:
        process.join()
    for rank in range(2):
        assert_alike(*[[torch.tensor(t) for t in found[rank, which]] for which in (True, False)])


def test_compiler_gives_up_quietly():
    """Lengths of a packed sequence are data: Dynamo leaves the module alone then, and what runs in it."""

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = ours.GRU(3, 4, 2)

        def forward(self, data, batch_sizes):
            y, h = self.layer(rnn.PackedSequence(data, batch_sizes))
            return y.data, h

    module, arguments = Packed(), (x_of(8, 3), torch.tensor([3, 3, 2]))
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = torch.compile(module, backend="aot_eager")(*arguments)
    torch._dynamo.reset()
    assert not [warning for warning in caught if "does not know how to trace" in str(warning.message)]
    assert_alike(compiled, module(*arguments))
