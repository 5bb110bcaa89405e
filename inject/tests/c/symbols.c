// Functions of every kind that symbol tables know, for the tests of remote symbols.
#include <stdio.h>
#include <stdlib.h>

volatile int sink;

__attribute__((noinline)) int aliased(int x) { return x * 3 + sink; }
int other_name(int x) __attribute__((alias("aliased")));

__attribute__((noinline, cold)) static void complain(int x) {
    fprintf(stderr, "%d\n", x);
    sink = x;
}

// With -O2 the unlikely branch moves to `with_cold.cold`.
__attribute__((noinline)) int with_cold(int x) {
    if (__builtin_expect(x == 42, 0)) {
        complain(x);
        sink += 7;
        complain(x + 1);
        abort();
    }
    return x + sink;
}

__attribute__((noinline)) int with_switch(int x, int y) {
    switch (x) {
    case 0: sink = y; return aliased(y);
    case 1: sink = y + 1; return y ^ 5;
    case 2: complain(y); return 9;
    case 3: sink = y * 7; return y - 1;
    case 4: sink = y / 3; return y << 2;
    case 5: sink = -y; return aliased(y) + 2;
    case 6: complain(-y); return 3;
    case 7: sink = 77; return y | 8;
    default: return -1;
    }
}

// A computed goto, as interpreters dispatch.
__attribute__((noinline)) int with_goto(const unsigned char *code, int x) {
    static const void *const labels[] = {&&add, &&shift, &&call, &&stop};
    goto *labels[*code++ & 3];
add:
    x += 5;
    goto *labels[*code++ & 3];
shift:
    x <<= 1;
    goto *labels[*code++ & 3];
call:
    x = aliased(x);
    goto *labels[*code++ & 3];
stop:
    return x;
}

static int chosen_fast(int x) { return x + 1 + sink; }
static int (*resolve_chosen(void))(int) { return chosen_fast; }
int chosen(int x) __attribute__((ifunc("resolve_chosen")));

// Assembly: a function without a size, a label without a type, data among the code, a jump over a
// `lock` prefix, a byte that is no instruction, a restartable sequence.
int sizeless(void), bare_label(void), data_between(void), over_lock(void), no_instruction(void), restartable(void);
__asm__(".text\n"
        ".globl sizeless\n.type sizeless, @function\nsizeless: mov $1, %eax\n ret\n"
        ".globl bare_label\nbare_label: mov $2, %eax\n ret\n"
        ".globl data_between\n.type data_between, @function\n"
        "data_between: jmp 1f\n .byte 0xe8, 0x01\n1: mov $3, %eax\n ret\n.size data_between, .-data_between\n"
        ".globl over_lock\n.type over_lock, @function\n"
        "over_lock: cmpl $0, sink(%rip)\n je 1f\n .byte 0xf0\n1: incl sink(%rip)\n mov $4, %eax\n ret\n"
        ".size over_lock, .-over_lock\n"
        ".globl no_instruction\n.type no_instruction, @function\n"
        "no_instruction: mov $5, %eax\n ret\n .byte 0x06, 0x06\n.size no_instruction, .-no_instruction\n"
        ".globl restartable\n.type restartable, @function\n"
        "restartable: nop\n2: mov $6, %eax\n incl sink(%rip)\n3: ret\n"
        " .byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n4: jmp 2b\n.size restartable, .-restartable\n"
        ".pushsection __rseq_cs, \"aw\"\n.balign 32\n.long 0, 0\n.quad 2b, 3b - 2b, 4b\n.popsection\n");

int main(int argc, char **argv) {
    unsigned char code[] = {0, 1, 2, 3};
    int sum = aliased(argc) + other_name(argc) + with_cold(argc) + with_switch(argc, 2) + with_goto(code, 1) +
              chosen(argc) + sizeless() + bare_label() + data_between() + over_lock() + no_instruction() + restartable();
    printf("%p %p\n", (void *)aliased, (void *)main);
    fflush(stdout);
    // Until the test closes standard input.
    return getchar() == EOF && sum == 12345;
}
