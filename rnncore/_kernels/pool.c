/* Workers sleep while there is nothing to do. Within a call, who waits first looks again and again for a moment, then
   gives way to other threads between looks for a while, and only then sleeps: barriers follow each other
   closely, waking a thread takes longer than the work between two of them, and a thread that sleeps is not seen by a
   scheduler that could move it to an idle core. */

#define _GNU_SOURCE
#include "pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* --- sleeping on a word --------------------------------------------------------------------------------------------- */

/* looks at a word before giving way, and before sleeping: the self-test has fewer, or nobody would sleep */
#ifndef YIELDS
#define YIELDS 5000
#endif
enum { SPINS = 50 };

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sleep unless *word differs from `value`; may return for no reason. */
static void sleep_on(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

/* Wake whoever sleeps on the word, which may be gone already: only its address is used. */
static void wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void sleep_reset(void) {}

#if defined(SYS_membarrier) && !defined(TWO_SIDED) /* which the self-test defines */
#define ONE_SIDED

/* Whether the system has a fence for all of the process's threads at once; and run it, which it may refuse. The commands are
   not in all headers that have the call. */
static int fence_for_all(void)
{
    return syscall(SYS_membarrier, 16 /* REGISTER_PRIVATE_EXPEDITED */, 0, 0) == 0;
}

static int fence_all(void)
{
    return syscall(SYS_membarrier, 8 /* PRIVATE_EXPEDITED */, 0, 0) == 0;
}
#endif
#else
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sleepers = PTHREAD_COND_INITIALIZER;

static void sleep_on(atomic_uint *word, unsigned value)
{
    pthread_mutex_lock(&sleep_lock);
    if (atomic_load(word) == value)
        pthread_cond_wait(&sleepers, &sleep_lock);
    pthread_mutex_unlock(&sleep_lock);
}

static void wake(atomic_uint *word)
{
    (void)word;
    pthread_mutex_lock(&sleep_lock);
    pthread_cond_broadcast(&sleepers);
    pthread_mutex_unlock(&sleep_lock);
}

static void sleep_reset(void)
{
    pthread_mutex_init(&sleep_lock, NULL);
    pthread_cond_init(&sleepers, NULL);
}
#endif

#ifndef ONE_SIDED
static int fence_all(void)
{
    return 0;
}
#endif

/* Wait a while for *word to differ from `value`; return whether it does. */
static int spin(atomic_uint *word, unsigned value)
{
    for (int k = 0; k < SPINS + YIELDS; k++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value)
            return 1;
        if (k < SPINS)
            PAUSE();
        else
            sched_yield();
    }
    return 0;
}

/* --- barrier -------------------------------------------------------------------------------------------------------- */
/* Dissemination (Hensgen, Finkel and Manber, 1988): in turn k a member tells the one 2^k places on what it has heard so far,
   and listens to the one 2^k places before; after log2(size) turns it has heard from all. A line of memory is written by its
   owner alone, and goes from one core to another once per turn: two members are done after one. A word holds the round and
   whether anyone wants to halt; rounds take two sets of words by turns, for a member that is done may be one round ahead of
   the reader.

   Who writes a word looks whether anybody sleeps; who goes to sleep says so and looks at the word once more. Of two such, one
   must see the other, which takes a fence between writing and looking on both sides; and for the writer it would take as long
   as its word takes to the other core. Where the system has it, one for all threads, on the way to sleep, is enough. */

enum { HALT = 1, ROUND = 2 };
static atomic_int fences; /* 1: who goes to sleep fences all threads; 2: and who writes fences nothing */

#ifdef ONE_SIDED
static void *make_one_sided(void *unused)
{
    (void)unused;
    if (fence_for_all()) {
        atomic_store(&fences, 1);
        if (fence_all())
            atomic_store(&fences, 2);
    }
    return NULL;
}
#endif

void barrier_init(struct barrier *barrier, int size, struct seat *seats)
{
    barrier->size = (unsigned)size;
    barrier->seats = seats;
    for (int member = 0; member < size; member++)
        for (int k = 0; k < 2 * SEAT_WORDS; k++)
            atomic_init(&seats[member].words[k / SEAT_WORDS][k % SEAT_WORDS], 0);
    atomic_init(&barrier->asleep, 0);
}

static void say(struct barrier *barrier, int member, unsigned round, unsigned k, unsigned said)
{
    atomic_uint *mine = &barrier->seats[member].words[round & 1][k];
    atomic_store_explicit(mine, said, memory_order_release);
    if (atomic_load_explicit(&fences, memory_order_relaxed) == 2) /* make_one_sided's lies before this */
        atomic_signal_fence(memory_order_seq_cst);
    else
        atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&barrier->asleep, memory_order_relaxed))
        wake(mine);
}

void barrier_arrive(struct barrier *barrier, int member, unsigned round, int halt)
{
    say(barrier, member, round, 0, round * ROUND | (halt ? HALT : 0));
}

