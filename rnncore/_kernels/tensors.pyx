"""Arrays over the memory of tensors, tensors over that of arrays, and where tensors lie.

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
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

cnp.import_array()

cdef extern from *:
    """
    #include <stdlib.h>

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
    ctypedef struct Table:
        uint32_t major
        int (*make)(Managed *, PyObject **) noexcept
        int (*look)(void *, Look *) noexcept
    void let_go(Managed *memory) noexcept

cdef enum:
    DIMENSIONS = 4  # at most
    PLACES = 64     # tensors, for which `Exchange.places` needs no memory but its result
    PLACE = 2 + 2 * DIMENSIONS


@cython.final
@cython.auto_pickle(False)
cdef class Exchange:
    """A quick look at tensors that are of one of `kinds` and no subclass, by their table.

    What it says nothing for, the caller finds out in another way: a tensor of another class, one that has no memory of the
    CPU or more than 4 dimensions; and all, if `table` is none or of a version to come.
    """
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

    cpdef known(self, dict found, tensors):
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

    cpdef array(self, tensor, bint step=False):
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

    cpdef tensor(self, given, bint step=False):
        """Return a tensor over an array's memory, of a cell's `step` without the first axis, whose length is 1; None where
        none can be made."""
        if not cnp.PyArray_Check(given):
            raise TypeError(f"expected an array, got {given!r:.80}")
        cdef cnp.ndarray array = given
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
