//! Bounds of the sections that the assembly and the marked Rust functions are put into.
//!
//! Each function returns the first byte and the end.

use super::frames::{deferring, goexit, gopanic, huge, large, leaf, medium, nosplit, small, tiny};
use super::stubs::{callback, cgocall, entry, syscall};
use super::switch::switch_in;
use super::trampoline::trampoline;

macro_rules! section {
    ($start:ident, $stop:ident) => {{
        unsafe extern "C" {
            static $start: u8;
            static $stop: u8;
        }
        ((&raw const $start) as usize, (&raw const $stop) as usize)
    }};
}

/// The marked code.
pub(crate) fn text_bounds() -> (usize, usize) {
    // Naming the functions keeps their object files, and so their rows, in the link.
    core::hint::black_box([
        entry, nosplit, tiny, small, medium, large, huge, deferring, gopanic, goexit, syscall, leaf,
        trampoline, cgocall, callback,
    ]);
    core::hint::black_box(switch_in as *const ());
    section!(__start_stkbar_text, __stop_stkbar_text)
}

/// Foreign code.
pub(crate) fn foreign_bounds() -> (usize, usize) {
    section!(__start_stkbar_foreign, __stop_stkbar_foreign)
}

/// The unwinding rows.
pub(crate) fn rows_bytes() -> (usize, usize) {
    section!(__start_stkbar_tab, __stop_stkbar_tab)
}

/// The functions' rows.
pub(crate) fn functab_bytes() -> (usize, usize) {
    section!(__start_stkbar_dir, __stop_stkbar_dir)
}

/// The exception rows.
pub(crate) fn exception_rows() -> (usize, usize) {
    section!(__start_stkbar_exc, __stop_stkbar_exc)
}
