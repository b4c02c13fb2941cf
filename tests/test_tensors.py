"""Arrays over the memory of tensors, and what their class's table of functions tells of them."""

import ctypes
import os
import sys
import threading
import warnings
import weakref
from collections import OrderedDict

import numpy as np
import pytest
from common import import_peer

from rnncore._kernels.calls import same
from rnncore._kernels.memory import address
from rnncore._kernels.tensors import Exchange, over

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)


class Look(ctypes.Structure):
    """dlpack.h's DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class Tensor:
    """What a class with a table could hold: an array, described as one says."""

    def __init__(self, array, **changes):
        self.array, self.ndim, self.looks = array, array.ndim, 0
        self.shape = (ctypes.c_int64 * 8)(*array.shape)
        self.strides = (ctypes.c_int64 * 8)(*(step // array.itemsize for step in array.strides))
        code = {"f": 2, "i": 0, "u": 1}[array.dtype.kind]
        self.says = {
            "data": address(array), "device_type": 1, "ndim": array.ndim, "code": code, "bits": 8 * array.itemsize,
            "lanes": 1, "byte_offset": 0,
        } | changes  # fmt: skip


class Subclass(Tensor):
    pass


LOOK = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Look))


@LOOK
def look(tensor, out):
    tensor.looks += 1
    if tensor.says.get("raises"):
        return -1
    for name, value in tensor.says.items():
        setattr(out.contents, name, value)
    out.contents.shape, out.contents.strides = tensor.shape, tensor.strides
    return 0


class Managed(ctypes.Structure):
    """dlpack.h's DLManagedTensorVersioned."""


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(Managed))  # without the GIL
Managed._fields_ = (
    ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p), ("deleter", DELETER),
    ("flags", ctypes.c_uint64), ("look", Look),
)  # fmt: skip
MAKE = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(Managed), ctypes.POINTER(ctypes.py_object))


class Made:
    """What `make` makes of memory."""

    def __init__(self, memory):
        self.memory, look = memory, memory.contents.look
        self.shape, self.strides = tuple(look.shape[: look.ndim]), tuple(look.strides[: look.ndim])
        self.says = (look.data, look.device_type, look.code, look.bits, look.lanes, look.byte_offset)
        self.head = (memory.contents.major, memory.contents.minor, memory.contents.flags)

    def __del__(self):
        self.memory.contents.deleter(self.memory)


@MAKE
def make(memory, out):
    if memory.contents.look.ndim and memory.contents.look.shape[0] == 99:
        return -1
    new = Made(memory)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(new))
    ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = id(new)
    return 0


class Table(ctypes.Structure):
    """dlpack.h's DLPackExchangeAPI."""

    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", ctypes.c_void_p),
        ("others", ctypes.c_void_p * 2), ("make", ctypes.c_void_p), ("look", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )  # fmt: skip


KEPT = []  # tables, to which capsules only point


def capsule(major=1, function=look, name=b"dlpack_exchange_api"):
    table = Table(major=major, minor=2, look=function and ctypes.cast(function, ctypes.c_void_p))
    table.make = function and ctypes.cast(make, ctypes.c_void_p)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    KEPT.append((table, name))
    return new(ctypes.addressof(table), name, None)


@pytest.fixture
def exchange():
    return Exchange((Tensor,), capsule())


def test_the_structures_have_the_sizes_of_the_header():
    assert ctypes.sizeof(Look) == 48 and ctypes.sizeof(Table) == 56 and ctypes.sizeof(Managed) == 80


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=F4).reshape(2, 3, 4), np.arange(24, dtype=F8).reshape(4, 6)[::2, 1::3], np.arange(5),
    np.ones((), F4), np.arange(6, dtype=F4)[::-1], np.broadcast_to(np.ones(3, F8), (2, 3)),
    np.zeros((1, 2, 3, 4), F8),
], ids=lambda array: f"{array.dtype}{array.shape}")  # fmt: skip
def test_an_array_over_a_tensor(exchange, array):
    tensor = Tensor(array)
    found = exchange.array(tensor)
    assert found.base is tensor and found.dtype == array.dtype and found.strides == array.strides
    assert address(found) == address(array) and np.array_equal(found, array)
    assert exchange.holds(tensor) is exchange.holds(tensor, tensor, array.shape) is (array.dtype.kind == "f")
    for other in ((*array.shape, 1), (*array.shape[1:], 7) if array.ndim else (7,)):
        assert not exchange.holds(tensor, tensor, other)


