"""What people do to PyTorch's recurrent modules besides calling them: rnncore's must take it as these do."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict
from contextlib import nullcontext
from functools import partial
from importlib import import_module

import numpy as np
import pytest
from alike import (  # noqa: F401
    CELLS,
    LAYERS,
    CellNet,
    Net,
    as_tuple,
    assert_alike,
    cases,
    compare,
    grads,
    nn,
    one_thread,
    ours,
    outcome,
    pytestmark,
    rnn,
    steps,
    torch,
    utils,
    x_of,
)  # fmt: skip

CASES, case = cases()

# --- weights that others make -----------------------------------------------------------------------------------------


@case
def weight_norm(lib):
    module = lib.LSTM(3, 4, 2)
    utils.weight_norm(module, "weight_hh_l0")
    utils.weight_norm(module, "weight_ih_l1")
    before = steps(module)
    utils.remove_weight_norm(module, "weight_hh_l0")
    return before, steps(module), list(module.state_dict())


@case
def parameters_in_another_dictionary(lib):
    """As modules of older versions of PyTorch have, and those that something shards."""
    layer, cell = lib.LSTM(3, 4), lib.GRUCell(3, 4)
    for module in (layer, cell):
        module._parameters = OrderedDict(module._parameters)
    return layer(x_of()), cell(x_of(2, 3)), steps(layer)


@case
def weights_before_parameters(lib):
    """What an instance's own dictionary holds comes first."""
    cell = lib.GRUCell(3, 4)
    vars(cell)["weight_ih"] = torch.ones(12, 3)
    return cell(x_of(2, 3))


@case
def integers(lib):
    layer, cell = lib.LSTM(3, 4).requires_grad_(False).type(torch.int64), lib.RNNCell(3, 4).requires_grad_(False).long()
    x = torch.ones(5, 2, 3, dtype=torch.int64)
    return outcome(lambda _: layer(x), lib), outcome(lambda _: cell(x[0]), lib)


@case
def states_of_cells_detached_in_place(lib):
    """With and without what watches operators."""
    found = []
    for kind in CELLS:
        cell, x = getattr(lib, kind)(3, 4), x_of(2, 3, requires_grad=True)
        for mode in (nullcontext(), torch.device("cpu"), torch.no_grad()):
            with mode:
                found += [h.detach_() for h in as_tuple(cell(x))]
    return found


@case
def parametrized(lib):
    module, cell = lib.LSTM(3, 4), lib.GRUCell(3, 4)
    utils.parametrizations.weight_norm(module, "weight_hh_l0")
    utils.parametrizations.spectral_norm(module, "weight_ih_l0")
    utils.parametrizations.orthogonal(cell, "weight_hh")
    before = steps(module)
    cell(x_of(2, 3), cell(x_of(2, 3))).sum().backward()
    utils.parametrize.remove_parametrizations(module, "weight_hh_l0")
    return before, steps(module), grads(cell)


@case
def spectral_norm(lib):
    module = lib.GRU(3, 4)
    utils.spectral_norm(module, "weight_hh_l0")
    return steps(module), module.eval()(x_of())


@case
def pruned(lib):
    module = lib.LSTM(3, 4)
    utils.prune.l1_unstructured(module, "weight_ih_l0", 0.5)
    utils.prune.random_unstructured(module, "bias_hh_l0", 2)
    before = steps(module), [isinstance(w, nn.Parameter) for w in module._flat_weights]
    utils.prune.remove(module, "weight_ih_l0")
    return before, steps(module), sorted(module.state_dict())


def drop(how, lib):
    module = lib.LSTM(3, 4)
    raw = nn.Parameter(module.weight_hh_l0.detach().clone())
    if how == "attribute":
        del module.weight_hh_l0
    results = []
    for _ in range(3):
        w = nn.functional.dropout(raw, 0.5)
        if how == "attribute":
            module.weight_hh_l0 = w
        elif how == "parameter":
            module.weight_hh_l0 = nn.Parameter(w.detach())
        elif how == "parameters":
            module._parameters["weight_hh_l0"] = w
        else:
            module._flat_weights = [module.weight_ih_l0, w, *module._flat_weights[2:]]
        y, _ = module(x_of())
        raw.grad = None
        y.sum().backward()
        results += [y, raw.grad]
    return results


