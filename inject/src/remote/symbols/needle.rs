//! A word that a mangled symbol must contain for its name to match a glob.
//!
//! Mangling keeps identifiers to the letter (`_ZN2ns4funcEv`), so a symbol without the glob's
//! longest word need not be demangled at all. The exceptions are words that mangling abbreviates:
//! `operator new` is `nw`, `int` is `i`, `std::string` is `Ss`. A word that is part of one of those
//! is no use.

/// The words that demangling makes up.
const MADE_UP: &str = "int unsigned signed char long short bool float double void wchar_t __int128 __float128 \
    char8_t char16_t char32_t half decimal32 decimal64 decimal128 _Float16 _Float32 _Float64 _Float128 std \
    allocator basic_string string istream ostream iostream basic_istream basic_ostream basic_iostream \
    char_traits operator new delete co_await anonymous namespace lambda unnamed type const volatile restrict \
    clone vtable VTT thunk non virtual covariant return override to for guard variable typeinfo name fn \
    construction in TLS init function wrapper hidden alias reference temporary transaction safe template \
    parameter object decltype auto nullptr_t true false sizeof alignof typeid throw noexcept static_cast \
    dynamic_cast const_cast reinterpret_cast complex imaginary complex_ abi string_literal java resource \
    this pack dyn mut unsafe extern as impl closure shim str u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 \
    isize f16 f32 f64 f128 C system where Self crate static_assert initializer invocation enable_if vector \
    requires typename concept";

/// The longest word of a glob that is of use; `None` if there is none.
pub(super) fn word(glob: &str) -> Option<&str> {
    // Behind a bracket, a word may be one of several.
    let plain = glob.split(['[', '{', '\\']).next().unwrap_or_default();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = plain.split(|c: char| !is_word(c));
    let useful = |word: &&str| {
        let first = word.bytes().next();
        word.len() > 1
            && first.is_some_and(|first| !first.is_ascii_digit())
            && !MADE_UP.split_ascii_whitespace().any(|made_up| made_up.contains(word))
    };
    // The word before a bracket may go on behind it, which does no harm: it is contained all the same.
    words.filter(useful).max_by_key(|word| word.len())
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn longest_word_is_taken_unless_mangling_abbreviates_it() {
        assert_eq!(word("ns::*push_back"), Some("push_back"));
        assert_eq!(word("malloc"), Some("malloc"));
        assert_eq!(word("main"), Some("main"));
        assert_eq!(word("operator new"), None);
        assert_eq!(word("std::*"), None);
        assert_eq!(word("*alloc*"), None, "`alloc` is part of `allocator`, which is `Sa`");
        assert_eq!(word("core::fmt::*"), Some("core"));
        assert_eq!(word("*"), None);
        assert_eq!(word("fmt[ab]_quux"), Some("fmt"));
        assert_eq!(word("{aaa,bbb}"), None);
    }
}
