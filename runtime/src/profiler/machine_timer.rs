//! The profiling timer as its machine sees it.

use std::io;

use super::timer::Timer;
use crate::sched::m::M;

impl M {
    /// Returns this machine's timer.
    pub(crate) fn timer(&self) -> &'static Timer {
        self.runtime.profiler().timer(self.id)
    }

    /// Returns the rate at which this machine's timer is armed, as the core has recorded it; zero if
    /// it is disarmed. Signal-safe.
    #[inline]
    pub fn profile_hz(&self) -> u32 {
        self.timer().hz()
    }

    /// Gives this machine a timer for the calling thread, which has just become its own.
    ///
    /// # Errors
    /// If the kernel refuses the timer.
    pub(crate) fn start_timer(&'static self) -> io::Result<()> {
        self.timer().create(self.runtime.profiler().clock())?;
        self.follow_rate();
        Ok(())
    }

    /// Takes the timer away, before the calling thread ceases to be this machine's.
    pub(crate) fn stop_timer(&'static self) {
        self.timer().set(0);
        crate::point!(TimerDisarmed);
        self.timer().delete();
    }
}