CASES |= {f"weight_drop_{how}": partial(drop, how) for how in ("attribute", "parameter", "parameters", "flat_weights")}


@case
def weights_of_another_network(lib):
    network, module, cell = nn.Linear(2, 12 * 4), lib.GRU(3, 4), lib.GRUCell(3, 4)
    del module.weight_hh_l0, cell.weight_hh
    results = []
    for _ in range(2):
        module.weight_hh_l0 = cell.weight_hh = network(torch.randn(2)).view(12, 4)
        network.zero_grad()
        y, _ = module(x_of())
        (y.sum() + cell(x_of(2, 3), x_of(2, 4)).sum()).backward()
        results += [y, network.weight.grad.clone()]
    return results


@case
def functional_call(lib):
    module, cells, x = Net(lib), CellNet(lib), x_of()
    twice = {name: 2 * p.detach() for name, p in module.named_parameters()}
    some = {"cell.weight_hh": torch.ones(16, 4)}
    call = torch.func.functional_call
    return call(module, twice, (x,)), module(x), call(cells, some, (x,)), cells(x)


@case
def shared_weights(lib):
    module = lib.LSTM(4, 4, 2, bidirectional=True)
    module.weight_hh_l1 = module.weight_hh_l0
    module.bias_ih_l0_reverse = module.bias_ih_l0
    y, _ = module(x_of(5, 2, 4))
    y.sum().backward()
    return y, grads(module)


@case
def options_of_another_layer(lib):
    errors = []
    for name, value in [("num_layers", 2), ("bidirectional", True), ("mode", "RNN_SIGMOID")]:
        module = lib.RNN(3, 4)
        setattr(module, name, value)
        errors.append(outcome(lambda _, module=module: module(x_of()), lib))
    return errors


def misfit(name, value, lib):
    module = lib.GRU(3, 4)
    setattr(module, name, value)
    return module(x_of())


def misfit_cell(name, value, lib):
    cell = lib.GRUCell(3, 4)
    setattr(cell, name, value)
    return cell(x_of(2, 3))


def parameter(*shape, **options):
    return nn.Parameter(torch.ones(*shape, **options))


MISFITS = [
    ("weight_hh_l0", parameter(12, 5)), ("bias_ih_l0", parameter(7)), ("bias_hh_l0", None), ("weight_hh_l0", None),
    ("weight_ih_l0", parameter(12, 3, dtype=torch.float64)), ("weight_hh_l0", parameter(12, 4, device="meta")),
    ("bias_hh_l0", parameter(12, dtype=torch.float64)), ("input_size", 4),
]  # fmt: skip
MISFITS_OF_CELLS = [
    ("weight_hh", parameter(12, 5)), ("bias_hh", None), ("weight_hh", None), ("bias", False), ("hidden_size", 5)
]  # fmt: skip
CASES |= {f"misfit_{k}": partial(misfit, *args) for k, args in enumerate(MISFITS)}
CASES |= {f"misfit_cell_{k}": partial(misfit_cell, *args) for k, args in enumerate(MISFITS_OF_CELLS)}


@case
def dropout_range(lib):
    module, errors = lib.LSTM(3, 4, 2), []
    for p in (-0.5, 1.5, 1):
        module.dropout = p
        errors.append(outcome(lambda _: module(x_of()), lib))
    return errors


@case
def nonlinearity_in_capitals(lib):
    module = lib.RNNCell(3, 4, nonlinearity="TANH")
    return module(x_of(2, 3))


@case
def no_hidden_units(lib):
    x = x_of(2, 3)
    return lib.GRUCell(3, 0)(x), lib.RNNCell(3, 0)(x, torch.zeros(2, 0)), lib.LSTMCell(3, 0)(x)


# --- fresh weights ----------------------------------------------------------------------------------------------------


def edit_numpy(layer, cell, k):
    layer.bias_ih_l1.detach().numpy()[:] = k


def edit_data(layer, cell, k):
    layer.weight_hh_l0.data[3, 2] = 5.0 + k
    cell.bias_hh.data.add_(1)


