//! The function table: for each function of the goroutine side, its code, its frame and its
//! return addresses.
//!
//! It is for code that must know positions and not deltas: a call needs a function's start, a
//! recovery its landing. A walk uses [`rows`].

use std::sync::OnceLock;

use super::func_id::FuncId;
use super::rows;
use crate::arch;

pub use super::rows::{CodeClass, Table, UnwindRow};
pub use crate::instrument::tamper::corrupt_row as corrupt;

static FUNCTAB: OnceLock<Vec<FuncInfo>> = OnceLock::new();

/// A function of the goroutine side: its code, its frame, and its return addresses.
#[derive(Clone, Copy, Debug)]
pub struct FuncInfo {
    /// The function.
    pub function: FuncId,
    /// Bytes between the saved frame pointer and the body's SP.
    pub size: usize,
    /// Pointer slots, from the frame pointer down.
    pub slots: usize,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Return address of its ask for the next operation (of a system call's or a foreign call's
    /// stub: of the ask that enters it).
    pub after_next_op: usize,
    /// Return address of its calls (of the system call's stub: the place where the last of its
    /// system calls is done).
    pub after_call: usize,
    /// Return address of its `MORESTACK` (of `entry` and the stubs: of the ask that leaves).
    pub after_morestack: usize,
    /// The place where a recovery lands (of the system call's stub: where the kernel returns).
    pub landing: usize,
    /// The other return address of its calls; `after_call` if there is no other.
    pub after_call_other: usize,
}

/// Builds the function table and the map of its rows. Later calls do nothing.
///
/// # Panics
/// If the emitted rows are malformed, which is a mistake in the assembly.
pub fn init() {
    FUNCTAB.get_or_init(|| {
        let (start, end) = arch::text_bounds();
        rows::spread(start, end);

        let mut functab: Vec<FuncInfo> = rows::words_of(arch::functab_bytes())
            .chunks_exact(10)
            .map(|words| FuncInfo {
                function: FuncId::from_code(words[0] as u8).expect("a known function"),
                size: words[1] as usize,
                slots: words[2] as usize,
                start: rows::address(&words[3]),
                end: rows::address(&words[4]),
                after_next_op: rows::address(&words[5]),
                after_call: rows::address(&words[6]),
                after_morestack: rows::address(&words[7]),
                landing: rows::address(&words[8]),
                after_call_other: rows::address(&words[9]),
            })
            .collect();
        functab.sort_by_key(|info| info.function);
        assert!(
            functab
                .iter()
                .map(|i| i.function)
                .eq(FuncId::ALL.iter().copied().filter(|f| f.on_goroutine_stack())),
            "every function of the goroutine side has one row"
        );
        functab
    });
}

/// Returns the functions of the goroutine side, in the order of their codes. Builds the table if
/// need be.
#[inline]
pub fn functab() -> &'static [FuncInfo] {
    if FUNCTAB.get().is_none() {
        init();
    }
    FUNCTAB.get().map_or(&[], Vec::as_slice)
}

/// Returns one function's row. Signal-safe.
///
/// # Panics
/// Before [`init`], which making a runtime calls; and for a function that is not of the goroutine
/// side.
#[inline]
pub fn info(function: FuncId) -> &'static FuncInfo {
    &FUNCTAB.get().expect("the table is made with the core")[function as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_but_the_leaf_has_a_row_for_each_of_its_bytes() {
        let table = {
            functab();
            Table::get()
        };
        for info in functab() {
            for pc in info.start..info.end {
                let row = table.row(pc);
                if info.function == FuncId::Leaf {
                    assert!(row.is_none(), "the leaf is in no table");
                } else {
                    assert_eq!(row.function(), Some(info.function));
                }
            }
        }
    }

    #[test]
    fn code_outside_the_marked_section_has_no_row() {
        functab();
        let (start, end) = arch::text_bounds();
        let table = Table::get();
        for pc in [0, 1, start - 1, end, usize::MAX, init as *const () as usize] {
            assert!(table.row(pc).is_none());
        }
    }

    #[test]
    fn return_addresses_lie_where_frames_are_complete() {
        let table = {
            functab();
            Table::get()
        };
        for info in functab() {
            if info.slots == 0 {
                continue;
            }
            for pc in [info.after_next_op, info.after_call, info.landing, info.after_call_other] {
                assert!(table.row(pc).has_pointers(), "{} at {pc:#x}", info.function);
                assert_eq!(table.row(pc).delta(), info.size + 8);
            }
        }
    }
}
