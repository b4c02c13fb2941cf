# The pool of threads in C: contracts stand in pool.h. `crew` is the one extension that holds it; the
# mode of denormal numbers is for all.

cdef extern from "pool.h":
    enum: POOL_MOST

    cdef struct Crew "crew":
        int size

    void pool_gather(Crew *crew, int want, int limit) nogil
    void pool_run(Crew *crew, void (*body)(void *job, int member) noexcept nogil, void *job) nogil
    int pool_lost(const Crew *crew) nogil
    int pool_cpus() nogil
    unsigned int pool_forks() nogil
    bint pool_survives(unsigned long thread, unsigned int forks) nogil

    cdef struct Seat "seat":
        pass

    cdef struct Barrier "barrier":
        pass

    void barrier_init(Barrier *barrier, int size, Seat *seats) nogil
    void barrier_arrive(Barrier *barrier, int member, unsigned int round, bint halt) nogil
    bint barrier_complete(Barrier *barrier, int member, unsigned int round, bint halt) nogil

    unsigned long denormals_flush() nogil
    void denormals_restore(unsigned long mode) nogil

    ctypedef struct Counter "counter":
        pass

    void counter_reset(Counter *next) nogil
    long counter_take(Counter *next) nogil
    long counter_peek(Counter *next) nogil
