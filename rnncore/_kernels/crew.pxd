from .pool cimport Barrier, Counter, Crew, Seat

cdef int limit   # threads of a call that does not say how many

# One call: who works on it, and whether it goes on.
cdef struct Watch:
    Crew crew
    Counter stopped             # not 0: all go home
    bint quick                  # one member, and soon done
    bint interruptible          # look for Ctrl-C now and then
    double looked               # time of the last look
    unsigned long mode          # of the caller's denormal numbers

# Members of a crew that wait for each other.
cdef struct Team:
    int first, size             # the crew's from `first` on
    Barrier barrier

# Who does a share of something.
cdef struct Member:
    int member, size            # which share, of how many
    int number                  # in the crew; 0 is the thread that called
    Watch *watch                # or NULL: nobody looks
    Team *team                  # or NULL: alone
    unsigned int meetings       # of the team, so far
    bint halts                  # what this member says at the last of them
    double done                 # work since the last look

ctypedef void (*Body)(void *job, int member) noexcept nogil

# A thread that is inside something, until it leaves.
cdef struct Guest:
    bint inside
    unsigned long thread
    unsigned int forks          # before this process: a child has none of its parent's threads but the one that forked

cdef int fewer(int members) noexcept nogil
cdef int enter(Guest *guest, str what) except -1
cdef void gather_crew(Watch *watch, int members, double work) noexcept nogil
cdef bint run_crew(Watch *watch, Body body, void *job) noexcept nogil
cdef void gather_team(Team *team, int first, int size, Seat *seats) noexcept nogil
cdef bint meet(Member *who) noexcept nogil
cdef void arrive(Member *who) noexcept nogil
cdef bint complete(Member *who) noexcept nogil
cdef bint look(Member *who, double done) noexcept nogil
cdef int raise_stopped() except -1 nogil
cdef void share_out(Body body, void *job, int members) noexcept nogil
