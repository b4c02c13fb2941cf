/* Threads that work together inside the time loop: a pool of workers, parked between calls, crews of them that share one
   call's work, and barriers. Any number of threads may call at once. */

#ifndef RNNCORE_POOL_H
#define RNNCORE_POOL_H

#include <stdatomic.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { POOL_MOST = 256 }; /* members of the largest crew */

/* The caller and the workers that help it in one call. */
struct crew {
    int size;
    struct worker *workers;
    atomic_uint left; /* workers that are not done yet, and whether the caller sleeps until they are */
    unsigned epoch;
};

/* Gather a crew of `want` members, the caller among them, or of fewer where more would make more than max(want, limit)
   threads run in the process, or none can be made. pool_run must follow, on the same thread. */
void pool_gather(struct crew *crew, int want, int limit);

/* Run body(job, k) for k = 0 .. size-1, k = 0 on the calling thread; return when all are done. Denormal numbers are
   flushed to zero in all members; the caller's mode is restored. */
void pool_run(struct crew *crew, void (*body)(void *job, int member), void *job);

/* Whether this process was forked since the crew was gathered: then the caller is its only member left. */
int pool_lost(const struct crew *crew);

/* CPUs that the calling thread may run on; INT_MAX where the system does not tell. */
int pool_cpus(void);

/* How many forks made this process of the one that loaded the pool. */
unsigned pool_forks(void);

/* Whether a thread, by its pthread_self, that was there after so many forks may be there still: a child of `fork` has none
   of its parent's but the one that forked. */
int pool_survives(unsigned long thread, unsigned forks);

/* Where `size` members of a crew meet. Each tells what it has to say in a line of 64 bytes of its own, its seat. */
enum { SEAT_WORDS = 8 }; /* the logarithm of POOL_MOST */
struct seat {
    atomic_uint words[2][SEAT_WORDS];
} __attribute__((aligned(64)));

struct barrier {
    unsigned size;
    struct seat *seats;
    atomic_uint asleep; /* members */
};

void barrier_init(struct barrier *barrier, int size, struct seat *seats);

/* Two calls of every member for each round, 1, 2, and so on. The second returns once all have made the first, and what they
   wrote before is visible then; and whether any of them made it with `halt`, which is the same in both calls. What a member
   does in between needs nothing of the others; where they are more than two, these wait for it. */
void barrier_arrive(struct barrier *barrier, int member, unsigned round, int halt);
int barrier_complete(struct barrier *barrier, int member, unsigned round, int halt);

/* Flush denormal numbers to zero in this thread, as operands and as results; returns the mode for `denormals_restore`.
   Inline, so that an extension has them without the pool. */
static inline unsigned long denormals_flush(void)
{
#if defined(__x86_64__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* flush to zero, denormals are zeros */
    return mode;
#elif defined(__aarch64__)
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | 1ul << 24));
    return mode;
#else
    return 0;
#endif
}

static inline void denormals_restore(unsigned long mode)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

/* Shares of work, handed out to whoever comes first: 0, 1, 2, ... */
typedef atomic_long counter;

static inline void counter_reset(counter *next)
{
    atomic_store_explicit(next, 0, memory_order_relaxed);
}

static inline long counter_take(counter *next)
{
    return atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
}

static inline long counter_peek(counter *next)
{
    return atomic_load_explicit(next, memory_order_relaxed);
}

#endif