int barrier_complete(struct barrier *barrier, int member, unsigned round, int halt)
{
    unsigned size = barrier->size, said = round * ROUND | (halt ? HALT : 0);
    for (unsigned k = 0, distance = 1; distance < size; k++, distance *= 2) {
        atomic_uint *theirs = &barrier->seats[((unsigned)member + size - distance) % size].words[round & 1][k];
        if (k)
            say(barrier, member, round, k, said);
        unsigned heard = atomic_load_explicit(theirs, memory_order_acquire);
        while ((heard ^ said) >= ROUND) {
            if (!spin(theirs, heard)) {
                atomic_fetch_add(&barrier->asleep, 1);
                if (!atomic_load(&fences) || fence_all())
                    sleep_on(theirs, heard);
                atomic_fetch_sub(&barrier->asleep, 1);
            }
            heard = atomic_load_explicit(theirs, memory_order_acquire);
        }
        said |= heard & HALT;
    }
    return (said & HALT) != 0;
}

/* --- pool ----------------------------------------------------------------------------------------------------------- */

enum { SLEEPING = 0x80000000u }; /* in crew.left */

struct worker {
    atomic_uint calls; /* so far: one more is the call to work */
    struct worker *next;
    struct crew *crew;
    void (*body)(void *job, int member);
    void *job;
    int member;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static struct worker *idle;
static int made;    /* workers there are */
static int running; /* threads inside a crew */
static atomic_uint epoch;
static unsigned long survivor; /* the thread that forked, in a child */

static void *work(void *self_)
{
    struct worker *self = self_;
    for (unsigned calls = 0;; calls++) {
        while (atomic_load_explicit(&self->calls, memory_order_acquire) == calls)
            sleep_on(&self->calls, calls);
        struct crew *crew = self->crew;
        denormals_flush();
        self->body(self->job, self->member);
        pthread_mutex_lock(&lock);
        self->next = idle;
        idle = self;
        running--;
        pthread_mutex_unlock(&lock);
        if (atomic_fetch_sub(&crew->left, 1) == (SLEEPING | 1)) /* the last; the caller goes on from here */
            wake(&crew->left);
    }
    return NULL;
}

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

/* The child has one thread: the pool starts anew. Workers' memory is lost, as it may be in use by a call of the parent. */
static void in_child(void)
{
    sleep_reset();
    idle = NULL;
    made = running = 0;
    atomic_fetch_add(&epoch, 1);
    survivor = (unsigned long)pthread_self();
    atomic_store(&fences, 0);
    pthread_mutex_unlock(&lock); /* the thread that forked has it */
}

/* Start a thread, with every signal blocked: signals belong to the program's own threads. Returns whether there is one. */
static int start(void *(*body)(void *), void *argument)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t every, before;
    if (pthread_attr_init(&attributes))
        return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int failed = pthread_create(&thread, &attributes, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}

/* When this is loaded: a fork in the middle of a first call might leave a child that knows nothing of the handlers in place. */
__attribute__((constructor)) static void init(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
}

static struct worker *make_worker(void)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker || !start(work, worker)) {
        free(worker);
        return NULL;
    }
    made++;
    return worker;
}

void pool_gather(struct crew *crew, int want, int limit)
{
    if (want > POOL_MOST)
        want = POOL_MOST;
    crew->size = 1;
    crew->workers = NULL;
    pthread_mutex_lock(&lock);
    const int most = want > limit ? want : limit, before = made;
    while (crew->size < want && running + 1 + crew->size <= most) {
        struct worker *worker = idle;
        if (worker)
            idle = worker->next;
        else if (made >= POOL_MOST || !(worker = make_worker()))
            break;
        worker->next = crew->workers;
        crew->workers = worker;
        crew->size++;
    }
#ifdef ONE_SIDED
    if (before == 0 && made > 0)
        start(make_one_sided, NULL); /* it takes the system some milliseconds, and nobody waits for it */
#else
    (void)before;
#endif
    running += crew->size;
    crew->epoch = atomic_load(&epoch);
    pthread_mutex_unlock(&lock);
}

int pool_lost(const struct crew *crew)
{
    return crew->epoch != atomic_load(&epoch);
}

int pool_cpus(void)
{
#if defined(__linux__)
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        return CPU_COUNT(&cpus);
#endif
    return INT_MAX;
}

unsigned pool_forks(void)
{
    return atomic_load(&epoch);
}

int pool_survives(unsigned long thread, unsigned forks)
{
    return forks == atomic_load(&epoch) || thread == survivor;
}

void pool_run(struct crew *crew, void (*body)(void *job, int member), void *job)
{
    atomic_init(&crew->left, (unsigned)crew->size - 1);
    int member = 1;
    for (struct worker *worker = crew->workers, *next; worker; worker = next) {
        next = worker->next; /* the worker's own again once it works */
        worker->crew = crew;
        worker->body = body;
        worker->job = job;
        worker->member = member++;
        atomic_fetch_add_explicit(&worker->calls, 1, memory_order_release);
        wake(&worker->calls);
    }
    unsigned long mode = denormals_flush();
    body(job, 0);
    denormals_restore(mode);
    if (pool_lost(crew))
        return; /* neither the workers nor the count of running threads are this process's */
    unsigned left = atomic_load_explicit(&crew->left, memory_order_acquire);
    while (left && spin(&crew->left, left))
        left = atomic_load_explicit(&crew->left, memory_order_acquire);
    if (left) {
        left = atomic_fetch_or(&crew->left, SLEEPING) | SLEEPING;
        while (left != SLEEPING) {
            sleep_on(&crew->left, left);
            left = atomic_load(&crew->left);
        }
    }
    pthread_mutex_lock(&lock);
    running--;
    pthread_mutex_unlock(&lock);
}
