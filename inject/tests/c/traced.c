/* The program that tests/remote traces: its first argument says which part it plays. Each part prints
   what it found and exits 0; main's last lines list the parts. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/rseq.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PLAIN __attribute__((noinline, noclone))

extern char **environ;
static char *self;
static __thread unsigned long escapes;

static void check(int right, const char *what) {
    if (!right) {
        printf("wrong: %s\n", what);
        fflush(stdout);
        _exit(99);
    }
}

/* A place at which the test stops. */
PLAIN void marker(unsigned long a, unsigned long b, unsigned long c) {
    __asm__ volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");
}

#define ATTACKED PLAIN
#define MIX PLAIN
#include "attacked.h"

/* One of each kind of instruction that matters when it runs out of line. */
unsigned long odd(unsigned long x);
void odd_end(void);
long odd_table[4] = {3, 5, 7, 11};
unsigned long odd_helper(unsigned long x);
unsigned long (*odd_pointer)(unsigned long) = odd_helper;
__asm__(
    ".text\n"
    ".globl odd_helper, odd, odd_end\n"
    ".type odd_helper, @function\n"
    "odd_helper:\n"
    "    lea 1(%rdi,%rdi,2), %rax\n"
    "    mov (%rsp), %rcx\n"            /* the return address must be the original's */
    "    lea odd(%rip), %rdx\n"
    "    sub %rdx, %rcx\n"
    "    add %rcx, %rax\n"
    "    ret\n"
    ".size odd_helper, .-odd_helper\n"
    ".type odd, @function\n"
    "odd:\n"
    "    endbr64\n"
    "    push %rbp\n"
    "    push %rbx\n"
    "    push %r12\n"
    "    mov %rdi, %rbx\n"
    "    call odd_helper\n"
    "    mov %rax, %r12\n"
    "    lea (%rbx,%r12), %rdi\n"
    "    call *odd_pointer(%rip)\n"
    "    add %rax, %r12\n"
    "    lea odd_pointer(%rip), %rbp\n"
    "    mov $0, %ecx\n"
    "    call *(%rbp,%rcx,8)\n"
    "    add %rax, %r12\n"
    "    mov (%rbp), %rax\n"
    "    call *%rax\n"
    "    xor %rax, %r12\n"
    "    cmpq $3, odd_table(%rip)\n"    /* an immediate behind the displacement */
    "    jne 9f\n"
    "    mov $5, %ecx\n"
    "1:  add $3, %r12\n"
    "    loop 1b\n"
    "    jrcxz 2f\n"
    "    jmp 9f\n"
    "2:  sub $40, %rsp\n"
    "    mov %rsp, %rdi\n"
    "    mov $40, %ecx\n"
    "    mov $0x5a, %eax\n"
    "    rep stosb\n"
    "    mov %rsp, %rsi\n"
    "    mov $5, %ecx\n"
    "3:  lodsq\n"
    "    add %rax, %r12\n"
    "    dec %rcx\n"
    "    jnz 3b\n"
    "    add $40, %rsp\n"
    "    pushf\n"
    "    pop %rax\n"
    "    test $0x100, %eax\n"           /* the trap flag is not to be seen */
    "    jnz 9f\n"
    "    mov $39, %eax\n"               /* getpid */
    "    syscall\n"
    "4:  lea 4b(%rip), %rdx\n"
    "    cmp %rdx, %rcx\n"              /* RCX is the next address */
    "    jne 9f\n"
    "    test %rax, %rax\n"
    "    jle 9f\n"
    "    mov %r12, %rax\n"
    "    lea 5f(%rip), %rdx\n"
    "    jmp *%rdx\n"
    "9:  mov $-1, %rax\n"
    "5:  pop %r12\n"
    "    pop %rbx\n"
    "    pop %rbp\n"
    "    ret\n"
    ".size odd, .-odd\n"
    "odd_end:\n"
    "    ret\n");

