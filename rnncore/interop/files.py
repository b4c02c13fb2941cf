"""Weights in files: `.safetensors`, by its library, and NumPy's `.npz`. No pickle is read or written.

`save` adds to the arrays which modules they are of, as JSON::

    {"version": 1, "modules": {"encoder.": {"class": "LSTM", "options": {"input_size": 3, "hidden_size": 4, ...}}}}

in `.safetensors` as "rnncore" among its metadata, in `.npz` as the bytes of an array named ABOUT.
`SequenceModel.save` adds "model" to it, with what its modules do not tell.

`load` trusts none of it. Sizes come from the names and shapes of the arrays that are there; what metadata and options
say of them has to agree, and nothing is made before it does: no file gets memory beyond a small multiple of its size.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..cells import GRUCell, LSTMCell, RNNCell
from ..checks import as_dtype, check_shape
from ..file import write_whole
from ..jordan import JordanRNN
from ..layers import GRU, LSTM, RNN
from ..train.embedding import Embedding
from ..train.linear import Linear
from ..weights import Module
from .kinds import KINDS, common_dtype, kind_of, made, option_names, options_of, shapes_of

__all__ = ["load", "save"]

VERSION = 1
ABOUT = "__rnncore__"  # no parameter's name ends so
LONGEST = 65535  # bytes of a member's name in an .npz file
INFLATED = 16  # times its own size is what an .npz file may hold: far from what weights come to, and from what bombs do
BRIEF = 65536  # bytes of metadata beyond a file's own size, which they have where nothing is compressed
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # of .safetensors
LAYERS, CELLS = {1: RNN, 3: GRU, 4: LSTM}, {1: RNNCell, 3: GRUCell, 4: LSTMCell}  # by their gates
TELLING = ("weight_hh_l0", "weight_hh", "weight_oh_l0")  # one of which every layer and cell has
# A prefix, and the name of a parameter.
NAME = re.compile(r"(.*)((?:weight|bias)(?:_(?:ih|hh|hr|peephole|oh|ho|h|o))?(?:_l[0-9]+(?:_reverse)?)?)", re.DOTALL)


class Stored(NamedTuple):
    """What a file holds: its arrays by name, read when they are asked for, and what `save` added."""

    arrays: dict[str, Callable[[], np.ndarray]]
    about: str | bytes | None


def save(path: str | os.PathLike[str], module: Module | Mapping[str, Module], prefix: str = "") -> None:
    """Write weights to a file, with what it takes to make their modules again.

    Parameters
    ----------
    path : path-like
        Its end names the format: ``.safetensors`` (``pip install "rnncore[safetensors]"``) or ``.npz``.
    module : layer, cell, train.Linear, train.Embedding, or mapping of str to them
        Or several of them by their prefixes, for one file.
    prefix : str
        What all names begin with.

    Raises
    ------
    ImportError
        If there is no safetensors, and `path` asks for it.
    OSError
        If the file cannot be written; it is then as it was, or not there if it was not.
    TypeError
        If `module` is something else, or a prefix is no string.
    ValueError
        If `path` ends otherwise, there is no module, a prefix has characters that cannot be printed, or a name is too
        long for an ``.npz`` file: more than 65531 bytes.

    Notes
    -----
    Names and layout are torch's: ``safetensors.torch.load_file`` returns a state dict. The file is made in memory,
    written whole beside the old one, and put in its place.

    Examples
    --------
    >>> import os, tempfile, rnncore as rc
    >>> encoder, head = rc.LSTM(3, 4, bidirectional=True), rc.train.Linear(8, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.npz")
    ...     rc.save(path, {"encoder.": encoder, "head.": head})
    ...     rc.load(path, prefix="encoder.")
    LSTM(3, 4, bidirectional=True)
    """
    modules = module if isinstance(module, Mapping) else {"": module}
    write_modules(path, {_as_prefix(prefix) + _as_prefix(key): part for key, part in modules.items()})


def write_modules(path: str | os.PathLike[str], modules: Mapping[str, Module], **more: Any) -> None:
    """Do what `save` does with modules by their whole prefixes, and note more of them, as JSON has it."""
    _, write = _format(path)
    if not modules:
        raise ValueError("expected at least one module, got none")
    arrays: dict[str, np.ndarray] = {}
    about = {}
    for prefix, module in modules.items():
        about[prefix] = {"class": kind_of(module).__name__, "options": options_of(module)}
        arrays |= {prefix + name: array for name, array in module.parameters().items()}
    write_whole(path, write(arrays, json.dumps({"version": VERSION, "modules": about, **more})))


def load(path: str | os.PathLike[str], prefix: str = "", **options: Any) -> Any:
    """Return the module that `save` wrote, or the layer or cell whose state dict a file holds.

    Parameters
    ----------
    path : path-like
        A file that ends with ``.safetensors`` (``pip install "rnncore[safetensors]"``) or ``.npz``.
    prefix : str
        What the names of the module's parameters begin with.
    **options
        Arguments of the module's constructor. Without metadata, names and shapes tell whether it is an RNN, LSTM, GRU,
        JordanRNN or a cell (a Linear or Embedding needs metadata), and its sizes, `num_layers`, `bias`,
        `bidirectional`, `proj_size` and `peephole`; all else has its default unless it is said here: `nonlinearity`,
        `output_nonlinearity`, `reset_after`, `reverse`, `batch_first`, `dropout`. Where metadata has another value for
        one of these, what is said here counts. `dtype` converts: by default it is that of the arrays, float32 for
        float16 and bfloat16.

    Returns
    -------
    RNN, LSTM, GRU, JordanRNN, RNNCell, LSTMCell, GRUCell, train.Linear or train.Embedding
        With weights of its own; the file is closed.

    Raises
    ------
    ImportError
        If there is no safetensors, and `path` asks for it.
    OSError
        If the file cannot be read.
    TypeError
        If an option is none of the module's, or an array is of another dtype.
    ValueError
        If the file is damaged, or holds what no module fits: names that are missing or too many, shapes that do not
        belong together, metadata or options that the arrays contradict. If there are modules under other prefixes only,
        the error lists them.

    Notes
    -----
    Whatever is in the file, no code of it runs, and memory stays within a small multiple of what it holds, which is at
    most its size or, compressed, 16 times that; metadata may be 64 kB longer than the file. All of it is read, whatever
    the prefix.

    Examples
    --------
    >>> import os, tempfile, numpy as np, rnncore as rc
    >>> gru = rc.GRU(3, 4, num_layers=2, bias=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "state.npz")
    ...     np.savez(path, **gru.state_dict())  # names and arrays alone, as from torch
    ...     rc.load(path, batch_first=True)
    GRU(3, 4, num_layers=2, bias=False, batch_first=True)
    """
    read, _ = _format(path)
    prefix = _as_prefix(prefix)
    data = Path(path).read_bytes()
    with _naming(path):
        return _module(read(data), prefix, options)


def read_modules(path: str | os.PathLike[str], prefixes: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return those of the modules with these prefixes that are noted in a file, by prefix, and all that is noted.

    Raises
    ------
    ImportError, OSError, TypeError, ValueError
        As `load` does.
    """
    read, _ = _format(path)
    data = Path(path).read_bytes()
    with _naming(path):
        stored = read(data)
        noted = _noted(stored.about)
        return {prefix: _module(stored, prefix, {}) for prefix in prefixes if prefix in noted["modules"]}, noted


def _as_prefix(prefix: Any) -> str:
    """Return a prefix; a NUL would end a name in a .npz file, and half of a pair of surrogates is no text."""
    if not isinstance(prefix, str):
        raise TypeError(f"expected prefix to be a string, got {prefix!r}")
    if not prefix.isprintable():
        raise ValueError(f"expected prefix to be printable, got {prefix!r}")
    return prefix


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """A context whose errors name the file."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{os.fspath(path)}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


@contextmanager
def _parsing(what: str) -> Iterator[None]:
    """A context whose errors are the file's fault: zipfile, zlib, NumPy, json and safetensors have a dozen kinds of
    them."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"expected {what}, got {type(error).__name__}: {error!s:.200}") from error


# --- from arrays to a module ------------------------------------------------------------------------------------------


def _module(stored: Stored, prefix: str, options: dict[str, Any]) -> Any:
    """Return the module whose parameters have this prefix."""
    modules = _noted(stored.about)["modules"]
    found = _found(stored, prefix, modules)
    kind, told = _told(modules[prefix]) if prefix in modules else (None, {})
    arrays = {name: _as_float(read(), name) for name, read in found.items()}
    kind = kind or _kind(arrays)
    shown = _shown(kind, arrays)
    shapes = shapes_of(kind, shown)
    if arrays.keys() != shapes.keys():
        missing, unexpected = _listed(shapes.keys() - arrays.keys()), _listed(arrays.keys() - shapes.keys())
        raise ValueError(f"expected the names of one {kind.__name__}; missing {missing}, unexpected {unexpected}")
    for name, shape in shapes.items():
        check_shape(arrays[name].shape, shape, name)
    dtype = options.pop("dtype", None)
    for source, said in (("the metadata", told), ("the options", options)):
        for name, value in said.items():
            if name not in option_names(kind):
                known = ", ".join(option_names(kind))
                raise TypeError(f"expected options of {kind.__name__} ({known}), got {name!r:.80} in {source}")
            if name in shown and not np.array_equal(shown[name], value):  # whatever it is
                raise ValueError(f"expected {name}={shown[name]!r}, as the arrays show, got {value!r:.80} in {source}")
    dtype = common_dtype(arrays) if dtype is None else as_dtype(dtype)
    return made(kind, {**told, **options, **shown}, arrays, dtype)


def _found(stored: Stored, prefix: str, modules: Mapping[str, Any]) -> dict[str, Callable[[], np.ndarray]]:
    """Return the arrays whose names have this prefix and not that of another module, by the rest of their names."""
    owners = {name: match[1] for name in stored.arrays if (match := NAME.fullmatch(name))}
    others = modules.keys() - {prefix}
    found = {
        name.removeprefix(prefix): read
        for name, read in stored.arrays.items()
        if name.startswith(prefix) and owners.get(name) not in others
    }
    if prefix in modules or any(name in found for name in TELLING):
        return found
    if "weight" in found:
        raise ValueError(
            f"expected what `save` notes of a Linear or Embedding, for {prefix + 'weight'!r:.80} does not tell which; "
            "load_state_dict of one takes the arrays, as numpy.load or safetensors.numpy.load_file read them"
        )
    prefixes = modules.keys() | {owner for name, owner in owners.items() if name.removeprefix(owner) in TELLING}
    if prefixes:
        raise ValueError(f"expected one of the prefixes {_listed(prefixes)}, got {prefix!r:.80}")
    raise ValueError(f"expected names such as 'weight_hh_l0', got {_listed(stored.arrays)}")


def _noted(about: str | bytes | None) -> dict[str, Any]:
    """Return what `save` notes: of each module, by prefix, under "modules"; and whatever else."""
    if about is None:
        return {"modules": {}}
    with _parsing("the metadata of rnncore to be JSON"):
        content = json.loads(about, object_pairs_hook=_once)
    match content:
        case {"version": version, "modules": dict()} if type(version) is int and version == VERSION:  # not True
            return content  # type: ignore[no-any-return]
        case {"version": int(version)} if version > VERSION:
            raise ValueError(f"expected metadata of version {VERSION}, got {version}, which a newer rnncore wrote")
    raise ValueError(f"expected metadata with a version and modules, got {content!r:.200}")


def _told(entry: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class and the options that `save` noted of a module."""
    match entry:
        case {"class": str(name), "options": dict(options)} if name in KINDS:
            return KINDS[name], options
    raise ValueError(f"expected metadata with options and one of the classes {', '.join(KINDS)}, got {entry!r:.200}")


def _kind(arrays: Mapping[str, np.ndarray]) -> Any:
    """Return which layer or cell has parameters of these names and shapes."""
    if "weight_oh_l0" in arrays:
        return JordanRNN
    if "weight_hr_l0" in arrays:
        return LSTM
    name, kinds = ("weight_hh_l0", LAYERS) if "weight_hh_l0" in arrays else ("weight_hh", CELLS)
    rows, columns = _matrix(arrays, name)
    if rows % columns or rows // columns not in kinds:
        raise ValueError(f"expected {name} with 1, 3 or 4 times as many rows as columns, got shape {(rows, columns)}")
    return kinds[rows // columns]


def _shown(kind: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the options of a module that names and shapes of its parameters show."""
    if kind is Embedding:
        return dict(zip(("num_embeddings", "embedding_dim"), _matrix(arrays, "weight"), strict=True))
    shown: dict[str, Any] = {"bias": any(name.startswith("bias") for name in arrays)}
    if kind is Linear:
        return dict(zip(("out_features", "in_features"), _matrix(arrays, "weight"), strict=True)) | shown
    end = "" if kind in CELLS.values() else "_l0"
    shown["input_size"] = _matrix(arrays, "weight_ih" + end)[1]
    if kind is JordanRNN:
        return shown | dict(zip(("hidden_size", "output_size"), _matrix(arrays, "weight_oh_l0"), strict=True))
    shown["hidden_size"] = _matrix(arrays, "weight_hh" + end)[1]
    if kind in LAYERS.values():
        layers = {match[1] for name in arrays if (match := re.search("_l([0-9]+)", name))}
        shown |= {"num_layers": len(layers), "bidirectional": any(name.endswith("_reverse") for name in arrays)}
    if kind is LSTM:
        shown |= {"proj_size": 0, "peephole": any(name.startswith("weight_peephole") for name in arrays)}
        if "weight_hr_l0" in arrays:
            shown["proj_size"], shown["hidden_size"] = _matrix(arrays, "weight_hr_l0")
    return shown


def _matrix(arrays: Mapping[str, np.ndarray], name: str) -> tuple[int, int]:
    """Return the rows and columns of a parameter that has some."""
    if name not in arrays:
        raise ValueError(f"expected names with {name!r} among them, got {_listed(arrays)}")
    shape = arrays[name].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"expected {name} of shape (rows, columns), got {shape}")
    return shape


def _as_float(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array as float32 or, if it is float64, as that."""
    if array.dtype.str[1:] not in ("f2", "f4", "f8"):
        raise TypeError(f"expected {name} of float64, float32, float16 or bfloat16, got {array.dtype}")
    return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32, copy=False)


def _listed(names: Iterable[str]) -> str:
    """Return names for an error, which may be very many and long."""
    return (", ".join(map(repr, sorted(names))) or "none")[:400]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, whose names the format allows to be there twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"expected each name once, got {name!r:.80} twice")
        found[name] = value
    return found


# --- formats ----------------------------------------------------------------------------------------------------------


def _format(path: str | os.PathLike[str]) -> tuple[Callable[[bytes], Stored], Callable[[Any, str], Any]]:
    """Return how to read and how to write a file."""
    end = Path(path).suffix
    if end not in FORMATS:
        raise ValueError(f"expected a path that ends with {' or '.join(FORMATS)}, got {os.fspath(path)!r}")
    return FORMATS[end]


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('expected safetensors, for its files: pip install "rnncore[safetensors]"') from error
    return safetensors


def _read_safetensors(data: bytes) -> Stored:
    """The library checks the header: its length, and that dtypes, shapes and offsets account for every byte once."""
    library = _safetensors()
    with _parsing("a whole .safetensors file"):
        found = library.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_once)
    arrays: dict[str, Callable[[], np.ndarray]] = {name: partial(_tensor, name, tensor) for name, tensor in found}
    return Stored(arrays, (header.get("__metadata__") or {}).get("rnncore"))


def _tensor(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    """Return an array of what the library found: dtype, shape and bytes."""
    dtype = tensor["dtype"]
    if dtype not in DTYPES:
        raise TypeError(f"expected {name} of float64, float32, float16 or bfloat16, got {dtype}")
    array = np.frombuffer(tensor["data"], DTYPES[dtype])
    if dtype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)  # of which it is the upper half
    return _shaped(array, tensor["shape"], name)


def _write_safetensors(arrays: dict[str, np.ndarray], about: str) -> bytes:
    return _safetensors().numpy.save(arrays, {"rnncore": about})  # type: ignore[no-any-return]


def read_npz(data: bytes, key: str = ABOUT) -> Stored:
    """Return what an .npz file holds, with the bytes of one array as what was added."""
    with _parsing("a whole .npz file"):
        archive = zipfile.ZipFile(io.BytesIO(data))
    members = archive.infolist()
    end = data.rindex(b"PK\5\6")  # of the directory; zipfile does not look at its count of members
    if min(len(members), 0xFFFF) != int.from_bytes(data[end + 10 : end + 12], "little"):
        raise ValueError(f"expected as many members as the directory's end says, got {len(members)}")
    size = sum(member.file_size for member in members)
    if size > INFLATED * len(data):
        raise ValueError(f"expected at most {INFLATED} times the file's {len(data)} bytes in it, got {size}")
    arrays = _once([(member.filename.removesuffix(".npy"), partial(_npy, archive, member)) for member in members])
    about = arrays.pop(key, None)
    text = about and about().tobytes()
    if text and len(text) > len(data) + BRIEF:  # of which JSON makes fifty times as much
        raise ValueError(
            f"expected at most {len(data) + BRIEF} bytes of metadata in a file of {len(data)}, got {len(text)}"
        )
    return Stored(arrays, text)


def _npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Return the array of a member, which is its bytes: none is allocated for what its header says."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # which alone can be read in part
        raise ValueError(f"expected {member.filename!r} stored or deflated, got method {member.compress_type}")
    with _parsing(f"{member.filename!r} to be a whole .npy file"):
        with archive.open(member) as file:
            data = file.read(member.file_size + 1)  # to the end, where the checksum is looked at
        dtype, by_columns, shape, start = _header(data)
    if dtype.kind not in "biufc":  # objects, which would have to be unpickled, among others
        raise TypeError(f"expected {member.filename!r} with numbers, got dtype {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"expected {member.filename!r} of {dtype} and shape {shape}, got {len(data) - start} bytes")
    return _shaped(np.frombuffer(data, dtype, offset=start), shape, member.filename, "F" if by_columns else "C")


def _header(data: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Return what the header of an .npy file says of its array, and where that begins:
    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.

    The header is a literal of Python's, of which no more is understood than arrays of numbers need. NumPy has Python's
    parser read it, whose memory and errors for hostile ones differ from version to version.
    """
    if data[:8] not in (b"\x93NUMPY\1\0", b"\x93NUMPY\2\0"):
        raise ValueError(f"magic string and version {data[:8]!r}")
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    if end > min(len(data), LONGEST_HEADER):
        raise ValueError(f"a header of {end} bytes")
    text = " ".join(data[start:end].decode("latin-1").split())
    found = HEADER.fullmatch(text)
    if found is None or None in found.groups():
        raise ValueError(f"header {text!r:.80}")
    shape = tuple([int(length) for length in re.findall(r"\d+", found["shape"])])
    return np.dtype(found["descr"]), found["by_columns"] == "True", shape, end


def _shaped(array: np.ndarray, shape: Sequence[int], name: str, order: Literal["C", "F"] = "C") -> np.ndarray:
    """Return an array in its shape, if NumPy has arrays of so many dimensions."""
    with _parsing(f"{name} to have a shape"):
        return array.reshape(shape, order=order)


def _write_npz(arrays: dict[str, np.ndarray], about: str) -> bytes:
    for name in arrays:
        if (size := len(name.encode() + b".npy")) > LONGEST:
            raise ValueError(f"expected names of at most {LONGEST - 4} bytes in .npz, got {size - 4}: {name!r:.80}…")
    whole = io.BytesIO()
    np.savez(whole, **{**arrays, ABOUT: np.frombuffer(about.encode(), np.uint8)})  # type: ignore[arg-type]
    return whole.getvalue()


LONGEST_HEADER = 10_000  # bytes, as of NumPy's own
HEADER = re.compile(  # of words that one space parts; Python 2 wrote 3L
    r"""\{ (?: [ ]? (?:
        ['"]descr['"]         [ ]?:[ ]? ['"](?P<descr>[<>|=]?\w+)['"]
      | ['"]fortran_order['"] [ ]?:[ ]? (?P<by_columns>True|False)
      | ['"]shape['"]         [ ]?:[ ]? (?P<shape>\([ ]? (?: (?:\d+L?[ ]?,[ ]?)+ (?:\d+L?[ ]?)? )? \))
    ) [ ]? (?:,|(?=\})) )* [ ]? \}""",
    re.ASCII | re.VERBOSE,
)
FORMATS = {".safetensors": (_read_safetensors, _write_safetensors), ".npz": (read_npz, _write_npz)}
