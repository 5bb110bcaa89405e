//! The collector: a cycle of concurrent mark, mark termination and sweep.
//!
//! A goroutine that is runnable, waiting or in a system call is scanned by the
//! collector, which sets the scan bit in its status so that it stays where it is. One
//! that runs is asked, and scans itself at its next prologue. Whoever scans in the mark
//! phase installs barriers, from the second frame up, and holds the stack lock from
//! before the first frame is read until the last barrier lies, so a signal's walk sees
//! all of them or none.
//!
//! Mark termination stops the world, removes each stack's barriers, and scans again the
//! frames up to and including the one whose return address was the lowest un-hit one.

use core::sync::atomic::Ordering;

use crate::barrier::{self, FIRST_BARRIER};
use crate::core::Phase;
use crate::g::{G, status};
use crate::hooks;
use crate::lock::Operation;
use crate::m::M;
use crate::stack::{MIN_STACK, STACK_RESERVE};
use crate::throw::{Reason, throw, walk_failed};
use crate::traceback::{Frame, Start, Unwinder};
use crate::wait::Wait;
use crate::word::peek;

impl M {
    /// Begins a cycle. False where one is under way.
    pub fn gc_mark(&'static self) -> bool {
        let core = self.core;
        if core.phase() != Phase::Off {
            return false;
        }
        self.follow_rate();
        self.collecting.store(true, Ordering::Relaxed);
        core.stop_world();
        core.heap().unmark();
        for g in core.goroutines() {
            g.set_scan_done(false);
        }
        core.set_phase(Phase::Mark);
        core.set_write_barrier(true);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Mark as usize);
        core.start_world();
        self.collecting.store(false, Ordering::Relaxed);
        true
    }

    /// Has `g` scanned, by itself if it runs; waits until that is done. False where there
    /// is nothing to scan.
    pub fn gc_scan(&'static self, g: &'static G) -> bool {
        if self.core.phase() != Phase::Mark || g.scan_done() {
            return false;
        }
        self.follow_rate();
        self.collecting.store(true, Ordering::Relaxed);
        let scanned = self.scan_until_done(g);
        self.collecting.store(false, Ordering::Relaxed);
        scanned
    }

    fn scan_until_done(&'static self, g: &'static G) -> bool {
        while !g.scan_done() {
            match g.status.get() {
                status::IDLE | status::DEAD => return false,
                s @ (status::RUNNABLE | status::WAITING | status::SYSCALL) => {
                    if g.status.cas(s, s | status::SCAN) {
                        if !g.scan_done() {
                            scan_stack(self, g);
                            g.set_scan_done(true);
                        }
                        g.status.set(s);
                        crate::point!(StatusChanged, g, s as usize);
                        return true;
                    }
                    continue;
                }
                status::RUNNING if !g.scan_requested() => {
                    g.request(true);
                    crate::point!(ScanAsked, g);
                }
                _ => {}
            }
            hooks::wait(&Wait::Scannable(g));
        }
        true
    }

    /// Blackens up to `objects` grey objects, the global roots first. False where there
    /// was nothing to do.
    pub fn gc_drain(&'static self, objects: usize) -> bool {
        if self.core.phase() != Phase::Mark {
            return false;
        }
        self.drain(objects)
    }

    fn drain(&'static self, objects: usize) -> bool {
        let heap = self.core.heap();
        let mut did = false;
        if !heap.globals_done.swap(true, Ordering::SeqCst) {
            heap.mailbox.iter().for_each(|word| heap.shade(word.get()));
            did = true;
        }
        for _ in 0..objects {
            crate::point!(Blacken);
            if !heap.blacken_one() {
                break;
            }
            did = true;
        }
        did
    }

    /// Ends the mark phase: stops the world, scans again what has changed, marks what is
    /// left, removes the barriers. False where nothing is being marked.
    pub fn gc_terminate(&'static self) -> bool {
        let core = self.core;
        if core.phase() != Phase::Mark {
            return false;
        }
        self.follow_rate();
        self.collecting.store(true, Ordering::Relaxed);
        core.stop_world();
        core.set_phase(Phase::Termination);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Termination as usize);
        for g in core.goroutines() {
            g.answer();
            match g.status.get() {
                status::IDLE => {}
                status::DEAD if g.barriers.is_empty() => {}
                status::DEAD => barrier::remove_all(self, g, Operation::Remove),
                _ => {
                    scan_stack(self, g);
                    g.set_scan_done(true);
                }
            }
        }
        self.drain(usize::MAX);
        core.set_write_barrier(false);
        core.set_phase(Phase::Sweep);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Sweep as usize);
        core.start_world();
        self.collecting.store(false, Ordering::Relaxed);
        true
    }

    /// Frees what was not marked and ends the cycle. False where there is no sweep to do.
    pub fn gc_sweep(&'static self) -> bool {
        if self.core.phase() != Phase::Sweep {
            return false;
        }
        self.core.heap().sweep();
        self.core.set_phase(Phase::Off);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Off as usize);
        true
    }

    /// Halves `g`'s stack if it is stopped and uses less than a quarter of it. A goroutine
    /// in a system call is left alone: the kernel may hold pointers to its stack.
    pub fn gc_shrink(&'static self, g: &'static G) -> bool {
        let _busy = self.busy();
        let s = g.status.get();
        if !matches!(s, status::RUNNABLE | status::WAITING) || !g.status.cas(s, s | status::SCAN) {
            return false;
        }
        let size = g.stack.size();
        let used = g.stack.top.get() - g.sched.sp.get();
        let room = size / 2 - barrier::reserved(size / 2, self.core.every_frame());
        let fits = used + STACK_RESERVE <= room;
        let shrinks = size / 2 >= MIN_STACK && used < size / 4 && fits;
        if shrinks {
            crate::copystack::copystack(self, g, size / 2);
        }
        g.status.set(s);
        shrinks
    }
}

