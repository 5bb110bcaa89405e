//! Preemption requests: how a running goroutine is asked to reach a safepoint.
//!
//! A request raises the goroutine's guard above every SP, so its next prologue leaves its stack.
//! Two flags say what else it is to do there. Without either, the safepoint itself is wanted: the
//! world is being stopped.

use core::sync::atomic::{Ordering, fence};

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

    /// Takes back a request for a scan: another machine scans it with the world stopped, or its own
    /// machine scans it at once. In both cases it runs no code meanwhile.
    ///
    /// A request to let the machine go stays, and may come at any instant. So the guard is lowered
    /// first and raised again for such a request. In the other order a request could get lost:
    ///
    /// 1. M1: cancels; there is no request to let the machine go.
    /// 2. M2: asks for that, and raises the guard.
    /// 3. M1: lowers the guard. No prologue looks for the request.
    pub(crate) fn cancel_scan_request(&self) {
        self.preempt_scan.store(false, Ordering::SeqCst);
        self.guard.set(self.stack.guard());
        // The guard is low before the flag is read, as the flag is set before the guard is high.
        fence(Ordering::SeqCst);
        if self.yield_requested() {
            self.guard.set(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Tests the order in [`G::cancel_scan_request`] against that in [`G::request_yield`], where both
    /// begin at about the same instant.
    #[test]
    fn yield_request_survives_a_scan_request_that_is_cancelled() {
        const ROUNDS: usize = 300_000;
        const DELAYS: usize = 64;
        let g = G::new(1);
        let [begun, done] = [const { AtomicUsize::new(0) }; 2];
        let mut lost = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    wait_for(&begun, round);
                    g.request_yield();
                    done.store(round, Ordering::SeqCst);
                }
            });
            for round in 1..=ROUNDS {
                g.request_preempt(true);
                begun.store(round, Ordering::SeqCst);
                // The other thread sees it some time later.
                (0..round % DELAYS).for_each(|spin| _ = core::hint::black_box(spin));
                g.cancel_scan_request();
                wait_for(&done, round);
                lost += usize::from(!g.preempt_requested());
                let request = g.take_preempt_request();
                assert_eq!((request.yields, request.scan), (true, false));
            }
        });
        assert_eq!(lost, 0, "so often no prologue looked for the request");
    }

    fn wait_for(count: &AtomicUsize, round: usize) {
        for spins in 0.. {
            if count.load(Ordering::SeqCst) == round {
                return;
            }
            if spins % 1000 == 0 {
                std::thread::yield_now();
            }
            core::hint::spin_loop();
        }
    }
}
