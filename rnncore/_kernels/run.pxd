# What a layer's pass is described by, and small questions about it, all inline: there is no module behind this header.

from libc.math cimport sqrt
from libc.string cimport memcpy

from .crew cimport Member
from .leaf cimport NONLINEARITIES, Leaf

cdef enum:
    MAX_GATES = 4
    MAX_STATES = 2  # h; h and c
    MAX_PHASES = 3
    MAX_BACK_PHASES = 4
    SOFTMAX = NONLINEARITIES  # an output that is no function of one unit
    BLAS = 0        # engines
    PANELS = 1
    ENGINES = 2
    BLAS_ROWS = 512 # of one block's large products: enough for BLAS to run at full speed
    BACK_ROWS = 256 # the same of the panels engine, backwards
    BACK_STEPS = 16 # of these, unless they have less than half as many rows: a block's gradients are small beside the tape

# The rows of a run's steps, and their order: upwards in the forward pass, or downwards with `reverse`; the other way round
# in backward. Rows of one time are contiguous, and follow those of the time before.
cdef struct Schedule:
    Py_ssize_t T, N
    bint reverse
    const Py_ssize_t *offsets   # (T+1) rows of all times before t; NULL where all sequences have T steps
    const Py_ssize_t *lengths   # (N) of the sequences, the longest first; or NULL
    const Py_ssize_t *order     # (N) their places among the caller's; or NULL

# What a cell's phases do at one time: n sequences, and of the phase's panels the vectors from v_0 to v_1.
cdef struct Step:
    Py_ssize_t n
    Py_ssize_t v_0, v_1
    bint backwards              # from v_1 down to v_0: by turns, for the cache's sake
    Member who                  # who does it, and backward which share of the units
    const char *x               # (n, I)    panels: if not NULL, the step does all of its sums itself; else
    char *z                     # sums over x, of which this step's begin at `row` of each vector's `rows`; and of the
    Py_ssize_t row, rows        # vectors from begun_0 to begun_1 over the first `begun` of h_{t-1}
    Py_ssize_t begun, begun_0, begun_1
    Py_ssize_t steps, apart     # panels: how many steps of these sequences, 0 for one, each `apart` rows behind the one before
    void *gates                 # (n, columns*H)  blas, in: W_ih x_t; out: what the backward phase wants to find here
    void *inner                 # (n, H)    what one phase leaves for another
    void *before[MAX_STATES]    # (n, P), (n, H)    h_{t-1}, c_{t-1}
    void *after[MAX_STATES]     # (n, P), (n, H)    h_t, c_t
    void *y                     # (n, ·)    h_t once more, or NULL
    void *dgates                # (n, columns*H)  backward: the gradient of the gates' pre-activations
    void *dout                  # (n, P)    of what W_hr gives
    void *dinner                # (n, H)    of `inner`
    void *dh                    # (n, H)    of what the cell gives: dinner or dstate[0]
    void *dstate[MAX_STATES]    # (n, ·)    backward, in: of h_t, c_t; out: of h_{t-1}, c_{t-1}
    void *flow                  # (n, H)    dL/dc_t, or NULL

ctypedef void (*Phase)(const Run *, const Step *) noexcept nogil

# A cell: how many gates and states it has, and the phases of one step. Of a row of `gates`, gate g's sum over x goes to
# column (g + shift) % G and that over h to column g + shift: a GRU keeps two sums of its last gate apart.
cdef struct Table:
    Py_ssize_t G
    Py_ssize_t shift, columns   # columns = G + shift
    Py_ssize_t split            # gates whose recurrent part is over h; the others' is over `inner`
    int states
    int nonlinearity            # of an RNN
    int output                  # of W_hr, if there is one
    double scale[MAX_GATES]     # panels hold each gate's weights times this, as its function wants them (simd/math.h)
    double output_scale
    bint interleaved            # whether a panel has all gates of the same units, or a block one panel for each
    bint keeps_gates            # whether the tape keeps `gates`; without, states alone lead back
    bint may_project            # whether W_hr may follow
    bint keeps_inner            # whether the cell has two phases, which need `inner` and `gates`
    int phases
    Phase forward[ENGINES][MAX_PHASES]
    int back_phases
    Phase backward[MAX_BACK_PHASES] # by turns of each member's units, and a product for the same units

