//! The marked code: where each of its functions lies.
//!
//! The protocol's code, all of it, is in one section, so that a harness can stop a thread
//! at any of its instructions: what runs on goroutine stacks ([`crate::arch`]), and the
//! Rust functions that take the lock, lay and lift barriers, walk, scan, move a stack,
//! land a recovery, and handle the profiling signal. These are put there one by one, with
//! `link_section`, and are never inlined into others: in builds with scheduling points,
//! since without a harness nobody stops there.
//!
//! ## What is not in it
//!
//! What a marked function calls is elsewhere unless it is marked itself or inlined into
//! it: `core` and libc, closures, generic code, the heap, the memory of stacks. Nor is
//! what a harness runs in its hooks and between two operations, and must not be: a
//! breakpoint there would stop the harness in itself.
//!
//! ## Bounds
//!
//! The assembler says where its functions end. Of a Rust function only the first byte is
//! known: its end is where the next function begins, filler included. So every function of
//! the section must be in the list here; a test holds the list against the symbol table.

use std::sync::OnceLock;

use crate::function::Function;
use crate::m::M;
use crate::traceback::{self, Unwinder};
use crate::{arch, barrier, copystack, gc, lock, profiler, table};

/// Where a function of the marked code lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which function.
    pub function: Function,
    /// First byte.
    pub start: usize,
    /// One past the last byte. After a Rust function there may be filler before it.
    pub end: usize,
}

/// The Rust functions and their first bytes. Without scheduling points nobody looks at them,
/// and they are not marked.
fn starts() -> Vec<(Function, usize)> {
    if !cfg!(feature = "points") {
        return Vec::new();
    }
    [
        (Function::Lock, lock::lock as *const ()),
        (Function::TryLock, lock::try_lock as *const ()),
        (Function::Unlock, lock::unlock as *const ()),
        (Function::InstallBarrier, barrier::install as *const ()),
        (Function::RestoreReturn, barrier::restore as *const ()),
        (Function::RemoveBarriers, barrier::remove_all as *const ()),
        (Function::UnwindBarriers, barrier::unwind as *const ()),
        (Function::Copystack, copystack::copystack as *const ()),
        (Function::AdjustBarriers, copystack::adjust_barriers as *const ()),
        (Function::AdjustFrames, copystack::adjust_frames as *const ()),
        (Function::ScanStack, gc::scan_stack as *const ()),
        (Function::ScanFrames, gc::for_each_frame as *const ()),
        (Function::ScanFrame, gc::scan_frame as *const ()),
        (Function::WalkBegin, Unwinder::begin as *const ()),
        (Function::FinishTrampoline, traceback::finish_trampoline as *const ()),
        (Function::WalkStep, Unwinder::step as *const ()),
        (Function::ThroughBarrier, Unwinder::through_barrier as *const ()),
        (Function::Sigprof, profiler::sigprof as *const ()),
        (Function::SampleGoroutine, profiler::sample_goroutine as *const ()),
        (Function::WalkSample, profiler::walk as *const ()),
        (Function::OnSigprof, profiler::on_sigprof as *const ()),
        (Function::EnterSyscall, M::enter_syscall as *const ()),
        (Function::ExitSyscall, M::exit_syscall as *const ()),
        (Function::Land, M::land as *const ()),
        (Function::ScanSelf, M::scan_self as *const ()),
        (Function::BulkMove, M::bulk_move as *const ()),
        (Function::EnterCallback, M::enter_callback as *const ()),
        (Function::ExitCallback, M::exit_callback as *const ()),
        (Function::TakeSample, profiler::take as *const ()),
    ]
    .map(|(function, start)| (function, start as usize))
    .to_vec()
}

/// The functions that are marked in this build.
fn marked() -> impl Iterator<Item = Function> {
    let all = Function::ALL.iter().copied();
    all.filter(|function| cfg!(feature = "points") || function.on_goroutine_stack())
}

/// Every function of the marked code, in the order of their codes.
///
/// # Panics
/// Where a function has no place or lies elsewhere: a mistake in the list or in a mark.
pub fn extents() -> &'static [Extent] {
    static EXTENTS: OnceLock<Vec<Extent>> = OnceLock::new();
    EXTENTS.get_or_init(|| {
        let (first, last) = arch::text_bounds();
        let mut extents: Vec<Extent> = table::directory()
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

/// The function that `pc` lies in, if that is marked code. Signal-safe once it has been
/// called, as it is when a core is made.
pub fn extent_of(pc: usize) -> Option<&'static Extent> {
    static BY_ADDRESS: OnceLock<Vec<&'static Extent>> = OnceLock::new();
    let by_address = BY_ADDRESS.get_or_init(|| {
        let mut sorted: Vec<&'static Extent> = extents().iter().collect();
        sorted.sort_by_key(|extent| extent.start);
        sorted
    });
    // Most that are asked for lie outside.
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
    fn every_byte_of_the_section_but_filler_belongs_to_one_function() {
        let (first, last) = arch::text_bounds();
        let mut all = extents().to_vec();
        all.sort_by_key(|extent| extent.start);
        // What lies before the first or between two is what aligns them.
        let mut at = first;
        for extent in all {
            assert!(at <= extent.start && extent.start - at < 64, "{}", extent.function);
            at = extent.end;
        }
        assert!(at <= last && last - at < 64);
    }

    #[test]
    fn functions_are_found_by_their_bytes() {
        for extent in extents() {
            for pc in [extent.start, extent.end - 1] {
                assert_eq!(extent_of(pc), Some(extent));
            }
        }
        assert_eq!(extent_of(arch::text_bounds().1), None);
        assert_eq!(extent_of(functions_are_found_by_their_bytes as *const () as usize), None);
    }
}
