"""The time loop, once for all cells: forwards and backwards over a schedule, in blocks of time, without the GIL.

Forward, per block: one product for W_ih x of all its steps, then step by step the cell's phases; or, *fused*, step by step
both. They are done by one of two engines: `panels`, packed weights and one pass for product, gates and state; `blas`,
products by BLAS.
Backward, per block: step by step the cell's phases, which leave the gates' gradients of the block, then one product
each for dW_ih, dW_hh and dx, and a sum for db.

A crew of threads shares a forward pass in one of two ways. *By rows*: each member takes some sequences through all of
time, and nobody waits for anybody. *By units*: each member owns some of the hidden units, and all meet after each step.
"""

import threading

import numpy as np

cimport cython
cimport numpy as cnp
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from .blas cimport FLOAT32, FLOAT64, check_dimension, load, product, product_blocked, real
from .leaf cimport leaf_of
from .pack cimport Pack
from .pool cimport (
    POOL_MOST, Barrier, Counter, Crew, barrier_init, barrier_wait, counter_peek, counter_reset, counter_take,
    denormals_flush, denormals_restore, pool_gather, pool_lost, pool_run,
)

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # leaves the exception where the caller of all this finds it
    void *PyErr_Occurred()

cdef enum:
    PANEL_ROWS = 64    # panels: of a block, unless the sums over x take more than PANEL_BYTES, which are to stay in the
    PANEL_BYTES = 524288   # second-level cache until the step that needs them
    SMALL = 32768      # bytes of workspace that go on the stack
    SHARE_ROWS = 24    # of a share of such a product, which a member of a crew takes at once

BLOCK_ROWS = BLAS_ROWS
MOST_THREADS = POOL_MOST

cdef double BLOCK_WORK = 1e9   # floating-point operations of a block of BLAS products: some 10 to 50 ms
cdef double LOOK_WORK = 2e7    # between two looks at the clock, and LOOK_SECONDS between two looks for Ctrl-C
cdef double LOOK_SECONDS = 0.02

engine = PANELS
cdef int limit = 1             # threads of a call that does not say how many


def use(str name not None):
    """Use an engine, "panels" or "blas", for forward passes from now on, in the whole process."""
    global engine
    engine = {"blas": BLAS, "panels": PANELS}[name]


def set_limit(int n):
    """Use up to n threads, from now on and in the whole process, for calls that do not say how many."""
    global limit
    limit = max(1, min(n, <int>POOL_MOST))


def get_limit():
    """Return what `set_limit` set."""
    return limit


# --- schedule ---------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t blocks(const Schedule *s, Py_ssize_t block) noexcept nogil:
    return (s.T + block - 1) // block


