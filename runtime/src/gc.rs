//! The collector: cycles of concurrent mark, mark termination and sweep.
//!
//! A goroutine that is runnable, waiting or in a system call is scanned by the
//! collector, which sets the scan bit in its status so that it stays where it is. One
//! that runs is asked, and scans itself at its next prologue. Whoever scans in the mark
//! phase installs barriers, from the second frame up, and holds the stack lock from
//! before the first frame is read until the last barrier lies, so a signal's walk sees
//! all of them or none.
//!
//! Mark termination stops the world, removes each stack's barriers, and scans again the
//! frames up to and including the one whose return address was the lowest un-hit one. It
//! may leave the barriers to the sweep, which removes those of stopped goroutines; the next
//! cycle removes the rest as it begins, with the world stopped. A cycle that is done wholly
//! with the world stopped installs none.
//!
//! Any machine may collect, between two operations of the goroutine that it has. So two may
//! want the same thing at once: whoever stops the world looks again at the phase once it is
//! stopped, one machine sweeps, and a goroutine is scanned by whoever has its scan bit, if it
//! was not scanned before. A machine that waits for another's goroutine lets its own count as
//! waiting: two that wait for each other's would wait for ever.

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

/// A machine that collects, for as long as it does.
struct Collecting {
    m: &'static M,
}

impl Collecting {
    fn begin(m: &'static M) -> Self {
        m.collecting.store(true, Ordering::Relaxed);
        m.follow_rate();
        Collecting { m }
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        self.m.collecting.store(false, Ordering::Relaxed);
    }
}

impl M {
    /// Begins a cycle. False where one is under way.
    pub fn gc_mark(&'static self) -> bool {
        let core = self.core;
        if core.phase() != Phase::Off {
            return false;
        }
        let _collecting = Collecting::begin(self);
        core.stop_world(self);
        // Another machine may have begun one before this one had stopped the world.
        let begins = core.phase() == Phase::Off;
        if begins {
            self.begin_cycle();
            core.set_phase(Phase::Mark);
            core.set_write_barrier(!crate::planted!(WriteBarriersLate));
            crate::point!(PhaseChanged, core::ptr::null(), Phase::Mark as usize);
        }
        core.start_world();
        begins
    }

    /// What was marked and scanned before does not count any more. The world is stopped.
    fn begin_cycle(&'static self) {
        self.core.heap().unmark();
        for g in self.core.goroutines() {
            if !g.barriers.is_empty() {
                barrier::remove_all(self, g, Operation::Remove);
            }
            g.set_scan_done(false);
        }
    }

    /// A whole cycle with the world stopped, without any barriers. False where one is under way.
    pub fn gc_stop_the_world(&'static self) -> bool {
        let core = self.core;
        if core.phase() != Phase::Off {
            return false;
        }
        let _collecting = Collecting::begin(self);
        core.stop_world(self);
        let begins = core.phase() == Phase::Off;
        if begins {
            self.begin_cycle();
            self.mark_the_rest();
            core.heap().sweep();
            core.set_phase(Phase::Off);
            crate::point!(PhaseChanged, core::ptr::null(), Phase::Off as usize);
        }
        core.start_world();
        begins
    }

    /// Has `g` scanned, by itself if it runs; waits until that is done. False where there
    /// is nothing to scan.
    pub fn gc_scan(&'static self, g: &'static G) -> bool {
        if self.core.phase() != Phase::Mark || g.scan_done() {
            return false;
        }
        let _collecting = Collecting::begin(self);
        // While it waits for another goroutine, somebody may wait for this machine's.
        let own = self.current().filter(|own| own.status.cas(status::RUNNING, status::WAITING));
        if let Some(own) = own {
            crate::point!(StatusChanged, own, status::WAITING as usize);
        }
        let scanned = self.scan_until_done(g);
        if let Some(own) = own {
            let _busy = self.busy();
            while !own.status.cas(status::WAITING, status::RUNNING) {
                hooks::wait(&Wait::ScanBit(own));
            }
            crate::point!(StatusChanged, own, status::RUNNING as usize);
        }
        scanned
    }

    fn scan_until_done(&'static self, g: &'static G) -> bool {
        loop {
            {
                let _busy = self.busy();
                if g.scan_done() {
                    return true;
                }
                // The cycle may have ended while this machine waited.
                if self.core.phase() != Phase::Mark {
                    return false;
                }
                match g.status.get() {
                    status::IDLE | status::DEAD => return false,
                    s @ (status::RUNNABLE | status::WAITING | status::SYSCALL) => {
                        if !g.status.cas(s, s | status::SCAN) {
                            continue;
                        }
                        if !g.scan_done() {
                            if self.core.scan_shrinks() {
                                shrink(self, g);
                            }
                            scan_stack(self, g);
                            g.set_scan_done(true);
                        }
                        g.status.set(s);
                        crate::point!(StatusChanged, g, s as usize);
                        return true;
                    }
                    status::RUNNING if !g.scan_requested() => {
                        g.request(true);
                        crate::point!(ScanAsked, g);
                    }
                    _ => {}
                }
            }
            // At a safepoint meanwhile: whoever stops the world need not wait for this one.
            hooks::wait(&Wait::Scannable(g));
        }
    }

