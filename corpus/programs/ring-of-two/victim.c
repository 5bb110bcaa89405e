/* Two locks and a handler that closes the ring.
 *
 *   T1: takes lock A
 *   T2: takes lock B
 *   T2: SIGPROF; its handler waits for A
 *   T1: waits for B
 *
 * The threads go in step, so that T2 holds B whenever T1 has just taken A; undisturbed, T2 then releases
 * B and T1 goes on. With the signal T1 waits for the code that T2's handler interrupted, and the handler
 * waits for T1. Neither thread takes a lock twice, and the code outside the handler takes the locks in
 * one order everywhere. Only T2's handler takes a lock: T1's and main's return at once.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>

#include "../victim.h"

static pthread_mutex_t lock_a = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock_b = PTHREAD_MUTEX_INITIALIZER;
static long count;
static long guarded_by_a, guarded_by_b;
static atomic_long b_taken, a_taken, both_released; /* rounds in which that has happened */
static _Thread_local volatile sig_atomic_t handler_takes_a;

static void on_profile(int signal) {
    (void)signal;
    if (!handler_takes_a) return;
    /* The mistake: the interrupted code may hold B, and A's owner may wait for B. */
    pthread_mutex_lock(&lock_a);
    guarded_by_a++;
    guarded_by_a--;
    pthread_mutex_unlock(&lock_a);
}

/* Lets the other threads run until a counter has reached a round. */
static void wait_for(const atomic_long *counter, long round) {
    while (*counter < round) sched_yield();
}

static OWN_FUNCTION void take_both(long round) {
    pthread_mutex_lock(&lock_a);
    guarded_by_a++;
    a_taken = round;
    pthread_mutex_lock(&lock_b);
    guarded_by_b++;
    pthread_mutex_unlock(&lock_b);
    pthread_mutex_unlock(&lock_a);
}

static OWN_FUNCTION void hold_b(long round) {
    pthread_mutex_lock(&lock_b);
    b_taken = round;
    wait_for(&a_taken, round);
    guarded_by_b++;
    pthread_mutex_unlock(&lock_b);
}

static void *run_t1(void *unused) {
    for (long round = 1; round <= count; round++) {
        wait_for(&b_taken, round);
        take_both(round);
        both_released = round;
    }
    return unused;
}

static void *run_t2(void *unused) {
    handler_takes_a = 1;
    for (long round = 1; round <= count; round++) {
        wait_for(&both_released, round - 1);
        hold_b(round);
    }
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 100000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t t1 = start(run_t1, NULL), t2 = start(run_t2, NULL);
    join(t1);
    join(t2);
    printf("ring-of-two: A taken %ld times, B %ld times\n", guarded_by_a, guarded_by_b);
    return 0;
}
