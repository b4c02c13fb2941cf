from .leaf cimport Leaf
from .pack cimport Pack

cdef extern from *:
    # NumPy's headers bring in complex.h, whose macro `I` would stand in the way of the input size
    """
    #include <complex.h>
    #undef I
    """

cdef enum:
    MAX_GATES = 4
    MAX_STATES = 2  # h; h and c
    MAX_PHASES = 2
    BLAS = 0        # engines
    PANELS = 1
    ENGINES = 2
    BLAS_ROWS = 512 # of one block's large products: enough for BLAS to run at full speed

# The order of a run's steps: upwards in the forward pass, or downwards with `reverse`; the other way round in backward.
cdef struct Schedule:
    Py_ssize_t T, N
    bint reverse

# What a cell's phases do at one time: n sequences, from n_0 on, and of the panels the vectors from v_0 to v_1. Rows of
# one time are contiguous.
cdef struct Step:
    Py_ssize_t n, H
    Py_ssize_t v_0, v_1
    bint backwards              # from v_1 down to v_0: by turns, for the cache's sake
    const char *x               # (n, I)    panels: if not NULL, the step does all of its sums itself; else
    const char *z               # sums over x, of which this step's begin at `row` of each vector's `rows`
    Py_ssize_t row, rows
    void *gates                 # (n, G*H)  blas, in: W_ih x_t; out: what the backward phase wants to find here, if any
    void *before[MAX_STATES]    # (n, H)    h_{t-1}, c_{t-1}
    void *after[MAX_STATES]     # (n, H)    h_t, c_t
    void *y                     # (n, ·)    h_t once more, or NULL
    void *dgates                # (n, G*H)  backward: the gradient of the gates' pre-activations
    void *dstate[MAX_STATES]    # (n, H)    backward, in: of h_t, c_t; out: of h_{t-1}, c_{t-1}

ctypedef void (*Phase)(const Run *, const Step *) noexcept nogil

# A cell: how many gates and states it has, and the phases of one step.
cdef struct Table:
    Py_ssize_t G
    int states
    int nonlinearity            # of an RNN
    double scale[MAX_GATES]     # panels hold each gate's weights times this, as its function wants them (simd/math.h)
    bint keeps_gates            # whether the tape keeps `gates`; without, states alone lead back
    int phases
    Phase forward[ENGINES][MAX_PHASES]
    Phase backward[MAX_PHASES]  # in the order they run

# One pass of one layer in one direction over a sequence. Pointers are to row-major memory of `dtype`.
cdef struct Run:
    const Table *cell
    const Leaf *leaf
    int engine
    Schedule schedule
    Py_ssize_t I, H
    int dtype
    Py_ssize_t item             # bytes of an element
    const char *W_ih            # (G*H, I)
    const char *W_hh            # (G*H, H)  in blocks
    const char *W_hh_T          # (H, G*H)  in blocks
    const char *bias            # (G*H)     b_ih + b_hh
    const char *panels_ih       # W_ih, W_hh and bias as simd/panels.h lays them out, in `vectors` vectors
    const char *panels_hh
    const char *panels_bias
    Py_ssize_t vectors
    const char *x               # (T, N, I)
    char *y                     # (T, N, ·) this direction's first column, or NULL
    Py_ssize_t y_stride         # elements from row to row of y and dy
    bint turned                 # take the weights from the other end first
    bint tape                   # keep every step's states (and gates)
    char *gates                 # (T*N, G*H) on a tape that keeps them, or NULL
    char *state[MAX_STATES]     # (T+1, N, H) on a tape, else (2, N, H)
    const char *initial[MAX_STATES]  # (N, H)
    char *final[MAX_STATES]     # (N, H)
    const char *dy              # (T, N, ·) as y, or NULL
    char *dgates                # (block*N, G*H)
    char *dstate[MAX_STATES]    # (N, H)    in: of the final states; out: of the initial states
    char *dx                    # (T, N, I)
    double beta_dx              # 0: dx is written; 1: added to
    char *dW_ih
    char *dW_hh
    char *db                    # (G*H)

cdef int engine  # in use

# Memory for a pass's workspace that outlives it; begins as {NULL, 0}, and its owner frees `memory`.
cdef struct Scratch:
    char *memory
    size_t size

cdef void recur(const Run *run, const Step *s) noexcept nogil
cdef void recur_back(const Run *run, const Step *s) noexcept nogil
cdef int forward(Run *runs, int count, int n_threads, Scratch *scratch) except -1 nogil
cdef double work(const Run *run, Py_ssize_t rows) noexcept nogil


cdef class Cell:
    cdef const Table *table
    cdef tuple scales
    cdef int begin(self, Run *run, Pack pack, int dtype) except -1
    cdef object prepare(self, Run *run, Pack pack, int dtype)

    @staticmethod
    cdef Cell of(const Table *table)
