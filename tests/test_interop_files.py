"""Weights in files: what is saved is loaded, plain state dicts are understood, and no file does harm."""

import io
import json
import os
import pickle
import struct
import sys
import tracemalloc
import warnings
import zipfile
from functools import partial

import numpy as np
import pytest
import safetensors.numpy
from common import DTYPES, as_tuple, equal, import_peer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES

import rnncore as rc
from rnncore.train import Embedding, Linear

pytestmark = pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")

ENDS = (".safetensors", ".npz")
# What names and shapes tell, and options that they do not.
TOLD = {
    "RNN": (partial(rc.RNN, 3, 5), {"nonlinearity": "sigmoid"}),
    "RNN of two layers": (partial(rc.RNN, 3, 5, 2, bias=False), {"dropout": 0.25, "batch_first": True}),
    "LSTM": (partial(rc.LSTM, 3, 5, 3, bidirectional=True), {"dropout": 0.5}),
    "LSTM with one input and unit": (partial(rc.LSTM, 1, 1), {}),
    "LSTM with projections and peepholes": (partial(rc.LSTM, 3, 5, 2, proj_size=2, peephole=True), {"reverse": True}),
    "LSTM with projections": (partial(rc.LSTM, 3, 4, bidirectional=True, bias=False, proj_size=1), {}),
    "GRU": (partial(rc.GRU, 3, 5, bidirectional=True), {}),
    "original GRU": (partial(rc.GRU, 5, 3, 11, bias=False), {"reset_after": False, "reverse": True}),
    "JordanRNN": (partial(rc.JordanRNN, 3, 5, 2), {"nonlinearity": "relu", "output_nonlinearity": "softmax"}),
    "JordanRNN without bias": (partial(rc.JordanRNN, 3, 2, 5, bias=False), {"batch_first": True}),
    "RNNCell": (partial(rc.RNNCell, 3, 5), {"nonlinearity": "relu"}),
    "LSTMCell": (partial(rc.LSTMCell, 3, 5, bias=False), {}),
    "GRUCell": (partial(rc.GRUCell, 3, 5), {"reset_after": False}),
}
MODULES = {
    **{name: partial(make, **options) for name, (make, options) in TOLD.items()},
    "Linear": partial(Linear, 3, 5),
    "Linear without bias": partial(Linear, 5, 3, bias=False),
    "Embedding": partial(Embedding, 7, 3),
}


def assert_same(actual, expected):
    """The same class, options and bits."""
    assert type(actual) is type(expected) and repr(actual) == repr(expected)
    assert actual.parameters().keys() == expected.parameters().keys()
    assert equal(actual.parameters(), expected.parameters())