def edit_in_place(layer, cell, k):
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
        cell.weight_ih.add_(1)


def edit_inference(layer, cell, k):
    with torch.inference_mode():
        layer.bias_hh_l0.copy_(torch.randn(16))


def edit_set(layer, cell, k):
    layer.weight_hh_l1.data = torch.randn(16, 4)
    with torch.no_grad():
        cell.weight_hh.set_(torch.randn(12, 4))


def edit_parameter(layer, cell, k):
    layer.weight_hh_l1 = nn.Parameter(torch.randn(16, 4))
    cell._parameters["weight_hh"] = nn.Parameter(torch.randn(12, 4))


def edit_load(layer, cell, k):
    layer.load_state_dict({name: torch.randn_like(w) for name, w in layer.state_dict().items()}, assign=k == 1)


def edit_swap(layer, cell, k):
    a, b = layer.weight_hh_l0.data, layer.weight_hh_l1.data
    layer.weight_hh_l0.data, layer.weight_hh_l1.data = b, a


def edit_type(layer, cell, k):
    for module in (layer, cell):
        module.double()
        for p in module.parameters():
            p.data.mul_(2)
        module.float()


def fresh(edit, lib):
    layer, cell, results = lib.LSTM(3, 4, 2), lib.GRUCell(3, 4), []
    for k in range(3):
        for watched in (torch.no_grad, torch.enable_grad):
            with watched():
                results += [layer(x_of()), cell(x_of(2, 3))]
        edit(layer, cell, k)
    return results, steps(layer)


EDITS = (
    edit_numpy, edit_data, edit_in_place, edit_inference, edit_set, edit_parameter, edit_load, edit_swap, edit_type
)  # fmt: skip
CASES |= {f"fresh_{edit.__name__}": partial(fresh, edit) for edit in EDITS}


# --- copies -----------------------------------------------------------------------------------------------------------


@case
def copies(lib):
    module, x, results = lib.LSTM(3, 4, 2), x_of(), []
    module(x)
    for make in (copy.deepcopy, copy.copy, lambda module: pickle.loads(pickle.dumps(module))):
        twin = make(module)
        results += [twin(x), type(twin).__name__]
    file = io.BytesIO()
    torch.save(module, file)
    results.append(torch.load(io.BytesIO(file.getvalue()), weights_only=False)(x))
    torch.save(module.state_dict(), file := io.BytesIO())
    other = lib.LSTM(3, 4, 2)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return results, other(x), steps(module), other(x)


@case
def loaded_by_keywords(lib):
    class Loading(lib.LSTM):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            names = "local_metadata", "strict", "missing_keys", "unexpected_keys", "error_msgs"
            super()._load_from_state_dict(state_dict, prefix, **dict(zip(names, rest, strict=True)))

    module = Loading(3, 4)
    module.load_state_dict(lib.LSTM(3, 4).state_dict())
    return module(x_of())


@case
def replicas(lib):
    module = lib.GRU(3, 4)
    replica = module._replicate_for_data_parallel()
    return replica(x_of()), nn.DataParallel(Net(lib))(x_of())


@case
def swapped_parameters(lib):
    layer, cell, x = lib.GRU(3, 4), lib.GRUCell(3, 4), x_of(2, 3)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with torch.no_grad():
            before = layer(x), cell(x)
        layer.double().float()
        cell.double().float()
        with torch.no_grad():
            after = layer(x), cell(x)
        cell.load_state_dict({name: w + 1 for name, w in cell.state_dict().items()})
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    return before, after, cell(x)


@case
def words(lib):
    return [
        repr(lib.LSTM(3, 4, 2, proj_size=2, bidirectional=True, dropout=0.5)), repr(lib.GRUCell(3, 4, bias=False)),
        repr(lib.RNN(3, 4, nonlinearity="relu")), list(lib.LSTM(3, 4, 2, proj_size=2, bidirectional=True).state_dict()),
        outcome(lambda lib: lib.LSTM(3, 4, proj_size=4), lib), outcome(lambda lib: lib.GRU(3, 4, proj_size=2), lib),
        outcome(lambda lib: lib.RNN(3, 4, nonlinearity="sigmoid"), lib), outcome(lambda lib: lib.LSTM(3), lib),
        outcome(lambda lib: lib.GRU(3, 4).load_state_dict(lib.GRU(3, 5).state_dict()), lib),
    ]  # fmt: skip


