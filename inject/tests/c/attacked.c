/* Real C for tests/any_signal.rs: a loop, branches that are taken and not taken, memory, a call.
   The section is the marked code; the linker names its start and its end. */

#include <stddef.h>

#define MARKED __attribute__((section("attacked_c"), noinline))
#define PLAIN __attribute__((noinline))

extern const char __start_attacked_c[], __stop_attacked_c[];

static unsigned long escapes;

#define ATTACKED MARKED
#define MIX PLAIN static
#include "attacked.h"

const char *attacked_start(void) { return __start_attacked_c; }
const char *attacked_end(void) { return __stop_attacked_c; }
