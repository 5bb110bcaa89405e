/* The control of list-walk: the handler tries the flag that the changing code sets, and skips the walk
 * if the flag is set.
 */
#define TRY_LOCK
#include "../list-walk/victim.c"
