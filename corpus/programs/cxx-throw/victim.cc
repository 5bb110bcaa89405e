// Threads that throw and catch exceptions, under a handler that adds one to an atomic counter.
//
// The handler touches nothing that the unwinder uses, so the signal may come at any instruction of it.

#include <atomic>
#include <stdexcept>
#include <string>

#include "../victim.h"

namespace {

long count;
std::atomic<long> ticks{0};
std::atomic<long> caught{0};
std::atomic<long> destroyed{0};

void on_profile(int) { ticks++; }

// An object whose destructor runs while the stack is unwound.
struct Guard {
    ~Guard() { destroyed++; }
};

OWN_FUNCTION void throw_from(long depth) {
    Guard guard;
    if (depth == 0) throw std::runtime_error("the bottom is reached, and this text needs memory");
    throw_from(depth - 1);
}

void *throw_and_catch(void *unused) {
    for (long i = 0; i < count; i++) {
        try {
            throw_from(i % 5);
        } catch (const std::runtime_error &) {
            caught++;
        }
    }
    return unused;
}

}  // namespace

int main(int argc, char **argv) {
    count = rounds(argc, argv, 30000);
    install(SIGPROF, on_profile, SA_RESTART);
    pthread_t first = start(throw_and_catch, nullptr), second = start(throw_and_catch, nullptr);
    join(first);
    join(second);
    printf("cxx-throw: %ld caught, %ld destroyed\n", caught.load(), destroyed.load());
    return 0;
}
