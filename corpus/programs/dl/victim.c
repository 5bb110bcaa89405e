/* A thread that loads and unloads a library while another allocates, under a handler that adds one to
 * an atomic counter.
 *
 * The handler takes neither the loader's lock nor the allocator's, so the signal may come while either
 * is held. The program must not be linked with libm, or else the library would stay loaded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>

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

static OWN_FUNCTION void load_once(void) {
    void *library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    must(library != NULL, "libm.so.6 cannot be loaded");
    must(dlsym(library, "cbrt") != NULL, "libm.so.6 has no cbrt");
    must(dlclose(library) == 0, "libm.so.6 cannot be unloaded");
}

static void *load(void *unused) {
    for (long i = 0; i < count; i++) load_once();
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 2000);
    install(SIGPROF, on_profile, SA_RESTART);
    must(dlopen("libm.so.6", RTLD_NOW | RTLD_NOLOAD) == NULL, "libm.so.6 is loaded already");
    pthread_t allocator = start(allocate, NULL), loader = start(load, NULL);
    join(loader);
    finished = 1;
    join(allocator);
    printf("dl: loaded and unloaded %ld times\n", count);
    return 0;
}
