/* A handler that takes its time: 20 ms of processor time, and then it returns.
 *
 * It waits for nothing that the interrupted code holds, so it is slow and no livelock.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <time.h>

#include "../victim.h"

static const long HANDLER_TIME = 20000000; /* nanoseconds of processor time */
static long count;
static atomic_long sum;

/* The processor time that this thread has used; clock_gettime is async-signal-safe. */
static long processor_time(void) {
    struct timespec time;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) != 0) abort();
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static void on_profile(int signal) {
    (void)signal;
    long end = processor_time() + HANDLER_TIME;
    while (processor_time() < end) {}
}

static OWN_FUNCTION void add_up(long number) {
    for (volatile int work = 0; work < 100; work++) {}
    sum += number;
}

static void *add_numbers(void *unused) {
    for (long i = 1; i <= count; i++) add_up(i);
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 1400000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t first = start(add_numbers, NULL), second = start(add_numbers, NULL);
    join(first);
    join(second);
    printf("slow-handler: the sum is %ld\n", sum);
    return 0;
}
