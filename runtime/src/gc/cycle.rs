//! Collection cycles: concurrent mark, mark termination, sweep.
//!
//! A goroutine that is runnable, waiting or in a system call is scanned by the collector, which sets
//! the scan bit in the goroutine's status so that the goroutine stays stopped. One that runs is
//! asked, and scans itself at its next prologue. A scan in the mark phase installs barriers, from
//! the second frame up ([`super::scan`]).
//!
//! Mark termination stops the world, removes each stack's barriers, and scans again the frames up to
//! and including the one whose return address was the lowest un-hit one. It may leave the barriers
//! to the sweep, which removes those of stopped goroutines. The next cycle removes the others as it
//! begins, with the world stopped. A cycle that is done wholly with the world stopped installs none.
//!
//! Any machine may collect, between two operations of the goroutine that it has. So two machines may
//! want the same thing at once:
//!
//! * A machine that stops the world checks the phase again once the world is stopped.
//! * One machine sweeps.
//! * A goroutine is scanned by the machine that has its scan bit, if it was not scanned before.
//! * A machine that waits for another's goroutine lets its own count as waiting: two that wait for
//!   each other's goroutine would wait for ever.

use core::sync::atomic::Ordering;

use super::phase::Phase;
use super::scan::{scan_stack, shrink};
use crate::instrument::hooks;
use crate::sched::g::{G, status};
use crate::sched::m::M;
use crate::sched::wait::Wait;
use crate::stack::barrier;
use crate::stack::lock_word::Operation;

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
    /// Begins a cycle. Returns false if one is under way.
    pub fn gc_mark(&'static self) -> bool {
        self.begin_cycle(|| {
            self.runtime.set_phase(Phase::Mark);
            self.runtime.set_write_barrier(!crate::planted!(WriteBarriersLate));
            crate::point!(PhaseChanged, core::ptr::null(), Phase::Mark as usize);
        })
    }

    /// Stops the world and forgets the marks and scans of the cycle before; `go_on` is called with the world
    /// still stopped. Returns false, and calls nothing, if a cycle is under way.
    fn begin_cycle(&'static self, go_on: impl FnOnce()) -> bool {
        let runtime = self.runtime;
        if runtime.phase() != Phase::Off {
            return false;
        }
        let _collecting = Collecting::begin(self);
        runtime.stop_world(self);
        // Another machine may have begun a cycle before this one had stopped the world.
        let begins = runtime.phase() == Phase::Off;
        if begins {
            self.forget_last_cycle();
            go_on();
        }
        runtime.start_world();
        begins
    }

    /// Forgets the marks and scans of the cycle before. The world is stopped.
    fn forget_last_cycle(&'static self) {
        self.runtime.heap().unmark();
        for g in self.runtime.goroutines() {
            if !g.barriers.is_empty() {
                barrier::remove_all(self, g, Operation::Remove);
            }
            g.set_scan_done(false);
        }
    }

    /// Runs a whole cycle with the world stopped, without any barriers. Returns false if a cycle is
    /// under way.
    pub fn gc_stop_the_world(&'static self) -> bool {
        self.begin_cycle(|| {
            self.mark_the_rest();
            self.runtime.heap().sweep();
            self.runtime.set_phase(Phase::Off);
            crate::point!(PhaseChanged, core::ptr::null(), Phase::Off as usize);
        })
    }

    /// Has `g` scanned, by itself if it runs, and waits until that is done. Returns false if there is
    /// nothing to scan.
    pub fn gc_scan(&'static self, g: &'static G) -> bool {
        if self.runtime.phase() != Phase::Mark || g.scan_done() {
            return false;
        }
        let _collecting = Collecting::begin(self);
        // While this machine waits for another goroutine, another may wait for this machine's own.
        let own = self.current().filter(|own| own.status.cas(status::RUNNING, status::WAITING));
        if let Some(own) = own {
            crate::point!(StatusChanged, own, status::WAITING as usize);
        }
        let scanned = self.scan_until_done(g);
        if let Some(own) = own {
            let _running = self.leave_safepoint();
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
                let _running = self.leave_safepoint();
                if g.scan_done() {
                    return true;
                }
                // The cycle may have ended while this machine waited.
                if self.runtime.phase() != Phase::Mark {
                    return false;
                }
                match g.status.get() {
                    status::IDLE | status::DEAD => return false,
                    s @ (status::RUNNABLE | status::WAITING | status::SYSCALL) => {
                        if !g.status.cas(s, s | status::SCAN) {
                            continue;
                        }
                        if !g.scan_done() {
                            if self.runtime.scan_shrinks() {
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
                        g.request_preempt(true);
                        crate::point!(ScanAsked, g);
                    }
                    _ => {}
                }
            }
            // At a safepoint meanwhile: a machine that stops the world need not wait for this one.
            hooks::wait(&Wait::Scannable(g));
        }
    }

    /// Blackens up to `objects` grey objects, the global roots first. Returns false if there was
    /// nothing to do.
    pub fn gc_drain(&'static self, objects: usize) -> bool {
        let _collecting = Collecting::begin(self);
        let _running = self.leave_safepoint();
        if self.runtime.phase() != Phase::Mark {
            return false;
        }
        if crate::planted!(WriteBarriersLate) {
            self.runtime.set_write_barrier(true);
        }
        self.drain(objects)
    }

    fn drain(&'static self, objects: usize) -> bool {
        let heap = self.runtime.heap();
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

    /// Ends the mark phase: stops the world, scans again the stacks that have changed, marks the rest.
    /// Returns false if the phase is another.
    pub fn gc_terminate(&'static self) -> bool {
        let runtime = self.runtime;
        if runtime.phase() != Phase::Mark {
            return false;
        }
        let _collecting = Collecting::begin(self);
        runtime.stop_world(self);
        let ends = runtime.phase() == Phase::Mark;
        if ends {
            self.mark_the_rest();
        }
        runtime.start_world();
        ends
    }

    /// Scans every stack that was not scanned or has changed since, and marks the rest. The world is
    /// stopped.
    fn mark_the_rest(&'static self) {
        let runtime = self.runtime;
        runtime.set_phase(Phase::Termination);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Termination as usize);
        for g in runtime.goroutines() {
            g.cancel_scan_request();
            match g.status.get() {
                status::IDLE => {}
                status::DEAD if g.barriers.is_empty() => {}
                status::DEAD => barrier::remove_all(self, g, Operation::Remove),
                _ => {
                    if runtime.scan_shrinks() {
                        shrink(self, g);
                    }
                    scan_stack(self, g);
                    g.set_scan_done(true);
                }
            }
        }
        self.drain(usize::MAX);
        runtime.set_write_barrier(false);
        runtime.set_phase(Phase::Sweep);
        crate::point!(PhaseChanged, core::ptr::null(), Phase::Sweep as usize);
    }

    /// Removes the barriers that it can, frees the unmarked objects and ends the cycle. Returns false
    /// if there is no sweep to do, or if another machine does it.
    pub fn gc_sweep(&'static self) -> bool {
        let runtime = self.runtime;
        if runtime.phase() != Phase::Sweep || runtime.sweeping.swap(true, Ordering::SeqCst) {
            return false;
        }
        let _collecting = Collecting::begin(self);
        let _running = self.leave_safepoint();
        let sweeps = runtime.phase() == Phase::Sweep;
        if sweeps {
            crate::point!(SweepBegin);
            for g in runtime.goroutines() {
                self.remove_left_barriers(g);
            }
            runtime.heap().sweep();
            runtime.set_phase(Phase::Off);
            crate::point!(PhaseChanged, core::ptr::null(), Phase::Off as usize);
        }
        runtime.sweeping.store(false, Ordering::SeqCst);
        sweeps
    }

    /// Removes the barriers that a cycle has left on a stack. If the goroutine runs, they stay.
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

    /// Halves `g`'s stack if `g` is stopped and uses little of it. Returns whether it did. A goroutine
    /// in a system call is left alone, since the kernel may hold pointers to its stack.
    pub fn gc_shrink(&'static self, g: &'static G) -> bool {
        let _collecting = Collecting::begin(self);
        let _running = self.leave_safepoint();
        let s = g.status.get();
        if !matches!(s, status::RUNNABLE | status::WAITING) || !g.status.cas(s, s | status::SCAN) {
            return false;
        }
        let shrinks = shrink(self, g);
        g.status.set(s);
        shrinks
    }
}