    /// Blackens up to `objects` grey objects, the global roots first. False where there
    /// was nothing to do.
    pub fn gc_drain(&'static self, objects: usize) -> bool {
        let _collecting = Collecting::begin(self);
        let _busy = self.busy();
        if self.core.phase() != Phase::Mark {
            return false;
        }
        if crate::planted!(WriteBarriersLate) {
            self.core.set_write_barrier(true);
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
    /// left. False where nothing is being marked.
    pub fn gc_terminate(&'static self) -> bool {
        let core = self.core;
        if core.phase() != Phase::Mark {
            return false;
        }
        let _collecting = Collecting::begin(self);
        core.stop_world(self);
        let ends = core.phase() == Phase::Mark;
        if ends {
            self.mark_the_rest();
        }
        core.start_world();
        ends
    }

    /// Scans what was not scanned or has changed since, and marks what is left. The world is
    /// stopped.
    fn mark_the_rest(&'static self) {
        let core = self.core;
        core.set_phase(Phase::Termination);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Termination as usize);
        for g in core.goroutines() {
            g.forget_scan();
            match g.status.get() {
                status::IDLE => {}
                status::DEAD if g.barriers.is_empty() => {}
                status::DEAD => barrier::remove_all(self, g, Operation::Remove),
                _ => {
                    if core.scan_shrinks() {
                        shrink(self, g);
                    }
                    scan_stack(self, g);
                    g.set_scan_done(true);
                }
            }
        }
        self.drain(usize::MAX);
        core.set_write_barrier(false);
        core.set_phase(Phase::Sweep);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Sweep as usize);
    }

    /// Removes what barriers it can, frees what was not marked and ends the cycle. False where
    /// there is no sweep to do, or another machine does it.
    pub fn gc_sweep(&'static self) -> bool {
        let core = self.core;
        if core.phase() != Phase::Sweep || core.sweeping.swap(true, Ordering::SeqCst) {
            return false;
        }
        let _collecting = Collecting::begin(self);
        let _busy = self.busy();
        let sweeps = core.phase() == Phase::Sweep;
        if sweeps {
            crate::point!(SweepBegin);
            for g in core.goroutines() {
                self.remove_left_barriers(g);
            }
            core.heap().sweep();
            core.set_phase(Phase::Off);
            crate::point!(PhaseChanged, core::ptr::null(), Phase::Off as usize);
        }
        core.sweeping.store(false, Ordering::SeqCst);
        sweeps
    }

    /// Removes the barriers that a cycle has left on a stack, unless its goroutine runs: then
    /// they stay.
    fn remove_left_barriers(&'static self, g: &'static G) {
        let s = g.status.get();
        let stopped = matches!(s, status::RUNNABLE | status::WAITING | status::SYSCALL);
        if !stopped || !g.status.cas(s, s | status::SCAN) {
            return;
        }
        if !g.barriers.is_empty() {
            crate::point!(SweepStack, g, g.barriers.pending());
            barrier::remove_all(self, g, Operation::Remove);
        }
        g.status.set(s);
    }

    /// Halves `g`'s stack if it is stopped and uses little of it. A goroutine in a system call
    /// is left alone: the kernel may hold pointers to its stack.
    pub fn gc_shrink(&'static self, g: &'static G) -> bool {
        let _collecting = Collecting::begin(self);
        let _busy = self.busy();
        let s = g.status.get();
        if !matches!(s, status::RUNNABLE | status::WAITING) || !g.status.cas(s, s | status::SCAN) {
            return false;
        }
        let shrinks = shrink(self, g);
        g.status.set(s);
        shrinks
    }
}

/// Halves a stopped goroutine's stack if it uses less than a quarter of it, and there is room
/// in the half for code that makes no stack check. The caller owns `g`.
fn shrink(m: &'static M, g: &'static G) -> bool {
    let half = g.stack.size() / 2;
    if half < MIN_STACK || g.syscall.sp.get() != 0 {
        return false;
    }
    let used = g.stack.top.get() - g.sched.sp.get();
    let room = half - barrier::reserved(half, m.core.every_frame());
    let little = used < half / 2 && used <= room;
    let full = used + STACK_RESERVE > room;
    let shrinks = little && (!full || crate::planted!(ShrinkIgnoresGuard, true));
    if shrinks {
        crate::copystack::copystack(m, g, half);
    }
    shrinks
}

/// Where `g`'s scan begins. In a system call the saved scheduling SP is zero.
fn scan_start(g: &G) -> Start {
    let state = if g.syscall.sp.get() != 0 { &g.syscall } else { &g.sched };
    Start { pc: state.pc.get(), sp: state.sp.get() }
}

/// Scans a stopped goroutine's stack: marks what its frames point to, and installs
/// barriers (mark) or stops at the lowest un-hit one (termination).
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn scan_stack(m: &'static M, g: &'static G) {
    crate::point!(ScanBegin, g);
    let start = scan_start(g);
    if m.core.phase() == Phase::Mark {
        if !g.barriers.is_empty() {
            let last = g.barriers.position().min(g.barriers.len() - 1);
            let slot = g.barriers.entry(last).map_or(0, |entry| entry.slot);
            throw(Some(g), Reason::DoubleInstall { slot, entries: g.barriers.len() });
        }
        let guard = crate::lock_unless!(InstallUnlocked, m, g, Operation::Install);
        crate::point!(InstallBegin, g);
        let from =
            if crate::planted!(ScanFromSchedSp, g.sched.sp.get() == 0) { g.sched.sp.get() } else { start.sp };
        let mut spacing = Spacing::new(from, m.core.every_frame());
        for_each_frame(m, g, start, &mut |index, frame| {
            if index != 0 && frame.cfa().is_some_and(|cfa| cfa > spacing.next) && barrier::install(g, frame) {
                spacing.advance();
            }
            true
        });
        drop(guard);
    } else {
        let lowest = g.barriers.entry(g.barriers.position()).map_or(usize::MAX, |entry| entry.slot);
        if !m.core.keeps_barriers() {
            barrier::remove_all(m, g, Operation::Remove);
        }
        for_each_frame(m, g, start, &mut |_, frame| frame.cfa().is_none_or(|cfa| cfa <= lowest));
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
        m.core.heap().shade(unsafe { peek(saved_bp - 8 * slot) });
    }
}
