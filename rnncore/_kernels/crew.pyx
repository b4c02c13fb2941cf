"""Who works on a call, out of the pool of threads (pool.h); and Ctrl-C, which ends a call between two slices of its work.

Work is counted in floating-point operations of a product, of which a core does a few 1e10 in a second.
"""

import threading

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from .pool cimport (
    POOL_MOST, Crew, barrier_arrive, barrier_complete, barrier_init, counter_peek, counter_reset, counter_take,
    denormals_flush, denormals_restore, pool_cpus, pool_forks, pool_gather, pool_lost, pool_run, pool_survives,
)

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # leaves the exception where the caller of all this finds it
    void *PyErr_Occurred()
    unsigned long PyThread_get_thread_ident()

MOST_THREADS = POOL_MOST

cdef double LOOK_WORK = 2e7    # between two looks at the clock, and LOOK_SECONDS between two looks for Ctrl-C
cdef double LOOK_SECONDS = 0.02

limit = 1
cdef bint asked_for = True


def set_limit(int n, bint asked=True):
    """Use up to n threads, from now on and in the whole process, for calls that do not say how many; if nobody has asked
    for so many, no more than the calling thread has CPUs at the time."""
    global limit, asked_for
    limit, asked_for = max(1, min(n, <int>POOL_MOST)), asked


def get_limit():
    """Return how many threads such a call may use now."""
    return fewer(limit)


cdef int fewer(int members) noexcept nogil:
    """So many members of a crew, or as many as the calling thread has CPUs: its affinity may be another than when rnncore was
    loaded, as servers' are that give each of their processes some."""
    return members if members == 1 or asked_for else min(members, pool_cpus())


cdef double now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + 1e-9 * time.tv_nsec


cdef bint main_thread() noexcept with gil:
    """Whether this is the main thread; by attributes alone, for a signal's handler could run in any Python code, and what it
    raises would be lost here."""
    ident = getattr(getattr(threading, "_main_thread", None), "_ident", None)
    return ident is None or ident == PyThread_get_thread_ident()


cdef bint signal_raised(const Watch *watch) noexcept with gil:
    """Whether a signal's handler, which runs with the caller's denormal numbers, has raised something."""
    cdef unsigned long flushed = denormals_flush()
    cdef bint raised
    denormals_restore(watch.mode)
    raised = PyErr_CheckSignals() < 0
    denormals_restore(flushed)
    return raised


cdef void gather_crew(Watch *watch, int members, double work) noexcept nogil:
    """Begin a call of so much work, with a crew of up to so many members; `run_crew` must follow."""
    watch.quick, watch.interruptible = members == 1 and work < LOOK_WORK, False
    counter_reset(&watch.stopped)
    watch.crew.size = 1
    if not watch.quick:
        watch.interruptible = work > LOOK_WORK and main_thread()
        watch.mode = denormals_flush()
        denormals_restore(watch.mode)
        watch.looked = now()
        pool_gather(&watch.crew, members, limit)


cdef bint run_crew(Watch *watch, Body body, void *job) noexcept nogil:
    """Run body(job, k) for k = 0 .. size-1, k = 0 in this thread; return whether nothing stopped it."""
    cdef unsigned long mode
    if watch.quick:
        mode = denormals_flush()
        body(job, 0)
        denormals_restore(mode)
    else:
        pool_run(&watch.crew, body, job)
    return counter_peek(&watch.stopped) == 0


cdef bint look(Member *who, double done) noexcept nogil:
    """Return whether to go on, after so much work since the last look. If it is time to, look for Ctrl-C: signals are
    answered by the main thread alone."""
    cdef Watch *watch = who.watch
    cdef double time
    if watch == NULL:
        return True
    if who.number == 0 and watch.interruptible:
        who.done += done
        if who.done >= LOOK_WORK:
            who.done, time = 0, now()
            if time - watch.looked >= LOOK_SECONDS:
                watch.looked = time
                if signal_raised(watch) or watch.crew.size > 1 and pool_lost(&watch.crew):
                    watch.interruptible = False
                    counter_take(&watch.stopped)
    return counter_peek(&watch.stopped) == 0


cdef void gather_team(Team *team, int first, int size, Seat *seats) noexcept nogil:
    """Make a team of so many of a crew's members, with the crew's seats."""
    team.first, team.size = first, size
    barrier_init(&team.barrier, size, seats + first)


cdef bint meet(Member *who) noexcept nogil:
    """Wait for the team, if there is one; return whether to go on, which all members answer alike."""
    arrive(who)
    return complete(who)


cdef void arrive(Member *who) noexcept nogil:
    """Tell the team that this member is there. `complete` must follow, and no look for Ctrl-C in between."""
    who.halts = counter_peek(&who.watch.stopped) != 0
    if who.team == NULL or pool_lost(&who.watch.crew):
        return
    who.meetings += 1
    barrier_arrive(&who.team.barrier, who.member, who.meetings, who.halts)


cdef bint complete(Member *who) noexcept nogil:
    """Wait for the rest of the team; return as `meet`."""
    if who.team == NULL:
        return not who.halts
    if pool_lost(&who.watch.crew):
        return False
    return not barrier_complete(&who.team.barrier, who.member, who.meetings, who.halts)


cdef int raise_stopped() except -1 with gil:
    """Raise what a signal's handler raised; or say that it has forked, which left the crew behind."""
    if PyErr_Occurred() != NULL:
        return -1
    raise RuntimeError("a signal's handler forked this process inside a call of several threads")


cdef int enter(Guest *guest, str what) except -1:
    """Let this thread in, alone; RuntimeError if one is inside already."""
    cdef unsigned long thread = PyThread_get_thread_ident()
    if guest.inside and pool_survives(guest.thread, guest.forks):
        if guest.thread == thread:
            raise RuntimeError(
                f"this thread is inside this {what} already: neither a signal's handler nor code of an input can use it")
        raise RuntimeError(f"another thread is inside this {what}; use one {what} per thread")
    guest.inside, guest.thread, guest.forks = True, thread, pool_forks()
    return 0


cdef void share_out(Body body, void *job, int members) noexcept nogil:
    """Run body(job, k) for k = 0 .. members-1, or for the first few of them: whoever comes takes what is left to do."""
    cdef Crew crew
    pool_gather(&crew, members, limit)
    pool_run(&crew, body, job)