def test_a_step_has_an_axis_more(exchange):
    for array in (np.arange(12, dtype=F4).reshape(3, 4)[:, ::2], np.ones((), F8), np.zeros((2, 3, 4), F8)):
        tensor = Tensor(array)
        found = exchange.array(tensor, True)
        assert found.base is tensor and found.shape == (1, *array.shape) and np.array_equal(found[0], array)
    assert exchange.array(Tensor(np.ones((1, 1, 1, 1), F4)), True) is None


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=F8).reshape(4, 6)[::2, 1::3], np.ones((), F4), np.arange(6, dtype=F4)[::2],
    np.ones((0, 3), F4), np.zeros((1, 2, 3, 4), F8), np.zeros((1, 5), F4),
], ids=lambda array: f"{array.dtype}{array.shape}")  # fmt: skip
def test_a_tensor_over_an_array(exchange, array):
    before = sys.getrefcount(array)
    made = exchange.tensor(array)
    assert made.shape == array.shape and [k * array.itemsize for k in made.strides] == list(array.strides)
    assert made.says == (address(array), 1, 2, 8 * array.itemsize, 1, 0) and made.head == (1, 0, 0)
    assert sys.getrefcount(array) == before + 1 and sys.getrefcount(made) == 2
    if array.shape[:1] == (1,):
        step = exchange.tensor(array, True)
        assert (step.shape, step.strides) == (made.shape[1:], made.strides[1:]) and step.says == made.says
        del step
    del made
    assert sys.getrefcount(array) == before


def test_arrays_of_which_no_tensor_is_made(exchange):
    one = np.ones(8, F4)
    frozen, odd = one.copy(), np.ones(33, np.uint8)[1:].view(F4)
    frozen.flags.writeable = False
    apart = np.ones(3, np.dtype([("a", "f4"), ("b", "u1", 3)]))["a"]  # 7 bytes from one to the next
    for array, step in [
        (np.ones(3, F4)[::-1], False), (np.ones((1, 3, 4), F4)[:, ::-1], True), (np.ones((1,) * 5, F4), False),
        (np.ones((1,) * 6, F4), True), (np.ones(3, int), False), (np.ones(3, np.float16), False), (frozen, False),
        (odd, False), (one.astype(">f4"), False), (apart, False), (np.ones((2, 3), F4), True), (np.ones((), F4), True),
    ]:  # fmt: skip
        before = sys.getrefcount(array)
        assert exchange.tensor(array, step) is None and sys.getrefcount(array) == before
    for array, step in [(np.ones(99, F4), False), (np.ones((1, 99, 4), F4), True)]:
        assert exchange.tensor(array, step) is None  # `make` has refused; who holds the array is its affair
    with pytest.raises(TypeError):
        exchange.tensor(None)


def test_it_begins_where_the_offset_says(exchange):
    array = np.arange(8, dtype=F4)
    tensor = Tensor(array[:4], byte_offset=16)
    assert exchange.array(tensor).tolist() == [4, 5, 6, 7]
    assert exchange.places([tensor]) == exchange.places([Tensor(array[4:])])


