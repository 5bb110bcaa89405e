//! The symbols that libFuzzer looks for in the program that it is linked into.
//!
//! The only unsafe code of the command line: the engine's buffers become slices here.

#![allow(unsafe_code)]

/// The custom mutator, which libFuzzer calls for a new input.
///
/// # Safety
/// As libFuzzer has it: `data` has room for `max_size` bytes and holds `size`.
#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMFuzzerCustomMutator(
    data: *mut u8,
    size: usize,
    max_size: usize,
    _seed: u32,
) -> usize {
    // SAFETY: as the caller has it; the buffer is the engine's and nobody else's now.
    sigstorm::process::worker::mutate(unsafe { std::slice::from_raw_parts_mut(data, max_size) }, size)
}

/// The custom crossover, which libFuzzer calls for an input made from two.
///
/// # Safety
/// As libFuzzer has it: two inputs and room for `max_size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMFuzzerCustomCrossOver(
    one: *const u8,
    one_size: usize,
    other: *const u8,
    other_size: usize,
    out: *mut u8,
    max_size: usize,
    _seed: u32,
) -> usize {
    // SAFETY: as the caller has it; the three buffers are distinct.
    unsafe {
        sigstorm::process::worker::cross(
            std::slice::from_raw_parts(one, one_size),
            std::slice::from_raw_parts(other, other_size),
            std::slice::from_raw_parts_mut(out, max_size),
        )
    }
}