cdef inline Py_ssize_t slot_before(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Slot of the states that step t reads. Slots are T + 1, so that the initial state needs no branch."""
    return t + 1 if s.reverse else t


cdef inline Py_ssize_t slot_after(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Slot of the states that step t writes."""
    return t if s.reverse else t + 1


cdef inline char *state_at(const Run *run, int k, Py_ssize_t slot) noexcept nogil:
    """The states (N, H) of a slot. Only a tape keeps them all; else the first and the last are the caller's arrays, and
    those between take turns in two."""
    cdef Py_ssize_t first = run.schedule.T if run.schedule.reverse else 0
    if not run.tape:
        if slot == first:
            return <char *>run.initial[k]
        if slot == run.schedule.T - first:
            return run.final[k]
        slot &= 1
    return run.state[k] + slot * run.schedule.N * run.H * run.item


cdef Step step_at(const Run *run, Py_ssize_t t, Py_ssize_t n_0, Py_ssize_t n_1) noexcept nogil:
    """The step of the sequences from n_0 to n_1 at time t."""
    cdef const Schedule *schedule = &run.schedule
    cdef Step s
    cdef int k
    cdef Py_ssize_t row = t * schedule.N + n_0, at = n_0 * run.H * run.item
    memset(&s, 0, sizeof(s))
    s.n, s.H = n_1 - n_0, run.H
    s.gates = run.gates + row * run.cell.G * run.H * run.item if run.gates != NULL else NULL
    s.y = run.y + row * run.y_stride * run.item if run.y != NULL else NULL
    for k in range(run.cell.states):
        s.before[k] = state_at(run, k, slot_before(schedule, t)) + at
        s.after[k] = state_at(run, k, slot_after(schedule, t)) + at
        s.dstate[k] = run.dstate[k] + at if run.dstate[k] != NULL else NULL
    return s


cdef double work(const Run *run, Py_ssize_t rows) noexcept nogil:
    """Roughly what `rows` steps of one sequence cost, in floating-point operations of a product."""
    return 2.0 * rows * run.cell.G * run.H * (run.I + run.H + 100)


# --- products and sums ------------------------------------------------------------------------------------------------

cdef void recur(const Run *run, const Step *s) noexcept nogil:
    """gates (n, G*H) += h_{t-1} (n, H) W_hh^T."""
    cdef Py_ssize_t GH = run.cell.G * s.H
    product_blocked(run.dtype, s.n, GH, s.H, s.before[0], run.W_hh_T, 1, s.gates)


cdef void recur_back(const Run *run, const Step *s) noexcept nogil:
    """dh_{t-1} (n, H) = dgates (n, G*H) W_hh."""
    cdef Py_ssize_t GH = run.cell.G * s.H
    product_blocked(run.dtype, s.n, s.H, GH, s.dgates, run.W_hh, 0, s.dstate[0])


cdef void add_rows(real *out, const real *a, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t H) noexcept nogil:
    """out (n, H) += a, whose rows are `stride` apart."""
    cdef Py_ssize_t r, j
    for r in range(n):
        for j in range(H):
            out[r * H + j] += a[r * stride + j]


cdef void add_sums(real *out, real *partial, const real *a, Py_ssize_t n, Py_ssize_t m) noexcept nogil:
    """out (m) += the column sums of a (n, m), summed in `partial` (m) first: one rounding of `out` per block."""
    cdef Py_ssize_t r, j
    for j in range(m):
        partial[j] = 0
    for r in range(n):
        for j in range(m):
            partial[j] += a[r * m + j]
    for j in range(m):
        out[j] += partial[j]


# --- one call's work, and its members ---------------------------------------------------------------------------------

cdef struct Team:
    # members that share a run by units
    int first, size             # which members of the crew
    Barrier barrier
    bint halt[2]                # the word of its first member, for even and odd phases

cdef struct Job:
    Run *runs
    int count
    bint by_rows
    Py_ssize_t rows, chunks     # by rows: sequences of a chunk, and chunks of a run
    Py_ssize_t block            # steps of a block of time
    bint fused                  # panels: the product with W_ih is part of each step, not one for all of a block
    char *z                     # by rows: each member's workspace; by units: each run's
    Py_ssize_t z_size
    Counter next                # chunk
    Team teams[2]               # by units: of each run
    Counter *shares             # by units: of each member, for blocks even and odd
    Crew crew
    Counter stop
    bint interruptible          # look for Ctrl-C now and then
    double done, looked         # work since, and time of, the last look

cdef struct Part:               # what one member does of a run
    const Run *run
    char *z
    Py_ssize_t n_0, n_1         # sequences
    Py_ssize_t v_0, v_1         # vectors of the panels
    Team *team                  # NULL: alone
    int member                  # of the team
    int crew_member


cdef double now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + 1e-9 * time.tv_nsec


cdef bint signal_raised() noexcept with gil:
    return PyErr_CheckSignals() < 0


cdef void look(Job *job, int member, double done) noexcept nogil:
    """Look for Ctrl-C if it is time to: signals are answered by the main thread alone."""
    cdef double time
    if member != 0 or not job.interruptible:
        return
    job.done += done
    if job.done < LOOK_WORK:
        return
    job.done, time = 0, now()
    if time - job.looked < LOOK_SECONDS:
        return
    job.looked = time
    if signal_raised() or job.crew.size > 1 and pool_lost(&job.crew):
        job.interruptible = False
        counter_take(&job.stop)


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
    """Vectors whose products with `rows` rows are about LOOK_WORK, in whole panels."""
    cdef Py_ssize_t vectors = <Py_ssize_t>(LOOK_WORK / (2.0 * run.leaf.width * K * rows))
    return max(vectors // 4 * 4, 4)


cdef void project(Job *job, const Part *part, Py_ssize_t b, Py_ssize_t t_0, Py_ssize_t t_1) noexcept nogil:
    """z = bias + x W_ih^T for the steps from t_0 to t_1: a member's part of it."""
    cdef const Run *run = part.run
    cdef Py_ssize_t N = run.schedule.N, n = part.n_1 - part.n_0, rows = (t_1 - t_0) * n, item = run.I * run.item
    cdef const char *x = run.x + (t_0 * N + part.n_0) * item
    cdef Py_ssize_t v, v_1, t, k, q, chunks, shares, row, size, step
    cdef int other
    if part.team == NULL:
        step = slice_of(run, run.I, rows)
        v = part.v_0
        while v < part.v_1:
            v_1 = min(v + step, part.v_1)
            if n == N:
                run.leaf.project(part.z, run.panels_bias, x, run.panels_ih, run.I, v, v_1, rows, 0, rows)
            else:
                for t in range(t_1 - t_0):
                    run.leaf.project(part.z, run.panels_bias, x + t * N * item, run.panels_ih, run.I, v, v_1, n, t * n, rows)
            look(job, part.crew_member, 2.0 * rows * (v_1 - v) * run.leaf.width * run.I)
            v = v_1
        return
    # Each member begins with shares of its own units, whose weights its cache holds, and then helps the others: a worker
    # that is still waking up holds nobody up.
    size = part.team.size
    chunks = (rows + SHARE_ROWS - 1) // SHARE_ROWS
    for k in range(size):
        other = (part.member + k) % size
        v = panels(run.vectors) * other // size
        shares = (panels(run.vectors) * (other + 1) // size - v) * chunks
        while True:
            q = counter_take(&job.shares[2 * (part.team.first + other) + (b & 1)])
            if q >= shares:
                break
            row = q % chunks * SHARE_ROWS
            run.leaf.project(
                part.z, run.panels_bias, x + row * item, run.panels_ih, run.I, panel_start(run.vectors, v + q // chunks),
                panel_start(run.vectors, v + q // chunks + 1), min(<Py_ssize_t>SHARE_ROWS, rows - row), row, rows)
            look(job, part.crew_member, 2.0 * SHARE_ROWS * 4 * run.leaf.width * run.I)


cdef bint meet(Job *job, const Part *part, Py_ssize_t phase) noexcept nogil:
    """Wait for the team; return whether to go on, which all members answer alike."""
    cdef Team *team = part.team
    if team == NULL:
        return counter_peek(&job.stop) == 0
    if part.member == 0:
        team.halt[phase & 1] = counter_peek(&job.stop) != 0
    if pool_lost(&job.crew):
        return False
    barrier_wait(&team.barrier)
    return not team.halt[phase & 1]


cdef void forward_part(Job *job, const Part *part) noexcept nogil:
    cdef const Run *run = part.run
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t b, i, r, k, t, t_0, t_1, rows, meetings = 0, n = part.n_1 - part.n_0
    cdef Py_ssize_t GH = run.cell.G * run.H, slices = slice_of(run, run.H + (run.I if job.fused else 0), n)
    cdef Py_ssize_t count = (part.v_1 - part.v_0 + slices - 1) // slices
    cdef int p
    cdef Step s
    for b in range(blocks(schedule, job.block)):
        t_0 = (blocks(schedule, job.block) - 1 - b if schedule.reverse else b) * job.block
        t_1 = min(t_0 + job.block, schedule.T)
        rows = (t_1 - t_0) * n
        if job.fused:
            pass
        elif run.engine == PANELS:
            project(job, part, b, t_0, t_1)
        else:
            product(run.dtype, False, True, rows, GH, run.I, run.x + t_0 * n * run.I * run.item, run.I, run.W_ih, run.I,
                    0, part.z if run.gates == NULL else run.gates + t_0 * n * GH * run.item, GH)
        if part.team != NULL and not job.fused:
            meetings += 1
            if not meet(job, part, meetings):
                return
            counter_reset(&job.shares[2 * (part.team.first + part.member) + (b & 1)])
        for i in range(t_1 - t_0):
            t = t_1 - 1 - i if schedule.reverse else t_0 + i
            s = step_at(run, t, part.n_0, part.n_1)
            s.z, s.row, s.rows, s.backwards = part.z, (t - t_0) * n, rows, (t & 1) ^ run.turned
            if job.fused:
                s.x = run.x + (t * schedule.N + part.n_0) * run.I * run.item
            if run.engine == BLAS and run.gates == NULL:
                s.gates = part.z + (t - t_0) * n * GH * run.item
            for p in range(run.cell.phases):
                for k in range(count):
                    s.v_0 = part.v_0 + (count - 1 - k if s.backwards else k) * slices
                    s.v_1 = min(s.v_0 + slices, part.v_1)
                    run.cell.forward[run.engine][p](run, &s)
                    look(job, part.crew_member, work(run, n) * (s.v_1 - s.v_0) / run.vectors)
                meetings += 1
                if not meet(job, part, meetings):
                    return
            if run.engine == BLAS and s.y != NULL:
                for r in range(n):
                    memcpy(<char *>s.y + r * run.y_stride * run.item, <char *>s.after[0] + r * run.H * run.item,
                           run.H * run.item)


cdef void forward_member(void *job_, int member) noexcept nogil:
    """What one member of the crew does."""
    cdef Job *job = <Job *>job_
    cdef Part part
    cdef Team *team
    cdef Py_ssize_t k
    cdef int r
    part.crew_member = member
    if job.by_rows:
        part.team, part.v_0, part.member = NULL, 0, 0
        part.z = job.z + member * job.z_size
        while counter_peek(&job.stop) == 0:
            k = counter_take(&job.next)
            if k >= job.count * job.chunks:
                return
            part.run = &job.runs[k // job.chunks]
            part.v_1 = part.run.vectors
            part.n_0 = k % job.chunks * job.rows
            part.n_1 = min(part.n_0 + job.rows, part.run.schedule.N)
            forward_part(job, &part)
        return
    r = 1 if job.count == 2 and member >= job.teams[1].first else 0
    team = &job.teams[r]
    part.run, part.team, part.member = &job.runs[r], team, member - team.first
    part.z = job.z + r * job.z_size
    part.n_0, part.n_1 = 0, part.run.schedule.N
    part.v_0 = panel_start(part.run.vectors, panels(part.run.vectors) * part.member // team.size)
    part.v_1 = panel_start(part.run.vectors, panels(part.run.vectors) * (part.member + 1) // team.size)
    forward_part(job, &part)


cdef bint shared_by_rows(const Run *run, int count, int members) noexcept nogil:
    """Whether a crew is faster by rows than by units: where each member gets rows enough for a tile, and the weights,
    which each member then reads all of, stay in its own cache or are read for many rows at once."""
    cdef Py_ssize_t teams = max(members // count, 1), rows = (run.schedule.N + teams - 1) // teams
    cdef Py_ssize_t weights = run.vectors * run.leaf.width * (run.I + run.H) * run.item
    return members <= count or rows >= 48 or rows >= 4 and weights <= (1 << 20) or panels(run.vectors) < teams


cdef bint fuses(const Run *run, Py_ssize_t rows) noexcept nogil:
    """Whether the product with W_ih is faster as part of each step: where the weights stay in the second-level cache, and
    there are rows enough for a step to be busy with more than reading them."""
    return rows >= 4 and run.vectors * run.leaf.width * (run.I + run.H) * run.item <= PANEL_BYTES


cdef int worth(const Run *run, int count) noexcept nogil:
    """Members of a crew for a call that does not say how many: as many as pay, up to the limit. Waking
    them takes time, and so does meeting after each step."""
    cdef Py_ssize_t N = run.schedule.N
    cdef int members = min(limit, <int>POOL_MOST)
    if work(run, run.schedule.T * N) * count < 4e6:
        return 1
    while members > count and (
        N * count < 4 * members if shared_by_rows(run, count, members) else work(run, N) * count < 1.5e5 * members
    ):
        members -= 1
    return members


cdef int forward(Run *runs, int count, int n_threads, Scratch *scratch) except -1 nogil:
    """Run one layer in one or both directions, with up to `n_threads` threads; 0 for as many as pay. The workspace is
    `scratch`, which grows if it has to; for NULL, and if it is small, the C stack; else memory of this call's own."""
    cdef const Run *run = &runs[0]
    cdef Py_ssize_t T = run.schedule.T, N = run.schedule.N, size = N * run.H * run.item, most, rows, z_rows, state, total
    cdef Job job
    cdef char small[SMALL]
    cdef char *memory
    cdef char *at
    cdef size_t needed
    cdef int k, r, members
    cdef bint quick
    cdef unsigned long mode
    cdef bint interruptible = work(run, T * N) * count > LOOK_WORK and main_thread()
    if N == 0 or T == 0:
        for r in range(count):
            for k in range(run.cell.states):
                memcpy(runs[r].final[k], runs[r].initial[k], size)
        return 0
    members = 1 if run.engine == BLAS else n_threads if n_threads > 0 else worth(run, count)
    job.runs, job.count = runs, count
    quick = members == 1 and work(run, T * N) * count < LOOK_WORK
    if quick:
        job.crew.size = 1
    else:
        pool_gather(&job.crew, members, limit)
    members = job.crew.size

    rows = (N + max(members // count, 1) - 1) // max(members // count, 1)
    job.by_rows = run.engine == BLAS or shared_by_rows(run, count, members)
    most = BLAS_ROWS
    if run.engine == PANELS:
        most = PANEL_BYTES // (run.vectors * run.leaf.width * run.item)
        most = max(min(most, <Py_ssize_t>PANEL_ROWS), <Py_ssize_t>SHARE_ROWS)
    if job.by_rows:
        job.chunks = (N + rows - 1) // rows if run.engine == PANELS else 1
        if run.engine == PANELS:
            job.chunks *= (rows + most - 1) // most
        job.rows = (N + job.chunks - 1) // job.chunks
        job.chunks = (N + job.rows - 1) // job.rows
    else:
        job.rows, job.chunks = N, 1
    job.block = max(most // job.rows, 1)
    if run.engine == BLAS:
        job.block = max(min(job.block, <Py_ssize_t>(BLOCK_WORK / work(run, N))), 1)
    job.fused = run.engine == PANELS and (job.block == 1 or fuses(run, job.rows))
    job.block = T if job.fused else min(job.block, T)
    job.block = (T + blocks(&run.schedule, job.block) - 1) // blocks(&run.schedule, job.block)  # of equal length

    # one allocation: shares; z of each member or run; two slots of states of each run
    z_rows = 0 if job.fused else job.block * job.rows
    job.z_size = (z_rows * run.vectors * run.leaf.width * run.item + 63) // 64 * 64
    if run.engine == BLAS:
        job.z_size = z_rows * run.cell.G * run.H * run.item if run.gates == NULL else 0
    state = 0 if run.tape or T == 1 else 2 * size
    total = members * 2 * sizeof(Counter) + 64 + (members if job.by_rows else count) * job.z_size
    needed = total + 64 + count * run.cell.states * state
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
        job.count = 0  # the crew goes home
    else:
        job.shares = <Counter *>memory
        job.z = <char *>((<uintptr_t>memory + members * 2 * sizeof(Counter) + 63) & ~<uintptr_t>63)
        at = memory + total
        for r in range(count):
            for k in range(run.cell.states):
                if runs[r].tape:
                    memcpy(state_at(&runs[r], k, T if runs[r].schedule.reverse else 0), runs[r].initial[k], size)
                else:
                    runs[r].state[k] = at
                    at += state
        for k in range(2 * members):
            counter_reset(&job.shares[k])
        if not job.by_rows:
            job.teams[0].first, job.teams[0].size = 0, (members + count - 1) // count
            job.teams[1].first, job.teams[1].size = job.teams[0].size, members - job.teams[0].size
            for r in range(count):
                barrier_init(&job.teams[r].barrier, job.teams[r].size)
    counter_reset(&job.next)
    counter_reset(&job.stop)
    job.interruptible, job.done = interruptible, 0
    if quick:
        mode = denormals_flush()
        forward_member(&job, 0)
        denormals_restore(mode)
    else:
        job.looked = now()
        pool_run(&job.crew, forward_member, &job)
    if scratch == NULL and memory != small:
        free(memory)
    if memory == NULL:
        raise_memory_error()
    if counter_peek(&job.stop):
        raise_stopped()
    for r in range(count):
        if runs[r].tape:
            for k in range(run.cell.states):
                memcpy(runs[r].final[k], state_at(&runs[r], k, 0 if runs[r].schedule.reverse else T), size)
    return 0


cdef bint main_thread() noexcept with gil:
    return threading.current_thread() is threading.main_thread()


cdef int raise_memory_error() except -1 with gil:
    raise MemoryError("no memory for a forward pass's workspace")


cdef int raise_stopped() except -1 with gil:
    """Raise what a signal's handler raised; or say that it has forked, which left the crew behind."""
    if PyErr_Occurred() != NULL:
        return -1
    raise RuntimeError("a signal's handler forked this process inside a call of several threads")


# --- backwards ----------------------------------------------------------------------------------------------------------

cdef int backward(const Run *run) except -1 nogil:
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t b, i, t, t_0, t_1, n, N = schedule.N, GH = run.cell.G * run.H, block = backward_block(run)
    cdef const char *x
    cdef const char *dy
    cdef const char *h
    cdef int p
    cdef Job job
    cdef Step s
    job.crew.size = 1
    job.interruptible = work(run, schedule.T * N) > LOOK_WORK and main_thread()
    job.done, job.looked = 0, now()
    counter_reset(&job.stop)
    for b in range(blocks(schedule, block)):
        t_0 = (b if schedule.reverse else blocks(schedule, block) - 1 - b) * block
        t_1 = min(t_0 + block, schedule.T)
        n = (t_1 - t_0) * N
        for i in range(t_1 - t_0):
            t = t_0 + i if schedule.reverse else t_1 - 1 - i
            s = step_at(run, t, 0, N)
            s.dgates = run.dgates + (t - t_0) * N * GH * run.item
            if run.dy != NULL:  # dh_t is the gradient through the later steps plus the one through y_t
                dy = run.dy + t * N * run.y_stride * run.item
                if run.dtype == FLOAT32:
                    add_rows(<float *>s.dstate[0], <const float *>dy, run.y_stride, s.n, s.H)
                else:
                    add_rows(<double *>s.dstate[0], <const double *>dy, run.y_stride, s.n, s.H)
            for p in range(run.cell.phases):
                run.cell.backward[p](run, &s)
            look(&job, 0, 3 * work(run, N))
            if counter_peek(&job.stop):
                raise_stopped()
        x = run.x + t_0 * N * run.I * run.item
        h = state_at(run, 0, t_0 + schedule.reverse)  # h_{t-1} of the block's steps, one after the other
        product(run.dtype, True, False, GH, run.I, n, run.dgates, GH, x, run.I, 1, run.dW_ih, run.I)
        product(run.dtype, True, False, GH, run.H, n, run.dgates, GH, h, run.H, 1, run.dW_hh, run.H)
        product(run.dtype, False, False, n, run.I, GH, run.dgates, GH, run.W_ih, run.I, run.beta_dx,
                run.dx + t_0 * N * run.I * run.item, run.I)
        if run.dtype == FLOAT32:
            add_sums(<float *>run.db, <float *>run.db + GH, <const float *>run.dgates, n, GH)
        else:
            add_sums(<double *>run.db, <double *>run.db + GH, <const double *>run.dgates, n, GH)
    return 0


cdef Py_ssize_t backward_block(const Run *run) noexcept nogil:
    """Steps of a block of time, anchored at t = 0 and fixed by sizes alone: sums of a block come out the same always."""
    cdef Py_ssize_t N = max(run.schedule.N, 1), block = BLAS_ROWS // N
    block = min(block, <Py_ssize_t>(BLOCK_WORK / work(run, N)))
    return min(max(block, 1), max(run.schedule.T, 1))


# --- from arrays to a run ---------------------------------------------------------------------------------------------

cdef char *data(object array, const Run *run, bint writes, Py_ssize_t a, Py_ssize_t b=-1, Py_ssize_t c=-1) except? NULL:
    """The first byte of an array of shape (a,), (a, b) or (a, b, c), of the run's dtype and ready for C.

    Callers guarantee all this; the check keeps a mistake of theirs from reading out of bounds. It looks at the array
    itself: a subclass could tell anything about its shape.
    """
    cdef cnp.ndarray x
    cdef int ndim = 1 if b < 0 else 2 if c < 0 else 3
    if type(array) is np.ndarray:
        x = array
        if (
            cnp.PyArray_TYPE(x) == (cnp.NPY_FLOAT if run.dtype == FLOAT32 else cnp.NPY_DOUBLE)
            and cnp.PyArray_NDIM(x) == ndim
            and cnp.PyArray_DIM(x, 0) == a
            and (ndim < 2 or cnp.PyArray_DIM(x, 1) == b)
            and (ndim < 3 or cnp.PyArray_DIM(x, 2) == c)
            and (cnp.PyArray_ISCARRAY(x) if writes else cnp.PyArray_ISCARRAY_RO(x))
        ):
            return <char *>cnp.PyArray_DATA(x)
    shape = (a, b, c)[:ndim]
    raise ValueError(f"expected a C-contiguous array of shape {shape} and {run.item} bytes an element, got {array!r:.80}")


cdef char *column_of(object y, Run *run, Py_ssize_t column, bint writes) except? NULL:
    """The first byte of a column of y (T, N, ·), and the stride of its rows in the run; NULL for None."""
    run.y_stride = 0
    if y is None:
        return NULL
    if type(y) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>y) != 3:
        raise ValueError(f"expected an array (T, N, ·), got {y!r:.80}")
    run.y_stride = cnp.PyArray_DIM(<cnp.ndarray>y, 2)
    if not 0 <= column <= run.y_stride - run.H:
        raise ValueError(f"expected a column between 0 and {run.y_stride - run.H}, got {column}")
    return data(y, run, writes, run.schedule.T, run.schedule.N, run.y_stride) + column * run.item


cdef char *states_at(object array, const Run *run, bint writes, Py_ssize_t k, Py_ssize_t count) except? NULL:
    """The first byte of state k, with `count` of them from there on, of an array (K, N, H)."""
    cdef Py_ssize_t K = -1
    if type(array) is np.ndarray and cnp.PyArray_NDIM(<cnp.ndarray>array) == 3:
        K = cnp.PyArray_DIM(<cnp.ndarray>array, 0)
    if not 0 <= k <= K - count:
        raise ValueError(f"expected an array of at least {k} + {count} states (N, H), got {array!r:.80}")
    return data(array, run, writes, K, run.schedule.N, run.H) + k * run.schedule.N * run.H * run.item


cdef Table nothing


@cython.final
@cython.auto_pickle(False)
cdef class Cell:
    """A cell's kernels, for one layer in one or both directions. All arrays are C-contiguous and of one dtype.

    `packs` and `reverses` have one entry per direction. `x` is (T, N, I). `y` is (T, N, ·), whose columns from 0 on are
    the directions' one after the other, or None. `initial` and `final` hold one array (K, N, H) per state (h; c), of
    which entry k is the first direction's; they may not share memory. `n_threads` is the most threads to use; 0 for as
    many as pay.
    """

    def __cinit__(self):
        self.table = &nothing  # until `of` names one: a cell that Python made refuses all weights
        self.scales = ()

    @staticmethod
    cdef Cell of(const Table *table):
        cdef Cell cell = Cell.__new__(Cell)
        cell.table = table
        cell.scales = tuple([table.scale[g] for g in range(table.G)])
        return cell

    cdef int begin(self, Run *run, Pack pack, int dtype) except -1:
        """Fill in cell and sizes."""
        memset(run, 0, sizeof(Run))
        run.cell = self.table
        run.dtype = dtype
        run.leaf = leaf_of(dtype)
        run.item = 4 if dtype == FLOAT32 else 8
        run.engine = engine
        run.H, run.I = pack.hidden_size, pack.input_size
        if pack.gates != run.cell.G:
            raise ValueError(f"expected weights of {run.cell.G} gates, got {pack.gates}")
        return 0

    cdef object prepare(self, Run *run, Pack pack, int dtype):
        """Begin a forward pass with the weights of the engine in use; return what keeps these in memory."""
        cdef Py_ssize_t GH, width
        self.begin(run, pack, dtype)
        GH = run.cell.G * run.H
        if run.engine == PANELS:
            weights = pack.for_panels(run.leaf.width, self.scales)
            width = len(weights[2])
            run.vectors = width // run.leaf.width
            run.panels_ih = data(weights[0], run, False, width * run.I)
            run.panels_hh = data(weights[1], run, False, width * run.H)
            run.panels_bias = data(weights[2], run, False, width)
        else:
            load()
            check_dimension(max(GH, run.I))
            weights = pack.for_blas()
            run.vectors = 1
            run.W_ih = data(weights[0], run, False, GH, run.I)
            run.W_hh_T = data(weights[1], run, False, GH * run.H)
            run.bias = data(weights[2], run, False, GH)
        return weights

    def infer(self, tuple packs not None, x not None, tuple initial not None, Py_ssize_t k, y, tuple final not None,
              tuple reverses not None, int n_threads=0):
        """Run forwards and keep nothing but y and the final states."""
        self._forward(packs, x, initial, k, y, final, reverses, n_threads, False)

    def forward(self, tuple packs not None, x not None, tuple initial not None, Py_ssize_t k, y, tuple final not None,
                tuple reverses not None, int n_threads=0):
        """Run forwards and return, for each direction, what `backward` needs: the gates (or None), then each state at
        T + 1 times."""
        return self._forward(packs, x, initial, k, y, final, reverses, n_threads, True)

    def _forward(self, tuple packs, x, tuple initial, Py_ssize_t k, y, tuple final, tuple reverses, int n_threads,
                 bint tape):
        cdef Run runs[2]
        cdef Run *run
        cdef cnp.ndarray a
        cdef int r, j, count = len(packs), dtype
        cdef Py_ssize_t T, N, H
        if not 1 <= count <= 2 or len(reverses) != count:
            raise ValueError(f"expected one or two packs and as many directions, got {count} and {len(reverses)}")
        if type(x) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>x) != 3:
            raise ValueError(f"expected an array x (T, N, I), got {x!r:.80}")
        a = x
        dtype = FLOAT32 if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT else FLOAT64
        T, N = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1)
        alive, kept = [], []
        for r in range(count):
            run = &runs[r]
            alive.append(self.prepare(run, packs[r], dtype))
            H = run.H
            run.schedule.T, run.schedule.N, run.schedule.reverse = T, N, reverses[r]
            run.x = data(x, run, False, T, N, run.I)
            if run.engine == BLAS:
                check_dimension(max(N, BLAS_ROWS))
            run.y = column_of(y, run, r * H, True)
            run.tape = tape
            for j in range(run.cell.states):
                run.initial[j] = states_at(initial[j], run, False, k + r, 1)
                run.final[j] = states_at(final[j], run, True, k + r, 1)
            if tape:
                gates = None
                if self.table.keeps_gates:
                    gates = np.empty((<object>T * N, run.cell.G * H), x.dtype)
                    run.gates = data(gates, run, True, T * N, run.cell.G * H)
                states = [np.empty((T + 1, N, H), x.dtype) for _ in range(run.cell.states)]
                for j in range(run.cell.states):
                    run.state[j] = data(states[j], run, True, T + 1, N, H)
                kept.append((gates, *states))
        if (
            runs[0].engine != runs[count - 1].engine or runs[0].leaf != runs[count - 1].leaf
            or runs[0].H != runs[count - 1].H
        ):
            raise ValueError("expected directions of one size, engine and instruction set")
        with nogil:
            forward(runs, count, n_threads, NULL)
        return kept if tape else None

    def backward(self, Pack pack not None, x not None, tuple kept not None, dy, Py_ssize_t column,
                 tuple dstates not None, dx not None, bint add_dx, dW_ih not None, dW_hh not None, db not None,
                 bint reverse=False):
        """Run one direction backwards from `kept`, as `forward` returned it.

        `dstates`, (N, H) each, hold the final states' gradients and get the initial states'. `dx` is written or, with
        `add_dx`, added to; `dW_ih`, `dW_hh` and `db` (G*H,) are added to. `column` is this direction's first in dy.
        """
        cdef Run run
        cdef cnp.ndarray a
        cdef int k
        cdef unsigned long mode
        cdef Py_ssize_t T, N, H, GH
        if type(x) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>x) != 3:
            raise ValueError(f"expected an array x (T, N, I), got {x!r:.80}")
        a = x
        self.begin(&run, pack, FLOAT32 if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT else FLOAT64)
        T, N, H, GH = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1), run.H, run.cell.G * run.H
        run.schedule.T, run.schedule.N, run.schedule.reverse = T, N, reverse
        run.x = data(x, &run, False, T, N, run.I)
        rows = backward_block(&run) * N
        load()
        check_dimension(max(rows, GH, run.I))
        weights = pack.for_backward()
        run.W_ih = data(weights[0], &run, False, GH, run.I)
        run.W_hh = data(weights[1], &run, False, GH * H)
        run.tape = True
        for k in range(self.table.states):
            run.state[k] = data(kept[1 + k], &run, False, T + 1, N, H)
            run.dstate[k] = data(dstates[k], &run, True, N, H)
        if self.table.keeps_gates:
            run.gates = data(kept[0], &run, False, T * N, GH)
        run.dy = column_of(dy, &run, column, False)
        rows = min(<object>rows, <object>T * N)
        dgates = np.empty((rows, GH), x.dtype)
        sums = np.zeros((2, GH), x.dtype)  # of all blocks; of one
        run.dgates = data(dgates, &run, True, len(dgates), GH)
        run.dx = data(dx, &run, True, T, N, run.I)
        run.beta_dx = 1 if add_dx else 0
        run.dW_ih = data(dW_ih, &run, True, GH, run.I)
        run.dW_hh = data(dW_hh, &run, True, GH, H)
        run.db = data(sums, &run, True, 2, GH)
        data(db, &run, True, GH)
        if N > 0:
            with nogil:
                mode = denormals_flush()
                try:
                    backward(&run)
                finally:
                    denormals_restore(mode)
        db += sums[0]
