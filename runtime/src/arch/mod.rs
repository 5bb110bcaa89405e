//! The one place that knows the machine: goroutine frames, the switch and the
//! barrier trampoline, behind a set of functions that another architecture's file
//! would mirror.

mod x86_64;

#[cfg(feature = "defects")]
pub(crate) use x86_64::invert_order_check;
pub(crate) use x86_64::{
    TRAMPOLINE_RETURN_GAP, load_at_or, load_or, load_wide, switch_in, touch, trampoline_address,
};
pub use x86_64::{directory_bytes, exception_rows, foreign_bounds, rows_bytes, text_bounds};
