/* The plainest control: threads allocate and print, and the handler adds one to an atomic counter.
 *
 * No order of events goes wrong, at whatever instruction the signal comes.
 */
#define _GNU_SOURCE
#include <stdatomic.h>

#include "../victim.h"

enum { HELD = 8 };

static long count;
static atomic_long ticks;

static void on_profile(int signal) {
    (void)signal;
    ticks++;
}

static void *allocate_and_print(void *unused) {
    char *held[HELD] = {NULL};
    FILE *nowhere = fopen("/dev/null", "w");
    must(nowhere != NULL, "/dev/null cannot be opened");
    for (long i = 0; i < count; i++) {
        char **slot = &held[i % HELD];
        *slot = realloc(*slot, (size_t)(16 + i % 100 * 40));
        must(*slot != NULL, "no memory");
        must(snprintf(*slot, 16, "%ld", i % 1000) > 0, "a number cannot be printed");
        must(fprintf(nowhere, "%ld %s\n", i, *slot) > 0, "/dev/null cannot be written");
    }
    must(fclose(nowhere) == 0, "/dev/null cannot be closed");
    for (int i = 0; i < HELD; i++) free(held[i]);
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 800000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t first = start(allocate_and_print, NULL), second = start(allocate_and_print, NULL);
    join(first);
    join(second);
    printf("one-atomic: two threads, %ld lines each\n", count);
    return 0;
}
