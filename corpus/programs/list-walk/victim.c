/* A handler that walks a list while the interrupted code changes it.
 *
 *   T1: unlink_second poisons the second node's link; the first node still leads to the second
 *   T1: SIGPROF; the handler walks first, second, poison, and dies
 *   T1: (too late) the first node's link would be set past the second
 *
 * Stack barriers have the same shape: the return address in the frame and the record of what was there
 * change one after the other, and a traceback between the two stores follows a pointer that leads
 * nowhere. Each thread has a list of its own, so no other thread is needed for the failure.
 *
 * With TRY_LOCK defined the changing code sets a flag first and clears it last. The handler looks at
 * the flag and skips the walk if it is set, as the Go runtime's handler does with the stack lock.
 */
#define _GNU_SOURCE
#include <stdint.h>

#include "../victim.h"

#ifdef TRY_LOCK
#define NAME "list-walk-trylock"
#else
#define NAME "list-walk"
#endif

/* No address: its upper bits are neither all zero nor all one. */
#define POISON ((struct node *)(uintptr_t)0xdead000000000100)

enum { NODES = 8 };

struct node {
    struct node *volatile next;
    volatile long value;
};

struct list {
    struct node head;
    volatile sig_atomic_t changing;
};

static long count;
static _Thread_local struct list list;
static _Thread_local volatile long last_sum;

static long sum_of_list(void) {
    long sum = 0;
    for (struct node *node = list.head.next; node; node = node->next) sum += node->value;
    return sum;
}

static void on_profile(int signal) {
    (void)signal;
#ifdef TRY_LOCK
    if (list.changing) return;
#endif
    last_sum = sum_of_list();
}

/* Takes the second node out of the list. */
static OWN_FUNCTION struct node *unlink_second(void) {
    struct node *first = list.head.next, *second = first->next, *third = second->next;
#ifdef TRY_LOCK
    list.changing = 1;
#endif
    second->next = POISON;
    first->next = third;
#ifdef TRY_LOCK
    list.changing = 0;
#endif
    return second;
}

/* Puts a node at the front of the list, in an order that is safe at every instruction. */
static OWN_FUNCTION void put_in_front(struct node *node) {
    node->next = list.head.next;
    list.head.next = node;
}

static void *change_list(void *unused) {
    struct node nodes[NODES];
    for (int i = 0; i < NODES; i++) {
        nodes[i].value = i + 1;
        put_in_front(&nodes[i]);
    }
    for (long i = 0; i < count; i++) put_in_front(unlink_second());
    must(sum_of_list() == NODES * (NODES + 1) / 2, "a node is lost");
    list.head.next = NULL;
    return unused;
}

int main(int argc, char **argv) {
    count = rounds(argc, argv, 40000000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t first = start(change_list, NULL), second = start(change_list, NULL);
    join(first);
    join(second);
    printf(NAME ": two lists, %ld changes each\n", count);
    return 0;
}