/// Where `g`'s scan begins. In a system call the saved scheduling SP is zero.
fn scan_start(g: &G) -> Start {
    let state = if g.syscall.sp.get() != 0 { &g.syscall } else { &g.sched };
    Start { pc: state.pc.get(), sp: state.sp.get() }
}

/// Scans a stopped goroutine's stack: marks what its frames point to, and installs
/// barriers (mark) or stops at the lowest un-hit one (termination).
pub(crate) fn scan_stack(m: &'static M, g: &'static G) {
    crate::point!(ScanBegin, g);
    let start = scan_start(g);
    if m.core.phase() == Phase::Mark {
        if !g.barriers.is_empty() {
            throw(Some(g), Reason::DoubleInstall);
        }
        let guard = crate::lock_unless!(InstallUnlocked, m, g, Operation::Install);
        crate::point!(InstallBegin, g);
        let from =
            if crate::planted!(ScanFromSchedSp, g.sched.sp.get() == 0) { g.sched.sp.get() } else { start.sp };
        let mut spacing = Spacing::new(from, m.core.every_frame());
        for_each_frame(m, g, start, |index, frame| {
            if index != 0 && frame.cfa().is_some_and(|cfa| cfa > spacing.next) && barrier::install(g, frame) {
                spacing.advance();
            }
            true
        });
        drop(guard);
    } else {
        let lowest = g.barriers.entry(g.barriers.position()).map_or(usize::MAX, |entry| entry.slot);
        barrier::remove_all(m, g, Operation::Remove);
        for_each_frame(m, g, start, |_, frame| frame.cfa().is_none_or(|cfa| cfa <= lowest));
    }
    crate::point!(ScanDone, g);
}

/// Where barriers go: the first `FIRST_BARRIER` bytes above the start, each further one
/// twice as far; or in every frame.
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

/// Marks what each frame points to, innermost first, until `each` has seen enough.
fn for_each_frame(m: &'static M, g: &'static G, start: Start, mut each: impl FnMut(usize, &Frame) -> bool) {
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
fn scan_frame(m: &'static M, g: &'static G, frame: &Frame) {
    if !frame.row.has_pointers() {
        return;
    }
    let saved_bp = frame.slot.map_or(g.stack.top.get() - 8, |slot| slot - 8);
    for slot in 1..=4 {
        // SAFETY: within the frame, on the stack of a stopped goroutine.
        m.core.heap().shade(unsafe { peek(saved_bp - 8 * slot) });
    }
}