@pytest.mark.parametrize("changes", [
    {"device_type": 2}, {"lanes": 2}, {"bits": 16}, {"code": 4}, {"code": 0, "bits": 32}, {"ndim": 5}, {"data": None},
    {"raises": True},
])  # fmt: skip
def test_what_is_no_array_for_kernels(exchange, changes):
    tensor, good = Tensor(np.ones((2, 3), F4), **changes), Tensor(np.ones((2, 3), F4))
    assert exchange.array(tensor) is None and exchange.places([good, tensor]) is None
    assert not exchange.holds(tensor) and not exchange.holds(tensor, good, (2, 3))
    assert not exchange.holds(good, tensor, (2, 3)) and tensor.looks == 5


def test_nothing_is_said_of_other_classes(exchange):
    for other in (Subclass(np.ones(3, F4)), None, 3, np.ones(3, F4), object()):
        assert exchange.array(other) is None and not exchange.holds(other) and exchange.places([other]) is None
    one, other = Tensor(np.ones(3, F4)), Tensor(np.ones((2, 3), F8))
    assert exchange.holds(one, Tensor(np.ones(5, F4))) and exchange.holds(one, shape=(3,))
    assert not exchange.holds(one, other) and not exchange.holds(one, other, (3,))


@pytest.mark.parametrize("table", [None, 3, capsule(2), capsule(0), capsule(function=None), capsule(name=b"other")])
def test_nothing_is_said_without_a_table_that_it_knows(table):
    exchange, tensor = Exchange((Tensor,), table), Tensor(np.ones(3, F4))
    assert exchange.array(tensor) is None and not exchange.holds(tensor) and exchange.places([tensor]) is None
    assert exchange.tensor(tensor.array) is None and tensor.looks == 0


def test_other_things_than_kinds_and_shapes():
    with pytest.raises(TypeError):
        Exchange([Tensor], capsule())
    with pytest.raises(TypeError, match="expected a shape, got 3"):
        Exchange((Tensor,), capsule()).holds(Tensor(np.ones(3, F4)), Tensor(np.ones(3, F4)), 3)


def test_an_empty_tensor_holds_nothing(exchange):
    empty = Tensor(np.ones((2, 0), F4))
    assert not exchange.holds(empty) and not exchange.holds(empty, empty, (2, 0))


def test_places(exchange):
    a, b = np.arange(24, dtype=F4), np.arange(24, dtype=F8)
    one = exchange.places([Tensor(a), Tensor(b)])
    assert one == exchange.places([Tensor(a), Tensor(b)]) and exchange.places([]) == b""
    for others in ([b, a], [a], [a[:23], b], [a.reshape(4, 6), b], [a[::-1], b], [a, b[1:]], [a.view("f8"), b]):
        assert exchange.places([Tensor(other) for other in others]) not in (one, None)
    assert exchange.places([Tensor(a.reshape(4, 6))]) != exchange.places([Tensor(a.reshape(4, 6).T)])
    assert len(exchange.places([Tensor(np.ones((1, 1, 1, 1), F4))] * 64)) == 64 * 10 * 8
    assert exchange.places([Tensor(a)] * 65) is None


def test_over_memory_of_others():
    class Owner:
        pass

    owner, base = Owner(), np.arange(24.0).reshape(4, 6)
    array = over(address(base), (3, 4), (2, 6), F8, owner)
    assert array.base is owner and array.flags.writeable and not array.flags.c_contiguous
    np.testing.assert_array_equal(array, base.reshape(-1)[np.add.outer(2 * np.arange(3), 6 * np.arange(4))])
    assert over(address(base) + 1, (2,), (1,), F4, owner).flags.aligned is False
    assert over(0, (3, 0), (1, 1), F4, owner).shape == (3, 0)
    with pytest.raises(RuntimeError, match="whose storage was freed"):
        over(0, (3,), (1,), F4, owner)
    for strides in [(1, 1), ()]:
        with pytest.raises(ValueError, match="a stride for each"):
            over(address(base), (3,), strides, F4, owner)
    with pytest.raises(ValueError, match="at most 4 dimensions"):
        over(address(base), (1,) * 5, (1,) * 5, F4, owner)
    with pytest.raises(ValueError, match="expected float32, float64 or int64, got int32"):
        over(address(base), (3,), (1,), np.dtype(np.int32), owner)


