"""Autograd through rnncore's modules of PyTorch: what gradients are of, what may change before them, what is saved."""

from functools import partial

import pytest
from alike import (  # noqa: F401
    CELLS,
    LAYERS,
    CellNet,
    Net,
    as_tuple,
    cases,
    compare,
    grads,
    nn,
    one_thread,
    ours,
    outcome,
    pytestmark,
    rnn,
    run,
    torch,
    x_of,
)  # fmt: skip

from rnncore._kernels.tensors import Exchange

CASES, case = cases()


@case
def backward_twice(lib):
    module, cell = lib.LSTM(3, 4), lib.GRUCell(3, 4)
    y, _ = module(x_of())
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    h = cell(x_of(2, 3))
    h.sum().backward()
    return grads(module), outcome(lambda _: y.sum().backward(), lib), outcome(lambda _: h.sum().backward(), lib)


@case
def changed_before_backward(lib):
    module = lib.LSTM(3, 4)
    y, _ = module(x_of())
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    y.sum().backward()


def tensors_of(lib, kind, options, frozen):
    """A module in float64, for which PyTorch has operators that save no more than they must, an input and states."""
    module, cell = getattr(lib, kind)(3, 4, **options, dtype=torch.float64), "Cell" in kind
    for name, p in module.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    k, widths = len(module.state_dict()) // 4, (options.get("proj_size", 4), 4)[: 1 + ("LSTM" in kind)]
    states = [x_of(*(() if cell else (k,)), 2, width, dtype=torch.float64) for width in widths]
    return module, x_of(*(() if cell else (5,)), 2, 3, dtype=torch.float64), states


def changed_where_it_matters(kind, options, lib):
    """Whether a backward pass goes on after a change of each of the tensors, and what it finds."""
    results = []
    for frozen in ((), "weight", "weight_ih", "weight_hh", ("weight", "bias")):
        for wanted in ((), (0,), (1, 2)):
            if wanted or frozen != ("weight", "bias"):
                for changed in range(len([*tensors_of(lib, kind, options, frozen)[0].parameters()]) + 3):
                    module, x, states = tensors_of(lib, kind, options, frozen)
                    tensors = [x, *states, *module.parameters()]
                    for which in wanted:
                        tensors[min(which, len(states))].requires_grad_()
                    y = as_tuple(module(x, tuple(states) if len(states) > 1 else states[0]))[0]
                    with torch.no_grad():
                        tensors[min(changed, len(tensors) - 1)].mul_(2)
                    try:
                        y.square().sum().backward()
                        results.append(grads(module, x, *states))
                    except RuntimeError:
                        results.append("changed")
    return results


CASES |= {
    f"changed_{kind}{'_with'[:5 * bool(options)]}{''.join('_' + name for name in options)}": partial(
        changed_where_it_matters, kind, options
    )
    for kind, options in [
        ("LSTM", {}), ("LSTM", {"proj_size": 2}), ("GRU", {"bidirectional": True}), ("RNN", {"num_layers": 2}),
        ("LSTMCell", {}), ("GRUCell", {"bias": False}),
    ]
}  # fmt: skip


@case
def changed_in_layers_and_batches(lib):
    results = []
    for frozen in ("weight_ih_l0", "weight_hh_l0", "bias_hh_l1", "weight_ih_l1"):
        module = lib.GRU(3, 4, 2, dtype=torch.float64)
        for name, p in module.named_parameters():
            p.requires_grad_(name.startswith(frozen))
        for packed in (False, True):
            for changed in module.parameters():
                x = x_of(dtype=torch.float64)
                _, h = module(rnn.pack_padded_sequence(x, [5, 3]) if packed else x)
                with torch.no_grad():
                    changed.mul_(2)
                results.append(type(outcome(lambda _, h=h: h.sum().backward(), lib)).__name__)
    return results, grads(module)


@case
def frozen_in_inference_mode(lib):
    with torch.inference_mode():
        made = lib.GRU(3, 4, dtype=torch.float64), lib.GRUCell(3, 4, dtype=torch.float64)
    results = []
    for module, shape in zip(made, [(5, 2, 3), (2, 3)], strict=True):
        for name, p in list(module.named_parameters()):
            if name.startswith("weight"):
                setattr(module, name, nn.Parameter(p.clone()))
            else:
                p.requires_grad_(False)
        as_tuple(module(x_of(*shape, dtype=torch.float64)))[0].sum().backward()
        results += grads(module)
    return results


def test_changes_that_gradients_of_gradients_would_see():
    module, x = ours.GRU(3, 4).double(), x_of().double().requires_grad_()
    y, _ = module(x)
    with torch.no_grad():
        module.bias_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@case
