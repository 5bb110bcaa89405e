/* A program that sleeps: it reaches hardly any instruction, and that is no hang.
 *
 * A thread waits for signals and nothing else, until its time is over (10 ms a round) or a thousand
 * signals have been handled. SIGPROF is blocked except during the wait, so that no signal comes between
 * the look at the counter and the wait.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <time.h>

#include "../victim.h"

enum { ENOUGH = 1000 };

static const long ROUND = 10000000; /* nanoseconds */
static long count;
static atomic_long ticks;

static void on_profile(int signal) {
    (void)signal;
    ticks++;
}

static long now(void) {
    struct timespec time;
    must(clock_gettime(CLOCK_MONOTONIC, &time) == 0, "no clock");
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static void *sleep_through(void *unused) {
    sigset_t profile, before;
    sigemptyset(&profile);
    sigaddset(&profile, SIGPROF);
    must(pthread_sigmask(SIG_BLOCK, &profile, &before) == 0, "SIGPROF cannot be blocked");
    long end = now() + count * ROUND;
    for (long left = count * ROUND; left > 0 && ticks < ENOUGH; left = end - now()) {
        struct timespec time = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        must(ppoll(NULL, 0, &time, &before) == 0 || errno == EINTR, "no sleep");
    }
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 100);
    install(SIGPROF, on_profile, SA_RESTART);
    join(start(sleep_through, NULL));
    printf("idle: slept\n");
    return 0;
}
