/* Two handlers that spin, one of them only because the other does.
 *
 *   T2: holds something
 *   T1: SIGPROF in `bystander`; the handler spins as long as anybody holds it
 *   T2: SIGPROF in `holder`; the handler spins, too, and T2 never lets go
 *
 * T1's handler was entered first, and would have returned: the signal in `holder` is the mistake.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>

#include "../victim.h"

static pthread_t owner;
static atomic_int held, started, entered;
static volatile long work;

static void on_profile(int signal) {
    (void)signal;
    entered = 1;
    /* T2 leaves the core to T1, which so uses it up and looks like the one that is stuck. */
    int is_holder = pthread_equal(pthread_self(), owner);
    while (held) {
        if (is_holder) sched_yield();
    }
}

static OWN_FUNCTION void holder(void) {
    work++;
    work += 2;
    held = 0;
}

static OWN_FUNCTION void bystander(void) {
    work += 3;
}

static void *hold(void *unused) {
    owner = pthread_self();
    held = 1;
    started = 1;
    /* The other thread's handler comes, or none does. */
    for (int tries = 0; tries < 20000 && !entered; tries++) sched_yield();
    holder();
    return unused;
}

int main(void) {
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t thread = start(hold, NULL);
    while (!started) sched_yield();
    bystander();
    join(thread);
    printf("spin-for-another: let go\n");
    return 0;
}
