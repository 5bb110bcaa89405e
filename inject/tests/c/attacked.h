/* The function that signals attack: a loop, branches that are taken and not taken, memory, a call. The file that
   includes this defines ATTACKED and MIX, with which `attacked` and `mix` are declared, and the variable `escapes`. */

MIX unsigned long mix(unsigned long hash, unsigned char byte) {
    return (hash ^ byte) * 0x100000001b3ul;
}

ATTACKED unsigned long attacked(const unsigned char *text, size_t length) {
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