@case
def random_numbers(lib):
    layer, cell = lib.LSTM(3, 4, 2), lib.GRUCell(3, 4)
    layer(x_of()), cell(x_of(2, 3))
    return list(layer.parameters()), torch.rand(1)


def unaligned(tensor):
    """The same numbers at an odd address, as in a file that is mapped."""
    size = tensor.element_size() * tensor.numel()
    other = torch.frombuffer(bytearray(size + 1), dtype=tensor.dtype, offset=1, count=tensor.numel()).view(tensor.shape)
    return other.copy_(tensor.detach())


@case
def at_odd_addresses(lib):
    results = []
    for make, shapes in ((lib.LSTM, [(5, 2, 3)]), (lib.GRU, [(5, 2, 3), (1, 2, 4)]), (lib.GRUCell, [(2, 3), (2, 4)])):
        module = make(3, 4)
        for parameter in module.parameters():
            parameter.data = unaligned(parameter.data)
        given = [unaligned(x_of(*shape)) for shape in shapes]
        for weight in (None, *module.parameters()):
            with torch.no_grad():
                if weight is not None:
                    weight.mul_(3)
                results.append(module(*given))
        y = module(*given)
        (y[0] if isinstance(y, tuple) else y).sum().backward()
        results.append(grads(module))
    return results


@case
def negated_views(lib):
    module, base = lib.GRU(3, 4), torch.randn(12, 4)
    del module.weight_hh_l0
    module.weight_hh_l0 = torch._neg_view(base)
    results, x = [], x_of()
    with torch.no_grad():
        for _ in range(2):
            results.append(module(x))
            base.mul_(3)
    return results


@case
def compiled_with_weights_that_others_make(lib):
    module = lib.GRU(3, 4)
    utils.weight_norm(module, "weight_hh_l0")
    results = [module(x_of())]
    compiled = module if lib is nn else torch.compile(module, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Dynamo's own
            y, h = compiled(x_of())
        y.sum().backward()
        results += [y.detach(), h.detach()]
    return results, grads(module)


@case
def parts_of_ones_own(lib):
    class Checking(lib.LSTM):
        def check_forward_args(self, *args):
            raise KeyError("checked")

    class Turning(lib.GRU):
        def permute_hidden(self, h, permutation):
            return h + 1

    class Doubling(lib.GRUCell):
        def forward(self, x, h):
            return x * 2 + h

    class Twice(lib.LSTM):
        def forward(self, x):
            return x * 2

    x = torch.ones(2, 3)
    return [
        outcome(lambda lib: Checking(3, 4)(x_of()), lib), Turning(3, 4)(x_of()),
        torch.jit.script(Doubling(3, 3))(x, x), torch.jit.script(nn.Sequential(Twice(3, 4)))(x),
    ]  # fmt: skip


@case
def workers_of_a_data_loader(lib):
    module = lib.LSTM(3, 4)
    module(x_of())  # with whatever threads there are

    def run(rows):
        with torch.no_grad():
            return module(torch.stack(rows))[0]

    data = [torch.full((2, 3), float(k)) for k in range(8)]
    return list(
        torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, collate_fn=run, multiprocessing_context="fork")
    )


# --- tensors and modes of all kinds -----------------------------------------------------------------------------------


@case
def strange_layouts(lib):
    module, x = lib.LSTM(3, 4, 2), x_of(5, 4, 6)
    state = torch.randn(1, 1, 4).expand(2, 4, 4)
    inputs = [
        x[..., ::2], x[..., :3].transpose(0, 1).contiguous().transpose(0, 1), x[:1, :1, :3].expand(5, 4, 3),
        x[..., :3].flip(0), torch.randn(60).as_strided((5, 4, 3), (1, 2, 5)), nn.Parameter(x[..., :3]),
        torch.randn(5, 4, 3, dtype=torch.complex64).conj().imag,
    ]  # fmt: skip
    y, _ = module(inputs[0], (state, state))
    d = torch.randn(4, 5, 4).transpose(0, 1)
    (y * d).sum().backward(retain_graph=True)
    y.backward(d[:, :1].expand(5, 4, 4))
    return [module(input, (state, state)) for input in inputs], grads(module)


