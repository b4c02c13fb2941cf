"""Products with a layer's weights: those of one step, which the cells' phases are made of, and those of a block of time
backwards, which make the gradients of weights and inputs.

Backwards they are our own in the panels engine, with the weights in strips (simd/strips.h), each member of a crew doing its
share of columns or rows; in the blas engine they are BLAS's. Forwards the panels engine has its products in the phases
themselves.
"""

from libc.string cimport memcpy, memset

from .blas cimport COLUMNS, FLOAT32, product, product_blocked, real
from .crew cimport Member, look
from .leaf cimport IDENTITY, LAST_LEVEL_BYTES, SIDE_ROWS, SMALL_BYTES, PanelStep
from .run cimport (
    PANELS, SOFTMAX, Matrix, Run, Schedule, Step, move_rows, norm, row_at, rows_at, share, slot_after, slot_before, state_at,
    term_bytes,
)

cdef extern from *:
    """
    #define FETCH(place) __builtin_prefetch(place)
    """
    void fetch "FETCH"(const char *place) noexcept nogil

cdef enum:
    SUM_ROWS = 512 # whose sum is added to a bias's gradient at once
    LEAST = 48     # rows, or columns, that a product is cut into

cdef double MOST_WORK = 5e8 # of a product between two looks for Ctrl-C
cdef double TOUCH = 100     # floating-point operations in whose time a weight is read

# --- of a step ----------------------------------------------------------------------------------------------------------

cdef void input_product(const Run *run, Py_ssize_t rows, const char *x, char *gates) noexcept nogil:
    """gates (rows, columns*H) = x (rows, I) W_ih^T; gate g in column (g + shift) % G."""
    cdef Py_ssize_t row = run.cell.columns * run.H, shift = run.cell.shift * run.H, most = run.cell.G * run.H - shift
    product(run.dtype, False, True, rows, most, run.I, x, run.I, run.W_ih.first, run.I, 0, gates + shift * run.item,
            row)
    if shift:
        product(run.dtype, False, True, rows, shift, run.I, x, run.I, run.W_ih.first + most * run.I * run.item, run.I, 0, gates,
                row)


cdef void recur(const Run *run, const Step *s) noexcept nogil:
    """gates (n, columns*H), from column `shift` on, += h_{t-1} (n, P) W_hh^T of the first `split` gates."""
    cdef Py_ssize_t H = run.H, P = run.width[0]
    product_blocked(run.dtype, s.n, run.cell.split * H, P, s.before[0], P, run.W_hh_T, 1,
                    <char *>s.gates + run.cell.shift * H * run.item, run.cell.columns * H)


cdef void recur_inner(const Run *run, const Step *s) noexcept nogil:
    """The other gates += inner (n, H) W_hh^T."""
    cdef Py_ssize_t H = run.H, cut = run.cell.split * H
    product_blocked(run.dtype, s.n, run.cell.G * H - cut, H, s.inner, H, run.W_hh_T + cut * H * run.item, 1,
                    <char *>s.gates + cut * run.item, run.cell.columns * H)


cdef Py_ssize_t units_of(const Run *run, const Step *s, Py_ssize_t *first) noexcept nogil:
    """The hidden units that a backward phase is to do: how many, and where their part of an array begins in bytes."""
    cdef Py_ssize_t count = share(run.H, run.leaf.width, s.who.member, s.who.size, first)
    first[0] *= run.item
    return count


