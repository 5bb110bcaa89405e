/* A profiler that is stopped while a signal is pending.
 *
 *   T1: stop_sampling blocks SIGPROF, so that no handler sees the table while it is cleared
 *   T1: SIGPROF becomes pending
 *   T1: restores the default action
 *   T1: unblocks SIGPROF; the default action of SIGPROF ends the process
 *
 * A timer that has been disarmed does not help: its last signal may be pending already.
 *
 * With IGNORE_FIRST defined the stop function ignores the signal instead of restoring the default
 * action. Ignoring discards a pending signal, and a late one does no harm.
 */
#define _GNU_SOURCE
#include <stdatomic.h>

#include "../victim.h"

#ifdef IGNORE_FIRST
#define NAME "stop-ignored"
#else
#define NAME "stop-window"
#endif

enum { SLOTS = 64 };

static long count;
static volatile long table[SLOTS];
static volatile long position;
static atomic_long work_done;

static void on_profile(int signal) {
    (void)signal;
    table[position++ % SLOTS] = 1;
}

static OWN_FUNCTION void start_sampling(void) { install(SIGPROF, on_profile, SA_RESTART); }

static OWN_FUNCTION void stop_sampling(void) {
    sigset_t profile, before;
    sigemptyset(&profile);
    sigaddset(&profile, SIGPROF);
    must(pthread_sigmask(SIG_BLOCK, &profile, &before) == 0, "SIGPROF cannot be blocked");
    for (int i = 0; i < SLOTS; i++) table[i] = 0;
    position = 0;
#ifdef IGNORE_FIRST
    install(SIGPROF, SIG_IGN, 0);
#else
    install(SIGPROF, SIG_DFL, 0);
#endif
    must(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0, "SIGPROF cannot be unblocked");
}

static void *profile_and_work(void *unused) {
    for (long i = 0; i < count; i++) {
        start_sampling();
        for (volatile int work = 0; work < 1000; work++) {}
        work_done++;
        stop_sampling();
    }
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 150000);
    join(start(profile_and_work, NULL));
    printf(NAME ": started and stopped %ld times\n", work_done);
    return 0;
}