# Weights that gradients are multiplied with: in strips (simd/strips.h) that begin `step` elements after each other, or as they
# are, which is the same with other numbers.
cdef struct Matrix:
    const char *first
    Py_ssize_t row, step        # elements from row to row, and from strip to strip

# One pass of one layer in one direction over a sequence. Pointers are to row-major memory of `dtype`. P is width[0].
cdef struct Run:
    const Table *cell
    const Leaf *leaf
    int engine
    Schedule schedule
    Py_ssize_t I, H
    Py_ssize_t width[MAX_STATES]    # of states: P, H
    bint projects               # whether h = W_hr inner; else P is H
    int dtype
    Py_ssize_t item             # bytes of an element
    int phases
    Phase phase[MAX_PHASES]
    Py_ssize_t phase_vectors[MAX_PHASES]    # that members of a crew share; 0: they share rows
    Matrix W_ih                 # (G*H, I)
    Matrix W_hh                 # (G*H, P)  blas: in blocks
    const char *W_hh_T          # (P, G*H)  in blocks
    const char *bias            # (columns*H)
    Matrix W_hr                 # (P, H)    blas: in blocks
    const char *W_hr_T          # (H, P)    in blocks
    const char *b_hr            # (P)
    const char *peephole        # (3*H)     i f o, or NULL
    const char *panels_ih       # the same as simd/panels.h lays them out, in `vectors` vectors of each of `gate_panels`
    const char *panels_hh
    const char *panels_bias
    const char *panels_bias_hh  # a GRU's for s_n
    const char *panels_hr
    const char *panels_b_hr
    const char *panels_peephole
    Py_ssize_t vectors, gate_panels
    const char *x               # (T, N, I), or packed
    char *y                     # (T, N, ·), or packed: this direction's first column, or NULL
    Py_ssize_t y_stride         # elements from row to row of y and dy
    const Py_ssize_t *tokens    # (T, N), or packed, or as x_step says: numbers of rows whose sums over x are in `table`, in
    const char *table           # (U, table_row), each as one row of `z` or of gates; or NULL, and x counts
    Py_ssize_t table_row
    Py_ssize_t x_step, x_sequence   # where x is padded: rows from one time to the next, and from one of the caller's
    Py_ssize_t y_step, y_sequence   # sequences to the next; else 0. The same of y and dy, and of dx
    Py_ssize_t dx_step, dx_sequence
    bint turned                 # take the weights from the other end first
    bint tape                   # keep every step's states (and gates)
    char *gates                 # (rows, columns*H) on a tape that keeps them; of one step, for a cell that needs them
    char *inner                 # (rows, H) on a tape, else (N, H)
    char *state[MAX_STATES]     # (N + rows, ·) on a tape, else (2, N, ·)
    const char *initial[MAX_STATES]  # (N, ·)
    char *final[MAX_STATES]     # (N, ·)
    const char *dy              # as y, or NULL
    char *dgates                # (block's rows, columns*H), dgates_row elements from row to row
    Py_ssize_t dgates_row
    char *side                  # where products copy rows that they read: each member's own `side_size` bytes, or NULL
    Py_ssize_t side_size
    int side_strips             # that have room there
    char *dout                  # (block's rows, P)
    char *dinner                # (N, H)
    char *dstate[MAX_STATES]    # (N, ·)    in: of the final states; out: of the initial states
    char *h_before              # (block's rows, P)     where they have to be copied
    char *dx                    # as x
    char *x_rows                # (block's rows, I)     or tokens, gathered where x is padded; then dx, scattered where that is
    char *dtable                # (U, columns*H)    for tokens, in place of dx and dW_ih: of the sums, which it is added to
    bint fresh                  # the first block writes dW_ih, dW_hh and dW_hr; the others add to them
    char *dW_ih
    char *dW_hh
    char *dW_hr
    char *dpeephole
    char *db_ih                 # (G*H)     or NULL
    char *db_hh                 # (G*H)     or NULL
    char *db_hr                 # (P)       or NULL
    char *sums                  # (columns*H + P)           a block's
    char *flow[MAX_STATES]      # (block's rows, ·)     dL/dh_t, dL/dc_t, and each row's norm; or NULL
    double *row_norms[MAX_STATES]   # (rows)

