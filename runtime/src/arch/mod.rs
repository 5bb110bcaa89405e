//! The one room that knows the processor: goroutine frames, the switch between stacks and the
//! barrier trampoline, behind a few functions that another architecture would mirror.

pub(crate) mod exit_reason;
pub(crate) mod row_flags;
pub(crate) mod x86_64;

pub(crate) use x86_64::load::{load_at_or, load_or, load_wide, touch};
#[cfg(feature = "defects")]
pub(crate) use x86_64::order_check::invert_order_check;
pub(crate) use x86_64::sections::{exception_rows, foreign_bounds, functab_bytes, rows_bytes, text_bounds};
pub(crate) use x86_64::switch::switch_in;
pub(crate) use x86_64::trampoline::{TRAMPOLINE_RETURN_GAP, trampoline_address};
