//! The function that signals attack, in Rust; `tests/c/attacked.h` has it in C.

#[inline(never)]
pub fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The function with this name, alone in this section: a loop, branches that are taken and not taken, memory, a
/// call of `mix`.
macro_rules! attacked {
    ($name:ident, $section:literal) => {
        #[inline(never)]
        #[unsafe(link_section = $section)]
        fn $name(text: &[u8]) -> u64 {
            let (mut hash, mut escapes) = (0xcbf2_9ce4_8422_2325_u64, 0u64);
            for &byte in text {
                if byte == b'%' {
                    escapes = escapes.wrapping_add(1);
                    hash = mix(hash, 0xff);
                } else if byte >= b'a' {
                    hash = mix(hash, byte.wrapping_sub(b'a'));
                } else {
                    hash ^= hash.wrapping_shr(7);
                }
            }
            hash.wrapping_add(escapes)
        }
    };
}
