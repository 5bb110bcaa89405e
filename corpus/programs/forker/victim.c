/* A program that forks while another thread allocates, under a handler that adds one to an atomic
 * counter.
 *
 * A signal restarts fork in the kernel, and the handler touches nothing that fork's own handlers lock.
 * The children exit at once.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../victim.h"

static long count;
static atomic_long ticks;
static atomic_int finished;

static void on_profile(int signal) {
    (void)signal;
    ticks++;
}

static void *allocate(void *unused) {
    while (!finished) {
        char *block = malloc(3000);
        must(block != NULL, "no memory");
        block[0] = 1;
        free(block);
    }
    return unused;
}

static OWN_FUNCTION void fork_once(void) {
    pid_t child = fork();
    must(child >= 0, "no child process");
    if (child == 0) _exit(0);
    int status = 0;
    while (waitpid(child, &status, 0) != child) must(errno == EINTR, "the child is lost");
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child failed");
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 50);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t allocator = start(allocate, NULL);
    for (long i = 0; i < count; i++) fork_once();
    finished = 1;
    join(allocator);
    printf("forker: %ld children\n", count);
    return 0;
}
