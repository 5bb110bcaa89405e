/* Real C for tests/any_signal.rs: a loop, branches that are taken and not taken, memory, a call.
   The section is the marked code; the linker names its start and its end. */

#include <stddef.h>

#define MARKED __attribute__((section("attacked_c"), noinline))
#define PLAIN __attribute__((noinline))

extern const char __start_attacked_c[], __stop_attacked_c[];

static unsigned long escapes;

PLAIN static unsigned long mix(unsigned long hash, unsigned char byte) {
    return (hash ^ byte) * 0x100000001b3ul;
}

MARKED unsigned long attacked(const unsigned char *text, size_t length) {
    unsigned long hash = 0xcbf29ce484222325ul;
    escapes = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '%') {
            escapes++;
            hash = mix(hash, 0xff);
        } else if (text[i] >= 'a') {
            hash = mix(hash, text[i] - 'a');
        } else {
            hash ^= hash >> 7;
        }
    }
    return hash + escapes;
}

const char *attacked_start(void) { return __start_attacked_c; }
const char *attacked_end(void) { return __stop_attacked_c; }