/* Many boundaries, and many traps. */
void many(void);
void traps_only(void);
__asm__(
    ".text\n.globl many\n.type many, @function\nmany:\n"
    "    .rept 10000\n    nop\n    .endr\n"
    "    ret\n.size many, .-many\n"
    ".globl traps_only\n.type traps_only, @function\ntraps_only:\n"
    "    .rept 10000\n    int3\n    .endr\n"
    "    ret\n.size traps_only, .-traps_only\n");

static struct { unsigned long pc; int code; } seen[1 << 16];
static volatile int count;

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number;
    int i = count++;
    if (i < 1 << 16) {
        seen[i].pc = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
        seen[i].code = info->si_code;
    }
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {0};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    check(sigaction(number, &action, 0) == 0, "sigaction");
}

static unsigned long work(void) {
    static const char *inputs[] = {"", "%", "aZ%z", "Z"};
    unsigned long sum = 0;
    for (int i = 0; i < 4; i++) {
        sum = sum * 31 + attacked((const unsigned char *)inputs[i], strlen(inputs[i]));
    }
    return sum;
}

static int play_signal(int argc, char **argv) {
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    handle(SIGUSR1, on_signal, 0);
    marker(0, 0, 0);
    unsigned long sum = 0;
    for (int i = 0; i < rounds; i++) sum += work();
    printf("sum %lx\n", sum);
    for (int i = 0; i < count; i++) printf("%lx %d\n", seen[i].pc, seen[i].code);
    return 0;
}

static long rounds;
static pthread_barrier_t barrier;

static void *run_odd(void *argument) {
    unsigned long sum = (unsigned long)argument;
    pthread_barrier_wait(&barrier);
    for (long i = 0; i < rounds; i++) {
        unsigned long result = odd(sum & 0xff);
        check(result != -1ul, "odd went wrong");
        sum = sum * 31 + result;
        if ((i & 15) == 0) sum += work();
    }
    return (void *)sum;
}

static volatile int strange;

/* Counts interrupted PCs outside of everything that was mapped as code at the start. */
static struct { unsigned long from, to; } code[64];
static int codes;

static void on_timer(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    unsigned long pc = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    int known = 0;
    for (int i = 0; i < codes; i++) known |= code[i].from <= pc && pc < code[i].to;
    if (!known) __sync_fetch_and_add(&strange, 1);
    __sync_fetch_and_add(&count, 1);
}

static void read_code(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char permissions[5];
        if (sscanf(line, "%lx-%lx %4s", &from, &to, permissions) == 3 && permissions[2] == 'x' && codes < 64) {
            code[codes].from = from;
            code[codes++].to = to;
        }
    }
    fclose(maps);
}

static int play_threads(int argc, char **argv) {
    int threads = atoi(argv[2]);
    rounds = atol(argv[3]);
    int timer = argc > 4;
    pthread_t ids[64];
    pthread_barrier_init(&barrier, 0, threads);
    read_code();
    if (timer) {
        handle(SIGPROF, on_timer, SA_RESTART);
        struct itimerval often = {{0, 1000}, {0, 1000}};
        setitimer(ITIMER_PROF, &often, 0);
    }
    for (long i = 0; i < threads; i++) pthread_create(&ids[i], 0, run_odd, (void *)(i + 1));
    unsigned long sum = 0;
    for (int i = 0; i < threads; i++) {
        void *result;
        pthread_join(ids[i], &result);
        sum = sum * 31 + (unsigned long)result;
    }
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_PROF, &never, 0);
    printf("sum %lx strange %d\n", sum, strange);
    if (timer) fprintf(stderr, "timer signals %d\n", count);
    return 0;
}

static int play_fork(int argc, char **argv) {
    (void)argc, (void)argv;
    printf("before %lx\n", work() + odd(1));
    fflush(stdout);
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            printf("child %lx\n", work() + odd(1));
            fflush(stdout);
            _exit(7);
        }
        int status;
        check(waitpid(child, &status, 0) == child, "waitpid");
        printf("status %x\n", status);
        fflush(stdout);
    }
    printf("after %lx\n", work() + odd(1));
    return 0;
}

