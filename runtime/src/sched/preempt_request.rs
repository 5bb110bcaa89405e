//! Preemption requests: how a running goroutine is asked to reach a safepoint.
//!
//! A request raises the goroutine's guard above every SP, so its next prologue leaves its stack.
//! Two flags say what else it is to do there. Without either, the safepoint itself is wanted: the
//! world is being stopped.

use core::sync::atomic::Ordering;

use super::g::G;

/// A preemption request: what a goroutine was asked to do at its next prologue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreemptRequest {
    /// It is to scan itself.
    pub(crate) scan: bool,
    /// It is to let its machine go.
    pub(crate) yields: bool,
}

impl G {
    /// Returns whether it was asked to reach a safepoint: no SP is above its guard then.
    #[inline]
    pub fn preempt_requested(&self) -> bool {
        self.guard.get() == usize::MAX
    }

    /// Returns whether it was asked to scan itself.
    pub fn scan_requested(&self) -> bool {
        self.preempt_scan.load(Ordering::SeqCst)
    }

    /// Returns whether it was asked to let its machine go.
    pub fn yield_requested(&self) -> bool {
        self.preempt_yield.load(Ordering::SeqCst)
    }

    /// Asks it to reach a safepoint at its next prologue, and with `scan` to scan itself there.
    pub(crate) fn request_preempt(&self, scan: bool) {
        if scan {
            self.preempt_scan.store(true, Ordering::SeqCst);
        }
        self.guard.set(usize::MAX);
    }

    /// Asks it to let its machine go at its next prologue.
    pub(crate) fn request_yield(&self) {
        self.preempt_yield.store(true, Ordering::SeqCst);
        self.guard.set(usize::MAX);
    }

    /// Takes the request, so that none is left, and returns it.
    pub(crate) fn take_preempt_request(&self) -> PreemptRequest {
        self.guard.set(self.stack.guard());
        PreemptRequest {
            scan: self.preempt_scan.swap(false, Ordering::SeqCst),
            yields: self.preempt_yield.swap(false, Ordering::SeqCst),
        }
    }

    /// Takes back a request for a scan, since another machine scans it with the world stopped.
    pub(crate) fn cancel_scan_request(&self) {
        self.preempt_scan.store(false, Ordering::SeqCst);
        if !self.preempt_yield.load(Ordering::SeqCst) {
            self.guard.set(self.stack.guard());
        }
    }
}