def a_backward_pass_of_which_nothing_is_saved(lib):
    cell = lib.GRUCell(3, 4)
    cell.weight_ih.requires_grad_(False)
    cell.weight_hh.requires_grad_(False)
    h = cell(x_of(2, 3))
    h.sum().backward(retain_graph=True)
    h.sum().backward()
    return grads(cell), outcome(lambda _: h.sum().backward(), lib)


@case
def outputs_in_place(lib):
    module, x = lib.LSTM(3, 4).double(), x_of(dtype=torch.float64)
    y, (h, c) = module(x)
    y[0] = 0
    h.mul_(2)
    (y.sum() + h.sum() + (c.add_(1) ** 2).sum()).backward()
    with torch.no_grad():
        y2, state = module(x)
        state[0].zero_()
        y3, _ = module(x, state)
    return grads(module), y2, y3


@case
def states_detached_in_place(lib):
    layer, lstm, gru = lib.LSTM(3, 4), lib.LSTMCell(3, 4), lib.GRUCell(3, 4)
    states = [*layer(x_of())[1], *lstm(x_of(2, 3)), gru(x_of(2, 3))]
    for h in states:
        h.detach_()
    return states, lstm(x_of(2, 3), tuple(states[2:4]))


@case
def only_some_gradients(lib):
    module = lib.LSTM(3, 4, 2, bidirectional=True)
    module.weight_ih_l0.requires_grad_(False)
    x, h, c = x_of(requires_grad=True), x_of(4, 2, 4, requires_grad=True), x_of(4, 2, 4)
    _, (_, cn) = module(x, (h, c))
    cn[-1].sum().backward()
    module.requires_grad_(False)
    y, _ = module(x)
    return grads(module, x, h), torch.autograd.grad(y.sum(), x), module(x_of())[0].requires_grad


@case
def hooks(lib):
    module, cell, seen = lib.LSTM(3, 4), lib.LSTMCell(3, 4), []
    for each in (module, cell):
        each.register_forward_pre_hook(lambda _, args: seen.append("before"))
        each.register_forward_hook(lambda _, args, result: seen.append("after"))
        each.register_full_backward_hook(lambda _, into, out: seen.append((into, out)))
        each.register_full_backward_pre_hook(lambda _, out: tuple([None if d is None else 2 * d for d in out]))
    module.weight_hh_l0.register_hook(lambda d: 3 * d)
    x = x_of(requires_grad=True)
    y, (h, _) = module(x)
    (y.sum() + h.sum() + cell(x[0])[0].sum()).backward()
    return seen, grads(module, x), grads(cell)


@case
def second_derivatives(lib):
    layer, cell, x = lib.GRU(3, 4, 2).double(), lib.LSTMCell(3, 4).double(), x_of(3, 2, 3).double().requires_grad_()
    results = []
    for module, input in ((layer, x), (cell, x[0])):
        y, _ = module(input)
        (d,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (d.square().sum() + y.sum()).backward()
        results += [d, grads(module)]
    return results, x.grad


@case
def gradients_in_batches(lib):
    module, cell, x = lib.GRU(3, 4, 2).double(), lib.LSTMCell(3, 4).double(), x_of().double().requires_grad_()
    results = []
    packed, _ = module(rnn.pack_padded_sequence(x, [5, 3]))
    for y in (module(x)[0], packed.data, cell(x[0])[1]):
        directions = torch.stack([torch.ones_like(y), 2 * torch.ones_like(y)])
        results.append(torch.autograd.grad(y, x, directions, retain_graph=True, is_grads_batched=True))
        in_turn = torch.func.vmap(lambda d, y=y: torch.autograd.grad(y, x, d, retain_graph=True)[0])
        results.append(in_turn(directions))
    jacobian = torch.autograd.functional.jacobian
    return results, jacobian(lambda x: module(x)[0], x, vectorize=True), jacobian(lambda x: cell(x[0])[0], x)


@case
def transforms(lib):
    module, x = Net(lib, "GRU").double(), x_of(4, 5, 3).double()
    weights = {name: p.detach() for name, p in module.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(module, weights, (x,))[0].sum()

    dual, enter = torch.autograd.forward_ad.make_dual, torch.autograd.forward_ad.dual_level
    with enter():
        tangent = torch.autograd.forward_ad.unpack_dual(module(dual(x, torch.ones_like(x)))[0]).tangent
    each = CellNet(lib, "GRUCell").double()
    return [
        torch.func.grad(loss)(weights, x), torch.func.jvp(lambda x: module(x)[0], (x,), (x,)), tangent,
        outcome(lambda _: torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x), lib),
        outcome(lambda _: torch.func.vmap(each)(x[:, :, None]), lib),
    ]  # fmt: skip


@case
def checkpoints(lib):
    module, x = lib.LSTM(3, 4, 2), x_of(requires_grad=True)
    for reentrant in (True, False):
        y, _ = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=reentrant)
        y.sum().backward()
    with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly():
        y, _ = module(x)
        y.sum().backward()
    return grads(module, x)


