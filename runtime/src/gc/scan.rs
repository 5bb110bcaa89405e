//! Scanning a stack: marking the objects that its frames point to, and installing barriers.
//!
//! A scan in the mark phase holds the stack lock from before it reads the first frame until the last
//! barrier lies, so a signal's walk sees all barriers or none.

use super::phase::Phase;
use crate::sched::g::G;
use crate::sched::m::M;
use crate::stack::barrier::{self, FIRST_BARRIER};
use crate::stack::copystack::copystack;
use crate::stack::lock_word::Operation;
use crate::stack::memory::{MIN_STACK, STACK_RESERVE};
use crate::sync::word::peek;
use crate::unwind::reason::Reason;
use crate::unwind::throw::{throw, walk_failed};
use crate::unwind::traceback::{Frame, Start, Unwinder};

/// Halves a stopped goroutine's stack if the goroutine uses less than a quarter of it, and the half
/// has room for code without a stack check. Returns whether it did. The caller owns `g`.
pub(super) fn shrink(m: &'static M, g: &'static G) -> bool {
    let half = g.stack.size() / 2;
    if half < MIN_STACK || g.syscall.sp.get() != 0 {
        return false;
    }
    let used = g.stack.top.get() - g.sched.sp.get();
    let room = half - barrier::reserved(half, m.runtime.every_frame());
    let little = used < half / 2 && used <= room;
    let full = used + STACK_RESERVE > room;
    let shrinks = little && (!full || crate::planted!(ShrinkIgnoresGuard, true));
    if shrinks {
        copystack(m, g, half);
    }
    shrinks
}

/// Returns the place where `g`'s scan begins. In a system call the saved scheduling SP is zero.
fn scan_start(g: &G) -> Start {
    let state = if g.syscall.sp.get() != 0 { &g.syscall } else { &g.sched };
    Start { pc: state.pc.get(), sp: state.sp.get() }
}

/// Scans a stopped goroutine's stack: marks the objects that its frames point to, and installs
/// barriers (in the mark phase) or stops at the lowest un-hit one (at termination).
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn scan_stack(m: &'static M, g: &'static G) {
    crate::point!(ScanBegin, g);
    let start = scan_start(g);
    if m.runtime.phase() == Phase::Mark {
        if !g.barriers.is_empty() {
            let last = g.barriers.position().min(g.barriers.len() - 1);
            let slot = g.barriers.entry(last).map_or(0, |entry| entry.slot);
            throw(Some(g), Reason::DoubleInstall { slot, entries: g.barriers.len() });
        }
        let guard = crate::lock_unless!(InstallUnlocked, m, g, Operation::Install);
        crate::point!(InstallBegin, g);
        let from =
            if crate::planted!(ScanFromSchedSp, g.sched.sp.get() == 0) { g.sched.sp.get() } else { start.sp };
        let mut spacing = Spacing::new(from, m.runtime.every_frame());
        for_each_frame(m, g, start, &mut |index, frame| {
            if index != 0 && frame.cfa().is_some_and(|cfa| cfa > spacing.next) && barrier::install(g, frame) {
                spacing.advance();
            }
            true
        });
        drop(guard);
    } else {
        let lowest = g.barriers.entry(g.barriers.position()).map_or(usize::MAX, |entry| entry.slot);
        if !m.runtime.keeps_barriers() {
            barrier::remove_all(m, g, Operation::Remove);
        }
        for_each_frame(m, g, start, &mut |_, frame| frame.cfa().is_none_or(|cfa| cfa <= lowest));
    }
    crate::point!(ScanDone, g);
}

/// The spacing of barriers: the first [`FIRST_BARRIER`] bytes above the start, each further one at
/// twice the distance; or one in every frame.
struct Spacing {
    from: usize,
    offset: usize,
    next: usize,
}

impl Spacing {
    fn new(from: usize, every_frame: bool) -> Self {
        let offset = if every_frame { 0 } else { FIRST_BARRIER };
        Spacing { from, offset, next: from + offset }
    }

    fn advance(&mut self) {
        self.offset *= 2;
        self.next = self.from + self.offset;
    }
}

/// Marks the objects that each frame points to, innermost first, until `each` returns false.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn for_each_frame(
    m: &'static M,
    g: &'static G,
    start: Start,
    each: &mut dyn FnMut(usize, &Frame) -> bool,
) {
    let mut walk = Unwinder::begin(g, start).unwrap_or_else(|error| walk_failed(g, error));
    let mut index = 0;
    while let Some(frame) = walk.step().unwrap_or_else(|error| walk_failed(g, error)) {
        crate::point!(ScanFrame, g, g.stack.top.get().wrapping_sub(frame.sp));
        scan_frame(m, g, &frame);
        if !each(index, &frame) {
            return;
        }
        index += 1;
    }
}

/// Shades every object that a frame's slots point to.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn scan_frame(m: &'static M, g: &'static G, frame: &Frame) {
    if !frame.row.has_pointers() {
        return;
    }
    let saved_bp = frame.slot.map_or(g.stack.top.get() - 8, |slot| slot - 8);
    for slot in 1..=4 {
        // SAFETY: within the frame, on the stack of a stopped goroutine.
        m.runtime.heap().shade(unsafe { peek(saved_bp - 8 * slot) });
    }
}