def test_same():
    things = {"a": Tensor(np.ones(1)), "b": Tensor(np.ones(1))}
    refs, names = [weakref.ref(thing) for thing in things.values()], list(things)
    assert same(refs, names, things) and same([], names, things) and same(refs, names[:1], things)
    assert not same([None, refs[1]], names, things) and not same(refs[::-1], names, things)
    assert not same(refs, names, {"a": things["a"]}) and not same(refs, names, {**things, "b": None})
    before, things["b"] = refs[1], Tensor(np.ones(1))
    assert before() is None and not same(refs, names, things)
    things = OrderedDict(a=things["a"])
    assert same(refs[:1], names, things)


def test_the_table_says_what_attributes_do():
    torch = import_peer("torch")
    if not (os.environ.get("RNNCORE_REQUIRE_PEERS") or hasattr(torch.Tensor, "__dlpack_c_exchange_api__")):
        pytest.skip("a version of PyTorch without a table")
    exchange = Exchange((torch.Tensor, torch.nn.Parameter), torch.Tensor.__dlpack_c_exchange_api__)
    x = torch.arange(24.0).reshape(2, 3, 4)
    for tensor in (
        x, x[:, 1], x.transpose(0, 2), x[1, 1, 1], x.double(), x.long(), x.expand(5, 2, 3, 4),
        torch.nn.Parameter(x[0]), x[0].clone().requires_grad_() * 2,
    ):  # fmt: skip
        array = exchange.array(tensor)
        assert address(array) == tensor.data_ptr() and np.array_equal(array, tensor.detach().numpy())
        assert [step // array.itemsize for step in array.strides] == list(tensor.stride())
        assert exchange.holds(tensor) is exchange.holds(tensor, tensor, tensor.shape) is tensor.is_floating_point()
        assert exchange.places([tensor]) == exchange.places([tensor.detach()])
    for array in (np.arange(6, dtype=F4).reshape(2, 3).T, np.ones((1, 3), F8), np.ones((), F4), np.ones((0, 3), F4)):
        before = sys.getrefcount(array)
        made, known = exchange.tensor(array), torch.from_numpy(array)
        assert torch.equal(made, known) and made.data_ptr() == known.data_ptr() and made.stride() == known.stride()
        assert made.dtype is known.dtype and not made.requires_grad and not made.is_inference()
        del known
        other = threading.Thread(target=list.clear, args=([made],))
        del made
        other.start()
        other.join()
        del other
        assert sys.getrefcount(array) == before
    step = exchange.tensor(np.arange(6, dtype=F4).reshape(1, 2, 3), True)
    assert step.tolist() == [[0, 1, 2], [3, 4, 5]]
    from torch._subclasses import FakeTensorMode

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype
        nested = torch.nested.nested_tensor([x[0], x[1, :2]])

    class Subclass(torch.Tensor):
        pass

    with FakeTensorMode():
        fake = torch.ones(3)
    for tensor in (
        x.to("meta"), x.half(), x.to_sparse(), x.to_mkldnn(), torch._efficientzerotensor(3), torch.ones(1, 1, 1, 1, 1),
        nested, fake, x.as_subclass(Subclass), x.bool(), x.cfloat(),
        x[:, :0],
    ):  # fmt: skip
        assert exchange.array(tensor) is None and not exchange.holds(tensor) and exchange.places([tensor]) is None
    freed = x.clone()
    freed.untyped_storage().resize_(0)
    assert exchange.array(freed) is None and not exchange.holds(freed)
    torch.func.vmap(lambda row: (row.sum(), assert_silent(exchange, row))[0])(x)
    torch.func.grad(lambda row: (row.sum(), assert_silent(exchange, row))[0])(x)


def assert_silent(exchange, tensor):
    assert exchange.array(tensor) is None and not exchange.holds(tensor) and exchange.places([tensor]) is None