@case
def grad_modes(lib):
    module, cell, x = lib.LSTM(3, 4), lib.GRUCell(3, 4), x_of(requires_grad=True)
    with torch.inference_mode():
        inside, input = module(x), x_of()
        made = lib.LSTM(3, 4)
        inner = made(input)
    with torch.no_grad():
        quiet = module(x), cell(x[0])
        with torch.enable_grad():
            loud = module(x)
    return [
        [t.is_inference() for t in (inside[0], inside[1][0])], inner, quiet, loud,
        outcome(lambda _: module(input), lib), outcome(lambda _: cell(input[0]), lib),
        outcome(lambda _: made(x), lib),
    ]  # fmt: skip


@case
def sizes_afterwards(lib):
    """Of what a call took. Who shards a model frees the memory of weights after each pass, and makes it anew."""
    module, cell, h = lib.LSTM(3, 4), lib.GRUCell(4, 4), x_of(1, 2, 4)
    batch = rnn.pack_padded_sequence(x_of(), [5, 3])
    y, _ = module(batch, (h, h))
    loss = cell(y.data, y.data).square().sum()
    taken = [*batch[:2], h, *(p.data for p in (*module.parameters(), *cell.parameters()))]
    kept, sizes = [t.clone() for t in taken], [t.untyped_storage().nbytes() for t in taken]
    for t in taken:
        t.untyped_storage().resize_(0)
    held = [torch.full((24,), 7.0) for _ in range(50)]
    for t, values, size in zip(taken, kept, sizes, strict=True):
        t.untyped_storage().resize_(size)
        t.data.copy_(values)
    loss.backward()
    with torch.no_grad():
        again = cell(module(batch, (h, h))[0].data)
    return loss, len(held), grads(module), grads(cell), again, h.resize_(3, 3).shape


def test_memory_that_was_freed():
    """What PyTorch reads all the same."""
    module, x = ours.GRU(3, 4), x_of()
    y, _ = module(x)
    for t in (x, module.weight_hh_l0):
        size = t.untyped_storage().nbytes()
        t.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="whose storage was freed"):
            module(x)
        with pytest.raises(RuntimeError, match="whose storage was freed"):
            y.sum().backward()
        t.untyped_storage().resize_(size)


@pytest.mark.parametrize("kind", ["Parameter", "subclass", "others"])
def test_weights_are_known_while_they_lie_where_they_did(kind):
    class Own(nn.Parameter):
        pass

    class Foreign(torch.Tensor):
        pass

    made = {"Parameter": nn.Parameter, "subclass": Own, "others": lambda w: w.detach().as_subclass(Foreign)}[kind]
    weights = [made(w.detach()) for w in nn.LSTM(3, 4, 2).parameters()]
    plan = run.plan_of("LSTM", 3, 4, 2, True, False, False, 0, torch.float32, 0.0)
    known, held = run.calls.known(plan, weights)
    again, held_again = run.calls.known(plan, weights)
    assert again is known and held_again is held
    weights[5].data = weights[5].data.clone()
    other, _ = run.calls.known(plan, weights)
    assert other is not known and run.calls.known(plan, weights)[0] is other


def test_memory_that_came_where_other_was():
    """A weight's memory is freed, and what takes its place lies where it did; which then moves before the way back."""
    module, x = ours.LSTM(8, 1536), x_of(5, 2, 8, requires_grad=True)
    (known,) = torch.autograd.grad(module(x)[0].sum(), x)
    weight = module.weight_hh_l0
    good, place, others = weight.detach().clone(), weight.data_ptr(), []
    weight.untyped_storage().resize_(0)
    while (new := torch.empty_like(good)).data_ptr() != place:
        others.append(new)
        if len(others) == 20:
            pytest.skip("no memory came where it was")
    new.copy_(good)
    weight.data = new
    y, _ = module(x)
    size = new.untyped_storage().nbytes()
    new.untyped_storage().resize_(0)
    others = [torch.full_like(good, 7.0) for _ in range(3)]
    new.untyped_storage().resize_(size)
    new.copy_(good)
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(found, known) and len(others) == 3


