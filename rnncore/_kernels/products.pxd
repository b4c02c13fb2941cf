from .crew cimport Member
from .leaf cimport PanelStep
from .run cimport Run, Step

cdef void recur(const Run *run, const Step *s) noexcept nogil
cdef void recur_inner(const Run *run, const Step *s) noexcept nogil
cdef void recur_back(const Run *run, const Step *s) noexcept nogil
cdef void recur_back_add(const Run *run, const Step *s) noexcept nogil
cdef void recur_inner_back(const Run *run, const Step *s) noexcept nogil
cdef Py_ssize_t units_of(const Run *run, const Step *s, Py_ssize_t *first) noexcept nogil
cdef void panel_step(const Run *run, const Step *s, PanelStep *step) noexcept nogil
cdef void project_panels(const Run *run, const Step *s) noexcept nogil
cdef void project_blas(const Run *run, const Step *s) noexcept nogil
cdef void softmax_rows(const Run *run, const Step *s) noexcept nogil
cdef void output_back(const Run *run, const Step *s) noexcept nogil
cdef void project_back(const Run *run, const Step *s) noexcept nogil
cdef void input_product(const Run *run, Py_ssize_t rows, const char *x, char *gates) noexcept nogil
cdef void input_weight_gradient(const Run *run, const char *dgates, Py_ssize_t a_row, const char *x, Py_ssize_t n, bint add,
                                Member *who) noexcept nogil
cdef void input_gradient(const Run *run, const char *dgates, Py_ssize_t a_row, char *dx, Py_ssize_t n, Member *who) noexcept nogil
cdef void gather_block(const Run *run, Py_ssize_t t_0, Py_ssize_t t_1, Member *who) noexcept nogil
cdef void block_inputs(const Run *run, Py_ssize_t t_0, Py_ssize_t t_1, Member *who) noexcept nogil
cdef void block_weights(const Run *run, Py_ssize_t t_0, Py_ssize_t t_1, bint add, bint flow, Member *who) noexcept nogil
