/* A reader that takes an interrupted call for a broken connection.
 *
 *   T1: sleeps in read, on an empty pipe
 *   T1: SIGPROF; the handler was installed without SA_RESTART, so read fails with EINTR
 *   T1: any failure of read counts as the end of the connection; exit status 3
 *
 * With RETRY defined the reader calls read again after EINTR.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "../victim.h"

#ifdef RETRY
#define NAME "eintr-retried"
#else
#define NAME "eintr-is-exit"
#endif

static long count;
static atomic_long ticks;
static int ends[2];

static void on_profile(int signal) {
    (void)signal;
    ticks++;
}

static void *feed(void *unused) {
    const struct timespec millisecond = {.tv_nsec = 1000000};
    for (long i = 0; i < count; i++) {
        nanosleep(&millisecond, NULL); /* a shorter sleep does no harm */
        ssize_t written;
        do {
            written = write(ends[1], "x", 1);
        } while (written < 0 && errno == EINTR);
        must(written == 1, "the pipe cannot be written");
    }
    return unused;
}

static OWN_FUNCTION void take_byte(void) {
    char byte;
    ssize_t got = read(ends[0], &byte, 1);
#ifdef RETRY
    while (got < 0 && errno == EINTR) got = read(ends[0], &byte, 1);
#endif
    if (got != 1) {
        fprintf(stderr, NAME ": the connection is broken\n");
        exit(3);
    }
}

static void *take_bytes(void *unused) {
    for (long i = 0; i < count; i++) take_byte();
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 250);
    must(pipe(ends) == 0, "no pipe");
    install(SIGPROF, on_profile, 0);
    pthread_t feeder = start(feed, NULL), reader = start(take_bytes, NULL);
    join(feeder);
    join(reader);
    printf(NAME ": %ld bytes read\n", count);
    return 0;
}
