/* A reader that sleeps in read most of the time, with a handler that lets read go on.
 *
 * Another thread writes a byte every 10 ms. The handler was installed with SA_RESTART, so an interrupted
 * read is restarted by the kernel and the reader never sees it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "../victim.h"

static long count;
static atomic_long ticks;
static int ends[2];

static void on_profile(int signal) {
    (void)signal;
    ticks++;
}

static void *feed(void *unused) {
    for (long i = 0; i < count; i++) {
        struct timespec left = {.tv_nsec = 10000000};
        while (nanosleep(&left, &left) != 0) must(errno == EINTR, "no sleep"); /* never restarted */
        must(write(ends[1], "x", 1) == 1, "the pipe cannot be written");
    }
    return unused;
}

static void *take_bytes(void *unused) {
    char byte;
    for (long i = 0; i < count; i++) must(read(ends[0], &byte, 1) == 1, "the pipe cannot be read");
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 30);
    must(pipe(ends) == 0, "no pipe");
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t feeder = start(feed, NULL), reader = start(take_bytes, NULL);
    join(feeder);
    join(reader);
    printf("reads: %ld bytes read\n", count);
    return 0;
}
