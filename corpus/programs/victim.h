/* Helpers that the programs of this folder share: the argument, the handler, the threads.
 *
 * A program installs a handler, works for a bounded number of rounds, prints one line that is always
 * the same and exits 0. The number of rounds is its first argument. No program sends itself a signal:
 * the signals come from outside.
 */
#ifndef VICTIM_H
#define VICTIM_H

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A function that keeps its name and its place, so that it can be named from outside. */
#define OWN_FUNCTION __attribute__((noinline))

/* Ends the program with status 2 if `right` does not hold. */
static inline void must(int right, const char *what) {
    if (!right) {
        fprintf(stderr, "cannot go on: %s\n", what);
        exit(2);
    }
}

/* The number of rounds: the first argument, or `usual` without one. */
static inline long rounds(int argc, char **argv, long usual) {
    if (argc < 2) return usual;
    char *end = NULL;
    long given = strtol(argv[1], &end, 10);
    must(end != argv[1] && *end == '\0' && given > 0, "the argument is no number of rounds");
    return given;
}

/* Installs the handler of a signal. */
static inline void install(int signal, void (*handler)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    must(sigaction(signal, &action, NULL) == 0, "the handler cannot be installed");
}

/* Starts a thread. */
static inline pthread_t start(void *(*run)(void *), void *argument) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, run, argument) == 0, "a thread cannot be started");
    return thread;
}

/* Waits for the end of a thread. */
static inline void join(pthread_t thread) { must(pthread_join(thread, NULL) == 0, "a thread cannot be joined"); }

#endif