@case
def inputs_batch_first_that_change(lib):
    """PyTorch keeps a copy in order of time: of a residual, a buffer that is filled again, what inference mode made."""
    results = []
    for kind in LAYERS:
        module, linear = getattr(lib, kind)(6, 6, 2, batch_first=True), nn.Linear(6, 6)
        start = x_of(4, 5, 6, requires_grad=True)
        x = linear(start)
        x += module(x)[0]
        x.square().sum().backward()
        results += [*grads(module, start), linear.weight.grad]
        x = x_of(4, 5, 6)
        y, _ = module(x)
        x.add_(1)
        y.square().sum().backward()
        with torch.inference_mode():
            x = x_of(4, 5, 6)
        module(x)[0].square().sum().backward()
        results += grads(module)
    return results


@case
def inputs_of_one_sequence_that_change(lib):
    """Which it keeps as they are."""
    x = x_of(1, 5, 6)
    y, _ = lib.GRU(6, 6, batch_first=True)(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", CASES)
def test_as_in_torch(name):
    compare(CASES[name])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "LSTMCell"])
@pytest.mark.parametrize("what", ["input", "weights"])
def test_data_set_between_forward_and_backward_does_not_count(kind, what):
    """As for PyTorch's modules: gradients are those of the numbers that the forward pass read."""
    torch.manual_seed(0)
    module = getattr(ours, kind)(3, 4).double()
    x = torch.randn(*((5, 2, 3) if kind in ("RNN", "LSTM", "GRU") else (2, 3)), dtype=torch.double, requires_grad=True)
    result = module(x)
    loss = (result[0] if isinstance(result, tuple) else result).pow(2).sum()
    of = [x, *module.parameters()]
    before = torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)
    for tensor in of[:1] if what == "input" else of[1:]:
        tensor.data = tensor.data - 0.5
    after = torch.autograd.grad(loss, of, allow_unused=True)
    assert before[0].any() and all(a is b is None or torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_as_in_torch_without_a_table(name, monkeypatch):
    """As with versions of PyTorch whose tensors have none: by attributes."""
    exchange = Exchange((), None)
    for module in (ours.modules, ours.tensors):
        monkeypatch.setattr(module, "exchange", exchange)
    for module in (ours.modules, ours.ops, run):
        monkeypatch.setattr(module, "calls", run.calls_of(exchange))
    compare(CASES[name])


WANTED = {
    **{kind: (kind, {"num_layers": 2}) for kind in LAYERS},
    **{kind: (kind, {}) for kind in ("LSTMCell", "GRUCell")},
    "projections": ("LSTM", {"num_layers": 2, "proj_size": 3}),
    "both directions": ("GRU", {"bidirectional": True, "num_layers": 2}),
    "packed": ("LSTM", {"bias": False}),
    "batch first": ("RNN", {"batch_first": True}),
    "dropout": ("GRU", {"num_layers": 2, "dropout": 0.5}),
    "unbatched": ("LSTM", {}),
}


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("seed", range(6))
def test_gradients_that_nobody_wants_are_not_formed(name, seed, engine, monkeypatch):
    """The others have the same bits."""
    torch.manual_seed(seed)
    kind, options = WANTED[name]
    module = getattr(ours, kind)(5, 7, **options)
    x = x_of(*((2, 5) if kind in CELLS else (6, 5) if name == "unbatched" else (6, 2, 5)))

    def call():
        torch.manual_seed(1)  # the same dropout each time
        result = as_tuple(module(rnn.pack_padded_sequence(x, [6, 4]) if name == "packed" else x))[0]
        return result.data if name == "packed" else result

    upstream, formed, back = torch.randn_like(call()), [], run.Plan.backward
    monkeypatch.setattr(run.Plan, "backward", lambda *arguments: formed.append(back(*arguments)) or formed[-1])

    def gradients(wanted):
        tensors = [x, *module.parameters()]
        for tensor, one in zip(tensors, wanted, strict=True):
            tensor.requires_grad_(bool(one)).grad = None
        call().backward(upstream)
        return [tensor.grad for tensor in tensors]

    count = 1 + len(list(module.parameters()))
    expected = gradients([True] * count)
    for wanted in torch.rand(8, count) < 0.5:
        if not wanted.any():
            continue
        found = gradients(wanted)
        for one, exact, got in zip(wanted, expected, found, strict=True):
            assert torch.equal(got, exact) if one else got is None
        dx, _, dweights = formed[-1]
        assert [dx is not None, *(d is not None for d in dweights)] == wanted.tolist()
