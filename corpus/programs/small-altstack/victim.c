/* A second signal on a small alternate stack.
 *
 *   T1: writes to a read-only page; SIGSEGV is handled on the alternate stack
 *   T1: SIGPROF inside that handler; its frame goes onto the same stack (SA_ONSTACK)
 *
 * The alternate stack has room for one signal frame and for the handler, not for a second frame. The
 * kernel does not write below the stack: it ends the process with SIGSEGV.
 *
 * A frame's size depends on the processor (1 KiB to more than 10 KiB), so the program measures it: the
 * handler of a first signal says how far it is below the top of a large alternate stack.
 *
 * With AMPLE defined the alternate stack has room for many frames.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../victim.h"

#ifdef AMPLE
#define NAME "ample-altstack"
#else
#define NAME "small-altstack"
#endif

enum {
    LARGE = 256 * 1024, /* bytes; room for any frame */
    FOR_HANDLER = 768,  /* bytes; more than a handler here uses, less than any frame */
    LEAST = 2048,       /* bytes; the kernel refuses a smaller alternate stack */
};

static long count;
static atomic_long ticks;
static volatile uintptr_t depth; /* of the measuring handler, as an address */
static volatile char *page;
static size_t page_size;
static volatile sig_atomic_t faults;

static OWN_FUNCTION void on_measure(int signal) {
    (void)signal;
    depth = (uintptr_t)__builtin_frame_address(0);
}

static OWN_FUNCTION void on_profile(int signal) {
    (void)signal;
    ticks++;
}

/* Makes the page writable, so that the write is made again and succeeds. */
static OWN_FUNCTION void on_fault(int signal) {
    (void)signal;
    if (mprotect((void *)page, page_size, PROT_READ | PROT_WRITE) != 0) _exit(2);
    faults++;
}

/* Gives this thread an alternate stack with no page below it, and returns the stack's top. */
static uintptr_t use_altstack(size_t size) {
    size_t mapped = (size + page_size - 1) / page_size * page_size;
    char *memory = mmap(NULL, page_size + mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED, "no memory");
    must(mprotect(memory + page_size, mapped, PROT_READ | PROT_WRITE) == 0, "no memory");
    stack_t stack = {.ss_sp = memory + page_size, .ss_size = size};
    must(sigaltstack(&stack, NULL) == 0, "the alternate stack is refused");
    return (uintptr_t)memory + page_size + size;
}

/* The size that a signal frame has on this machine, with the handler's first words. */
static size_t frame_size(void) {
    uintptr_t top = use_altstack(LARGE);
    install(SIGUSR1, on_measure, SA_ONSTACK);
    must(raise(SIGUSR1) == 0, "no signal can be sent");
    return top - depth;
}

static void *fault(void *unused) {
    size_t size = frame_size() + FOR_HANDLER;
#ifdef AMPLE
    size = LARGE;
#endif
    use_altstack(size < LEAST ? LEAST : size);
    install(SIGSEGV, on_fault, SA_ONSTACK);
    install(SIGPROF, on_profile, SA_ONSTACK | SA_RESTART);
    for (long i = 0; i < count; i++) {
        must(mprotect((void *)page, page_size, PROT_READ) == 0, "the page cannot be protected");
        *page = 1;
    }
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 30000);
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    page = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(page != MAP_FAILED, "no memory");
    join(start(fault, NULL));
    printf(NAME ": %d faults\n", (int)faults);
    return 0;
}
