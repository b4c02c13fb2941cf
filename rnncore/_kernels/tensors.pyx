"""Arrays over the memory of tensors, and where tensors lie; and plain calls of modules, which such tensors are given to.

Some classes of tensors, PyTorch's among them, have a table of C functions, DLPackExchangeAPI
(https://dmlc.github.io/dlpack/latest/c_api.html): it tells in nanoseconds what attributes tell in microseconds.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_Clear
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from .pack cimport digest

cnp.import_array()

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag  # another for each class, and whenever it or a base has changed; 0 if nobody asked yet

cdef extern from *:
    """
    #include <stdlib.h>

    /* As dlpack.h 1.2 has them, for versions 1.x. */
    typedef struct { int32_t type, id; } Device;
    typedef struct { uint8_t code, bits; uint16_t lanes; } Type;
    typedef struct {
        void *data;
        Device device;
        int32_t ndim;
        Type dtype;
        int64_t *shape, *strides;
        uint64_t byte_offset;
    } Look; /* DLTensor; who fills it keeps shape and strides */
    typedef struct Managed {
        uint32_t major, minor;
        PyObject *owner;
        void (*deleter)(struct Managed *self);
        uint64_t flags;
        Look look;
        int64_t lengths[8]; /* shape and strides: ours alone */
    } Managed; /* DLManagedTensorVersioned */
    typedef struct {
        uint32_t major, minor;
        void *previous, *allocate, *export_;
        int (*make)(Managed *memory, PyObject **tensor); /* a new tensor of it, which is its own then; -1 as below */
        int (*look)(void *tensor, Look *out); /* may be NULL; -1 with a Python exception set */
        void *stream;
    } Table;

    /* When nobody needs the memory of an array any more; in any thread, with the GIL or without. */
    static void let_go(Managed *memory)
    {
        if (Py_IsInitialized()) {
            PyGILState_STATE state = PyGILState_Ensure();
            Py_DECREF(memory->owner);
            PyGILState_Release(state);
        }
        free(memory);
    }
    """
    ctypedef struct Device:
        int32_t type
        int32_t id
    ctypedef struct Type:
        uint8_t code
        uint8_t bits
        uint16_t lanes
    ctypedef struct Look:
        void *data
        Device device
        int32_t ndim
        Type dtype
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef struct Managed:
        uint32_t major
        uint32_t minor
        PyObject *owner
        void (*deleter)(Managed *) noexcept
        uint64_t flags
        Look look
        int64_t *lengths
    ctypedef struct Table:
        uint32_t major
        int (*make)(Managed *, PyObject **) noexcept
        int (*look)(void *, Look *) noexcept
    void let_go(Managed *memory) noexcept

cdef enum:
    CPU = 1         # kDLCPU
    INT = 0         # kDLInt
    FLOAT = 2       # kDLFloat
    DIMENSIONS = 4  # at most
    PLACES = 64     # tensors, for which `Exchange.places` needs no memory but its result
    PLACE = 2 + 2 * DIMENSIONS
    CLASSES = 1000  # that are remembered


cdef int type_of(const Look *look) noexcept:
    """NumPy's number of a tensor's dtype; -1 where kernels have no use for it."""
    if look.dtype.lanes != 1:
        return -1
    if look.dtype.code == FLOAT:
        return cnp.NPY_FLOAT if look.dtype.bits == 32 else cnp.NPY_DOUBLE if look.dtype.bits == 64 else -1
    return cnp.NPY_INT64 if look.dtype.code == INT and look.dtype.bits == 64 else -1


cdef bint numbers(const Look *look) noexcept:
    """Whether there are floating-point numbers, at least one."""
    cdef int k
    for k in range(look.ndim):
        if look.shape[k] == 0:
            return False
    return look.dtype.code == FLOAT


cdef bint fits(const Look *look, tuple shape) except -1:
    cdef int k
    if look.ndim != len(shape):
        return False
    for k in range(look.ndim):
        if type(shape[k]) is not int or shape[k] != look.shape[k]:
            return False
    return True


@cython.final
@cython.auto_pickle(False)
cdef class Exchange:
    """A quick look at tensors that are of one of `kinds` and no subclass, by their table.

    What it says nothing for, the caller finds out in another way: a tensor of another class, one that has no memory of the
    CPU or more than 4 dimensions; and all, if `table` is none or of a version to come.
    """
    cdef tuple kinds
    cdef object table               # which keeps the functions
    cdef int (*function)(void *, Look *) noexcept
    cdef int (*make)(Managed *, PyObject **) noexcept

    def __init__(self, tuple kinds not None, table):
        cdef Table *found
        self.kinds, self.table, self.function, self.make = kinds, table, NULL, NULL
        if PyCapsule_IsValid(table, "dlpack_exchange_api"):
            found = <Table *>PyCapsule_GetPointer(table, "dlpack_exchange_api")
            if found.major == 1:
                self.function, self.make = found.look, found.make

    cdef bint look(self, object tensor, Look *look):
        """Whether this is such a tensor in memory of the CPU, and if so, where and how it lies there."""
        if self.function == NULL or type(tensor) not in self.kinds:
            return False
        if self.function(<void *>tensor, look) != 0:
            PyErr_Clear()
            return False
        return look.device.type == CPU and look.ndim <= DIMENSIONS and look.data != NULL and type_of(look) >= 0

    def holds(self, tensor, like=None, shape=None):
        """Whether a tensor holds numbers where kernels can read them: of the dtype of the tensor `like`, and in a shape, if
        these are given. False where another kind of look must tell."""
        if shape is not None and not isinstance(shape, tuple):  # or of a subclass, as PyTorch's are
            raise TypeError(f"expected a shape, got {shape!r:.80}")
        cdef Look look, other
        if not self.look(tensor, &look) or not numbers(&look):
            return False
        if like is not None and (not self.look(like, &other) or type_of(&look) != type_of(&other)):
            return False
        return shape is None or fits(&look, <tuple>shape)

    cdef Py_ssize_t place(self, object tensor, int64_t *words):
        """Write where and how a tensor lies; returns the number of words, 0 if it does not say."""
        cdef Look look
        cdef int k
        if not self.look(tensor, &look):
            return 0
        words[0] = <int64_t>(<uintptr_t>look.data + look.byte_offset)
        words[1] = look.ndim * 64 + type_of(&look)
        for k in range(look.ndim):
            words[2 + 2 * k], words[3 + 2 * k] = look.shape[k], look.strides[k]
        return 2 + 2 * look.ndim

    def places(self, tensors):
        """Return where and how tensors lie, as something that is equal only if they still do; None if one does not say."""
        cdef int64_t words[PLACES * PLACE]
        cdef Py_ssize_t count = 0, more
        if len(tensors) > PLACES:
            return None
        for tensor in tensors:
            more = self.place(tensor, words + count)
            if more == 0:
                return None
            count += more
        return PyBytes_FromStringAndSize(<char *>words, count * sizeof(int64_t))

    cdef bint lie(self, bytes places, tensors, list more) except -1:
        """Whether some tensors, and then some more, lie where `places` said."""
        cdef int64_t words[PLACE]
        cdef const char *known = places
        cdef Py_ssize_t left = len(places), size
        for several in (tensors, more):
            for tensor in several:
                size = self.place(tensor, words) * sizeof(int64_t)
                if size == 0 or size > left or memcmp(known, words, size) != 0:
                    return False
                known, left = known + size, left - size
        return left == 0

    def known(self, dict found not None, tensors):
        """Return what a dictionary has for these tensors, by what they are, if it is of them where they lie now; or None.

        It has `places` of them and of `tensors` of its own, and where these are no bytes, `lies` to ask.
        """
        known = found.get(tuple([<uintptr_t><void *>tensor for tensor in tensors]))
        if known is None:
            return None
        places = known.places
        if type(places) is bytes:
            return known if self.lie(places, tensors, known.tensors) else None
        return known if known.lies(tensors) else None

    def array(self, tensor, bint step=False):
        """Return an array over a tensor's memory, of a cell's `step` behind an axis of length 1; None if it does not say
        where that is."""
        cdef Look look
        cdef int64_t lengths[2 * DIMENSIONS]
        cdef int k
        if not self.look(tensor, &look) or look.ndim + step > DIMENSIONS:
            return None
        if step:
            lengths[0], lengths[DIMENSIONS] = 1, 0
            for k in range(look.ndim):
                lengths[k + 1], lengths[DIMENSIONS + k + 1] = look.shape[k], look.strides[k]
            look.ndim, look.shape, look.strides = look.ndim + 1, lengths, lengths + DIMENSIONS
        return view(<uintptr_t>look.data + look.byte_offset, look.ndim, look.shape, look.strides, type_of(&look), tensor)

    def tensor(self, cnp.ndarray array not None, bint step=False):
        """Return a tensor over an array's memory, of a cell's `step` without the first axis, whose length is 1; None where
        none can be made."""
        cdef int k, ndim = cnp.PyArray_NDIM(array) - step, item = <int>cnp.PyArray_ITEMSIZE(array)
        cdef Managed *memory
        cdef PyObject *made = NULL
        if (
            self.make == NULL or not 0 <= ndim <= DIMENSIONS or step and cnp.PyArray_DIM(array, 0) != 1
            or cnp.PyArray_TYPE(array) not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE) or not cnp.PyArray_ISBEHAVED(array)
        ):
            return None
        memory = <Managed *>calloc(1, sizeof(Managed))
        if memory == NULL:
            raise MemoryError()
        memory.major, memory.deleter, memory.owner = 1, let_go, <PyObject *>array
        memory.look.data, memory.look.device.type, memory.look.ndim = cnp.PyArray_DATA(array), CPU, ndim
        memory.look.dtype.code, memory.look.dtype.bits, memory.look.dtype.lanes = FLOAT, 8 * item, 1
        memory.look.shape, memory.look.strides = memory.lengths, memory.lengths + DIMENSIONS
        for k in range(ndim):
            if cnp.PyArray_STRIDE(array, k + step) % item or cnp.PyArray_STRIDE(array, k + step) < 0:
                free(memory)
                return None
            memory.look.shape[k] = cnp.PyArray_DIM(array, k + step)
            memory.look.strides[k] = cnp.PyArray_STRIDE(array, k + step) // item
        Py_INCREF(array)
        if self.make(memory, &made) != 0:
            PyErr_Clear()   # and leave memory and array to it, who may have let go of them or not
            return None
        tensor = <object>made
        Py_DECREF(tensor)   # which the cast has counted once more
        return tensor


cdef object view(uintptr_t start, int ndim, const int64_t *shape, const int64_t *strides, int type_, owner):
    cdef cnp.npy_intp lengths[DIMENSIONS]
    cdef cnp.npy_intp steps[DIMENSIONS]
    cdef int k, item = 4 if type_ == cnp.NPY_FLOAT else 8
    for k in range(ndim):
        lengths[k], steps[k] = shape[k], strides[k] * item
    array = cnp.PyArray_New(np.ndarray, ndim, lengths, type_, steps, <void *>start, 0, cnp.NPY_ARRAY_WRITEABLE, None)
    cnp.set_array_base(array, owner)
    return array


def over(uintptr_t start, shape not None, strides not None, dtype not None, owner):
    """Return an array over memory that `owner` keeps; strides are in elements. RuntimeError where there is none."""
    cdef int64_t lengths[DIMENSIONS]
    cdef int64_t steps[DIMENSIONS]
    cdef int k, ndim = <int>len(shape), type_ = (<cnp.dtype?>dtype).type_num
    if ndim > DIMENSIONS or len(strides) != ndim:
        raise ValueError(f"expected at most 4 dimensions and a stride for each, got {shape} and {strides}")
    if type_ not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE, cnp.NPY_INT64):
        raise ValueError(f"expected float32, float64 or int64, got {dtype}")
    if 0 in shape:
        return np.empty(shape, dtype)
    if start == 0:
        raise RuntimeError("expected memory that holds numbers, got a tensor whose storage was freed")
    for k in range(ndim):
        lengths[k], steps[k] = shape[k], strides[k]
    return view(start, ndim, lengths, steps, type_, owner)


def same(list refs not None, list names not None, parameters not None):
    """Whether each weak reference points at what a dictionary has under the name beside it."""
    return are_same(refs, names, parameters)


cdef bint are_same(list refs, list names, parameters) except -1:
    cdef Py_ssize_t k
    for k in range(min(len(refs), len(names))):
        ref, found = refs[k], (<dict>parameters).get(names[k]) if type(parameters) is dict else parameters.get(names[k])
        if ref is None or found is None or ref() is not found:
            return False
    return True


# --- calls of modules -------------------------------------------------------------------------------------------------

@cython.final
@cython.auto_pickle(False)
cdef class Calls:
    """Calls of PyTorch's recurrent modules, as far as they are plain ones: a quick look whether nothing watches operators
    and all is well, and what runs them if nobody wants a gradient.

    `layer` and `cell` return what the module does, or None; and what a plan runs instead, or None: its options, input,
    states and weights. Where both are None the caller finds out in another way, as for tensors. A module's attributes are
    looked for in its own dictionary alone, as far as its class's `_hides_nothing` says that they are there.

    Parameters
    ----------
    exchange : Exchange
    plan_of : function
        Of options; raises ValueError or TypeError if there is none.
    unfit : type
        Of exceptions that weights raise which there is no layer for.
    array_of, tensor_of : functions
        For tensors that do not say where they lie, and arrays that become none in this way.
    watchers : tuple of functions
        Without arguments; something true says that PyTorch's operators are not what they are at other times.
    has_functions : function
        Whether any of some weights has operators, or functions, of its own.
    is_grad_enabled : function
    forward_ad : module
        Its `_current_level` is negative where nobody differentiates forwards.
    """
    cdef Exchange exchange
    cdef object plan_of, unfit, array_of, tensor_of, has_functions, is_grad_enabled, forward_ad
    cdef tuple watchers
    cdef set classes    # by their versions

    def __init__(self, Exchange exchange not None, plan_of, unfit, array_of, tensor_of, tuple watchers not None,
                 has_functions, is_grad_enabled, forward_ad):
        self.exchange, self.plan_of, self.unfit, self.array_of, self.tensor_of = exchange, plan_of, unfit, array_of, tensor_of
        self.watchers, self.has_functions = watchers, has_functions
        self.is_grad_enabled, self.forward_ad = is_grad_enabled, forward_ad
        self.classes = set()

    cdef bint hides_nothing(self, module) except -1:
        """Ask a module's class, unless it has said so since it last changed."""
        kind = type(module)
        cdef unsigned int version = (<PyTypeObject *>kind).tp_version_tag  # before it is asked, for it may change meanwhile
        if version in self.classes:
            return True
        if not kind._hides_nothing():
            return False
        if len(self.classes) == CLASSES:
            self.classes.clear()
        if version != 0:
            self.classes.add(version)
        return True

    cdef bint plain(self, const Look *look, list weights) except -1:
        """Whether nothing watches, there are weights, and input and weights are numbers of one dtype."""
        cdef Look weight
        if len(weights) == 0:
            return False
        for tensor in weights:
            if tensor is None:
                return False
        if not numbers(look) or not self.exchange.look(weights[0], &weight) or not numbers(&weight):
            return False
        if type_of(look) != type_of(&weight):
            return False
        for watcher in self.watchers:
            if watcher():
                return False
        return self.forward_ad._current_level < 0 and not self.has_functions(weights)

    cdef object states(self, const Look *look, object hx, tuple shapes):
        """Return the states of a call, of one or two shapes, as a sequence; None if they are not such."""
        cdef Look state
        cdef Py_ssize_t k
        if hx is None:
            return ()
        given = (hx,) if len(shapes) == 1 else hx
        if not isinstance(given, (tuple, list)) or len(given) != len(shapes):
            return None
        for k in range(len(shapes)):
            if not self.exchange.look(given[k], &state) or type_of(look) != type_of(&state) or not fits(&state, shapes[k]):
                return None
        return given

    cpdef bint wants_gradient(self, input, states, weights) except -1:
        """Whether autograd has to know of a call of these tensors."""
        if not self.is_grad_enabled():
            return False
        if input.requires_grad:
            return True
        for several in (weights, states):
            for tensor in several:
                if tensor.requires_grad:
                    return True
        return False

    cdef object array(self, tensor, bint step):
        """A tensor's numbers where they lie, of a cell's step behind an axis of length 1."""
        array = None if tensor.is_neg() else self.exchange.array(tensor, step)
        return self.array_of(tensor, step) if array is None else array

    cdef object tensor(self, array, bint step):
        tensor = self.exchange.tensor(array, step)
        return self.tensor_of(array, step) if tensor is None else tensor

    cdef object several(self, arrays, bint step):
        if type(arrays) is not tuple:
            return self.tensor(arrays, step)
        return tuple([self.tensor(array, step) for array in <tuple>arrays])

    cpdef object infer(self, plan, input, states, weights, bint step):
        """Return what a layer returns, or a cell, which has no result but the states, with the weights that tensors hold at
        this moment."""
        known = self.exchange.known(plan.known, weights)
        if known is None:
            known = plan.know(weights)
        contents = digest(known.arrays)
        held = known.weights if contents == known.contents else known.renew(contents)
        threads, state, found = plan.threads(input.shape), None, None
        x = self.array(input, False)
        if len(states) == 1:
            state = self.array(states[0], step)
        elif states:
            state = self.array(states[0], step), self.array(states[1], step)
        if not plan.bidirectional:
            stack = held.stack
            if stack is None:
                stack = plan.layer._stack(held)
            found = stack.advance(x, state, threads) if step else stack.call(x, state, plan.batch_first, False, threads)
        if found is None:
            found = plan.layer._general(held, x[None] if step else x, state, None, True, None, threads)
            found = found[1] if step else found
        return self.several(found, True) if step else (self.tensor(found[0], False), self.several(found[1], False))

    cdef object finish(self, options, input, states, weights, bint step):
        if self.wants_gradient(input, states, weights):
            return None, (options, input, states, weights)
        try:
            plan = self.plan_of(*options)
        except (ValueError, TypeError):
            return None, None
        try:
            return self.infer(plan, input, states, weights, step), None
        except self.unfit:
            return None, None

    def layer(self, module, input, hx):
        """Look at a call of a layer, whose weights may be others than its list of them says."""
        cdef Look look
        cdef dict own = module.__dict__
        if not self.hides_nothing(module) or not self.exchange.look(input, &look) or not 2 <= look.ndim <= 3:
            return None, None
        try:
            weights = own["_flat_weights"]
            size, units, layers, mode = own["input_size"], own["hidden_size"], own["num_layers"], own["mode"]
            batch_first, both, projected, bias = own["batch_first"], own["bidirectional"], own["proj_size"], own["bias"]
            refs, names, parameters = own["_flat_weight_refs"], own["_flat_weights_names"], own["_parameters"]
            training, dropout = own["training"], own["dropout"]
        except KeyError:
            return None, None
        if type(size) is not int or type(units) is not int or type(layers) is not int or type(projected) is not int:
            return None, None
        if type(mode) is not str or type(batch_first) is not bool or type(both) is not bool:
            return None, None
        if look.shape[look.ndim - 1] != size or training and layers > 1 and dropout != 0:
            return None, None
        if type(weights) is not list or type(refs) is not list or type(names) is not list:
            return None, None
        if not are_same(refs, names, parameters) or not self.plain(&look, weights):
            return None, None
        rows = (layers * 2 if both else layers,)
        if look.ndim == 3:
            rows += (look.shape[0 if batch_first else 1],)
        c = rows + (units,)
        states = self.states(&look, hx, (rows + (projected,) if projected else c, c) if mode == "LSTM" else (c,))
        if states is None:
            return None, None
        options = (mode, size, units, layers, bias, batch_first, both, projected, input.dtype, 0.0)
        return self.finish(options, input, states, weights, False)

    def cell(self, module, mode, input, hx, list weights not None):
        """Look at a call of a cell, of a plan's mode, or None, and with weights that are up to date, or None."""
        cdef Look look
        cdef dict own = module.__dict__
        if mode is None or not self.hides_nothing(module) or not self.exchange.look(input, &look) or look.ndim > 2:
            return None, None
        try:
            size, units = own["input_size"], own["hidden_size"]
        except KeyError:
            return None, None
        if type(size) is not int or type(units) is not int or look.ndim == 0 or look.shape[look.ndim - 1] != size:
            return None, None
        if not self.plain(&look, weights):
            return None, None
        h = (units,) if look.ndim == 1 else (look.shape[0], units)
        states = self.states(&look, hx, (h, h) if mode == "LSTM" else (h,))
        if states is None:
            return None, None
        options = (mode, size, units, 1, len(weights) == 4, False, False, 0, input.dtype, 0.0)
        return self.finish(options, input, states, weights, True)
