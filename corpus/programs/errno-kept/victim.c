/* The control of errno-clobbered: the handler saves errno first and restores it last. */
#define KEEP_ERRNO
#include "../errno-clobbered/victim.c"
