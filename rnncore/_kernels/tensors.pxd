cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
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

cdef enum:
    CPU = 1         # kDLCPU
    INT = 0         # kDLInt
    FLOAT = 2       # kDLFloat


cdef inline int type_of(const Look *look) noexcept:
    """NumPy's number of a tensor's dtype; -1 where kernels have no use for it."""
    if look.dtype.lanes != 1:
        return -1
    if look.dtype.code == FLOAT:
        return cnp.NPY_FLOAT if look.dtype.bits == 32 else cnp.NPY_DOUBLE if look.dtype.bits == 64 else -1
    return cnp.NPY_INT64 if look.dtype.code == INT and look.dtype.bits == 64 else -1


cdef inline bint numbers(const Look *look) noexcept:
    """Whether there are floating-point numbers, at least one."""
    cdef int k
    for k in range(look.ndim):
        if look.shape[k] == 0:
            return False
    return look.dtype.code == FLOAT


cdef inline bint fits(const Look *look, tuple shape) except -1:
    cdef int k
    if look.ndim != len(shape):
        return False
    for k in range(look.ndim):
        if type(shape[k]) is not int or shape[k] != look.shape[k]:
            return False
    return True


cdef class Exchange:
    cdef tuple kinds
    cdef object table               # which keeps the functions
    cdef int (*function)(void *, Look *) noexcept
    cdef int (*make)(Managed *, PyObject **) noexcept
    cdef bint look(self, object tensor, Look *look)
    cdef Py_ssize_t place(self, object tensor, int64_t *words)
    cdef bint lie(self, bytes places, tensors, list more) except -1
    cpdef known(self, dict found, tensors)
    cpdef array(self, tensor, bint step=*)
    cpdef tensor(self, given, bint step=*)
