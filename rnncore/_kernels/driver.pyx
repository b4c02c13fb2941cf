"""The time loop, once for all cells: forwards and backwards over a schedule, in blocks of time, without the GIL.

Forward, per block: one product for W_ih x of all its steps, then step by step the cell's phases; or, *fused*, step by step
both. They are done by one of two engines: `panels`, packed weights and one pass for product, gates and state; `blas`,
products by BLAS. Where nobody waits for a step, and each finds its rows as far on as the one before, a phase takes many in one go.
Backward, per block: step by step the cell's phases, which leave the gates' gradients of the block, then one product
each for dW_ih, dW_hh and dx, and a sum for db. All of them are our own in the panels engine, with the weights in strips
(simd/strips.h), or BLAS's.

In place of x there may be *tokens*, numbers of rows of a matrix: their sums over x are formed once, in a *table*, and
copied from it; backwards, their gradients are summed by token, and products are the table's, not the steps'.

A *schedule* says which rows a step has. Sequences of several lengths come sorted, the longest first, and packed: the rows
of time t are those still running then, and rows of one time follow those of the time before. x and y, dx and dy may be
padded and in another order all the same: x is then gathered and dx scattered block by block, y and dy step by step.

A crew of threads shares a pass in one of two ways. *By rows*: each member takes some sequences through all of time, and
nobody waits for anybody; backwards, all meet at the end of a block, for each row of a weight's gradient is one member's.
*By units*: each member owns some of the hidden units, and all meet after each phase whose results others read; of two
members, the one that has the first units begins with the next step meanwhile. Two directions take half of the crew each, in
backward too, where each has a dx of its own.
"""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .crew cimport (
    Member, Team, Watch, arrive, complete, fewer, gather_crew, gather_team, limit, look, meet, raise_stopped, run_crew,
)
from .leaf cimport SIDE_ROWS, PanelStep
from .pack cimport panel_vectors
from .pool cimport POOL_MOST, Counter, Seat, counter_peek, counter_reset, counter_take
from .products cimport block_inputs, block_weights, gather_block, input_product, output_back, panel_step, project_back
from .run cimport (
    BACK_ROWS, BACK_STEPS, BLAS, BLAS_ROWS, MAX_PHASES, MAX_STATES, PANELS, Run, Schedule, Step, blocks, move_rows, norm, row_at,
    rows_at, share, slot_after, slot_before, state_at, term_bytes,
)

cdef extern from *:
    """
    #include <unistd.h>

    /* Bytes of a core's second-level cache, between those that a choice has been measured for; the least if the system does
       not tell. */
    static Py_ssize_t second_level_cache(Py_ssize_t least, Py_ssize_t most)
    {
        long found = 0;
    #if defined(_SC_LEVEL2_CACHE_SIZE)
        found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    #endif
        return found < least ? least : found > most ? most : found;
    }
    """
    Py_ssize_t second_level_cache(Py_ssize_t least, Py_ssize_t most)

cdef enum:
    FAR_ROWS = 128         # panels: least rows of a block where W_ih comes from far; by rows of two steps or more
    FAR_BYTES = 1 << 21    # of their sums, and of x, if more rows have them
    FUSED_BYTES = 1 << 19  # panels: of weights that stay in the second-level cache beside all else
    BEGUN_BYTES = 1 << 16  # panels: of weights that are read for sums while another member's units come
    SMALL = 32768      # bytes of workspace that go on the stack
    LEAST_ROWS = 48    # that a step is cut into
    SHARE_ROWS = 24    # of a share of such a product, which a member of a crew takes at once

BLOCK_ROWS = BLAS_ROWS

cdef double STEP_WORK = 1e9    # floating-point operations of a step's products done at once: 10 to 50 ms
cdef double SLICE_WORK = 2e8   # the same of the panels engine's forwards: the first of a slice's panels is fetched by none
cdef double GO_WORK = 2e7      # of several steps in one go: enough to make up for the way there and back

cdef Py_ssize_t near_bytes = second_level_cache(1 << 20, 1 << 21)

# Panels: rows of a block, unless the sums over x take more than so many bytes, which are to stay in the second-level cache
# until the step that needs them.
cdef Py_ssize_t panel_rows = near_bytes // (1 << 14), panel_bytes = near_bytes // 2

# Bytes of W_ih from which on reading it for each block takes longer than sums that leave the cache
cdef Py_ssize_t far_weights = 8 * second_level_cache(1 << 19, 1 << 20)

side_strips = near_bytes // 4 // (SIDE_ROWS * 256)  # of 256 bytes a row and SIDE_ROWS a quarter of it; smaller ones take less

engine = PANELS


def use(str name not None):
    """Use an engine, "panels" or "blas", for forward passes and `matmul` from now on, in the whole process."""
    global engine
    engine = {"blas": BLAS, "panels": PANELS}[name]


# --- schedule ---------------------------------------------------------------------------------------------------------

cdef void enter_and_leave(const Run *run, bint leave) noexcept nogil:
    """Copy each sequence's initial state into the slot before its first step, or its final one out of that after its
    last: where that is not the caller's array."""
    cdef const Schedule *s = &run.schedule
    cdef Py_ssize_t n, size, slot, place
    cdef char *at
    cdef int k
    for k in range(run.cell.states):
        size = run.width[k] * run.item
        if s.offsets == NULL:
            if run.tape:
                at = state_at(run, k, s.T if s.reverse != leave else 0)
                memcpy(run.final[k] if leave else at, at if leave else <char *>run.initial[k], s.N * size)
            continue
        for n in range(s.N):
            slot = s.lengths[n] if s.reverse != leave else 0
            at = state_at(run, k, slot) + n * size
            place = s.order[n] * size
            memcpy(run.final[k] + place if leave else at, at if leave else <char *>run.initial[k] + place, size)


