/* The control of spin-in-handler: the handler tries the lock once and drops the sample if the lock is
 * taken.
 */
#define TRY_LOCK
#include "../spin-in-handler/victim.c"
