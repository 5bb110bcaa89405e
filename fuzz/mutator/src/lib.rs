//! AFL's custom mutator, which makes an input from another: a library that afl-fuzz loads, by
//! `AFL_CUSTOM_MUTATOR_LIBRARY`.
//!
//! AFL knows bytes. Here they are steps, and most of what is made is a schedule in which most
//! steps have an effect, as in a hunt. AFL's own mutations go on beside these.

use std::ffi::{c_uint, c_void};

use sigstorm::generate::Generator;
use sigstorm::schedule::{MAX_STEPS, STEP_BYTES};

/// One in so many inputs is crossed with another of the queue.
const CROSSED: usize = 8;

/// Our state, which afl-fuzz keeps for us.
#[derive(Debug)]
pub struct Mutator {
    generator: Generator,
    made: usize,
    out: Vec<u8>,
}

/// A mutator, whose choices follow from the seed.
#[unsafe(no_mangle)]
pub extern "C" fn afl_custom_init(_afl: *mut c_void, seed: c_uint) -> *mut Mutator {
    let generator = Generator::new(u64::from(seed), None);
    let out = vec![0; MAX_STEPS * STEP_BYTES];
    Box::into_raw(Box::new(Mutator { generator, made: 0, out }))
}

/// Makes an input of at most `max_size` bytes from the one in `buf`, and at times from that in
/// `add_buf`, too. It lies at `out_buf` until the next call; returns its length.
///
/// # Safety
/// `mutator` is from [`afl_custom_init`], and the buffers have the sizes given; the second may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afl_custom_fuzz(
    mutator: *mut Mutator,
    buf: *mut u8,
    buf_size: usize,
    out_buf: *mut *mut u8,
    add_buf: *mut u8,
    add_buf_size: usize,
    max_size: usize,
) -> usize {
    // SAFETY: afl-fuzz is one thread, and its buffers are its own (caller).
    let (mutator, one, other) =
        unsafe { (&mut *mutator, bytes(buf, buf_size), bytes(add_buf, add_buf_size)) };
    let Mutator { generator, made, out } = mutator;
    *made += 1;
    let most = out.len().min(max_size);
    let into = &mut out[..most];
    let size = if !other.is_empty() && made.is_multiple_of(CROSSED) {
        generator.cross_bytes(one, other, into)
    } else {
        let size = one.len().min(most);
        into[..size].copy_from_slice(&one[..size]);
        generator.next_bytes(into, size)
    };
    // SAFETY: a place for one pointer (caller); what it points to is changed by the next call.
    unsafe { out_buf.write(out.as_mut_ptr()) };
    size
}

/// The end of it.
///
/// # Safety
/// `mutator` is from [`afl_custom_init`], and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afl_custom_deinit(mutator: *mut Mutator) {
    // SAFETY: made by `Box::into_raw` (caller).
    drop(unsafe { Box::from_raw(mutator) });
}

/// # Safety
/// There are so many bytes there, or it is null.
unsafe fn bytes<'a>(start: *const u8, size: usize) -> &'a [u8] {
    // SAFETY: as the caller says; afl-fuzz leaves them alone while we have them.
    if start.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(start, size) } }
}