@case
def weights_laid_out(lib):
    layer, cell = lib.LSTM(3, 4), lib.GRUCell(3, 4)
    layer.weight_ih_l0.data = layer.weight_ih_l0.data.t().contiguous().t()
    cell.weight_hh = nn.Parameter(torch.randn(4, 12).t())
    before = layer(x_of()), cell(x_of(2, 3), x_of(2, 4))
    layer.weight_ih_l0.data.mul_(3)
    cell.weight_hh.data.mul_(3)
    return before, layer(x_of()), cell(x_of(2, 3), x_of(2, 4))


@case
def nothing_in_it(lib):
    results = []
    for module in (lib.LSTM(3, 4, 2, bidirectional=True), lib.GRU(3, 4, batch_first=True)):
        y, state = module(x_of(5, 0, 3) if not module.batch_first else x_of(0, 5, 3))
        y.sum().backward()
        results += [y, state, grads(module)]
    cell = lib.LSTMCell(3, 4)
    return results, cell(x_of(0, 3)), lib.GRU(0, 4)(x_of(5, 2, 0)), outcome(lambda _: module(x_of(2, 0, 3)), lib)


@case
def not_a_number(lib):
    module, x = lib.RNN(3, 4, nonlinearity="relu"), x_of()
    x[1, 0, 0], x[2, 1, 1] = float("nan"), float("inf")
    y, h = module(x)
    y.sum().backward()
    return y, h, grads(module)


