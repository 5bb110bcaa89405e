/* The control of eintr-is-exit: the reader calls read again after EINTR. */
#define RETRY
#include "../eintr-is-exit/victim.c"
