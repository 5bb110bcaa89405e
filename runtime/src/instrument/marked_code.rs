//! The marked code: where each of its functions lies.
//!
//! All of the protocol's code is in one section, so that a harness can stop a thread at any of its
//! instructions: the code that runs on goroutine stacks (`arch`), and the Rust functions
//! that take the lock, lay and lift barriers, walk, scan, move a stack, land a recovery, and handle
//! the profiling signal. These are put there one by one, with `link_section`, and are never inlined
//! into others. That holds in builds with scheduling points; without a harness no thread is stopped
//! there.
//!
//! ## Code outside
//!
//! A function that a marked function calls lies elsewhere unless it is marked itself or inlined:
//! `core` and libc, closures, generic code, the heap, the memory of stacks. The code that a harness
//! runs in its hooks and between two operations is not in the section either, and must not be: a
//! breakpoint there would stop the harness in itself.
//!
//! ## Bounds
//!
//! The assembler says where its functions end. Of a Rust function only the first byte is known: its
//! end is where the next function begins, filler included. So every function of the section must be
//! in the list here. A test compares the list with the symbol table.

use std::sync::OnceLock;

use crate::arch;
use crate::gc::scan;
use crate::profiler::handler;
use crate::sched::m::M;
use crate::stack::{barrier, copystack, lock};
use crate::unwind::func_id::FuncId;
use crate::unwind::functab;
use crate::unwind::traceback::{self, Unwinder};

/// The bytes of a function of the marked code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The function.
    pub function: FuncId,
    /// First byte.
    pub start: usize,
    /// One past the last byte. A Rust function may be followed by filler before it.
    pub end: usize,
}

/// Returns the Rust functions and their first bytes. They are not marked in builds without scheduling
/// points.
fn starts() -> Vec<(FuncId, usize)> {
    if !cfg!(feature = "points") {
        return Vec::new();
    }
    [
        (FuncId::Lock, lock::lock as *const ()),
        (FuncId::TryLock, lock::try_lock as *const ()),
        (FuncId::Unlock, lock::unlock as *const ()),
        (FuncId::InstallBarrier, barrier::install as *const ()),
        (FuncId::RestoreReturn, barrier::restore as *const ()),
        (FuncId::RemoveBarriers, barrier::remove_all as *const ()),
        (FuncId::UnwindBarriers, barrier::unwind as *const ()),
        (FuncId::Copystack, copystack::copystack as *const ()),
        (FuncId::AdjustBarriers, copystack::adjust_barriers as *const ()),
        (FuncId::AdjustFrames, copystack::adjust_frames as *const ()),
        (FuncId::ScanStack, scan::scan_stack as *const ()),
        (FuncId::ScanFrames, scan::for_each_frame as *const ()),
        (FuncId::ScanFrame, scan::scan_frame as *const ()),
        (FuncId::WalkBegin, Unwinder::begin as *const ()),
        (FuncId::FinishTrampoline, traceback::finish_trampoline as *const ()),
        (FuncId::WalkStep, Unwinder::step as *const ()),
        (FuncId::ThroughBarrier, Unwinder::through_barrier as *const ()),
        (FuncId::Sigprof, handler::sigprof as *const ()),
        (FuncId::SampleGoroutine, handler::sample_goroutine as *const ()),
        (FuncId::WalkSample, handler::walk as *const ()),
        (FuncId::OnSigprof, handler::on_sigprof as *const ()),
        (FuncId::EnterSyscall, M::enter_syscall as *const ()),
        (FuncId::ExitSyscall, M::exit_syscall as *const ()),
        (FuncId::Land, M::land as *const ()),
        (FuncId::ScanSelf, M::scan_self as *const ()),
        (FuncId::BulkMove, M::bulk_move as *const ()),
        (FuncId::EnterCallback, M::enter_callback as *const ()),
        (FuncId::ExitCallback, M::exit_callback as *const ()),
        (FuncId::TakeSample, handler::take as *const ()),
    ]
    .map(|(function, start)| (function, start as usize))
    .to_vec()
}

/// Returns the functions that are marked in this build.
fn marked() -> impl Iterator<Item = FuncId> {
    let all = FuncId::ALL.iter().copied();
    all.filter(|function| cfg!(feature = "points") || function.on_goroutine_stack())
}

/// Returns every function of the marked code, in the order of their codes.
///
/// # Panics
/// If a function has no place or lies elsewhere, which is a mistake in the list or in a mark.
pub fn extents() -> &'static [Extent] {
    static EXTENTS: OnceLock<Vec<Extent>> = OnceLock::new();
    EXTENTS.get_or_init(|| {
        let (first, last) = arch::text_bounds();
        let mut extents: Vec<Extent> = functab::functab()
            .iter()
            .map(|i| Extent { function: i.function, start: i.start, end: i.end })
            .chain(starts().into_iter().map(|(function, start)| Extent { function, start, end: last }))
            .collect();
        extents.sort_by_key(|extent| extent.start);
        for index in 1..extents.len() {
            let next = extents[index].start;
            let before = &mut extents[index - 1];
            before.end = before.end.min(next);
        }
        extents.sort_by_key(|extent| extent.function);
        assert!(
            extents.iter().map(|e| e.function).eq(marked()),
            "every function of the marked code has one place"
        );
        for Extent { function, start, end } in &extents {
            assert!(first <= *start && start < end && *end <= last, "{function} is not in the marked code");
        }
        extents
    })
}

/// Returns the function that `pc` lies in, if that is marked code. Signal-safe once it has been
/// called, which making a runtime does.
pub fn find_func(pc: usize) -> Option<&'static Extent> {
    static BY_ADDRESS: OnceLock<Vec<&'static Extent>> = OnceLock::new();
    let by_address = BY_ADDRESS.get_or_init(|| {
        let mut sorted: Vec<&'static Extent> = extents().iter().collect();
        sorted.sort_by_key(|extent| extent.start);
        sorted
    });
    // Most PCs lie outside.
    if !(by_address.first()?.start..by_address.last()?.end).contains(&pc) {
        return None;
    }
    let after = by_address.partition_point(|extent| extent.start <= pc);
    let extent = by_address.get(after.checked_sub(1)?)?;
    (pc < extent.end).then_some(extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_marked_section_but_filler_belongs_to_one_function() {
        let (first, last) = arch::text_bounds();
        let mut all = extents().to_vec();
        all.sort_by_key(|extent| extent.start);
        // The bytes before the first function or between two are what aligns them.
        let mut at = first;
        for extent in all {
            assert!(at <= extent.start && extent.start - at < 64, "{}", extent.function);
            at = extent.end;
        }
        assert!(at <= last && last - at < 64);
    }

    #[test]
    fn marked_functions_are_found_by_their_bytes() {
        for extent in extents() {
            for pc in [extent.start, extent.end - 1] {
                assert_eq!(find_func(pc), Some(extent));
            }
        }
        assert_eq!(find_func(arch::text_bounds().1), None);
        assert_eq!(find_func(marked_functions_are_found_by_their_bytes as *const () as usize), None);
    }
}
