//! Stopping the world, and leaving a safepoint.
//!
//! A machine that works, or runs a goroutine, holds a [`RunningGuard`]. It takes the guard only
//! while the world is not being stopped, so whoever stops the world waits until no other machine
//! has one, and from then on no goroutine runs.

use core::sync::atomic::Ordering;

use super::g::status;
use super::m::M;
use super::runtime::Runtime;
use super::wait::Wait;
use crate::instrument::hooks;

impl Runtime {
    /// Stops the world for machine `m`, which is at a safepoint itself: no goroutine runs and no
    /// other machine works until [`Runtime::start_world`]. One machine at a time does so. The next
    /// one waits, and must then check again whether there is still something to do.
    pub(crate) fn stop_world(&'static self, m: &'static M) {
        debug_assert!(self.at_safepoint(m.id), "a machine that stops the world is at a safepoint");
        crate::point!(StopWorld);
        while self.world.stopping.swap(true, Ordering::SeqCst) {
            hooks::wait(&Wait::World(&self.world));
        }
        for g in self.goroutines() {
            let own = m.current().is_some_and(|own| core::ptr::eq(own, g));
            if g.status.get() == status::RUNNING && !own {
                g.request_preempt(false);
            }
        }
        while !self.safepoints.all_at_safepoint() {
            hooks::wait(&Wait::AllAtSafepoint(&self.safepoints));
        }
        crate::point!(WorldStopped);
    }

    /// Lets the world go on.
    pub(crate) fn start_world(&'static self) {
        self.world.stopping.store(false, Ordering::SeqCst);
        crate::point!(StartWorld);
    }
}

/// A machine that has left its safepoint; dropping it puts the machine back at one.
#[derive(Debug)]
pub(crate) struct RunningGuard {
    m: &'static M,
}

impl RunningGuard {
    /// Leaves the safepoint. Waits while the world is stopped.
    pub(crate) fn new(m: &'static M) -> RunningGuard {
        loop {
            m.runtime.set_at_safepoint(m.id, false);
            if !m.runtime.world.stopping() {
                return RunningGuard { m };
            }
            m.runtime.set_at_safepoint(m.id, true);
            hooks::wait(&Wait::World(&m.runtime.world));
        }
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.m.runtime.set_at_safepoint(self.m.id, true);
    }
}

impl M {
    /// Leaves the safepoint for as long as the guard lives, and sets the profiling timer to the
    /// rate if that has changed.
    pub(crate) fn leave_safepoint(&'static self) -> RunningGuard {
        self.follow_rate();
        RunningGuard::new(self)
    }
}