def write(path, arrays, about=None):
    """A file as others write it; with `about`, as `rc.save` does."""
    if path.suffix == ".npz":
        more = {} if about is None else {"__rnncore__": np.frombuffer(about.encode(), np.uint8)}
        np.savez(path, **arrays, **more)
    else:
        safetensors.numpy.save_file(arrays, path, None if about is None else {"rnncore": about})
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("end", ENDS)
def test_what_is_saved_is_loaded(tmp_path, end, name, dtype, monkeypatch):
    module, path = MODULES[name](dtype=dtype, rng=3), tmp_path / f"model{end}"
    assert rc.save(path, module) is None
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "default_rng", None)  # nothing is drawn that the file's values replace
        loaded = rc.load(path)
    path.unlink()
    assert_same(loaded, module)
    if name.startswith("Embedding"):
        assert np.array_equal(loaded([3, 0]), module([3, 0]))
    else:
        x = np.random.default_rng(0).standard_normal((4, getattr(module, "input_size", 0) or module.in_features))
        assert equal(loaded(x), module(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("end", ENDS)
def test_names_and_shapes_tell(tmp_path, end, name, dtype):
    make, options = TOLD[name]
    module = make(dtype=dtype, rng=3, **options)
    path = write(tmp_path / f"state{end}", {"a.b." + n: array for n, array in module.state_dict().items()})
    assert_same(rc.load(path, "a.b.", **options), module)
    assert_same(rc.load(path, prefix="a.b."), make(dtype=dtype, rng=3))
    sizes = {n: getattr(module, n) for n in ("input_size", "hidden_size", "bias", "num_layers", "proj_size")
             if hasattr(module, n) and not (n == "num_layers" and "Jordan" in name)}  # fmt: skip
    assert_same(rc.load(path, "a.b.", **sizes), make(dtype=dtype, rng=3))


@pytest.mark.parametrize("end", ENDS)
def test_several_modules_in_one_file(tmp_path, end):
    path = tmp_path / f"model{end}"
    modules = {"": rc.LSTM(3, 4), "head.": Linear(4, 2), "head.of.": Linear(2, 4), "weight_": rc.GRUCell(3, 5)}
    rc.save(path, modules, prefix="model.")
    for prefix, module in modules.items():
        assert_same(rc.load(path, prefix="model." + prefix), module)
    everything = {f"model.{p}{n}": array for p, module in modules.items() for n, array in module.parameters().items()}
    if end == ".npz":
        with np.load(path) as archive:
            assert equal({n: archive[n] for n in everything}, everything)
            assert sorted(archive) == sorted([*everything, "__rnncore__"])
    else:
        found = safetensors.numpy.load_file(path)
        assert found.keys() == everything.keys() and equal(found, everything)
    modules["head."].load_state_dict(rc.load(path, "model.head.").state_dict())
    with pytest.raises(ValueError, match=r"expected one of the prefixes 'model.', 'model.head.', .*, got ''"):
        rc.load(path)


@pytest.mark.parametrize("end", ENDS)
def test_options_and_metadata(tmp_path, end):
    path = tmp_path / f"model{end}"
    rnn = rc.RNN(3, 5, 2, "relu", dropout=0.5, batch_first=True)
    rc.save(path, rnn)
    other = rc.load(path, nonlinearity="tanh", batch_first=False, dropout=0.0, reverse=True, dtype="float64")
    assert repr(other) == "RNN(3, 5, num_layers=2, reverse=True, dtype='float64')"
    assert all(np.array_equal(array, rnn.parameters()[name]) for name, array in other.parameters().items())
    assert_same(rc.load(path, dtype=np.float32, hidden_size=5), rnn)
    for options, error, words in [
        ({"hidden_size": 4}, ValueError, "expected hidden_size=5, as the arrays show, got 4 in the options"),
        ({"num_layers": 1}, ValueError, "expected num_layers=2, as the arrays show, got 1 in the options"),
        ({"bias": False}, ValueError, "expected bias=True, as the arrays show, got False in the options"),
        ({"peephole": True}, TypeError, r"expected options of RNN \(input_size, .*\), got 'peephole' in the options"),
        ({"rng": 0}, TypeError, "expected options of RNN .*, got 'rng'"),
        ({"nonlinearity": "softmax"}, ValueError, "expected nonlinearity to be one of tanh, relu, sigmoid, got"),
        ({"batch_first": 1}, TypeError, "expected batch_first to be True or False, got 1"),
        ({"dtype": "float16"}, ValueError, "expected dtype float32 or float64, got 'float16'"),
    ]:  # fmt: skip
        with pytest.raises(error, match=words) as caught:
            rc.load(path, **options)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("end", ENDS)
def test_subclasses_are_saved_as_what_they_are_of(tmp_path, end):
    class Mine(rc.GRUCell):
        def __init__(self):
            super().__init__(3, 5, rng=0)

    rc.save(tmp_path / f"model{end}", Mine())
    assert_same(rc.load(tmp_path / f"model{end}"), rc.GRUCell(3, 5, rng=0))


# --- what other programs write ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_state_dict_of_a_whole_torch_model(tmp_path, half):
    torch = import_peer("torch")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    model = torch.nn.ModuleDict({
        "embedding": torch.nn.Embedding(9, 3),
        "encoder": torch.nn.LSTM(3, 8, 2, bidirectional=True, proj_size=4),
        "norm": torch.nn.BatchNorm1d(8),
        "decoder": torch.nn.ModuleDict({"cell": torch.nn.GRUCell(8, 5, dtype=torch.float64)}),
        "short": torch.nn.RNN(3, 5, nonlinearity="relu", dtype=getattr(torch, half)),
    })  # fmt: skip
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    x = torch.randn(7, 2, 3)
    y, (h, c) = model["encoder"](x)
    encoder = rc.load(path, prefix="encoder.")
    assert repr(encoder) == "LSTM(3, 8, num_layers=2, bidirectional=True, proj_size=4)"
    for actual, expected in zip((encoder(x)[0], *encoder(x)[1]), (y, h, c), strict=True):
        np.testing.assert_allclose(actual, expected.detach(), rtol=1e-5, atol=1e-6)
    cell = rc.load(path, prefix="decoder.cell.")
    assert repr(cell) == "GRUCell(8, 5, dtype='float64')"
    expected = model["decoder"]["cell"](y[0].detach().double()).detach()
    np.testing.assert_allclose(cell(y[0].detach().double()), expected, rtol=1e-12)
    rnn = rc.load(path, prefix="short.", nonlinearity="relu")
    assert repr(rnn) == "RNN(3, 5, nonlinearity='relu')"
    for name, array in rnn.parameters().items():
        assert np.array_equal(array, getattr(model["short"], name).detach().float()) and array.any(), name
    for prefix in ("", "enc", "decoder."):
        with pytest.raises(
            ValueError, match=r"expected one of the prefixes 'decoder.cell.', 'encoder.', 'short.', got"
        ):
            rc.load(path, prefix=prefix)
    assert load_file(path)["encoder.weight_hr_l0"].dtype == torch.float32
    rc.save(path, {"encoder.": encoder})
    model["encoder"].load_state_dict({n.removeprefix("encoder."): t for n, t in load_file(path).items()})


@pytest.mark.parametrize(
    "dtype,loaded", [(">f4", "float32"), (">f8", "float64"), ("<f2", "float32"), (">f2", "float32")]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_any_order_and_compression(tmp_path, dtype, loaded, save):
    state = rc.LSTM(3, 5, rng=0).state_dict()
    given = {name: np.asfortranarray(array.astype(dtype)) for name, array in state.items()}
    save(tmp_path / "state.npz", **given, beside=np.ones(3))
    with pytest.raises(ValueError, match="expected the names of one LSTM; missing none, unexpected 'beside'"):
        rc.load(tmp_path / "state.npz")
    save(tmp_path / "state.npz", **given)
    lstm = rc.load(tmp_path / "state.npz")
    assert lstm.dtype == loaded
    assert all(np.array_equal(array, given[name]) for name, array in lstm.parameters().items())


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    numbers = np.array([[0.0, -0.0], [1.0, -1.5], [2.0**-133, np.inf]], np.float32)  # a denormal number among them
    data = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    weight = {"weight_ih": ("BF16", [3, 2], data), "weight_hh": ("F32", [3, 1], np.ones(3, np.float32).tobytes())}
    (tmp_path / "a.safetensors").write_bytes(tensors(weight))
    cell = rc.load(tmp_path / "a.safetensors")
    assert repr(cell) == "GRUCell(2, 1, bias=False)"
    assert cell.parameters()["weight_ih"].tobytes() == numbers.tobytes()


# --- what no module fits ----------------------------------------------------------------------------------------------

LSTM = rc.LSTM(3, 5, 2, bidirectional=True, proj_size=2, peephole=True, rng=0).state_dict()
CELL = rc.GRUCell(3, 5, rng=0).state_dict()
JORDAN = rc.JordanRNN(3, 5, 2, rng=0).state_dict()


def without(arrays, *parts):
    return {name: array for name, array in arrays.items() if not any(part in name for part in parts)}


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("arrays,words", [
    ({}, "expected names such as 'weight_hh_l0', got none"),
    ({"head.weight": zeros(2, 2)}, "expected names such as 'weight_hh_l0', got 'head.weight'"),
    ({"weight": zeros(2, 2), "rnn.weight_hh": zeros(2, 2)}, "of a Linear or Embedding, for 'weight' does not tell"),
    ({"a.weight_hh": zeros(2, 2), "b.weight_oh_l0": zeros(2, 2)}, "expected one of the prefixes 'a.', 'b.', got ''"),
    ({n.replace("_l1", "_l2"): a for n, a in LSTM.items()}, "missing 'bias_hh_l1', .* unexpected 'bias_hh_l2'"),
    ({n.replace("_l1", "_l01"): a for n, a in LSTM.items()}, "missing 'bias_hh_l1', .* unexpected 'bias_hh_l01'"),
    ({n.replace("_l1", f"_l{9:0>999}"): a for n, a in LSTM.items()}, "missing 'bias_hh_l1'.*, unexpected 'bias_hh_l00"),
    (without(LSTM, "_l0"), "expected names such as 'weight_hh_l0', got 'bias_hh_l1', "),
    (without(LSTM, "_l1_reverse"), "expected the names of one LSTM; missing 'bias_hh_l1_reverse', .*, unexpected none"),
    (without(LSTM, "bias_ih_l1_"), "expected the names of one LSTM; missing 'bias_ih_l1_reverse', unexpected none"),
    (without(LSTM, "bias_hh"), "missing 'bias_hh_l0', 'bias_hh_l0_reverse', 'bias_hh_l1'"),
    (without(LSTM, "weight_hr_l1"), "missing 'weight_hr_l1', 'weight_hr_l1_reverse', unexpected none"),
    (without(LSTM, "weight_hr"), r"expected weight_hh_l0 with 1, 3 or 4 times as many .*, got shape \(20, 2\)"),
    (without(LSTM, "peephole_l1"), "missing 'weight_peephole_l1', 'weight_peephole_l1_reverse', unexpected none"),
    (without(CELL, "weight_ih"), "expected names with 'weight_ih' among them, got 'bias_hh', 'bias_ih', 'weight_hh'"),
    (without(JORDAN, "weight_ho"), "expected the names of one JordanRNN; missing 'weight_ho_l0', unexpected none"),
    (without(JORDAN, "weight_ih"), "expected names with 'weight_ih_l0' among them"),
    (CELL | LSTM, "expected the names of one LSTM; missing none, unexpected 'bias_hh', 'bias_ih', 'weight_hh', '"),
    (CELL | {"weight_hh_g": zeros(3)}, "expected the names of one GRUCell; missing none, unexpected 'weight_hh_g'"),
    (CELL | {"weight_hh": zeros(10, 5)}, r"expected weight_hh with 1, 3 or 4 times as many .*, got shape \(10, 5\)"),
    (CELL | {"weight_hh": zeros(20, 5)}, r"expected weight_ih of shape \(20, 3\), got \(15, 3\)"),
    (CELL | {"weight_hh": zeros(12, 4)}, r"expected weight_ih of shape \(12, 3\), got \(15, 3\)"),
    (CELL | {"weight_hh": zeros(15, 0)}, r"expected weight_hh of shape \(rows, columns\), got \(15, 0\)"),
    (CELL | {"weight_ih": zeros(0, 10**9)}, r"expected weight_ih of shape \(rows, columns\), got \(0, 1000000000\)"),
    (CELL | {"weight_ih": zeros(15)}, r"expected weight_ih of shape \(rows, columns\), got \(15,\)"),
    (CELL | {"weight_ih": zeros()}, r"expected weight_ih of shape \(rows, columns\), got \(\)"),
    (CELL | {"bias_ih": zeros(15, 1)}, r"expected bias_ih of shape \(15,\), got \(15, 1\)"),
    (LSTM | {"weight_ih_l1": zeros(20, 3)}, r"expected weight_ih_l1 of shape \(20, 4\), got \(20, 3\)"),
    (LSTM | {"weight_hr_l0": zeros(5, 2)}, r"expected weight_ih_l0 of shape \(8, 3\), got \(20, 3\)"),
    (JORDAN | {"weight_ho_l0": zeros(5, 2)}, r"expected weight_ho_l0 of shape \(2, 5\), got \(5, 2\)"),
    (CELL | {"weight_ih": np.zeros((15, 3))}, "expected weights of one dtype, got float32 and float64"),
    (CELL | {"weight_ih": np.zeros((15, 3), int)}, "expected weight_ih of float64, float32, float16 or bfloat16, got"),
    (CELL | {"weight_ih": np.zeros((15, 3), bool)}, "expected weight_ih of float64, float32, float16 or bfloat16, got"),
])  # fmt: skip
@pytest.mark.parametrize("end", ENDS)
def test_arrays_that_are_no_module(tmp_path, end, arrays, words):
    path = write(tmp_path / f"state{end}", arrays)
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        rc.load(path)
    assert str(caught.value).startswith(f"{path}: expected ") and len(str(caught.value)) < 1200


# --- hostile files ----------------------------------------------------------------------------------------------------


def raw(header, data=b"", length=None):
    """A .safetensors file of these parts, whether they fit or not."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensors(entries, metadata=None):
    """A .safetensors file with entries (dtype, shape, bytes)."""
    header, whole = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, (dtype, shape, data) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(whole), len(whole) + len(data)]}
        whole += data
    return raw(header, whole)


PARTS = {name: ("F32", list(array.shape), array.tobytes()) for name, array in CELL.items()}
GOOD = tensors(PARTS)
ENTRY = b'{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}'


def changed(**parts):
    return tensors({**PARTS, **parts})


@pytest.mark.parametrize("data,words", [
    (b"", "(?i)header.?too.?small"),
    (b"1234567", "(?i)header.?too.?small"),
    (GOOD[:-1], "expected a whole .safetensors file, got SafetensorError"),
    (GOOD[:100], "expected a whole .safetensors file, got SafetensorError"),
    (GOOD + b"\0", "expected a whole .safetensors file, got SafetensorError"),
    (raw(b"{}", length=2**64 - 1), "(?i)header.?too.?large"),
    (raw(b"{}", length=2**63), "(?i)header.?too.?large"),
    (raw(b"{}", length=50_000_000), "(?i)invalid.?header.?length"),
    (raw(b"no json"), "expected a whole .safetensors file, got SafetensorError"),
    (raw(b"\xff\xfe{}"), "expected a whole .safetensors file, got SafetensorError"),
    (raw(b"[" * 100_000), "expected a whole .safetensors file, got SafetensorError"),
    (raw(b'{"a":' * 100_000), "expected a whole .safetensors file, got SafetensorError"),
    (raw([]), "expected a whole .safetensors file, got SafetensorError"),
    (raw({}), "expected names such as 'weight_hh_l0', got none"),
    (raw(b'{"weight_hh":%s,"weight_hh":%s}' % (ENTRY, ENTRY), b"1234"), "each name once, got 'weight_hh' twice"),
    (raw(b'{"__metadata__":{"a":"","a":""},"a":%s}' % ENTRY, b"1234"), "expected each name once, got 'a' twice"),
    (raw({"__metadata__": {"rnncore": 1}}), "expected a whole .safetensors file, got SafetensorError"),
    (raw({"__metadata__": None}), "expected names such as 'weight_hh_l0', got none"),
    (raw({"weight_hh": {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8]}}, b"12345678"), "(?i)invalid.?offset"),
    (raw({"weight_hh": {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 0]}}, b"1234"), "SafetensorError"),
    (raw({"weight_hh": {"dtype": "F32", "shape": [1, 1], "data_offsets": [-4, 0]}}, b"1234"), "SafetensorError"),
    (raw({"weight_hh": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 2**62]}}, b"1234"), "SafetensorError"),
    (raw({n: {"dtype": "F32", "shape": [1, 2], "data_offsets": [4 * k, 4 * k + 8]}
          for k, n in enumerate(("weight_hh", "weight_ih"))}, bytes(12)), "(?i)invalid.?offset"),
    (changed(weight_hh=("F32", [-15, -5], bytes(300))), "SafetensorError"),
    (changed(weight_hh=("F32", [2**62, 2**62], bytes(300))), "SafetensorError"),
    (changed(weight_hh=("F32", [15, 6], bytes(300))), "SafetensorError"),
    (changed(weight_hh=("F32", [1] * 999, bytes(4))), "expected weight_hh to have a shape, got ValueError"),
    (changed(weight_hh=("F64", [15, 5], bytes(300))), "SafetensorError"),
    (changed(weight_hh=("F128", [15, 5], bytes(300))), "SafetensorError"),
    (changed(weight_hh=("F32", [0, 2**60], b"")), r"expected weight_hh of shape \(rows, columns\), got \(0, 1152"),
    (changed(weight_hh=("F8_E4M3", [15, 5], bytes(75))), "of float64, .*, got F8_E4M3|SafetensorError"),
    (changed(weight_hh=("F8_E5M2", [15, 5], bytes(75))), "of float64, .*, got F8_E5M2|SafetensorError"),
    (changed(weight_hh=("I32", [15, 5], bytes(300))), "expected weight_hh of float64, .*, got I32"),
    (changed(weight_hh=("BOOL", [15, 5], bytes(75))), "expected weight_hh of float64, .*, got BOOL"),
])  # fmt: skip
def test_hostile_safetensors(tmp_path, data, words):
    refuse(tmp_path / "model.safetensors", data, words)


def refuse(path, data, words, memory=4_000_000):
    """The file is refused in these words, with its name, and gets no more memory than that."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises((TypeError, ValueError), match=words) as caught:
            rc.load(path)
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: expected ") and len(str(caught.value)) < 1200


def test_a_safetensors_file_that_is_not_hostile(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    assert equal(rc.load(tmp_path / "model.safetensors").state_dict(), CELL)


def npy(descr="<f4", shape=(15, 5), data=bytes(300), version=1, header=None):
    """A .npy file of these parts, whether they fit or not."""
    header = (header or f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}").encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def npz(members, method=zipfile.ZIP_STORED):
    """An .npz file of members, given by their bytes, beside the good ones."""
    good = {f"{name}.npy": npy(shape=array.shape, data=array.tobytes()) for name, array in CELL.items()}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        for name, data in (good | members).items():
            archive.writestr(name, data)
    return whole.getvalue()


def patched(data, offset, form, value):
    """The same with a number of the first entry of the zip directory changed."""
    place = data.index(b"PK\1\2") + offset
    return data[:place] + struct.pack(form, value) + data[place + struct.calcsize(form) :]


class Bomb:
    """What must not be unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def objects():
    array = np.empty((15, 5), object)
    array[0, 0] = Bomb()
    whole = io.BytesIO()
    np.lib.format.write_array(whole, array, allow_pickle=True)
    return whole.getvalue()


def twice():
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("weight_hh.npy", "weight_hh"):
            archive.writestr(name, npy())
    return whole.getvalue()


@pytest.mark.parametrize("data,words", [
    (b"", "expected a whole .npz file, got BadZipFile"),
    (b"no zip", "expected a whole .npz file, got BadZipFile"),
    (npy(), "expected a whole .npz file, got BadZipFile"),
    (pickle.dumps(Bomb()), "expected a whole .npz file, got BadZipFile"),
    (npz({})[:-1], "expected a whole .npz file, got"),
    (npz({})[:700], "expected a whole .npz file, got"),
    (npz({})[300:], "expected"),
    (npz({"weight_hh.npy": objects()}), "expected 'weight_hh.npy' with numbers, got dtype object"),
    (npz({"weight_hh.npy": npy("O")}), "expected 'weight_hh.npy' with numbers, got dtype object"),
    (npz({"weight_hh.npy": npy("|O", (), pickle.dumps(Bomb()))}), "with numbers, got dtype object"),
    (npz({"weight_hh.npy": pickle.dumps(Bomb())}), "a whole .npy file, got .*magic string"),
    (npz({"__rnncore__.npy": objects()}), "expected '__rnncore__.npy' with numbers, got dtype object"),
    (npz({"weight_hh.npy": npy(data=bytes(299))}), r"expected 'weight_hh.npy' of .* shape \(15, 5\), got 299 bytes"),
    (npz({"weight_hh.npy": npy(data=bytes(301))}), "got 301 bytes"),
    (npz({"weight_hh.npy": npy(shape=(2**40, 2**40))}), r"of float32 and shape \(10995.*got 300 bytes"),
    (npz({"weight_hh.npy": npy(shape=(10**12, 5))}), "got 300 bytes"),
    (npz({"weight_hh.npy": npy(shape=(-15, 5))}), r"a whole .npy file, got ValueError: header .*\(-15, 5\)"),
    (npz({"weight_hh.npy": npy(shape=(-15, -5))}), r"a whole .npy file, got ValueError: header .*\(-15, -5\)"),
    (npz({"weight_hh.npy": npy(shape=(0, 10**18), data=b"")}), r"expected weight_hh of shape \(rows, col"),
    (npz({"weight_hh.npy": npy(shape=(1,) * 999, data=bytes(4))}), "expected weight_hh.npy to have a shape, got"),
    (npz({"weight_hh.npy": npy(shape=(15.0, 5))}), r"a whole .npy file, got ValueError: header .*\(15.0, 5\)"),
    (npz({"weight_hh.npy": npy(shape="x")}), "a whole .npy file, got ValueError: header .*'shape': x"),
    (npz({"weight_hh.npy": npy("<i4")}), "expected weight_hh of float64, .*, got int32"),
    (npz({"weight_hh.npy": npy("<c8", (15, 2), bytes(240))}), "expected weight_hh of float64, .*, got complex64"),
    (npz({"weight_hh.npy": npy("|V0", data=b"")}), "with numbers, got dtype .*V"),
    (npz({"weight_hh.npy": npy("<U1", (15, 5))}), "expected 'weight_hh.npy' with numbers, got dtype <U1"),
    (npz({"weight_hh.npy": npy([("a", "<f4")])}), r"a whole .npy file, got ValueError: header .*\[\('a'"),
    (npz({"weight_hh.npy": npy("no dtype")}), "a whole .npy file, got ValueError: header .*'no dtype'"),
    (npz({"weight_hh.npy": npy("nodtype")}), "a whole .npy file, got TypeError: .*nodtype"),
    (npz({"weight_hh.npy": npy("(2,)f4")}), "a whole .npy file, got ValueError: header"),
    (npz({"weight_hh.npy": npy("f4,f4")}), "a whole .npy file, got ValueError: header"),
    (npz({"weight_hh.npy": npy(shape="(15)")}), r"a whole .npy file, got ValueError: header .*'shape': \(15\)"),
    (npz({"weight_hh.npy": npy(shape=f"({'9' * 5000},)")}), "a whole .npy file, got ValueError: .*4300 digits"),
    (npz({"weight_hh.npy": npy(header="{'descr': '<f4', 'shape': (15, 5), }")}), "npy file, got ValueError: header"),
    (npz({"weight_hh.npy": npy(header="{'descr': '<f4',,}")}), "a whole .npy file, got ValueError: header"),
    (npz({"weight_hh.npy": npy(shape="(1, 1" + " " * 9000)}), "a whole .npy file, got ValueError: header"),
    (npz({"weight_hh.npy": npy(shape="(" + "1," * 4900)}), "a whole .npy file, got ValueError: header"),
    (npz({"weight_hh.npy": npy(version=3)}), r"a whole .npy file, got ValueError: magic string and version .*x03"),
    (npz({"weight_hh.npy": npy(header="-" * 9000 + "1")}), "to be a whole .npy file, got"),
    (npz({"weight_hh.npy": npy(header="(" * 9000)}), "a whole .npy file, got"),
    (npz({"weight_hh.npy": npy(header="1+" * 4000 + "1")}), "a whole .npy file, got"),
    (npz({"weight_hh.npy": npy(header="(" * 20_000)}), "a whole .npy file, got ValueError: a header of 20010 bytes"),
    (npz({"weight_hh.npy": npy(header="__import__('os').mkdir('unpickled')")}), "npy file, got ValueError: header"),
    (npz({"weight_hh.npy": npy(version=2)[:8] + b"\xff\xff\xff\xff"}), "got ValueError: a header of 4294967307 bytes"),
    (npz({"weight_hh.npy": npy(data=bytes(10**7))}, zipfile.ZIP_DEFLATED), "at most 16 times the file's .* got 100"),
    (npz({"beside.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED), "at most 16 times the file's .* got 1000"),
    (npz({}, zipfile.ZIP_LZMA), "expected 'weight_.*.npy' stored or deflated, got method 14"),
    (npz({}, zipfile.ZIP_BZIP2), "expected 'weight_.*.npy' stored or deflated, got method 12"),
    (twice(), "expected each name once, got 'weight_hh' twice"),
    (patched(npz({}), 8, "<H", 1), "to be a whole .npy file, got .* encrypted"),  # encrypted
    (patched(npz({}), 10, "<H", 99), "expected 'weight_ih.npy' stored or deflated, got method 99"),
    (patched(npz({}), 16, "<I", 0), "to be a whole .npy file, got BadZipFile: Bad CRC"),
    (patched(npz({}), 20, "<I", 20), "expected"),  # bytes stored
    (patched(npz({}), 24, "<I", 20), "expected|EOF"),  # bytes inflated
    (patched(npz({}), 24, "<I", 2**31), "expected at most 16 times the file's .* bytes in it, got 21"),
    (patched(npz({}), 42, "<I", 2**31), "to be a whole .npy file, got BadZipFile"),  # where it begins
    (patched(npz({"weight_hh.npy": npy(data=bytes(10**7))}, zipfile.ZIP_DEFLATED), 24, "<I", 20), "expected"),
])  # fmt: skip
def test_hostile_npz(tmp_path, monkeypatch, data, words):
    monkeypatch.chdir(tmp_path)
    refuse(tmp_path / "model.npz", data, words)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]  # nothing was unpickled


def test_an_npz_file_that_is_not_hostile(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        (tmp_path / "model.npz").write_bytes(npz({}, method))
        assert equal(rc.load(tmp_path / "model.npz").state_dict(), CELL)
    for header in (  # as other programs may write it
        '{"shape":(15,5),"fortran_order":False,"descr":"<f4"}',
        "{'descr': '<f4', 'fortran_order': False, 'shape': (15L, 5L), }",
        " {'fortran_order' : False , 'descr' : 'float32' , 'shape' : ( 15 , 5 , ) , } \n",
    ):
        data = npy(data=CELL["weight_hh"].tobytes(), header=header)
        (tmp_path / "model.npz").write_bytes(npz({"weight_hh.npy": data}))
        assert equal(rc.load(tmp_path / "model.npz").state_dict(), CELL)


def test_a_member_that_inflates_beyond_what_it_says(tmp_path):
    """The directory says 428 bytes, of which the header makes a whole array; what follows is not even looked at."""
    data = npz({"weight_ih.npy": npy(shape=(15, 3), data=bytes(10**8))}, zipfile.ZIP_DEFLATED)
    size = len(npy(shape=(15, 3), data=bytes(180)))
    refuse(tmp_path / "model.npz", patched(data, 24, "<I", size), "got BadZipFile: Bad CRC-32")


# --- metadata ---------------------------------------------------------------------------------------------------------

SIZES = {"input_size": 3, "hidden_size": 5, "bias": True, "reset_after": True}


def about(kind="GRUCell", version=1, **options):
    return json.dumps({"version": version, "modules": {"": {"class": kind, "options": SIZES | options}}})


@pytest.mark.parametrize("text,words", [
    ("", "expected the metadata of rnncore to be JSON, got"),
    ("{", "expected the metadata of rnncore to be JSON, got"),
    ("[" * 100_000, "expected the metadata of rnncore to be JSON, got"),
    ("9" * 5000, "expected the metadata of rnncore to be JSON, got"),
    ('{"version": 1, "version": 1}', "to be JSON, got ValueError: expected each name once"),
    ("null", "expected metadata with a version and modules, got None"),
    ("[]", r"expected metadata with a version and modules, got \[\]"),
    ("{}", "expected metadata with a version and modules, got {}"),
    ('{"version": "1", "modules": {}}', "expected metadata with a version and modules, got"),
    ('{"version": true, "modules": {}}', "expected metadata with a version and modules, got"),
    ('{"version": 1.0, "modules": {}}', "expected metadata with a version and modules, got"),
    ('{"version": 0, "modules": {}}', "expected metadata with a version and modules, got"),
    ('{"version": 1, "modules": []}', "expected metadata with a version and modules, got"),
    ('{"version": 1, "modules": {"": 3}}', "expected metadata with options and one of the classes RNN, .*, got 3"),
    ('{"version": 1, "modules": {"": {"class": "GRUCell"}}}', "expected metadata with options and one of the classes"),
    ('{"version": 1, "modules": {"": {"class": ["GRUCell"], "options": {}}}}', "one of the classes"),
    ('{"version": 1, "modules": {"": {"class": "GRUCell", "options": 3}}}', "one of the classes"),
    (about("Popen"), "expected metadata with options and one of the classes .*, got {'class': 'Popen'"),
    (about("__class__"), "one of the classes"),
    (about(version=2), "expected metadata of version 1, got 2, which a newer rnncore wrote"),
    (about("GRU"), "expected names with 'weight_ih_l0' among them"),
    (about("Linear"), "expected names with 'weight' among them"),
    (about("Embedding"), "expected names with 'weight' among them"),
    (about("JordanRNN"), "expected names with 'weight_ih_l0' among them"),
    (about("LSTMCell"), r"expected weight_ih of shape \(20, 3\), got \(15, 3\)"),
    (about(hidden_size=6), "expected hidden_size=5, as the arrays show, got 6 in the metadata"),
    (about(hidden_size=10**15), "expected hidden_size=5, as the arrays show, got 10+ in the metadata"),
    (about(hidden_size="5"), "expected hidden_size=5, as the arrays show, got '5' in the metadata"),
    (about(input_size=-3), "expected input_size=3, as the arrays show, got -3 in the metadata"),
    (about(input_size=None), "expected input_size=3, as the arrays show, got None in the metadata"),
    (about(bias=False), "expected bias=True, as the arrays show, got False in the metadata"),
    (about(bias=[1] * 1000), r"expected bias=True, as the arrays show, got \[1, 1, .* in the metadata"),
    (about(reset_after=3), "expected reset_after to be True or False, got 3"),
    (about(reset_after=None), "expected reset_after to be True or False, got None"),
    (about(num_layers=10**9), "expected options of GRUCell .*, got 'num_layers' in the metadata"),
    (about(rng=3), "expected options of GRUCell .*, got 'rng' in the metadata"),
    (about(dtype="float64"), "expected options of GRUCell .*, got 'dtype' in the metadata"),
    (about(self=3), "expected options of GRUCell .*, got 'self' in the metadata"),
])  # fmt: skip
@pytest.mark.parametrize("end", ENDS)
def test_metadata_that_is_wrong(tmp_path, end, text, words):
    path = write(tmp_path / f"model{end}", CELL, text)
    refuse(path, path.read_bytes(), words)


@pytest.mark.parametrize("end", ENDS)
def test_names_that_promise_much_more_than_there_is(tmp_path, end):
    """A large first layer and small arrays by the names of 300 more, which a layer would have to draw: 190 MB."""
    arrays = {"weight_ih_l0": zeros(1600, 1), "weight_hh_l0": zeros(1600, 400)}
    arrays |= {f"weight_{part}_l{k}": zeros(1, 1) for part in ("ih", "hh") for k in range(1, 300)}
    path = write(tmp_path / f"state{end}", arrays)
    words = r"expected weight_ih_l1 of shape \(1600, 400\), got \(1, 1\)"
    refuse(path, path.read_bytes(), words, memory=20_000_000)
    metadata = {"class": "LSTM", "options": {"num_layers": 300, "hidden_size": 400, "bias": False}}
    write(path, arrays, json.dumps({"version": 1, "modules": {"": metadata}}))
    refuse(path, path.read_bytes(), words, memory=20_000_000)


def test_metadata_much_longer_than_the_file(tmp_path):
    """What compresses to almost nothing would be lists without end."""
    arrays = {"noise": np.random.default_rng(0).integers(0, 256, 200_000).astype(np.uint8)}
    text = b'{"version": 1, "modules": {}, "x": [%s[]]}' % (b"[], " * 500_000)
    np.savez_compressed(tmp_path / "model.npz", __rnncore__=np.frombuffer(text, np.uint8), **arrays)
    data = (tmp_path / "model.npz").read_bytes()
    words = f"expected at most {len(data) + 65536} bytes of metadata in a file of {len(data)}, got {len(text)}"
    refuse(tmp_path / "model.npz", data, words, memory=10_000_000)


def test_metadata_of_brackets(tmp_path):
    """Of which JSON makes more than of anything else: as much as README says."""
    path = write(tmp_path / "model.safetensors", CELL, "[" + ",".join(["{}"] * 300_000) + "]")
    data = path.read_bytes()
    refuse(path, data, "expected metadata with a version and modules", memory=28 * len(data))


@pytest.mark.parametrize("end", ENDS)
def test_metadata_of_other_modules_and_other_programs(tmp_path, end):
    """What it does not speak of is inferred; an option that it leaves out has its default."""
    text = json.dumps({"version": 1, "modules": {"b.": {"class": "GRUCell", "options": {}}, "c.": {"class": "NTM"}}})
    both = {prefix + name: array for prefix in ("a.", "b.", "c.") for name, array in CELL.items()}
    path = write(tmp_path / f"model{end}", both, text)
    for prefix in ("a.", "b."):
        assert_same(rc.load(path, prefix), rc.GRUCell(3, 5, rng=0))
    with pytest.raises(ValueError, match=r"one of the classes .*, got .*NTM"):
        rc.load(path, "c.")
    if end == ".safetensors":
        safetensors.numpy.save_file(CELL, path, {"format": "np"})
        assert_same(rc.load(path), rc.GRUCell(3, 5, rng=0))


def test_metadata_in_an_array_that_is_no_text(tmp_path):
    for array in (np.array([255, 254], np.uint8), np.zeros((2, 2)), np.array("text")):
        np.savez(tmp_path / "model.npz", **CELL, __rnncore__=array)
        words = "expected the metadata of rnncore to be JSON|expected '__rnncore__.npy' with numbers, got dtype <U4"
        with pytest.raises((TypeError, ValueError), match=words):
            rc.load(tmp_path / "model.npz")


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(end, kind) for end in ENDS for kind in ("saved", "plain")])
def whole(request, tmp_path_factory):
    """A valid file, and the shapes of what is in it."""
    end, kind = request.param
    module = rc.GRU(2, 3, 2, rng=0)
    path = tmp_path_factory.mktemp("damaged") / f"model{end}"
    if kind == "saved":
        rc.save(path, module)
    else:
        write(path, module.state_dict())
    return path, path.read_bytes(), {name: array.shape for name, array in module.parameters().items()}


def load_or_refuse(whole, data):
    path, _, shapes = whole
    damaged = path.with_stem("damaged")
    damaged.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = rc.load(damaged)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"{damaged}: ")
        return False
    assert {name: array.shape for name, array in module.parameters().items()} == shapes
    return True


def test_a_file_cut_anywhere_is_refused(whole):
    _, data, _ = whole
    for length in range(0, len(data), 1 + len(data) // 300):
        assert not load_or_refuse(whole, data[:length])
    assert load_or_refuse(whole, data)


def test_a_file_with_any_changed_byte(whole):
    """It is refused, or what was changed is a number or an option."""
    _, data, _ = whole
    for place in range(len(data)):
        flip = (0x01, 0x55, 0x80)[place % 3]
        load_or_refuse(whole, data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])


@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=20)), min_size=1, max_size=5))
def test_a_file_with_parts_cut_out_and_put_in(whole, edits):
    _, data, _ = whole
    for place, cut, put in edits:
        start = int(place * len(data))
        data = data[:start] + put + data[start + cut :]
    load_or_refuse(whole, data)


# --- paths, and what is missing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_paths(tmp_path, end):
    with pytest.raises(FileNotFoundError, match=f"model{end}"):
        rc.load(tmp_path / f"model{end}")
    (tmp_path / f"folder{end}").mkdir()
    with pytest.raises(IsADirectoryError):
        rc.load(tmp_path / f"folder{end}")
    with pytest.raises(IsADirectoryError):
        rc.save(tmp_path / f"folder{end}", rc.GRUCell(3, 5))
    with pytest.raises(FileNotFoundError):
        rc.save(tmp_path / "no" / f"model{end}", rc.GRUCell(3, 5))
    rc.save(str(tmp_path / f"model{end}"), rc.GRUCell(3, 5, rng=0))
    assert_same(rc.load(str(tmp_path / f"model{end}")), rc.GRUCell(3, 5, rng=0))


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model", ".npz", "model.npz.gz", "model.NPZ", "", "npz"])
def test_other_formats(tmp_path, name):
    words = r"expected a path that ends with .safetensors or .npz, got '"
    with pytest.raises(ValueError, match=words):
        rc.save(tmp_path / name, rc.GRUCell(3, 5))
    with pytest.raises(ValueError, match=words):
        rc.load(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ENDS)
def test_what_cannot_be_saved(tmp_path, end):
    path, cell = tmp_path / f"model{end}", rc.GRUCell(3, 5)
    for module, prefix, error, words in [
        (3, "", TypeError, "expected one of RNN, LSTM, .*, Embedding, got int"),
        ({"a": "cell"}, "", TypeError, "expected one of RNN, .* got str"),
        ({}, "", ValueError, "expected at least one module, got none"),
        ({3: cell}, "", TypeError, "expected prefix to be a string, got 3"),
        ({"a\0b": cell}, "", ValueError, "expected prefix to be printable, got "),
        (cell, "\ud800", ValueError, "expected prefix to be printable, got "),
        (cell, None, TypeError, "expected prefix to be a string, got None"),
    ]:
        with pytest.raises(error, match=words):
            rc.save(path, module, prefix)
    with pytest.raises(TypeError, match="expected prefix to be a string, got None"):
        rc.load(path, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ENDS)
def test_any_printable_prefix(tmp_path, end):
    path = tmp_path / f"model{end}"
    for prefix in (
        "/",
        "../x/",
        "a b",
        "ä€😀.",
        "__metadata__",
        "__rnncore__",
        "file",
        ".npy",
        "weight_hh_l0",
        "%s{0}\\",
    ):
        rc.save(path, rc.LSTM(3, 5, rng=0), prefix)
        assert_same(rc.load(path, prefix), rc.LSTM(3, 5, rng=0))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("end", ENDS)
def test_options_that_are_arrays(tmp_path, end):
    path, lstm = tmp_path / f"model{end}", rc.LSTM(3, 5, rng=0)
    rc.save(path, lstm)
    for name, value in {"hidden_size": 5, "input_size": 3, "num_layers": 1, "bias": True, "proj_size": 0}.items():
        assert_same(rc.load(path, **{name: np.array(value)}), lstm)
        for wrong in (np.array([value, value]), np.array([]), np.array([[value]]), [value, value]):
            with pytest.raises(ValueError, match=f"expected {name}={value}, as the arrays show, got .* in the options"):
                rc.load(path, **{name: wrong})
    for name, words in {
        "batch_first": "expected batch_first to be True or False",
        "reverse": "expected reverse to be True or False",
        "dropout": "expected dropout to be one number",
        "dtype": "expected dtype float32 or float64",
    }.items():
        with pytest.raises((TypeError, ValueError), match=words):
            rc.load(path, **{name: np.array([1, 1])})


def test_names_as_long_as_a_member_of_npz_may_have(tmp_path):
    path, cell = tmp_path / "model.npz", rc.RNNCell(3, 5, bias=False, rng=0)
    longest = "ä" * ((65531 - len("weight_ih")) // 2)
    rc.save(path, cell, longest)
    assert_same(rc.load(path, longest), cell)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"expected names of at most 65531 bytes in \.npz, got 65533: 'äää"):
        rc.save(path, cell, longest + "ä")
    assert path.read_bytes() == before
    rc.save(tmp_path / "model.safetensors", cell, longest + "ä")
    assert_same(rc.load(tmp_path / "model.safetensors", longest + "ä"), cell)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("before", [None, b"an older model"])
def test_a_failed_save_changes_nothing(tmp_path, monkeypatch, end, before):
    path = tmp_path / f"model{end}"
    if before is not None:
        path.write_bytes(before)

    def fail(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left on device"):
        rc.save(path, rc.GRUCell(3, 5))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if before is None else {path.name: before})


@pytest.mark.parametrize("end", ENDS)
def test_a_file_may_change_after_it_is_loaded(tmp_path, end):
    path, lstm = tmp_path / f"model{end}", rc.LSTM(3, 5, rng=0)
    rc.save(path, lstm)
    loaded = rc.load(path)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(loaded, lstm)
    with loaded.editing() as params:
        params["weight_hh_l0"] *= 2
    assert as_tuple(loaded(np.ones((2, 3))))[0].any()


def test_without_safetensors(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    rc.save(path, rc.GRUCell(3, 5, rng=0))
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for run in (lambda: rc.load(path), lambda: rc.save(path, rc.GRUCell(3, 5))):
        with pytest.raises(ImportError, match=r'pip install "rnncore\[safetensors\]"'):
            run()
    rc.save(tmp_path / "model.npz", rc.GRUCell(3, 5, rng=0))
    assert_same(rc.load(tmp_path / "model.npz"), rc.GRUCell(3, 5, rng=0))
