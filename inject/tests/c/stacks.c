/* The program whose stacks tests/remote reads: its first argument says which part it plays. */

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PLAIN __attribute__((noinline, noclone, noipa))

#ifdef FRAME_POINTERS
#define RBP
#else
#define RBP "rbp",
#endif

static volatile unsigned long sink;

/* A place at which the test stops. */
PLAIN void marker(unsigned long a) {
    __asm__ volatile("" : : "r"(a) : "memory");
}

/* Saves registers, and has more locals than fit below SP. */
PLAIN unsigned long leaf(unsigned long n) {
    volatile unsigned long room[40];
    __asm__ volatile("" : : : "rbx", RBP "r12", "r13", "r15", "memory");
    for (unsigned long i = 0; i < 3; i++) room[i + n % 30] = i * n;
    return room[n % 30 + 1];
}

/* No frame of its own. */
PLAIN unsigned long bare(unsigned long n) {
    return n * 3 + 1;
}

/* Aligns its stack, so that the caller's is found through memory. */
PLAIN unsigned long aligned(int count, ...) {
    _Alignas(64) volatile char wide[64];
    volatile char *some = __builtin_alloca(count * 8);
    va_list list;
    va_start(list, count);
    unsigned long sum = 0;
    for (int i = 0; i < count; i++) sum += va_arg(list, unsigned long);
    va_end(list);
    wide[sum % 64] = some[0] = 1;
    return leaf(sum) + wide[sum % 64];
}

/* Several ways out, one of them a jump to another function. */
PLAIN unsigned long middle(unsigned long n) {
    if (n == 0) return 1;
    if (n == 1) return bare(n);
    unsigned long x = aligned(2, n, n + 1) + bare(n);
    if (n == 2) return x;
    return leaf(n + x) * 7;
}

PLAIN unsigned long outer(unsigned long n) {
    unsigned long sum = 1;
    for (unsigned long i = 0; i < n; i++) sum = sum * 31 + middle(i);
    return sum;
}

PLAIN void handled(unsigned long n) {
    marker(n);
    sink++;
}

static void on_signal(int number) {
    handled(number);
    sink += number;
}

static int play_calls(int argc, char **argv) {
    static char stack[1 << 16];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = on_signal};
    if (argc > 2 && !strcmp(argv[2], "alternate")) {
        sigaltstack(&alternate, 0);
        action.sa_flags = SA_ONSTACK;
    }
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGUSR2, &action, 0);
    sink = outer(5);
    return 0;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

PLAIN void contend(void) {
    pthread_mutex_lock(&mutex);
    sink++;
    pthread_mutex_unlock(&mutex);
}

PLAIN void *contender(void *argument) {
    contend();
    sink++;
    return argument;
}

static int play_mutex(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t id;
    pthread_mutex_lock(&mutex);
    pthread_create(&id, 0, contender, 0);
    marker(0);
    pthread_mutex_unlock(&mutex);
    pthread_join(id, 0);
    return 0;
}

/* The loader binds the function at this call. */
PLAIN unsigned long lazily(const char *text) {
    unsigned long n = strtoul(text, 0, 10);
    sink++;
    return n;
}

static int play_lazy(int argc, char **argv) {
    (void)argc;
    sink = lazily(argv[2]);
    return 0;
}

/* Runs code of the kernel's. */
PLAIN unsigned long clocked(struct timespec *now) {
    unsigned long result = clock_gettime(CLOCK_MONOTONIC, now);
    sink++;
    return result;
}

static int play_clock(int argc, char **argv) {
    (void)argc, (void)argv;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return clocked(&now);
}

/* Its last instruction is a call: the return address is the next function's start. */
void last_call(void);
void stop_here(void);
__asm__(
    ".text\n.type last_call, @function\nlast_call:\n"
    "    .cfi_startproc\n"
    "    sub $24, %rsp\n"
    "    .cfi_def_cfa_offset 32\n"
    "    call stop_here\n"
    "    .cfi_endproc\n"
    ".size last_call, .-last_call\n"
    ".type behind_it, @function\nbehind_it:\n"
    "    .cfi_startproc\n"
    "    ret\n"
    "    .cfi_endproc\n"
    ".size behind_it, .-behind_it\n");

PLAIN void stop_here(void) {
    marker(2);
    exit(0);
}

static int play_last(int argc, char **argv) {
    (void)argc, (void)argv;
    last_call();
    return sink;
}

static void (*volatile bad)(void);

PLAIN void call_bad(void) {
    bad();
    sink++;
}

static int play_bad(int argc, char **argv) {
    (void)argc;
    bad = (void (*)(void))strtoul(argv[2], 0, 16);
    call_bad();
    return 0;
}

static ucontext_t main_context, other_context;

PLAIN void in_context(void) {
    marker(1);
    sink++;
}

static int play_context(int argc, char **argv) {
    (void)argc, (void)argv;
    static char stack[1 << 16];
    getcontext(&other_context);
    other_context.uc_stack.ss_sp = stack;
    other_context.uc_stack.ss_size = sizeof stack;
    other_context.uc_link = &main_context;
    makecontext(&other_context, in_context, 0);
    swapcontext(&main_context, &other_context);
    return 0;
}

static inline __attribute__((always_inline)) void inlined(unsigned long n) {
    marker(n + 1);
    sink++;
}

PLAIN void with_inlined(unsigned long n) {
    inlined(n * 3);
    sink++;
}

static int play_inlined(int argc, char **argv) {
    (void)argv;
    with_inlined(argc);
    return 0;
}

/* For the test to put a false stack into. */
unsigned long words[2048] __attribute__((aligned(4096)));

int main(int argc, char **argv) {
    static const struct { const char *name; int (*play)(int, char **); } parts[] = {
        {"calls", play_calls}, {"mutex", play_mutex}, {"lazy", play_lazy}, {"clock", play_clock}, {"last", play_last},
        {"bad", play_bad}, {"context", play_context}, {"inlined", play_inlined},
    };
    for (size_t i = 0; argc > 1 && i < sizeof parts / sizeof *parts; i++) {
        if (!strcmp(argv[1], parts[i].name)) {
            int status = parts[i].play(argc, argv);
            sink++;
            return status;
        }
    }
    return 98;
}