cdef inline Py_ssize_t row_at(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Rows of all times before t."""
    return t * s.N if s.offsets == NULL else s.offsets[t]


cdef inline Py_ssize_t state_rows(const Schedule *s) noexcept nogil:
    """Rows of all slots on a tape: slot 0 has one for each sequence, slot t+1 one for each that has a step t."""
    return s.N + row_at(s, s.T)


cdef inline Py_ssize_t blocks(const Schedule *s, Py_ssize_t block) noexcept nogil:
    return (s.T + block - 1) // block


cdef inline Py_ssize_t rows_at(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Sequences that have a step at time t: the first so many."""
    return s.N if s.offsets == NULL else s.offsets[t + 1] - s.offsets[t]


cdef inline Py_ssize_t term_bytes(const Run *run) noexcept nogil:
    """Bytes of one term of all panels, or of a row of their sums."""
    return run.vectors * run.gate_panels * run.leaf.width * run.item


cdef inline Py_ssize_t slot_before(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Slot of the states that step t reads. Slots are T + 1, so that the initial state needs no branch."""
    return t + 1 if s.reverse else t


cdef inline Py_ssize_t slot_after(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Slot of the states that step t writes."""
    return t if s.reverse else t + 1


cdef inline char *state_at(const Run *run, int k, Py_ssize_t slot) noexcept nogil:
    """The states of a slot. Only a tape keeps them all; else slots take turns in two. Where all sequences are of one
    length, the first slot and the last are then the caller's arrays."""
    cdef const Schedule *s = &run.schedule
    cdef Py_ssize_t first = s.T if s.reverse else 0, row
    if run.tape:
        row = s.N + row_at(s, slot - 1) if slot else 0
    else:
        if s.offsets == NULL:
            if slot == first:
                return <char *>run.initial[k]
            if slot == s.T - first:
                return run.final[k]
        row = (slot & 1) * s.N
    return run.state[k] + row * run.width[k] * run.item


cdef inline Py_ssize_t share(Py_ssize_t n, Py_ssize_t unit, int member, int size, Py_ssize_t *first) noexcept nogil:
    """A member's share of n, in multiples of `unit`: where it begins, and how many."""
    cdef Py_ssize_t units
    if size == 1:  # at each step: no divisions
        first[0] = 0
        return n
    units = (n + unit - 1) // unit
    first[0] = min(units * member // size * unit, n)
    return min(units * (member + 1) // size * unit, n) - first[0]


cdef inline void move_rows(const Schedule *s, char *rows, char *padded, Py_ssize_t step, Py_ssize_t sequence, Py_ssize_t row_size,
                    Py_ssize_t size, Py_ssize_t n_0, Py_ssize_t n_1, Py_ssize_t t_0, Py_ssize_t t_1, Py_ssize_t first,
                    Py_ssize_t last, bint out) noexcept nogil:
    """Copy `size` bytes of each row of the sequences from n_0 to n_1 at the times from t_0 to t_1, of those rows the ones from
    `first` to `last`: from where they lie in the caller's order, `row_size` bytes from row to row, to where they follow each
    other, or back out."""
    cdef Py_ssize_t t, n, count, row = 0
    cdef char *at
    for t in range(t_0, t_1):
        count = max(min(n_1, rows_at(s, t)) - n_0, 0)
        for n in range(max(first - row, 0), min(last - row, count)):
            at = padded + (t * step + s.order[n_0 + n] * sequence) * row_size
            memcpy(at if out else rows + (row + n) * size, rows + (row + n) * size if out else at, size)
        row += count


cdef inline double norm(const Leaf *leaf, const char *row, Py_ssize_t n) noexcept nogil:
    """The norm of n numbers, also where squares overflow, or vanish, in float64."""
    cdef double total = leaf.sum_of_squares(row, n, 1), scale = 1
    if not 1e-280 <= total <= 1e300:
        scale = 1e-170 if total > 1 else 1e170
        total = leaf.sum_of_squares(row, n, scale)
    return sqrt(total) / scale