static int play_vfork(int argc, char **argv) {
    (void)argc, (void)argv;
    for (int i = 0; i < 3; i++) {
        volatile unsigned long result = 0;
        pid_t child = vfork();
        if (child == 0) {
            result = work() + odd(1);
            if (i == 1) _exit(5);
            execl("/bin/true", "true", (char *)0);
            _exit(1);
        }
        int status;
        check(waitpid(child, &status, 0) == child, "waitpid");
        printf("vfork %lx status %x\n", result, status);
        pid_t spawned;
        char *args[] = {self, "exit", "9", 0};
        check(posix_spawn(&spawned, self, 0, 0, args, environ) == 0, "posix_spawn");
        check(waitpid(spawned, &status, 0) == spawned, "waitpid");
        printf("spawn status %x\n", status);
        printf("after %lx\n", work() + odd(1));
    }
    check(system("exit 3") == 3 << 8, "system");
    return 0;
}

static void *run_exec(void *argument) {
    (void)argument;
    work();
    execl(self, self, "signal", (char *)0);
    return 0;
}

static int play_exec(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t id;
    pthread_create(&id, 0, run_exec, 0);
    for (;;) pause();
    return 0;
}

static int play_dlopen(int argc, char **argv) {
    (void)argc;
    for (int i = 0; i < 3; i++) {
        void *library = dlopen(argv[2], RTLD_NOW);
        check(library != 0, "dlopen");
        unsigned long (*loaded)(const unsigned char *, size_t) = dlsym(library, "attacked");
        const char *(*end)(void) = dlsym(library, "attacked_end");
        marker((unsigned long)loaded, (unsigned long)end(), 1);
        printf("loaded %lx\n", loaded((const unsigned char *)"aZ%z", 4));
        dlclose(library);
        marker((unsigned long)loaded, 0, 2);
    }
    return 0;
}

static volatile int traps;
static void on_trap(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    check(info->si_code == SI_KERNEL, "si_code of a trap");
    traps++;
}

PLAIN int own_trap(int x) {
    __asm__ volatile("int3");
    x = x * 3 + 1;
    __asm__ volatile("int3\n\tnop");
    return x;
}

static int play_trap(int argc, char **argv) {
    (void)argc, (void)argv;
    handle(SIGTRAP, on_trap, 0);
    marker(0, 0, 0);
    int x = 0;
    for (int i = 0; i < 50; i++) x = own_trap(x);
    printf("traps %d x %d\n", traps, x);
    for (int i = 0; i < 20; i++) {
        sigset_t all, before, now;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, &before);
        printf("%lx\n", work());
        sigprocmask(SIG_SETMASK, 0, &now);
        check(sigismember(&now, SIGTRAP) == 1, "SIGTRAP was unblocked");
        sigprocmask(SIG_SETMASK, &before, 0);
        struct sigaction action;
        sigaction(SIGTRAP, 0, &action);
        check(action.sa_sigaction == on_trap, "SIGTRAP lost its handler");
    }
    own_trap(1);
    check(traps == 102, "the last traps");
    return 0;
}

static uint32_t word;

PLAIN long wait_word(uint32_t *where) {
    long result;
    __asm__ volatile("movq $0, %%r10\n\tsyscall"
                     : "=a"(result)
                     : "a"(SYS_futex), "D"(where), "S"(FUTEX_WAIT | FUTEX_PRIVATE_FLAG), "d"(0)
                     : "rcx", "r10", "r11", "memory");
    return result;
}

static void *run_waiter(void *argument) {
    (void)argument;
    long result = 0;
    int waits = 0;
    while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 0) {
        result = wait_word(&word);
        waits++;
    }
    return (void *)(waits == 1 ? result : -1000 - waits);
}

static int play_futex(int argc, char **argv) {
    (void)argv;
    /* With another argument a signal ends the wait, and the waiter waits once more. */
    handle(SIGUSR1, on_signal, argc > 2 ? 0 : SA_RESTART);
    pthread_t id;
    pthread_create(&id, 0, run_waiter, 0);
    struct timespec while_ = {0, 300000000};
    nanosleep(&while_, 0);
    unsigned long sum = work();
    __atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0, 0, 0);
    void *result;
    pthread_join(id, &result);
    printf("sum %lx wait %ld signals %d\n", sum, (long)result, count);
    return 0;
}

