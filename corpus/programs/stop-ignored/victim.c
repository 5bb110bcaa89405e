/* The control of stop-window: the stop function ignores SIGPROF, so that a pending one is discarded and
 * a late one does no harm.
 */
#define IGNORE_FIRST
#include "../stop-window/victim.c"