@case
def other_types(lib):
    results = []
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        module, cell = lib.GRU(3, 4).to(dtype), lib.LSTMCell(3, 4).to(dtype)
        y, _ = module(x_of().to(dtype))
        y.sum().backward()
        results += [y, grads(module), cell(x_of(2, 3).to(dtype)), outcome(lambda _, m=module: m(x_of()), lib)]
    module, cell = lib.GRU(3, 4), lib.GRUCell(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results += [module(x_of()), cell(x_of(2, 3))]
    return results, module(x_of())


@case
def other_devices(lib):
    module, here = lib.LSTM(3, 4).to("meta"), lib.LSTM(3, 4)
    x, h = x_of(device="meta"), torch.zeros(1, 2, 4, device="meta")
    with torch.device("cpu"):
        y, _ = here(x_of())
        y.sum().backward()
    mistakes = [partial(module, x_of()), partial(here, x), partial(here, x_of(), (h, h))]
    return module(x), y, [outcome(lambda _, f=f: f(), lib) for f in mistakes], module.to_empty(device="cpu") is module


@case
def kinds_of_tensors(lib):
    class Own(torch.Tensor):
        pass

    module, mistakes = lib.LSTM(3, 4), [x_of().to_sparse(), torch.quantize_per_tensor(x_of(), 0.1, 0, torch.qint8)]
    mistakes += [torch.nested.nested_tensor([x_of(3, 3), x_of(2, 3)]), x_of(dtype=torch.complex64), x_of().int()]
    y, (h, _) = module(x_of().as_subclass(Own))
    z, _ = module(x_of(), (x_of(1, 2, 4).as_subclass(Own), x_of(1, 2, 4)))
    kinds = [type(t).__name__ for t in (y, h, z)]
    for each, name in ((module, "bias_ih_l0"), (lib.GRUCell(3, 4), "weight_hh")):
        setattr(each, name, nn.Parameter(getattr(each, name).detach().as_subclass(Own)))
        results = each(x_of(2, 3))
        kinds.append([type(t).__name__ for t in (results if each is not module else (results[0], *results[1]))])
    return kinds, [outcome(lambda _, x=x: module(x), lib) for x in mistakes]


@case
def gradients_of_each_sample(lib):
    """By tensors that know what PyTorch's functions are for them, and no others' operators."""
    each, x = import_module("torch.nn.utils._per_sample_grad").call_for_per_sample_grads, x_of(2, 5, 3)
    found = []
    for module in (lib.LSTM(3, 4, bidirectional=True, batch_first=True), lib.GRU(3, 4, batch_first=True)):
        for packed in (False, True):
            y, _ = each(module, batch_size=2)(rnn.pack_padded_sequence(x, [5, 3], True) if packed else x)
            y[0].sum().backward()
            found += [p.grad_sample for p in module.parameters()]
            for p in module.parameters():
                p.grad_sample = None
    return found, outcome(lambda _: each(lib.GRUCell(3, 4), batch_size=2)(x[:, 0]), lib)


@case
def tensors_with_functions(lib):
    class Known(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if getattr(function, "__module__", "").startswith("torch._ops"):
                raise NotImplementedError(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    layer, cell = lib.GRU(3, 4), lib.LSTMCell(3, 4)
    before = layer(x_of().as_subclass(Known))[0], cell(x_of(2, 3).as_subclass(Known))[0]
    h, c = x_of(1, 2, 4).as_subclass(Known), x_of(2, 4).as_subclass(Known)
    before += layer(x_of(), h)[0], cell(x_of(2, 3), (c, c))[0]
    layer.weight_hh_l0 = nn.Parameter(layer.weight_hh_l0.detach().as_subclass(Known))
    return [(type(y).__name__, y.detach().as_subclass(torch.Tensor)) for y in (*before, layer(x_of())[0])]


@case
def tensors_with_operators(lib):
    two = import_module("torch.testing._internal.two_tensor").TwoTensor
    module, x, h = lib.GRU(3, 4).double(), x_of().double(), x_of(1, 2, 4).double()
    of_state, _ = module(x, two(h, h.clone()))
    w = module.weight_hh_l0.detach()
    module.weight_hh_l0 = nn.Parameter(two(w, w.clone()))
    of_weight, _ = module(x)
    return [(type(y).__name__, y.a.detach()) for y in (of_state, of_weight)]


@case
def tensors_that_know_pytorchs_operators_alone(lib):
    two = import_module("torch.testing._internal.two_tensor").TwoTensor

    class Aten(two):
        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            assert function.namespace == "aten", f"{function} is unknown"
            return super().__torch_dispatch__(function, types, args, kwargs)

    x, h = x_of(), x_of(1, 2, 4)
    y, _ = lib.GRU(3, 4)(Aten(x, x.clone()), Aten(h, h.clone()))
    z = lib.RNNCell(3, 4)(Aten(x[0], x[0].clone()))
    return y.a.detach(), z.a.detach()


@case
def watched(lib):
    class Every(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **kwargs or {})

    module, cell = lib.LSTM(3, 4, 2), lib.GRUCell(3, 4)
    with Every():
        y, _ = module(x_of())
        (y.sum() + cell(x_of(2, 3)).sum()).backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        z, _ = module(x_of())
    return y, z, grads(module), grads(cell)


@case
def floating_point_operations(lib):
    counter, counts = import_module("torch.utils.flop_counter").FlopCounterMode, []
    x, h, double = x_of(requires_grad=True), x_of(2, 2, 4, requires_grad=True), torch.float64
    lstm = lib.LSTM(3, 4, 2, proj_size=2, dtype=double)
    state = x_of(2, 2, 2, dtype=double, requires_grad=True), h.double()
    packed = rnn.pack_padded_sequence(x.double(), [5, 3])
    for call in (
        lambda: lib.GRU(3, 4, bidirectional=True)(x, h), lambda: lib.RNN(3, 4, 2, bias=False)(x, h),
        lambda: lstm(packed, state)[1], lambda: [lib.LSTMCell(3, 4)(x[0], (h[0], h[1]))[0]],
    ):  # fmt: skip
        with torch.no_grad(), counter(display=False) as quiet:
            call()
        with counter(display=False) as forward:
            y = call()[0]
        with counter(display=False) as backward:
            y.sum().backward()
        counts.append([count.get_total_flops() for count in (quiet, forward, backward)])
    return counts


@case
def fakes(lib):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        y, (h, _) = lib.LSTM(3, 4, batch_first=True)(x_of())
        z = lib.GRUCell(3, 4)(x_of(2, 3))
    return [(tuple(t.shape), t.stride(), type(t).__name__) for t in (y, h, z)]


# --- tracers ----------------------------------------------------------------------------------------------------------


@case
def symbolic_trace(lib):
    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.cell = lib.LSTM(3, 4), lib.GRUCell(3, 4)

        def forward(self, x, h):
            _, (h, c) = self.layer(x, (h, h))
            return self.cell(x[0], h[0]) + c[0], self.layer(x)[0]

    traced = torch.fx.symbolic_trace(Calls())
    return traced(x_of(), x_of(1, 2, 4)), [(node.op, str(node.target)) for node in traced.graph.nodes]


@case
def symbolic_trace_of_nothing_else(lib):
    torch.fx.symbolic_trace(lib.GRU(3, 4))


@case
def script(lib):
    module, cell = Net(lib).eval(), lib.LSTMCell(3, 4)
    scripted, file = torch.jit.script(module), io.BytesIO()
    torch.jit.save(scripted, file)
    loaded = torch.jit.load(io.BytesIO(file.getvalue()))
    before = [f(x_of()) for f in (scripted, loaded, torch.jit.trace(module, x_of()))]
    module.rnn.weight_hh_l0.data.mul_(2)
    return before, scripted(x_of()), module(x_of()), torch.jit.script(cell)(x_of(2, 3))


@case
def script_with_exports(lib):
    class Doubling(lib.GRU):
        @torch.jit.export
        def twice(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    class Doubled(Doubling):
        pass

    scripted, accelerated = torch.jit.script(Doubled(3, 4)), nn.Sequential(Doubled(3, 4))
    ours.accelerate(accelerated)
    return [(script(x_of()), script.twice(x_of())) for script in (scripted, torch.jit.script(accelerated)[0])]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # PyTorch's own
def test_onnx_new_exporter_gets_pytorchs_operators(monkeypatch):
    """It has no functions for others'."""
    for exporting in (False, True):
        monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda exporting=exporting: exporting)
        for module, x in ((Net(ours, batch_first=True), x_of()), (CellNet(ours, "GRUCell"), x_of())):
            program = torch.export.export(module, (x,), strict=False)
            assert any("rnncore" in str(node.target) for node in program.graph.nodes) != exporting
            with torch.no_grad():
                assert_alike(program.module()(x), module(x))


# --- packed sequences, states, mistakes -------------------------------------------------------------------------------


@case
def packed(lib):
    results = []
    for kind, options in [("LSTM", {"bidirectional": True, "proj_size": 2}), ("GRU", {"num_layers": 2})]:
        module, x = getattr(lib, kind)(3, 4, **options), x_of(requires_grad=True)
        for lengths, enforce_sorted in (([5, 3], True), ([2, 5], False), ([1, 1], True)):
            y, state = module(rnn.pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted))
            (y.data.sum() + as_tuple(state)[0].sum()).backward()
            results += [tuple(y), state, x.grad.clone()]
    return results, grads(module)


def odd_packed(rows, batch_sizes, lib):
    sequence = rnn.PackedSequence(x_of(rows, 3), torch.tensor(batch_sizes))
    return lib.LSTM(3, 4)(sequence)


ODD_PACKED = [(5, [2, 3]), (7, [3, 2]), (4, [3, 2]), (3, [3, 0])]
CASES |= {f"odd_packed_{k}": partial(odd_packed, *args) for k, args in enumerate(ODD_PACKED)}


@case
def order_of_another_batch(lib):
    order = torch.tensor([0, 1])
    sequence = rnn.PackedSequence(x_of(5, 3), torch.tensor([3, 2]), order, order)
    return lib.LSTM(3, 4)(sequence, (x_of(1, 3, 4), x_of(1, 3, 4)))


@case
def states_as_given(lib):
    module, cell, h = lib.LSTM(3, 4), lib.LSTMCell(3, 4), x_of(1, 2, 4)
    stacked = torch.stack([h, h])
    good = [module(x_of(), [h, h]), cell(x_of(2, 3), [h[0], h[0]]), cell(x_of(2, 3), stacked[:, 0])]
    bad = [h, (h,), (h, h, h), (None, h), (t for t in (h, h)), stacked, "hc", 1.0]
    return good, [outcome(lambda _, hx=hx: module(x_of(), hx), lib) for hx in bad]


@pytest.mark.parametrize("name", CASES)
def test_as_in_torch(name):
    compare(CASES[name])


X_MISTAKES = [(5, 2, 4), (5, 2), (5,), (), (5, 2, 3, 1), (0, 2, 3), (2, 5, 3)]
H_MISTAKES = [(1, 3, 4), (2, 2, 4), (1, 2, 5), (1, 4), (1, 2), (1, 1, 4), (1, 2, 4, 1), (0, 2, 4)]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_mistakes_with_layers(kind, batch_first):
    shapes = [(x, (1, 2, 4)) for x in X_MISTAKES] + [((5, 2, 3), h) for h in H_MISTAKES] + [((5, 3), (1, 1, 4))]
    for x, h in shapes:

        def call(lib, x=x, h=h):
            module, state = getattr(lib, kind)(3, 4, batch_first=batch_first), torch.zeros(h)
            return module(torch.randn(x), (state, state) if kind == "LSTM" else state)

        compare(call)
    for dtype in (torch.float64, torch.float16, torch.int64, torch.bool):
        compare(lambda lib, dtype=dtype: getattr(lib, kind)(3, 4)(torch.ones(5, 2, 3, dtype=dtype)))
    for x in (None, [1.0], np.ones((5, 2, 3)), "x"):
        compare(lambda lib, x=x: getattr(lib, kind)(3, 4)(x))


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_mistakes_in_calls(kind):
    x, h = torch.ones(2, 3), torch.zeros(1, 4)
    for given, named in ([], {}), ([x, h, h], {}), ([x], {"state": None}), ([], {"hx": h}):
        call = partial(lambda lib, given, named: getattr(lib, kind)(3, 4)(*given, **named), given=given, named=named)
        got, want = outcome(call, ours), outcome(call, nn)
        assert type(got) is type(want) is TypeError and str(got) == str(want)


@pytest.mark.parametrize("kind", CELLS)
def test_mistakes_with_cells(kind):
    shapes = [(x, (2, 4)) for x in ((2, 4), (3,), (1, 3), (2, 2, 3))]
    for x, h in shapes + [((2, 3), h) for h in ((3, 4), (2, 5), (4,), (1, 4), (1, 2, 4))]:

        def call(lib, x=x, h=h):
            cell, state = getattr(lib, kind)(3, 4), torch.zeros(h)
            return cell(torch.randn(x), (state, state) if kind == "LSTMCell" else state)

        compare(call)
    for x in (None, [1.0], "x", torch.ones(2, 3, dtype=torch.int64)):
        compare(lambda lib, x=x: getattr(lib, kind)(3, 4)(x))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["bias_ih", "bias_hh"])
def test_a_cell_with_one_bias(kind, bias, name):
    """Removed by hand, or given: PyTorch's functions take either."""

    def call(lib):
        cell = getattr(lib, kind)(3, 4, bias=bias)
        setattr(cell, name, None if bias else torch.nn.Parameter(torch.ones(cell.weight_ih.shape[0])))
        found = cell(torch.ones(2, 3))
        h = found[0] if kind == "LSTMCell" else found
        h.sum().backward()
        return h, *[p.grad for p in cell.parameters()]

    compare(call)


@pytest.mark.parametrize("option,value", [("hidden_size", 4.0), ("bidirectional", 1), ("num_layers", True)])
def test_options_of_another_type(option, value):
    def call(lib):
        layer = lib.LSTM(3, 4).double()
        setattr(layer, option, value)
        h = torch.ones(1, 2, 4).double()
        return layer(torch.ones(5, 2, 3).double(), (h, h))

    compare(call)


LOOK = """
import importlib.util, torch, rnncore.interop.torch as ours
importlib.util.find_spec("torch.utils.flop_counter")
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    ours.LSTM(8, 8)(torch.zeros(4, 2, 8))
print(counter.get_total_flops())
"""


def test_a_mere_look_for_a_module_does_not_hide_it():
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True)
    assert done.stdout == "8192\n", done.stderr