cdef bint by_columns(const Run *run, char *out, Py_ssize_t P, const char *a, Py_ssize_t a_row, const Matrix *W, Py_ssize_t k_0,
                     Py_ssize_t K, Py_ssize_t first, Py_ssize_t last, Py_ssize_t n, bint add, bint backwards,
                     Member *who) noexcept nogil:
    """out (n, P) = a (n, K) times the K rows of W (·, P) from k_0 on, or += it: of the columns from `first` to `last`. In the
    blas engine W is in blocks, and `first` at the beginning of one. Returns whether to go on."""
    cdef double column = (2.0 * n + TOUCH) * K
    cdef Py_ssize_t strip = 4 * run.leaf.width if run.engine == PANELS else COLUMNS
    cdef Py_ssize_t start = first // strip * strip, step = last - start, slices = 1, q, p_0, p_1
    if column * step > MOST_WORK:
        step = max(<Py_ssize_t>(MOST_WORK / column) // strip, 1) * strip
        slices = (last - start + step - 1) // step
    for q in range(slices):
        p_0 = max(first, start + (slices - 1 - q if backwards else q) * step)
        p_1 = min(last, start + (slices - q if backwards else q + 1) * step)
        if run.engine == PANELS:
            run.leaf.inner(out, P, a, a_row, W.first + k_0 * W.row * run.item, W.row, W.step, p_0, p_1, n, K, add, backwards)
        else:
            product_blocked(run.dtype, n, p_1 - p_0, K, a, a_row, W.first + (k_0 * P + p_0 * K) * run.item, 1 if add else 0,
                            out + p_0 * run.item, P)
        if not look(who, column * (p_1 - p_0)):
            return False
    return True


cdef void step_product(const Run *run, const Step *s, char *out, Py_ssize_t P, const char *a, Py_ssize_t a_row,
                       const Matrix *W, Py_ssize_t k_0, Py_ssize_t K, bint add) noexcept nogil:
    """out (n, P) = a (n, K) times the K rows of W (·, P) from k_0 on, or += it: a member's share of the columns.
    What the others have written of a small a is fetched first, or it would come a line after the other."""
    cdef Py_ssize_t first, count = share(P, run.leaf.width, s.who.member, s.who.size, &first), r, k
    if s.who.size > 1 and s.n * K * run.item <= SMALL_BYTES:
        for r in range(s.n):
            for k in range(0, K * run.item, 64):
                fetch(a + r * a_row * run.item + k)
    by_columns(run, out, P, a, a_row, W, k_0, K, first, first + count, s.n, add, s.backwards, <Member *>&s.who)


cdef void recur_back(const Run *run, const Step *s) noexcept nogil:
    """dh_{t-1} (n, P) = dgates (n, columns*H) W_hh, of the first `split` gates."""
    step_product(run, s, <char *>s.dstate[0], run.width[0], <char *>s.dgates + run.cell.shift * run.H * run.item,
                 run.dgates_row, &run.W_hh, 0, run.cell.split * run.H, False)


cdef void recur_back_add(const Run *run, const Step *s) noexcept nogil:
    """The same added to what dh_{t-1} is already."""
    step_product(run, s, <char *>s.dstate[0], run.width[0], <char *>s.dgates + run.cell.shift * run.H * run.item,
                 run.dgates_row, &run.W_hh, 0, run.cell.split * run.H, True)


cdef void recur_inner_back(const Run *run, const Step *s) noexcept nogil:
    """dinner (n, H) = dgates W_hh, of the other gates."""
    cdef Py_ssize_t H = run.H, cut = run.cell.split * H
    step_product(run, s, <char *>s.dinner, H, <char *>s.dgates + cut * run.item, run.dgates_row,
                 &run.W_hh, cut, run.cell.G * H - cut, False)


# --- from hidden units to an output that is the state: projections, and Jordan networks -----------------------------------
#
# Of an LSTM, (8) h_t = W_hr m_t; of a Jordan network, (3) s_t = W_ho h_t + b_o and (4) o_t = g(s_t).

cdef void panel_step(const Run *run, const Step *s, PanelStep *step) noexcept nogil:
    """What a cell's phase of the panels engine begins with: all of `step`."""
    step.h, step.y, step.y_stride = s.after[0], s.y, run.y_stride
    if run.projects:
        step.h, step.y = s.inner, NULL
    step.c, step.c_before = s.after[1], s.before[1]
    step.gates, step.inner, step.h_before, step.K = s.gates, s.inner, s.before[0], run.width[0]
    step.z, step.row, step.rows, step.x, step.I = s.z, s.row, s.rows, s.x, run.I
    step.begun, step.begun_0, step.begun_1 = s.begun, s.begun_0 * run.gate_panels, s.begun_1 * run.gate_panels
    step.panels, step.panels_ih, step.bias = run.panels_hh, run.panels_ih, run.panels_bias
    step.bias_hh, step.peephole = run.panels_bias_hh, run.panels_peephole
    step.n, step.H, step.v_0, step.v_1, step.backwards = s.n, run.H, s.v_0, s.v_1, s.backwards
    step.steps, step.apart, step.kept = s.steps, s.apart, run.tape
    step.shared = s.who.size > 1
    step.far = term_bytes(run) * (run.width[0] + (run.I if s.x != NULL else 0)) >= LAST_LEVEL_BYTES


cdef void project_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    memset(&step, 0, sizeof(step))
    step.h, step.y, step.y_stride = s.after[0], s.y if run.cell.output != SOFTMAX else NULL, run.y_stride
    step.x, step.I, step.bias, step.panels_ih = s.inner, run.H, run.panels_b_hr, run.panels_hr
    step.n, step.H, step.v_0, step.v_1, step.backwards = s.n, run.width[0], s.v_0, s.v_1, s.backwards
    step.shared = s.who.size > 1
    run.leaf.rnn_step[run.cell.output if run.cell.output != SOFTMAX else IDENTITY](&step)           # (8), (3) (4)


cdef void softmax_rows(const Run *run, const Step *s) noexcept nogil:
    """Of the rows from v_0 to v_1."""
    cdef Py_ssize_t P = run.width[0], r
    cdef char *o = <char *>s.after[0] + s.v_0 * P * run.item
    run.leaf.softmax(o, NULL, s.v_1 - s.v_0, P, 1)                                                  # (4)
    if s.y != NULL and run.engine == PANELS:
        for r in range(s.v_1 - s.v_0):
            memcpy(<char *>s.y + (s.v_0 + r) * run.y_stride * run.item, o + r * P * run.item, P * run.item)


cdef void project_blas(const Run *run, const Step *s) noexcept nogil:
    cdef Py_ssize_t P = run.width[0]
    product_blocked(run.dtype, s.n, P, run.H, s.inner, run.H, run.W_hr_T, 0, s.after[0], P)         # (8), (3)
    run.leaf.rnn_forward[run.cell.output if run.cell.output != SOFTMAX else IDENTITY](
        s.after[0], s.after[0], run.b_hr, s.n, P)                                                   # (4)


cdef void output_back(const Run *run, const Step *s) noexcept nogil:
    """dout (n, P) from dstate[0], the gradient of h_t."""
    cdef Py_ssize_t P = run.width[0], first, n = share(s.n, 1, s.who.member, s.who.size, &first)
    first *= P * run.item
    if run.cell.output == SOFTMAX:
        run.leaf.softmax_backward(<char *>s.dout + first, <char *>s.dstate[0] + first, <char *>s.after[0] + first, n, P)  # (4')
    else:
        run.leaf.rnn_backward[run.cell.output](<char *>s.dout + first, P, <char *>s.dstate[0] + first,
                                               <char *>s.after[0] + first, n, P, P)                 # (4')


cdef void project_back(const Run *run, const Step *s) noexcept nogil:
    """dinner (n, H) from dout."""
    step_product(run, s, <char *>s.dinner, run.H, <char *>s.dout, run.width[0], &run.W_hr, 0, run.width[0],
                 False)                                                                             # (8'), (3')


# --- of a block of time, backwards --------------------------------------------------------------------------------------

cdef void add_peepholes(real *out, const real *dgates, const real *c, const real *c_before, Py_ssize_t H,
                        Py_ssize_t units) noexcept nogil:
    """out (3, H) += the gradients of a step's peepholes, i f o, of one sequence and so many units: (2') (3') (5')."""
    cdef Py_ssize_t j
    for j in range(units):
        out[j] += dgates[j] * c_before[j]
        out[H + j] += dgates[H + j] * c_before[j]
        out[2 * H + j] += dgates[3 * H + j] * c[j]


cdef void weight_gradient(const Run *run, char *dW, const char *a, Py_ssize_t a_row, Py_ssize_t m, const char *b, Py_ssize_t P,
                          Py_ssize_t n, bint add, Member *who) noexcept nogil:
    """dW (m, P) = a^T b, or += it, for a (n, m) and b (n, P): a member's share of the rows. Sums are
    cut where they are cut anyway."""
    cdef Py_ssize_t first, count = share(m, 6, who.member, who.size, &first), last = first + count, item = run.item
    cdef Py_ssize_t k, i, i_1, terms = min(n, <Py_ssize_t>4 * SIDE_ROWS)
    cdef double row = (2.0 * terms + TOUCH) * P
    cdef Py_ssize_t step = max(<Py_ssize_t>(MOST_WORK / row) // LEAST, 1) * LEAST
    for k from 0 <= k < n by terms:
        terms = min(terms, n - k)
        for i from first <= i < last by step:
            i_1 = min(i + step, last)
            if run.engine == PANELS:
                run.leaf.outer(dW, P, a + k * a_row * item, a_row, b + k * P * item, P, P, i, i_1, terms, add or k > 0,
                               run.side + who.member * run.side_size if run.side != NULL else NULL, run.side_strips)
            else:
                product(run.dtype, True, False, i_1 - i, P, terms, a + (k * a_row + i) * item, a_row, b + k * P * item, P,
                        1 if add or k > 0 else 0, dW + i * P * item, P)
            if not look(who, row * (i_1 - i)):
                return


cdef void part_of_dx(const Run *run, char *dx, const char *a, Py_ssize_t a_row, Py_ssize_t k_0, Py_ssize_t K, Py_ssize_t n,
                     bint add, Member *who) noexcept nogil:
    """dx (n, I) = a (n, K) times the K rows of W_ih from k_0 on, or += it: a member's share of the rows."""
    cdef const Matrix *W = &run.W_ih
    cdef Py_ssize_t first, count = share(n, 6, who.member, who.size, &first), last = first + count, I = run.I, item = run.item
    cdef Py_ssize_t step = max(<Py_ssize_t>(MOST_WORK / (2.0 * K * I)) // LEAST, 1) * LEAST, terms, r, rows, k
    for r from first <= r < last by step:
        rows = min(step, last - r)
        if run.engine == PANELS:
            if not by_columns(run, dx + r * I * item, I, a + r * a_row * item, a_row, W, k_0, K, 0, I, rows, add, False, who):
                return
            continue
        terms = max(<Py_ssize_t>(MOST_WORK / ((2.0 * rows + TOUCH) * I)), <Py_ssize_t>LEAST)
        for k from 0 <= k < K by terms:
            product(run.dtype, False, False, rows, I, min(terms, K - k), a + (r * a_row + k) * item, a_row,
                    W.first + (k_0 + k) * I * item, I, 1 if add or k > 0 else 0, dx + r * I * item, I)
            if not look(who, (2.0 * rows + TOUCH) * I * min(terms, K - k)):
                return


cdef void add_sums(const Run *run, const char *a, Py_ssize_t a_row, Py_ssize_t m, Py_ssize_t n, bint of_out,
                   Member *who) noexcept nogil:
    """Add the column sums of a (n, m), dgates or dout, to the gradients of the biases. A member's share of the columns."""
    cdef Py_ssize_t first, count = share(m, 1, who.member, who.size, &first), item = run.item
    cdef Py_ssize_t shift = run.cell.shift * run.H, most = run.cell.G * run.H - shift, last = first + count, at
    cdef char *sums = run.sums + (first + (run.cell.columns * run.H if of_out else 0)) * item
    run.leaf.sum_rows(sums, a + first * item, a_row, n, count)
    if of_out:
        if run.db_hr != NULL:
            run.leaf.add_rows(run.db_hr + first * item, count, sums, count, 1, count)
        return
    # gate g's sum over x is in column (g + shift) % G, that over h in column g + shift
    if run.db_hh != NULL and last > shift:
        at = max(first, shift)
        run.leaf.add_rows(run.db_hh + (at - shift) * item, last, run.sums + at * item, last, 1, last - at)
    if run.db_ih != NULL:
        if first < shift:
            run.leaf.add_rows(run.db_ih + (most + first) * item, last, sums, last, 1, min(last, shift) - first)
        at, last = max(first, shift), min(last, most + shift)
        if at < last:
            run.leaf.add_rows(run.db_ih + (at - shift) * item, last, run.sums + at * item, last, 1, last - at)


cdef void bias_gradients(const Run *run, const char *a, Py_ssize_t a_row, Py_ssize_t m, Py_ssize_t n,
                         Member *who) noexcept nogil:
    """The same of a block's, SUM_ROWS at a time: a sum of very many rows one by one would lose digits."""
    cdef Py_ssize_t r
    if run.db_hr == NULL if a == run.dout else run.db_ih == NULL and run.db_hh == NULL:
        return
    for r from 0 <= r < n by SUM_ROWS:
        add_sums(run, a + r * a_row * run.item, a_row, m, min(<Py_ssize_t>SUM_ROWS, n - r), a == run.dout, who)
        if not look(who, TOUCH * m * SUM_ROWS):
            return


cdef void input_weight_gradient(const Run *run, const char *dgates, Py_ssize_t a_row, const char *x, Py_ssize_t n, bint add,
                                Member *who) noexcept nogil:
    """Write what n rows dgates are to W_ih, or add it: (1'), of a GRU (1') and (2'). A member's share."""
    cdef Py_ssize_t I = run.I, shift = run.cell.shift * run.H, most = run.cell.G * run.H - shift, item = run.item
    if run.dW_ih == NULL:
        return
    weight_gradient(run, run.dW_ih, dgates + shift * item, a_row, most, x, I, n, add, who)
    if shift:
        weight_gradient(run, run.dW_ih + most * I * item, dgates, a_row, shift, x, I, n, add, who)


cdef void input_gradient(const Run *run, const char *dgates, Py_ssize_t a_row, char *dx, Py_ssize_t n,
                         Member *who) noexcept nogil:
    """Write dx of n rows dgates: (1'), of a GRU (1') and (2'). A member's share."""
    cdef Py_ssize_t shift = run.cell.shift * run.H, most = run.cell.G * run.H - shift
    part_of_dx(run, dx, dgates + shift * run.item, a_row, 0, most, n, False, who)
    if shift:
        part_of_dx(run, dx, dgates, a_row, most, shift, n, True, who)


cdef void table_gradients(const Run *run, const Py_ssize_t *tokens, Py_ssize_t n, Member *who) noexcept nogil:
    """Add a block's n dgates to those of their tokens' sums: a member's share of the columns."""
    cdef Py_ssize_t CH = run.cell.columns * run.H, a_row = run.dgates_row, item = run.item, r, first
    cdef Py_ssize_t count = share(CH, run.leaf.width, who.member, who.size, &first)
    for r in range(n):
        run.leaf.add_rows(run.dtable + (tokens[r] * CH + first) * item, CH, run.dgates + (r * a_row + first) * item, a_row, 1,
                          count)
        if not look(who, TOUCH * count):
            return


cdef void gather_block(const Run *run, Py_ssize_t t_0, Py_ssize_t t_1, Member *who) noexcept nogil:
    """Copy a block's rows of x, or its tokens, from where they are padded: a member's share."""
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t rows = row_at(schedule, t_1) - row_at(schedule, t_0), first, count = share(rows, 1, who.member, who.size, &first)
    cdef Py_ssize_t bytes_ = run.I * run.item if run.tokens == NULL else sizeof(Py_ssize_t)
    move_rows(schedule, run.x_rows, <char *>(run.x if run.tokens == NULL else <const char *>run.tokens), run.x_step,
              run.x_sequence, bytes_, bytes_, 0, schedule.N, t_0, t_1, first, first + count, False)


cdef void block_inputs(const Run *run, Py_ssize_t t_0, Py_ssize_t t_1, Member *who) noexcept nogil:
    """Write a block's dx: a member's share. Where it is padded, by way of the gathered rows of x, which nobody needs then."""
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t row = row_at(schedule, t_0), n = row_at(schedule, t_1) - row, width = run.I * run.item, first, count
    if run.dx == NULL:
        return
    input_gradient(run, run.dgates, run.dgates_row, run.x_rows if run.dx_step else run.dx + row * width, n, who)
    if run.dx_step:
        count = share(n, 6, who.member, who.size, &first)  # the rows that this member has just written
        move_rows(schedule, run.x_rows, run.dx, run.dx_step, run.dx_sequence, width, width, 0, schedule.N, t_0, t_1, first,
                  first + count, True)


cdef void block_weights(const Run *run, Py_ssize_t t_0, Py_ssize_t t_1, bint add, bint flow, Member *who) noexcept nogil:
    """Write a block's part of the weights' gradients, or add it: a member's share. And the norms of the rows of `flow`, if
    nobody has."""
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t row = row_at(schedule, t_0), n = row_at(schedule, t_1) - row, item = run.item
    cdef Py_ssize_t H = run.H, P = run.width[0], CH = run.cell.columns * H, a_row = run.dgates_row, t, first, count, at
    cdef Py_ssize_t shift = run.cell.shift * H, cut = run.cell.split * H
    cdef const char *h_before = run.h_before
    cdef const char *inner = run.inner + row * H * item if run.inner != NULL else NULL
    cdef const char *dgates
    cdef const char *c
    cdef const char *c_before
    cdef int k
    if h_before == NULL:
        h_before = state_at(run, 0, t_0 + schedule.reverse)  # of the block's steps, one after the other
    if run.tokens != NULL:
        table_gradients(run, <const Py_ssize_t *>run.x_rows if run.x_step else run.tokens + row, n, who)
    else:
        input_weight_gradient(run, run.dgates, a_row, run.x_rows if run.x_step else run.x + row * run.I * item, n, add, who)
    if run.dW_hh != NULL:
        weight_gradient(run, run.dW_hh, run.dgates + shift * item, a_row, cut, h_before, P, n, add, who)
    if run.dW_hh != NULL and run.cell.split < run.cell.G:
        weight_gradient(run, run.dW_hh + cut * H * item, run.dgates + cut * item, a_row, run.cell.G * H - cut, inner, H, n, add,
                        who)
    bias_gradients(run, run.dgates, a_row, CH, n, who)
    if run.projects:
        if run.dW_hr != NULL:
            weight_gradient(run, run.dW_hr, run.dout, P, P, inner, H, n, add, who)
        bias_gradients(run, run.dout, P, P, n, who)
    for k in range(run.cell.states):
        if flow and run.row_norms[k] != NULL:
            count = share(n, 1, who.member, who.size, &first)
            for at in range(first, first + count):
                run.row_norms[k][row + at] = norm(run.leaf, run.flow[k] + at * run.width[k] * item, run.width[k])
                if not look(who, TOUCH * run.width[k]):
                    return
    if run.peephole != NULL:
        count = share(H, run.leaf.width, who.member, who.size, &first)
        at = first * item
        for t in range(t_0, t_1):
            dgates = run.dgates + (row_at(schedule, t) - row) * a_row * item + at
            c, c_before = state_at(run, 1, slot_after(schedule, t)) + at, state_at(run, 1, slot_before(schedule, t)) + at
            for k in range(rows_at(schedule, t)):
                if run.dtype == FLOAT32:
                    add_peepholes(<float *>(run.dpeephole + at), <const float *>dgates, <const float *>c,
                                  <const float *>c_before, H, count)
                else:
                    add_peepholes(<double *>(run.dpeephole + at), <const double *>dgates, <const double *>c,
                                  <const double *>c_before, H, count)
                dgates, c, c_before = dgates + a_row * item, c + H * item, c_before + H * item
                if not look(who, TOUCH * count):
                    return
