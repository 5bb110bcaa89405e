/* Two locks and a handler that closes the ring.
 *
 *   T1: takes lock A
 *   T2: takes lock B
 *   T2: SIGPROF; its handler waits for A
 *   T1: waits for B
 *
 * T1 waits for the code that T2's handler interrupted, and the handler waits for T1. Neither thread
 * takes a lock twice, and the code outside the handler takes the locks in one order everywhere. Only
 * T2's handler takes a lock: T1's and main's return at once.
 */
#define _GNU_SOURCE
#include <sched.h>

#include "../victim.h"

static pthread_mutex_t lock_a = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock_b = PTHREAD_MUTEX_INITIALIZER;
static long count;
static long guarded_by_a, guarded_by_b;
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

static OWN_FUNCTION void take_both(void) {
    pthread_mutex_lock(&lock_a);
    guarded_by_a++;
    pthread_mutex_lock(&lock_b);
    guarded_by_b++;
    pthread_mutex_unlock(&lock_b);
    pthread_mutex_unlock(&lock_a);
}

static OWN_FUNCTION void hold_b(void) {
    pthread_mutex_lock(&lock_b);
    for (volatile int work = 0; work < 300; work++) {}
    guarded_by_b++;
    pthread_mutex_unlock(&lock_b);
}

static void *run_t1(void *unused) {
    for (long i = 0; i < count; i++) {
        take_both();
        sched_yield();
    }
    return unused;
}

static void *run_t2(void *unused) {
    handler_takes_a = 1;
    for (long i = 0; i < count; i++) {
        hold_b();
        sched_yield();
    }
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 120000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t t1 = start(run_t1, NULL), t2 = start(run_t2, NULL);
    join(t1);
    join(t2);
    printf("ring-of-two: A taken %ld times, B %ld times\n", guarded_by_a, guarded_by_b);
    return 0;
}
