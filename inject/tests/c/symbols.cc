// C++ names, templates, operators, landing pads.
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace shop {
struct Guard {
    int *count;
    ~Guard();
};
__attribute__((noinline)) Guard::~Guard() { ++*count; }

template <typename T> struct Basket {
    std::vector<T> items;
    __attribute__((noinline)) void put(const T &item) { items.push_back(item); }
    __attribute__((noinline)) bool operator<(const Basket &other) const { return items.size() < other.items.size(); }
};

__attribute__((noinline)) void may_throw(int x) {
    if (x > 1) throw std::runtime_error("x");
}

// The catch, and the destructor while unwinding, are reached through the table of call sites.
__attribute__((noinline)) int catches(int x) {
    int count = 0;
    try {
        Guard guard{&count};
        may_throw(x);
    } catch (const std::runtime_error &error) {
        count += error.what()[0];
    }
    return count;
}
} // namespace shop

int main(int argc, char **) {
    shop::Basket<std::string> words;
    shop::Basket<int> numbers, more;
    words.put("a");
    numbers.put(argc);
    int sum = shop::catches(argc) + shop::catches(2) + (numbers < more);
    std::printf("%d\n", sum);
    return 0;
}
