/* A handler that spins for a lock.
 *
 *   T1: add_sample takes the spin lock
 *   T1: SIGPROF; the handler spins for the same lock
 *
 * The handler keeps a core busy for ever, because the code that it interrupted has to release the lock.
 * While the other thread holds the lock, the handler spins for a moment and goes on.
 *
 * With TRY_LOCK defined the handler tries the lock once and drops the sample if the lock is taken.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>

#include "../victim.h"

#ifdef TRY_LOCK
#define NAME "spin-trylock"
#else
#define NAME "spin-in-handler"
#endif

enum { SLOTS = 64 };

static long count;
static atomic_flag lock = ATOMIC_FLAG_INIT;
static volatile long table[SLOTS];
static volatile long samples;

static void on_profile(int signal) {
    (void)signal;
#ifdef TRY_LOCK
    if (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)) return;
#else
    while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)) __builtin_ia32_pause();
#endif
    samples++;
    atomic_flag_clear_explicit(&lock, memory_order_release);
}

static OWN_FUNCTION void add_sample(long value) {
    for (int tries = 1; atomic_flag_test_and_set_explicit(&lock, memory_order_acquire); tries++) {
        if (tries % 100 == 0) sched_yield();
        __builtin_ia32_pause();
    }
    table[value % SLOTS]++;
    table[(value + 1) % SLOTS]++;
    atomic_flag_clear_explicit(&lock, memory_order_release);
}

static void *add_samples(void *unused) {
    for (long i = 0; i < count; i++) add_sample(i);
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 8000000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t first = start(add_samples, NULL), second = start(add_samples, NULL);
    join(first);
    join(second);
    long sum = 0;
    for (int i = 0; i < SLOTS; i++) sum += table[i];
    printf(NAME ": two threads, %ld additions\n", sum);
    return 0;
}