static int play_sleep(int argc, char **argv) {
    (void)argc, (void)argv;
    handle(SIGUSR1, on_signal, SA_RESTART);
    int ends[2];
    check(pipe(ends) == 0, "pipe");
    marker(ends[1], 0, 0);
    struct timespec long_ = {10, 0}, left = {0, 0};
    int result = nanosleep(&long_, &left);
    printf("nanosleep %d %s left %d\n", result, errno == EINTR ? "EINTR" : "?", left.tv_sec >= 1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct timespec while_ = {0, 600000000};
        nanosleep(&while_, 0);
        write(ends[1], "x", 1);
        _exit(0);
    }
    marker(ends[0], 0, 1);
    char byte = 0;
    long got = read(ends[0], &byte, 1);
    printf("read %ld %c signals %d\n", got, byte, count);
    waitpid(child, 0, 0);
    return 0;
}

static sigjmp_buf there;
static void on_jump(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    marker(1, 0, 0);
    siglongjmp(there, 1);
}

static void on_nested(int number, siginfo_t *info, void *context) {
    on_signal(number, info, context);
    work();
}

static int play_jump(int argc, char **argv) {
    (void)argv;
    static char stack[1 << 16];
    if (argc > 2) {
        stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
        check(sigaltstack(&alternate, 0) == 0, "sigaltstack");
    }
    handle(SIGUSR1, on_jump, argc > 2 ? SA_ONSTACK : 0);
    int jumped = 0;
    for (volatile int i = 0; i < 5; i++) {
        if (sigsetjmp(there, 1) != 0) jumped++;
        else work();
    }
    printf("jumped %d\n", jumped);
    return 0;
}

static int play_nested(int argc, char **argv) {
    (void)argv;
    static char stack[1 << 16];
    if (argc > 2) {
        stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
        check(sigaltstack(&alternate, 0) == 0, "sigaltstack");
    }
    handle(SIGUSR1, on_nested, argc > 2 ? SA_ONSTACK : 0);
    handle(SIGUSR2, on_signal, argc > 2 ? SA_ONSTACK : 0);
    printf("sum %lx\n", work());
    printf("signals %d\n", count);
    return 0;
}

/* A restartable sequence of its own, in the record that the C library registered. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
unsigned long sequence(unsigned long record);
__asm__(
    ".text\n.globl sequence\n.type sequence, @function\nsequence:\n"
    "    lea descriptor(%rip), %rax\n"
    "    mov %rax, 8(%rdi)\n"
    "begin_sequence:\n"
    "    mov $1, %eax\n"
    "    add $2, %eax\n"
    "    nop\n"
    "end_sequence:\n"
    "    movq $0, 8(%rdi)\n"
    "    ret\n"
    "    .long 0x53053053\n"
    "abort_sequence:\n"
    "    mov $77, %eax\n"
    "    movq $0, 8(%rdi)\n"
    "    ret\n"
    ".size sequence, .-sequence\n"
    ".globl begin_sequence, end_sequence, abort_sequence\n"
    ".data\n.balign 32\ndescriptor:\n"
    "    .long 0, 0\n    .quad begin_sequence, end_sequence - begin_sequence, abort_sequence\n"
    ".text\n");

static int play_rseq(int argc, char **argv) {
    (void)argc, (void)argv;
    if (&__rseq_offset == 0) {
        printf("none\n");
        return 0;
    }
    unsigned long record = (unsigned long)__builtin_thread_pointer() + __rseq_offset;
    printf("%lu\n", sequence(record));
    return 0;
}

static int play_exit(int argc, char **argv) {
    (void)argc;
    const char *how = argv[2];
    work();
    if (!strcmp(how, "abort")) abort();
    if (!strcmp(how, "segv")) *(volatile int *)16 = 1;
    if (!strcmp(how, "kill")) kill(getpid(), SIGKILL);
    if (!strcmp(how, "term")) raise(SIGTERM);
    if (!strcmp(how, "rt")) raise(SIGRTMIN + 3);
    if (!strcmp(how, "thread")) {
        pthread_t id;
        pthread_create(&id, 0, run_waiter, 0);
        pthread_exit(0);
    }
    return atoi(how);
}

static int play_stop(int argc, char **argv) {
    (void)argc, (void)argv;
    printf("before %lx\n", work());
    fflush(stdout);
    raise(SIGSTOP);
    printf("after %lx\n", work());
    return 0;
}

/* Stays where it is. */
static int play_wait(int argc, char **argv) {
    (void)argc, (void)argv;
    if (fork() == 0) for (;;) pause();
    marker(0, 0, 0);
    for (;;) pause();
    return 0;
}

