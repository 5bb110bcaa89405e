//! Preemption: asking a running goroutine to reach a safepoint, and what it does there.
//!
//! A request ([`super::preempt_request`]) is handled at a prologue: the goroutine scans itself,
//! waits while the world is stopped, and lets its machine go, as far as it was asked to.

use core::ptr;

use super::g::{G, status};
use super::m::M;
use super::wait::Wait;
use crate::gc::phase::Phase;
use crate::gc::scan::scan_stack;
use crate::instrument::hooks;

impl M {
    /// Asks a goroutine that another machine runs to let that machine go at its next prologue.
    /// Returns false if it does not run, or runs on this machine.
    pub fn preempt(&'static self, g: &'static G) -> bool {
        let own = self.current().is_some_and(|own| ptr::eq(own, g));
        if own || g.status.get() != status::RUNNING {
            return false;
        }
        g.request_yield();
        crate::point!(PreemptAsked, g);
        true
    }

    /// Does what the goroutine was asked for. Returns whether it was dropped.
    pub(super) fn handle_preempt(&'static self, g: &'static G) -> bool {
        let request = g.take_preempt_request();
        if request.scan {
            self.scan_self(g);
        }
        if self.runtime.world.stopping() {
            self.runtime.set_at_safepoint(self.id, true);
            while self.runtime.world.stopping() {
                hooks::wait(&Wait::World(&self.runtime.world));
            }
            // Off the safepoint again: the guard of the operation that led here is still alive.
            core::mem::forget(self.leave_safepoint());
        }
        // With foreign frames on the thread's stack the goroutine stays on its thread.
        let yields = request.yields && self.foreign_calls() == 0;
        if yields {
            crate::point!(PreemptYields, g);
            self.drop_g(g, status::RUNNABLE);
        }
        yields
    }

    /// Handles a request to scan itself at a place other than a prologue; not while a stack lock is
    /// held.
    pub(crate) fn poll(&'static self, g: &'static G) {
        let own = self.current().is_some_and(|own| ptr::eq(own, g));
        if own && self.holds_no_lock() && g.scan_requested() {
            g.cancel_scan_request();
            self.scan_self(g);
        }
    }

    /// Scans its own goroutine's stack, as that was asked to.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn scan_self(&'static self, g: &'static G) {
        crate::point!(ScanSelf, g);
        g.status.set(status::WAITING);
        crate::point!(StatusChanged, g, status::WAITING as usize);
        // The collector may have seen it wait, and may be scanning it already.
        while !g.status.cas(status::WAITING, status::WAITING | status::SCAN) {
            hooks::wait(&Wait::ScanBit(g));
        }
        let done = g.scan_done();
        if (!done || crate::planted!(DoubleScan, done)) && self.runtime.phase() == Phase::Mark {
            scan_stack(self, g);
            g.set_scan_done(true);
        }
        g.status.set(status::RUNNING);
        crate::point!(StatusChanged, g, status::RUNNING as usize);
    }
}
