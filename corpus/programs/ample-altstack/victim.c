/* The control of small-altstack: the alternate stack has room for many signal frames. */
#define AMPLE
#include "../small-altstack/victim.c"