cdef void step_at(const Run *run, Py_ssize_t t, Py_ssize_t n_0, Py_ssize_t n_1, Step *s) noexcept nogil:
    """Make s, zeros or a step of the same run, the step of the sequences from n_0 to n_1 at time t."""
    cdef const Schedule *schedule = &run.schedule
    cdef int k
    cdef Py_ssize_t row = row_at(schedule, t) + n_0, at
    s.n = n_1 - n_0
    if run.gates != NULL:
        s.gates = run.gates + (row if run.tape else n_0) * run.cell.columns * run.H * run.item
    if run.inner != NULL:
        s.inner = run.inner + (row if run.tape else n_0) * run.H * run.item
    s.y = run.y + row * run.y_stride * run.item if run.y != NULL and not run.y_step else NULL
    for k in range(run.cell.states):
        at = n_0 * run.width[k] * run.item
        s.before[k] = state_at(run, k, slot_before(schedule, t)) + at
        s.after[k] = state_at(run, k, slot_after(schedule, t)) + at
        s.dstate[k] = run.dstate[k] + at if run.dstate[k] != NULL else NULL


cdef double work(const Run *run, Py_ssize_t rows) noexcept nogil:
    """Roughly what `rows` steps of one sequence cost, in floating-point operations of a product."""
    return 2.0 * rows * run.H * (run.cell.G * (run.I + run.width[0] + 100) + (run.width[0] if run.projects else 0))


cdef Py_ssize_t rows_at_once(const Run *run) noexcept nogil:
    """Rows of a step that are done between two looks for Ctrl-C."""
    return max(LEAST_ROWS, <Py_ssize_t>(STEP_WORK / (work(run, 1) - 2.0 * run.H * run.cell.G * run.I)))


# --- one call's work, and its members ---------------------------------------------------------------------------------

cdef struct Job:
    Run *runs
    int count
    bint by_rows
    Py_ssize_t rows, chunks     # by rows: most sequences of a chunk, and chunks of a run
    Py_ssize_t *bounds          # by rows: where the chunks begin, and the end of the last
    Py_ssize_t block            # steps of a block of time
    bint fused                  # panels: the product with W_ih is part of each step, not one for all of a block
    char *z                     # by rows: each member's workspace; by units: each run's
    Py_ssize_t z_size
    char *x                     # the same for gathered rows of x; fused, each member's
    Py_ssize_t x_size
    Counter next                # chunk
    Team teams[2]               # forwards by units, backwards always: of each run
    Counter *shares             # by units: of each member, for blocks even and odd
    Watch watch
    Seat seats[POOL_MOST]       # of the crew's members, where teams meet

cdef struct Part:               # what one member does of a run
    const Run *run
    char *z
    char *x
    Py_ssize_t n_0, n_1         # sequences
    Member who                  # of a run's team, or alone


cdef inline Py_ssize_t panels(Py_ssize_t vectors) noexcept nogil:
    """Panels of so many vectors (simd/panels.h)."""
    return vectors // 4 + (vectors & 3) // 2 + (vectors & 1)


cdef inline Py_ssize_t panel_start(Py_ssize_t vectors, Py_ssize_t p) noexcept nogil:
    """First vector of panel p; for p = panels(vectors), their end."""
    cdef Py_ssize_t whole = vectors // 4
    if p <= whole:
        return 4 * p
    return vectors if p == panels(vectors) else 4 * whole + 2