static int play_many(int argc, char **argv) {
    (void)argc, (void)argv;
    marker(0, 0, 0);
    many();
    many();
    return 0;
}

/* Calls the marker on a stack of which 256 bytes are left, above a page that nobody may touch. */
static int play_narrow(int argc, char **argv) {
    (void)argc, (void)argv;
    handle(SIGTRAP, on_trap, 0);
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(pages != MAP_FAILED && mprotect(pages, 4096, PROT_NONE) == 0, "a guard page");
    __asm__ volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tcall marker\n\tmov %%rbx, %%rsp"
                     : : "r"(pages + 4096 + 256)
                     : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc", "memory");
    printf("traps %d\n", traps);
    return 0;
}

PLAIN void meet(void) { __asm__ volatile("" : : : "memory"); }

static void *run_marker(void *argument) {
    marker(1, 0, 0);
    marker(2, 0, 0);
    return argument;
}

/* Two threads, one at the marker and one at `meet`, which may then make a child that calls the marker. */
static int play_pair(int argc, char **argv) {
    (void)argv;
    pthread_t id;
    pthread_create(&id, 0, run_marker, 0);
    meet();
    if (argc > 2) {
        pid_t child = fork();
        if (child == 0) {
            marker(3, 0, 0);
            _exit(7);
        }
        int status;
        check(waitpid(child, &status, 0) == child, "waitpid");
        printf("status %x\n", status);
    }
    pthread_join(id, 0);
    printf("joined\n");
    return 0;
}

/* Maps no memory from the marker on: a filter makes SIGSYS of it. */
static int play_filter(int argc, char **argv) {
    (void)argc, (void)argv;
    handle(SIGSYS, on_signal, 0);
    printf("sum %lx\n", work());
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges");
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "a filter");
    marker(0, 0, 0);
    printf("signals %d\n", count);
    struct sigaction action;
    sigaction(SIGSYS, 0, &action);
    check(action.sa_sigaction == on_signal, "SIGSYS lost its handler");
    return 0;
}

/* Bare traps, then boundaries. */
static int play_measure(int argc, char **argv) {
    (void)argc, (void)argv;
    handle(SIGUSR1, on_signal, 0);
    marker(0, 0, 0);
    traps_only();
    marker(0, 0, 0);
    many();
    marker(0, 0, 0);
    many();
    printf("signals %d\n", count);
    return 0;
}

static const struct { const char *name; int (*play)(int, char **); } parts[] = {
    {"signal", play_signal}, {"threads", play_threads}, {"fork", play_fork}, {"vfork", play_vfork},
    {"exec", play_exec}, {"dlopen", play_dlopen}, {"trap", play_trap}, {"futex", play_futex},
    {"sleep", play_sleep}, {"jump", play_jump}, {"nested", play_nested}, {"rseq", play_rseq},
    {"exit", play_exit}, {"stop", play_stop}, {"wait", play_wait}, {"many", play_many},
    {"measure", play_measure}, {"narrow", play_narrow}, {"pair", play_pair}, {"filter", play_filter},
};

int main(int argc, char **argv) {
    self = argv[0];
    for (size_t i = 0; argc > 1 && i < sizeof parts / sizeof *parts; i++) {
        if (!strcmp(argv[1], parts[i].name)) return parts[i].play(argc, argv);
    }
    return 98;
}
