/* The pool's own test, without Python: crews of all sizes, barriers, several callers at once, children of fork, denormal
   numbers. Build with pool.c; made for -fsanitize=thread as well. With an argument it does not fork, which qemu-user
   cannot do for a process of several threads. */

#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 17, SOME = 5, ROUNDS = 200, CALLS = 300 };

static void fail(const char *what)
{
    printf("failed: %s\n", what);
    exit(1);
}

struct job {
    int size;
    struct barrier barrier;
    struct barrier halves[2]; /* two teams of a crew */
    struct seat seats[2][MOST];
    long values[2][MOST]; /* plain memory: the barrier alone makes it visible */
    counter shares;
    char taken[1000];
    volatile float tiny;
    int flushed[MOST];
};

static int meet(struct barrier *barrier, int member, int round, int halt)
{
    barrier_arrive(barrier, member, (unsigned)round + 1, halt);
    if (member == round % 3)
        sched_yield(); /* what others do meanwhile needs nothing of this one */
    return barrier_complete(barrier, member, (unsigned)round + 1, halt);
}

/* Every member writes a value per round and reads all the others' of the round before. */
static void body(void *job_, int member)
{
    struct job *job = job_;
    int half = member >= (job->size + 1) / 2, place = member - half * ((job->size + 1) / 2);
    for (int round = 0; round < ROUNDS; round++) {
        job->values[round & 1][member] = round * 10 + member;
        int halt = meet(&job->barrier, member, round, round % 7 == 5 && member == round % job->size);
        if (halt != (round % 7 == 5))
            fail("all members hear of a halt");
        for (int other = 0; other < job->size; other++)
            if (job->values[round & 1][other] != round * 10 + other)
                fail("a value behind the barrier");
    }
    for (int round = 0; round < ROUNDS; round++) {
        int halt = meet(&job->halves[half], place, round, place == round);
        if (halt != (round < (job->size + !half) / 2))
            fail("a team hears of its own halts alone");
    }
    for (long share; (share = counter_take(&job->shares)) < 1000;)
        job->taken[share]++;
    job->flushed[member] = job->tiny * 0.5f == 0 && job->tiny + 0.0f == 0;
}

static int call(int want, int limit)
{
    struct job job;
    struct crew crew;
    memset(&job, 0, sizeof job);
    job.tiny = 1e-41f;
    pool_gather(&crew, want, limit);
    if (crew.size < 1 || crew.size > (want > 1 ? want : 1))
        fail("size of a crew");
    job.size = crew.size;
    barrier_init(&job.barrier, job.size, job.seats[0]);
    barrier_init(&job.halves[0], (job.size + 1) / 2, job.seats[1]);
    barrier_init(&job.halves[1], job.size / 2, job.seats[1] + (job.size + 1) / 2);
    counter_reset(&job.shares);
    pool_run(&crew, body, &job);
    for (int k = 0; k < 1000; k++)
        if (job.taken[k] != 1)
            fail("each share once");
    for (int k = 0; k < job.size; k++)
        if (!job.flushed[k])
            fail("denormal numbers are flushed in every member");
    if (job.tiny * 0.5f == 0)
        fail("the caller's mode comes back");
    return crew.size;
}

static void *caller(void *seed_)
{
    unsigned seed = *(unsigned *)seed_;
    for (int k = 0; k < CALLS; k++)
        call(1 + rand_r(&seed) % SOME, 1 + rand_r(&seed) % SOME);
    return NULL;
}

static void storm(int callers)
{
    pthread_t threads[8];
    unsigned seeds[8];
    for (int k = 0; k < callers; k++) {
        seeds[k] = (unsigned)k + 1;
        if (pthread_create(&threads[k], NULL, caller, &seeds[k]))
            fail("making a thread");
    }
    for (int k = 0; k < callers; k++)
        pthread_join(threads[k], NULL);
}

static int may_fork;

static void in_a_child(void)
{
    if (!may_fork)
        return;
    pid_t child = fork();
    if (child == 0) {
        alarm(20); /* a child that hangs is killed */
        if (call(3, 1) != 3)
            fail("a crew of three in a child");
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        fail("a child of fork");
}

static void *forks(void *none)
{
    for (int k = 0; k < 20; k++)
        in_a_child();
    return none;
}

int main(int count, char **arguments)
{
    (void)arguments;
    may_fork = count < 2;
    in_a_child(); /* of a process that has not used the pool */
    for (int size = 1; size <= MOST; size++)
        if (call(size, 1) != size)
            fail("all the members asked for");
    storm(1);
    storm(8);
    if (call(MOST, 1) != MOST)
        fail("all the members asked for, after the storm");
    in_a_child();
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__) /* whose own locks a child of a busy process may find taken */
    pthread_t thread;
    if (pthread_create(&thread, NULL, forks, NULL))
        fail("making a thread");
    storm(4);
    pthread_join(thread, NULL);
#else
    (void)forks;
#endif
    printf("pool: 0 failures\n");
    return 0; /* with workers parked */
}
