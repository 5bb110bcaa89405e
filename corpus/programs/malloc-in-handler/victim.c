/* A handler that allocates.
 *
 *   T1: malloc takes the lock of T1's arena and enters _int_malloc
 *   T1: SIGPROF; the handler calls malloc, which waits for the same lock
 *
 * The lock's owner is the code that the handler interrupted, so nobody ever releases the lock. glibc
 * takes arena locks only in a process with several threads, and small blocks come from a cache that
 * needs no lock; so there are two threads, and all blocks are larger than the cache's largest (1,032
 * bytes).
 */
#define _GNU_SOURCE
#include "../victim.h"

enum { SMALLEST = 1500, SIZES = 16, STEP = 900, HELD = 8 };

static long count;

static void on_profile(int signal) {
    (void)signal;
    /* The mistake: malloc and free are not async-signal-safe. */
    char *volatile sample = malloc(2000); /* volatile: the compiler would drop the pair of calls */
    free(sample);
}

static void *allocate(void *unused) {
    char *held[HELD] = {NULL};
    for (long i = 0; i < count; i++) {
        char **slot = &held[i % HELD];
        free(*slot);
        *slot = malloc((size_t)(SMALLEST + i % SIZES * STEP));
        must(*slot != NULL, "no memory");
        **slot = (char)i;
    }
    for (int i = 0; i < HELD; i++) free(held[i]);
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 1600000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t first = start(allocate, NULL), second = start(allocate, NULL);
    join(first);
    join(second);
    printf("malloc-in-handler: two threads, %ld blocks each\n", count);
    return 0;
}
