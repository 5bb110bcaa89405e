/* A handler that leaves another errno behind.
 *
 *   T1: open fails and sets errno to ENOENT
 *   T1: SIGPROF; a call in the handler fails and sets errno to EBADF
 *   T1: reads errno, and takes the missing file for something else
 *
 * The program counts such answers in its line and exits 0 all the same. Undisturbed there are none.
 *
 * With KEEP_ERRNO defined the handler saves errno first and restores it last.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

#include "../victim.h"

#ifdef KEEP_ERRNO
#define NAME "errno-kept"
#else
#define NAME "errno-clobbered"
#endif

static long count;
static atomic_long missing, other;

static void on_profile(int signal) {
    (void)signal;
#ifdef KEEP_ERRNO
    int saved = errno;
#endif
    char byte = 0;
    if (write(-1, &byte, 1) == 1) _exit(2);
#ifdef KEEP_ERRNO
    errno = saved;
#endif
}

static OWN_FUNCTION void look_for_file(void) {
    int file = open("/nonexistent/file", O_RDONLY | O_CLOEXEC);
    must(file < 0, "the file exists");
    if (errno == ENOENT) {
        missing++;
    } else {
        other++;
    }
}

static void *look_for_files(void *unused) {
    for (long i = 0; i < count; i++) look_for_file();
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 240000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t first = start(look_for_files, NULL), second = start(look_for_files, NULL);
    join(first);
    join(second);
    printf(NAME ": %ld files missing, %ld other answers\n", missing, other);
    return 0;
}