cdef inline Py_ssize_t slice_of(const Run *run, Py_ssize_t K, Py_ssize_t rows) noexcept nogil:
    """Vectors whose products with `rows` rows are about SLICE_WORK, in whole panels."""
    cdef Py_ssize_t vectors = <Py_ssize_t>(SLICE_WORK / (2.0 * run.leaf.width * K * rows))
    return max(vectors // 4 * 4, 4)


cdef inline Py_ssize_t share_of(Py_ssize_t vectors, const Part *part, int more) noexcept nogil:
    """The first vector of a member's share of them, or for more = 1 the first of the next member's."""
    if part.who.team == NULL:
        return vectors * more
    return panel_start(vectors, panels(vectors) * (part.who.member + more) // part.who.size)


cdef inline Py_ssize_t rows_of(const Part *part, Py_ssize_t t) noexcept nogil:
    """A part's sequences that have a step at time t."""
    return max(min(part.n_1, rows_at(&part.run.schedule, t)) - part.n_0, 0)


# --- rows in the caller's order ---------------------------------------------------------------------------------------

cdef const char *gather(const Part *part, Py_ssize_t t_0, Py_ssize_t t_1, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The rows of x of a part's steps from t_0 to t_1, those from `first` to `last` of them copied from where they lie."""
    cdef const Run *run = part.run
    cdef Py_ssize_t size = run.I * run.item
    move_rows(&run.schedule, part.x, <char *>run.x, run.x_step, run.x_sequence, size, size, part.n_0, part.n_1, t_0, t_1,
              first, last, False)
    return part.x


cdef void scatter(const Part *part, const Step *s, Py_ssize_t t, Py_ssize_t n_0, Py_ssize_t first,
                  Py_ssize_t last) noexcept nogil:
    """Copy h_t of the step's rows from `first` to `last`, which begins with the part's n_0-th, to where they belong in y."""
    cdef const Run *run = part.run
    move_rows(&run.schedule, <char *>s.after[0], run.y, run.y_step, run.y_sequence, run.y_stride * run.item,
              run.width[0] * run.item, part.n_0 + n_0, part.n_1, t, t + 1, first, last, True)


# --- sums over x ------------------------------------------------------------------------------------------------------

cdef void copy_sums(const Run *run, char *table, char *z, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t v_0, Py_ssize_t v_1,
                    bint into_table) noexcept nogil:
    """Copy the sums of one row, of the vectors from v_0 to v_1, from where it stands among the `rows` of z into a table's
    row, whose panels follow each other, or back."""
    cdef Py_ssize_t v = v_0, gates = run.gate_panels, vector = run.leaf.width * run.item, at, count
    cdef char *in_table
    cdef char *in_z
    while v < v_1:
        count = panel_vectors(run.vectors - v)
        at = v * gates
        while at < (v + count) * gates:
            in_table, in_z = table + at * vector, z + (at * rows + row * count) * vector
            memcpy(in_table if into_table else in_z, in_z if into_table else in_table, count * vector)
            at += count
        v += count


cdef void sums_of_rows(const Run *run, char *table, const char *x, Py_ssize_t n, char *z) noexcept nogil:
    """table (n, table_row) = what a step begins with for each of the rows x (n, I). `z` is as large."""
    cdef Py_ssize_t r
    if run.engine == BLAS:
        input_product(run, n, x, table)
        return
    run.leaf.project(z, run.panels_bias, x, run.panels_ih, run.gate_panels, run.I, 0, run.vectors, n, 0, n)
    for r in range(n):
        copy_sums(run, table + r * run.table_row * run.item, z, r, n, 0, run.vectors, True)


cdef void look_up(const Part *part, Py_ssize_t t_0, Py_ssize_t t_1, Py_ssize_t rows, char *gates) noexcept nogil:
    """Copy the sums of the tokens of the steps from t_0 to t_1, which are `rows`, to where the steps expect them: a
    member's units. Nobody else reads these, and nobody has to be waited for."""
    cdef const Run *run = part.run
    cdef const Schedule *s = &run.schedule
    cdef Py_ssize_t t, n, row = 0, token, size = run.table_row * run.item
    cdef Py_ssize_t v_0 = share_of(run.vectors, part, 0), v_1 = share_of(run.vectors, part, 1)
    for t in range(t_0, t_1):
        for n in range(part.n_0, part.n_0 + rows_of(part, t)):
            token = run.tokens[t * run.x_step + s.order[n] * run.x_sequence if run.x_step else row_at(s, t) + n]
            if run.engine == PANELS:
                copy_sums(run, <char *>run.table + token * size, part.z, row, rows, v_0, v_1, False)
            else:
                memcpy(gates + row * size, run.table + token * size, size)
            row += 1


cdef bint project(Job *job, Part *part, Py_ssize_t b, Py_ssize_t t_0, Py_ssize_t t_1, Py_ssize_t rows) noexcept nogil:
    """z = bias + x W_ih^T for the `rows` rows of the steps from t_0 to t_1: a member's part of it. Returns whether to go
    on."""
    cdef const Run *run = part.run
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t item = run.I * run.item, gates = run.gate_panels
    cdef const char *x = run.x + (row_at(schedule, t_0) + part.n_0) * item
    cdef Py_ssize_t v, v_1, t, k, q, n, chunks, shares, row, size, step
    cdef int other
    if part.who.team == NULL:
        if run.x_step:
            x = gather(part, t_0, t_1, 0, rows)
        step = slice_of(run, run.I * gates, rows)
        v = 0
        while v < run.vectors:
            v_1 = min(v + step, run.vectors)
            if run.x_step or part.n_0 == 0 and part.n_1 == schedule.N:
                run.leaf.project(part.z, run.panels_bias, x, run.panels_ih, gates, run.I, v, v_1, rows, 0, rows)
            else:
                row = 0
                for t in range(t_0, t_1):
                    n = rows_of(part, t)
                    run.leaf.project(part.z, run.panels_bias, run.x + (row_at(schedule, t) + part.n_0) * item,
                                     run.panels_ih, gates, run.I, v, v_1, n, row, rows)
                    row += n
            look(&part.who, 2.0 * rows * (v_1 - v) * run.leaf.width * run.I * gates)
            v = v_1
        return meet(&part.who)
    # Each member begins with shares of its own units, whose weights its cache holds, and then helps the others: a worker
    # that is still waking up holds nobody up.
    size = part.who.size
    if run.x_step:
        x = gather(part, t_0, t_1, rows * part.who.member // size, rows * (part.who.member + 1) // size)
        if not meet(&part.who):
            return False
    chunks = (rows + SHARE_ROWS - 1) // SHARE_ROWS
    for k in range(size):
        other = (part.who.member + k) % size
        v = panels(run.vectors) * other // size
        shares = (panels(run.vectors) * (other + 1) // size - v) * chunks
        while True:
            q = counter_take(&job.shares[2 * (part.who.team.first + other) + (b & 1)])
            if q >= shares:
                break
            row = q % chunks * SHARE_ROWS
            run.leaf.project(
                part.z, run.panels_bias, x + row * item, run.panels_ih, gates, run.I,
                panel_start(run.vectors, v + q // chunks), panel_start(run.vectors, v + q // chunks + 1),
                min(<Py_ssize_t>SHARE_ROWS, rows - row), row, rows)
            look(&part.who, 2.0 * SHARE_ROWS * 4 * run.leaf.width * run.I * gates)
    if not meet(&part.who):
        return False
    counter_reset(&job.shares[2 * (part.who.team.first + part.who.member) + (b & 1)])
    return True


# --- forwards ---------------------------------------------------------------------------------------------------------

cdef Py_ssize_t cut_phase(Job *job, const Part *part, int p, Py_ssize_t n, Py_ssize_t *v_0, Py_ssize_t *v_1) noexcept nogil:
    """The vectors from v_0 to v_1, or the rows, that a member does of a phase of n rows; returns how many at once."""
    cdef const Run *run = part.run
    if run.phase_vectors[p]:
        v_0[0], v_1[0] = share_of(run.phase_vectors[p], part, 0), share_of(run.phase_vectors[p], part, 1)
        return slice_of(run, run.gate_panels * (run.width[0] + (run.I if job.fused else 0)), n)
    v_0[0], v_1[0] = 0, n
    if part.who.team != NULL:
        v_0[0], v_1[0] = n * part.who.member // part.who.size, n * (part.who.member + 1) // part.who.size
    return n


cdef Py_ssize_t first_units(const Job *job, const Part *part) noexcept nogil:
    """Of a team of two, by units, the member that has the first ones tells the other that it is done with a step, and begins
    with the sums of the next over its own units: they are the first terms, and their weights in its cache. Meanwhile the
    other's units come; and the other, which needs these first, follows at a distance. Returns how many units it has, or 0
    where a member does not."""
    cdef const Run *run = part.run
    cdef Py_ssize_t units
    if part.who.size != 2 or part.who.member or run.phases != 1 or job.fused or run.y_step and run.y != NULL:
        return 0
    units = share_of(run.vectors, part, 1) // (run.cell.G if run.cell.interleaved else 1) * run.leaf.width
    return units if units < run.H and units * run.H * run.cell.G * run.item <= near_bytes // 2 else 0


cdef void begin(const Run *run, Step *s, Py_ssize_t v_0, Py_ssize_t v_1, Py_ssize_t units) noexcept nogil:
    """Add those sums to the ones over x, of the vectors that the step takes first: enough to fill the wait at one row."""
    cdef PanelStep step
    cdef Py_ssize_t of_panels = 4 * run.gate_panels * run.leaf.width * run.item * units
    cdef Py_ssize_t vectors = (BEGUN_BYTES + of_panels - 1) // of_panels * 4
    s.begun = units
    s.begun_0, s.begun_1 = max(v_0, v_1 - vectors) if s.backwards else v_0, v_1 if s.backwards else min(v_1, v_0 + vectors)
    s.v_0, s.v_1 = s.begun_0, s.begun_1
    panel_step(run, s, &step)
    run.leaf.begin(&step, run.gate_panels, min(run.gate_panels, 2))


cdef Py_ssize_t steps_at_once(const Part *part, Py_ssize_t t, Py_ssize_t most, Py_ssize_t n) noexcept nogil:
    """Of the `most` steps of n rows that begin with time t, those that a cell's phase may do in one go: nobody waits for one of
    them, and each finds its rows as far on as the one before."""
    cdef const Run *run = part.run
    cdef const Schedule *schedule = &run.schedule
    if run.engine != PANELS or part.who.size > 1 or run.phases > 1 or schedule.offsets != NULL:
        return 1
    if not run.tape:  # states of the first step and the last are the caller's arrays
        most = min(most, t if schedule.reverse else schedule.T - 1 - t)
        if t == (schedule.T - 1 if schedule.reverse else 0):
            return 1
    return max(min(most, <Py_ssize_t>(GO_WORK / work(run, n))), <Py_ssize_t>1)


cdef void forward_part(Job *job, Part *part) noexcept nogil:
    cdef const Run *run = part.run
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t b, i, r, k, t, t_0, t_1, n, n_0, all_n, row, rows, n_before = 0
    cdef Py_ssize_t v_0[MAX_PHASES + 1]
    cdef Py_ssize_t v_1[MAX_PHASES + 1]
    cdef Py_ssize_t slices[MAX_PHASES + 1]
    cdef Py_ssize_t count[MAX_PHASES + 1]
    cdef Py_ssize_t CH = run.cell.columns * run.H, P = run.width[0], first, last
    cdef Py_ssize_t most = rows_at_once(run) if run.engine == BLAS else schedule.N  # panels are cut by units
    cdef const char *x
    cdef char *gates
    cdef Py_ssize_t begins
    cdef bint waits = False
    cdef int p
    cdef Step s
    memset(&s, 0, sizeof(s))
    s.who = part.who
    s.apart = -schedule.N if schedule.reverse else schedule.N
    begins = first_units(job, part)
    for b in range(blocks(schedule, job.block)):
        t_0 = (blocks(schedule, job.block) - 1 - b if schedule.reverse else b) * job.block
        t_1 = min(t_0 + job.block, schedule.T)
        if part.n_0 == 0 and part.n_1 == schedule.N:
            rows = row_at(schedule, t_1) - row_at(schedule, t_0)
        else:
            rows = 0
            for t in range(t_0, t_1):
                rows += rows_of(part, t)
            if rows == 0:
                continue
        gates = run.gates + row_at(schedule, t_0) * CH * run.item if run.tape and run.gates != NULL else part.z
        if job.fused:
            pass
        elif run.tokens != NULL:
            look_up(part, t_0, t_1, rows, gates)
        elif run.engine == PANELS:
            if not project(job, part, b, t_0, t_1, rows):
                return
        else:
            x = gather(part, t_0, t_1, 0, rows) if run.x_step else run.x + row_at(schedule, t_0) * run.I * run.item
            for r from 0 <= r < rows by most:
                n = min(most, rows - r)
                input_product(run, n, x + r * run.I * run.item, gates + r * CH * run.item)
                if not look(&part.who, 2.0 * n * run.I * CH):
                    return
        row = rows if schedule.reverse else 0  # of the block's
        i = 0
        while i < t_1 - t_0:
            t = t_1 - 1 - i if schedule.reverse else t_0 + i
            all_n = rows_of(part, t)
            s.steps = 1
            if schedule.reverse:
                row -= all_n
            for n_0 from 0 <= n_0 < all_n by most:
                n = min(most, all_n - n_0)
                step_at(run, t, part.n_0 + n_0, part.n_0 + n_0 + n, &s)
                s.z, s.row, s.rows, s.backwards = part.z, row, rows, (t & 1) ^ run.turned
                if job.fused and run.x_step:
                    s.x = gather(part, t, t + 1, 0, n)
                elif job.fused:
                    s.x = run.x + (row_at(schedule, t) + part.n_0) * run.I * run.item
                if run.engine == BLAS and not (run.tape and run.gates != NULL):
                    s.gates = part.z + (row + n_0) * CH * run.item
                if n != n_before:
                    n_before = n
                    for p in range(run.phases):
                        slices[p] = cut_phase(job, part, p, n, &v_0[p], &v_1[p])
                        count[p] = (v_1[p] - v_0[p] + slices[p] - 1) // slices[p]
                if count[0] == 1:
                    s.steps = steps_at_once(part, t, t_1 - t_0 - i, n)
                if waits:
                    waits = False
                    begin(run, &s, v_0[0], v_1[0], begins)
                    if not complete(&part.who):
                        return
                for p in range(run.phases):
                    for k in range(count[p]):
                        s.v_0 = v_0[p] + (count[p] - 1 - k if s.backwards else k) * slices[p]
                        s.v_1 = min(s.v_0 + slices[p], v_1[p])
                        run.phase[p](run, &s)
                        if part.who.number == 0 and job.watch.interruptible:
                            look(&part.who, s.steps * work(run, n) / (run.phases * count[p]))
                    if begins:
                        arrive(&part.who)
                        waits = True
                    elif not meet(&part.who):
                        return
                s.begun_1 = 0
                if run.y_step and run.y != NULL:
                    first, last = 0, n
                    if part.who.team != NULL:
                        first, last = n * part.who.member // part.who.size, n * (part.who.member + 1) // part.who.size
                    scatter(part, &s, t, n_0, first, last)
                elif run.engine == BLAS and s.y != NULL:
                    for r in range(n):
                        memcpy(<char *>s.y + r * run.y_stride * run.item, <char *>s.after[0] + r * P * run.item, P * run.item)
            row += (1 - s.steps if schedule.reverse else s.steps) * all_n
            i += s.steps
        if waits:
            waits = False
            if not complete(&part.who):
                return


cdef void forward_member(void *job_, int member) noexcept nogil:
    """What one member of the crew does."""
    cdef Job *job = <Job *>job_
    cdef Part part
    cdef Team *team
    cdef Py_ssize_t k
    cdef int r
    memset(&part, 0, sizeof(part))
    part.who.number, part.who.watch = member, &job.watch
    if job.by_rows:
        part.who.size = 1
        part.z, part.x = job.z + member * job.z_size, job.x + member * job.x_size
        while counter_peek(&job.watch.stopped) == 0:
            k = counter_take(&job.next)
            if k >= job.count * job.chunks:
                return
            part.run = &job.runs[k // job.chunks]
            part.n_0, part.n_1 = job.bounds[k % job.chunks], job.bounds[k % job.chunks + 1]
            forward_part(job, &part)
        return
    r = 1 if job.count == 2 and member >= job.teams[1].first else 0
    team = &job.teams[r]
    part.run, part.who.team, part.who.member, part.who.size = &job.runs[r], team, member - team.first, team.size
    part.z, part.x = job.z + r * job.z_size, job.x + (member if job.fused else r) * job.x_size
    part.n_0, part.n_1 = 0, part.run.schedule.N
    forward_part(job, &part)


# --- how a crew shares a call -----------------------------------------------------------------------------------------

cdef Py_ssize_t cut_rows(const Schedule *s, Py_ssize_t chunks, Py_ssize_t most, Py_ssize_t *bounds) noexcept nogil:
    """Cut the sequences into `chunks` of about equal work, or more where one would have more than `most`: at most
    N // most + 1 more. Returns how many there are; `bounds` gets their beginnings and the end."""
    cdef Py_ssize_t n = 0, start, k = 0, left = row_at(s, s.T), share, done, step
    while n < s.N:
        bounds[k] = n
        start, done, share = n, 0, left // max(chunks - k, 1)
        while n < s.N and n - start < most:
            step = s.T if s.offsets == NULL else s.lengths[n]
            if n > start and 2 * done + step > 2 * share:
                break
            done += step
            n += 1
        left -= done
        k += 1
    bounds[k] = s.N
    return k


cdef inline Py_ssize_t weight_bytes(const Run *run) noexcept nogil:
    """Bytes of W_ih and W_hh in panels."""
    return term_bytes(run) * (run.I + run.width[0])


cdef bint shared_by_rows(const Run *run, int count, int members, bint back) noexcept nogil:
    """Whether a crew is faster by rows than by units: where each member gets rows enough, of sequences that run at a
    time, and the weights, which each member then reads all of, stay in its own cache or are read for several tiles.
    Backward, a step reads W_hh alone, and by units a member needs all gates' gradients from the others: fewer rows are
    enough."""
    cdef const Schedule *s = &run.schedule
    cdef Py_ssize_t teams = max(members // count, 1), weights = weight_bytes(run), times = max(s.T, 1) * teams
    cdef Py_ssize_t rows = (row_at(s, s.T) + times - 1) // times
    if members <= count or panels(run.vectors) < teams or rows >= 24:
        return True
    if back:
        weights = term_bytes(run) * run.width[0]
        return rows >= 3 and weights <= near_bytes or rows >= 2 and weights <= near_bytes // 2
    return rows >= 6 and weights <= near_bytes or rows >= 4 and weights <= (1 << 20) or rows >= 3 and weights <= (1 << 19)


cdef bint fuses(const Run *run, Py_ssize_t rows) noexcept nogil:
    """Whether the product with W_ih is faster as part of each step: where the weights stay in the second-level cache, and
    there are rows enough for a step to be busy with more than reading them."""
    return rows >= 4 and weight_bytes(run) <= FUSED_BYTES


cdef int worth(const Run *run, int count, int most) noexcept nogil:
    """Members of a crew for a call that does not say how many: as many as pay, up to the limit. Waking
    them takes time, and so does meeting after each step."""
    cdef Py_ssize_t N = run.schedule.N
    cdef int members = min(most, <int>POOL_MOST)
    cdef double all = work(run, row_at(&run.schedule, run.schedule.T)) * count
    if all < 4e6:
        return 1
    members = fewer(members)
    while members > count and (
        N * count < 2 * members if shared_by_rows(run, count, members, False) else work(run, N) * count < 1.5e5 * members
    ):
        members -= 1
    return 1 if all < 1.5e7 and shared_by_rows(run, count, members, False) else members


cdef int wanted(const Run *run, int count, int n_threads) noexcept nogil:
    """Members that a call asks for: `n_threads`; or if it is not positive, as many as pay, up to the limit and, unless it is
    0, up to -n_threads."""
    if run.engine == BLAS:
        return 1
    return n_threads if n_threads > 0 else worth(run, count, min(limit, -n_threads) if n_threads else limit)


# --- one call forwards ------------------------------------------------------------------------------------------------

cdef int forward(Run *runs, int count, int n_threads, Scratch *scratch) except -1 nogil:
    """Run one layer in one or both directions, with as many threads as `wanted` says. The workspace is
    `scratch`, which grows if it has to; for NULL, and if it is small, the C stack; else memory of this call's own."""
    cdef const Run *run = &runs[0]
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t T = schedule.T, N = schedule.N, most, at_once, rows, z_rows, bounds, each, inner, gates
    cdef Py_ssize_t state[MAX_STATES]
    cdef Py_ssize_t all_rows = row_at(schedule, T), CH = run.cell.columns * run.H
    cdef Job job
    cdef char small[SMALL]
    cdef char *memory
    cdef char *at
    cdef size_t needed, shares
    cdef int k, r, members
    cdef bint done
    if N == 0 or T == 0:
        for r in range(count):
            for k in range(run.cell.states):
                memcpy(runs[r].final[k], runs[r].initial[k], N * run.width[k] * run.item)
        return 0
    job.runs, job.count = runs, count
    gather_crew(&job.watch, wanted(run, count, n_threads), work(run, all_rows) * count)
    members = job.watch.crew.size

    rows = (N + max(members // count, 1) - 1) // max(members // count, 1)
    job.by_rows = run.engine == BLAS or shared_by_rows(run, count, members, False)
    most = at_once = BLAS_ROWS
    if run.engine == PANELS:
        most = panel_bytes // term_bytes(run)
        most = at_once = max(min(most, panel_rows), <Py_ssize_t>SHARE_ROWS)
        if term_bytes(run) * run.I >= far_weights:
            most = max(most, <Py_ssize_t>FAR_ROWS, FAR_BYTES // max(term_bytes(run), run.I * run.item))
            at_once = FAR_ROWS // 2 if T > 1 else most
    job.rows, job.chunks = N, 1
    if job.by_rows and run.engine == PANELS:
        job.chunks = (N + rows - 1) // rows
        job.chunks *= (rows + at_once - 1) // at_once
        rows = (N + job.chunks - 1) // job.chunks
        if schedule.offsets == NULL:
            job.rows, job.chunks = rows, (N + rows - 1) // rows
        else:
            job.rows = min(at_once, N)
    job.block = max(most // job.rows, 1)
    job.fused = run.engine == PANELS and run.tokens == NULL and (job.block == 1 or fuses(run, job.rows))
    job.block = T if job.fused else min(job.block, T)
    job.block = (T + blocks(schedule, job.block) - 1) // blocks(schedule, job.block)  # of equal length
    if run.engine == BLAS:
        job.block = min(back_block(run), T)

    # one allocation: shares; bounds; z of each member or run; each run's two slots of states, and what one step leaves
    # from phase to phase
    z_rows = 0 if job.fused else job.block * job.rows
    job.z_size = (z_rows * term_bytes(run) + 63) // 64 * 64
    if run.engine == BLAS:
        job.z_size = 0 if run.tape and run.cell.keeps_gates else z_rows * CH * run.item
    job.x_size = 0
    if run.x_step and run.tokens == NULL:
        job.x_size = (job.rows if job.fused else job.block * job.rows) * run.I * run.item
    each = 0
    for k in range(run.cell.states):
        state[k] = (2 * N * run.width[k] * run.item + 63) // 64 * 64
        if run.tape or T == 1 and schedule.offsets == NULL:
            state[k] = 0
        each += state[k]
    inner = 0 if run.tape or not (run.projects or run.cell.keeps_inner) else N * run.H * run.item
    gates = 0 if run.tape or run.engine == BLAS or not run.cell.keeps_inner else N * CH * run.item
    each += inner + gates
    bounds = job.chunks + N // job.rows + 2
    shares = members * 2 * sizeof(Counter) + bounds * sizeof(Py_ssize_t)
    shares += 128 + (members if job.by_rows else count) * job.z_size
    shares += (members if job.by_rows or job.fused else count) * job.x_size
    needed = shares + 64 + count * each
    memory = small
    if scratch != NULL:
        if scratch.size < needed:
            free(scratch.memory)
            scratch.memory = <char *>malloc(needed)
            scratch.size = needed if scratch.memory != NULL else 0
        memory = scratch.memory
    elif needed > SMALL:
        memory = <char *>malloc(needed)
    if memory == NULL:
        job.by_rows, job.count, job.z, job.x, job.z_size, job.x_size = True, 0, NULL, NULL, 0, 0  # the crew goes home
    else:
        job.shares = <Counter *>memory
        job.bounds = <Py_ssize_t *>(memory + members * 2 * sizeof(Counter))
        job.z = <char *>((<uintptr_t>(job.bounds + bounds) + 63) & ~<uintptr_t>63)
        job.x = job.z + (members if job.by_rows else count) * job.z_size
        at = <char *>((<uintptr_t>(memory + shares) + 63) & ~<uintptr_t>63)  # or two members would share more lines
        for r in range(count):
            if not run.tape:
                for k in range(run.cell.states):
                    runs[r].state[k] = at
                    at += state[k]
                runs[r].inner = at if inner else NULL
                runs[r].gates = at + inner if gates else NULL
                at += inner + gates
            enter_and_leave(&runs[r], False)
        for k in range(2 * members):
            counter_reset(&job.shares[k])
        if schedule.offsets != NULL and job.by_rows:
            job.chunks = cut_rows(schedule, job.chunks, job.rows, job.bounds)
        else:
            for k in range(job.chunks + 1):
                job.bounds[k] = min(k * job.rows, N)
        if not job.by_rows:
            gather_team(&job.teams[0], 0, (members + count - 1) // count, job.seats)
            gather_team(&job.teams[1], job.teams[0].size, members - job.teams[0].size, job.seats)
    counter_reset(&job.next)
    done = run_crew(&job.watch, forward_member, &job)
    if memory != NULL and done:
        for r in range(count):
            enter_and_leave(&runs[r], True)
    if scratch == NULL and memory != small:
        free(memory)
    if memory == NULL:
        raise_memory_error()
    if not done:
        raise_stopped()
    return 0


cdef int raise_memory_error() except -1 with gil:
    raise MemoryError("no memory for a forward pass's workspace")


# --- backwards ----------------------------------------------------------------------------------------------------------

cdef void part_of_dh(const Run *run, const Step *s, Py_ssize_t *r, Py_ssize_t *n, Py_ssize_t *u,
                     Py_ssize_t *m) noexcept nogil:
    """What a member adds to dL/dh_t, and is the first to read of it: the n rows from r on that `output_back` does, or of all
    rows the m units from u on that the first phase does."""
    r[0], n[0], u[0], m[0] = 0, s.n, 0, run.width[0]
    if run.projects:
        n[0] = share(s.n, 1, s.who.member, s.who.size, r)
    else:
        m[0] = share(run.width[0], run.leaf.width, s.who.member, s.who.size, u)


cdef void add_dy(const Run *run, const Step *s, Py_ssize_t t, Py_ssize_t n_0) noexcept nogil:
    """Add the gradient through y_t of the sequences from n_0 on to that through the later steps: a member's part."""
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t P = run.width[0], y_row = run.y_stride * run.item, n, m, r, u, k
    cdef char *dh
    part_of_dh(run, s, &r, &n, &u, &m)
    dh = <char *>s.dstate[0] + (r * P + u) * run.item
    if not run.y_step:
        run.leaf.add_rows(dh, P, run.dy + (row_at(schedule, t) + n_0 + r) * y_row + u * run.item, run.y_stride, n, m)
        return
    for k in range(n):
        run.leaf.add_rows(
            dh + k * P * run.item, P,
            run.dy + (t * run.y_step + schedule.order[n_0 + r + k] * run.y_sequence) * y_row + u * run.item, P, 1, m)


cdef void sum_flow(const Run *run, int k, const char *flow, Py_ssize_t row, Py_ssize_t n) noexcept nogil:
    """The norms of n rows dL/dh_t (k = 0) or dL/dc_t, which begin at `row` of all."""
    cdef Py_ssize_t r
    for r in range(n):
        run.row_norms[k][row + r] = norm(run.leaf, flow + r * run.width[k] * run.item, run.width[k])


cdef void keep_flow(const Run *run, const Step *s, Py_ssize_t row) noexcept nogil:
    """Keep dL/dh_t of the step's rows, which begin at `row` of its block: a member's part."""
    cdef Py_ssize_t P = run.width[0], n, m, r, u, k
    part_of_dh(run, s, &r, &n, &u, &m)
    for k in range(r, r + n):
        memcpy(run.flow[0] + ((row + k) * P + u) * run.item, <char *>s.dstate[0] + (k * P + u) * run.item, m * run.item)


cdef bint backward_step(Job *job, Part *part, Step *s, Py_ssize_t t, Py_ssize_t n_0, Py_ssize_t row) noexcept nogil:
    """What one member of a team does of a step, whose first sequence is n_0 and whose first row in the block is `row`; returns
    whether to go on."""
    cdef const Run *run = part.run
    cdef Py_ssize_t first, count, H = run.H, size = run.width[0] * run.item, all_row = row_at(&run.schedule, t) + n_0
    cdef bint alone = s.who.size == 1
    cdef int p
    if alone and counter_peek(&job.watch.stopped):
        return True  # a meeting will come
    s.dgates = run.dgates + row * run.dgates_row * run.item
    s.dinner, s.dh = run.dinner + n_0 * H * run.item if run.dinner != NULL else NULL, s.dstate[0]
    s.flow = run.flow[1] + row * H * run.item if run.flow[1] != NULL else NULL
    if run.h_before != NULL:
        count = share(s.n, 1, s.who.member, s.who.size, &first)
        memcpy(run.h_before + (row + first) * size, <char *>s.before[0] + first * size, count * size)
    if run.dy != NULL:
        add_dy(run, s, t, n_0)
    if run.flow[0] != NULL and alone:
        sum_flow(run, 0, <const char *>s.dstate[0], all_row, s.n)
    elif run.flow[0] != NULL:
        keep_flow(run, s, row)
    if run.projects:
        s.dout, s.dh = run.dout + row * size, s.dinner
        output_back(run, s)
        if not (alone or meet(&part.who)):
            return False
        project_back(run, s)
        if not (alone or meet(&part.who)):
            return False
    for p in range(run.cell.back_phases):
        run.cell.backward[p](run, s)
        if alone or p & 1 and not run.projects:
            continue  # a product's columns are read next by the member that has written them
        if not meet(&part.who):
            return False
    if s.flow != NULL and alone:
        sum_flow(run, 1, <const char *>s.flow, all_row, s.n)
    look(&part.who, work(run, s.n))
    return True


cdef void backward_part(Job *job, Part *part, bint by_rows) noexcept nogil:
    """What one member of a team does of a run."""
    cdef const Run *run = part.run
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t block = min(back_block(run), schedule.T), last = blocks(schedule, block) - 1
    cdef Py_ssize_t b, i, t, t_0, t_1, n, n_0, n_1, row, first, count, H = run.H, size = run.width[0] * run.item
    cdef Py_ssize_t most = rows_at_once(run), slices
    cdef int p
    cdef Step s
    memset(&s, 0, sizeof(s))
    s.who = part.who
    if by_rows:
        s.who.member, s.who.size = 0, 1
    for b in range(last + 1):
        t_0 = (b if schedule.reverse else last - b) * block
        t_1 = min(t_0 + block, schedule.T)
        for i in range(t_1 - t_0):
            t = t_0 + i if schedule.reverse else t_1 - 1 - i
            n = rows_of(part, t)
            slices, n_1 = (n + most - 1) // most, part.n_0
            for p in range(slices):
                n_0, n_1 = n_1, part.n_0 + n * (p + 1) // slices
                row = row_at(schedule, t) - row_at(schedule, t_0) + n_0
                step_at(run, t, n_0, n_1, &s)
                s.backwards = t & 1
                if not backward_step(job, part, &s, t, n_0, row):
                    return
        if run.x_step:
            gather_block(run, t_0, t_1, &part.who)
        if not meet(&part.who):
            return
        block_weights(run, t_0, t_1, b > 0 or not run.fresh, s.who.size > 1, &part.who)
        if run.tokens == NULL:
            if run.dx_step:
                if not meet(&part.who):
                    return
            block_inputs(run, t_0, t_1, &part.who)
        if not meet(&part.who):
            return


cdef void backward_member(void *job_, int member) noexcept nogil:
    """What one member of the crew does: all runs one after the other, or its team's."""
    cdef Job *job = <Job *>job_
    cdef Py_ssize_t bounds[POOL_MOST + 1]
    cdef Py_ssize_t chunks
    cdef Team *team
    cdef Part part
    cdef int r
    cdef bint by_rows
    memset(&part, 0, sizeof(part))
    part.who.number, part.who.watch = member, &job.watch
    for r in range(job.count):
        team = &job.teams[r]
        if not team.first <= member < team.first + team.size:
            continue
        part.run, part.who.member, part.who.size = &job.runs[r], member - team.first, team.size
        part.who.team = team if team.size > 1 else NULL
        part.n_0, part.n_1 = 0, part.run.schedule.N
        by_rows = team.size == 1 or shared_by_rows(part.run, 1, team.size, True)
        if by_rows:
            chunks = cut_rows(&part.run.schedule, team.size, part.run.schedule.N, bounds)
            part.n_0 = bounds[part.who.member] if part.who.member < chunks else part.n_1
            part.n_1 = bounds[part.who.member + 1] if part.who.member < chunks else part.n_1
        backward_part(job, &part, by_rows)


cdef int backward(Run *runs, int count, int members) except -1 nogil:
    """Run one layer backwards in one or both directions, with up to so many threads."""
    cdef const Run *run = &runs[0]
    cdef const Schedule *schedule = &run.schedule
    cdef Job job
    cdef int r
    job.runs, job.count = runs, count
    gather_crew(&job.watch, members, 3 * work(run, row_at(schedule, schedule.T)) * count)
    members = job.watch.crew.size
    for r in range(count):
        if count == 2 and members > 1:  # both at once
            gather_team(&job.teams[r], r * ((members + 1) // 2), (members + 1 - r) // 2, job.seats)
        else:
            gather_team(&job.teams[r], 0, members, job.seats)
    if not run_crew(&job.watch, backward_member, &job):
        raise_stopped()
    return 0


cdef Py_ssize_t back_block(const Run *run) noexcept nogil:
    """Steps of a block of time backwards, and forwards in the blas engine: a power of two. Anchored at t = 0 and fixed by
    sizes other than T, so that a block's sums come out the same always, those of a part that begins at a multiple too."""
    cdef Py_ssize_t N = max(run.schedule.N, 1), rows = BLAS_ROWS, block = 1
    if run.engine == PANELS:
        rows = min(<Py_ssize_t>BACK_ROWS, max(BACK_STEPS * N, <Py_ssize_t>BACK_ROWS // 2))
    while 2 * block * N <= rows:
        block *= 2
    return block
