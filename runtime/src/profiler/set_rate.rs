//! Setting the profiling rate while signals fly, and reading it in the handler.
//!
//! ## The lock
//!
//! A sample is worth the time between two signals, so it must carry the rate at which it was taken,
//! and the epoch in which that rate held. The two are read as a pair and changed as a pair, under a
//! lock of the rate's own. The handler takes the lock, too, for the moment of reading them, and
//! *waits* for it: to skip a sample because another thread sets the rate would be a loss for no
//! reason.
//!
//! ## Why the wait ends
//!
//! The holder of the lock always goes on: it holds the lock over nothing that waits. And the holder
//! is never the code that the handler has interrupted:
//!
//! * In a handler the signal is masked.
//! * A thread that sets the rate first disarms its own timer, and only then takes the lock. It gives
//!   the lock back before it arms the timer at the new rate.
//! * A thread without a machine has no timer, and a handler there does not take the lock.
//!
//! ## The other machines
//!
//! A machine's timer is armed by its own thread alone, so a new rate reaches the others late: as
//! each begins its next operation it sees that its timer runs at another rate, and arms it anew.
//! Until then its signals come at the old rate. If profiling is off by then, the handler finds so.

use core::ptr;
use core::sync::atomic::Ordering;

use super::rate::{MAX_RATE, OUTSIDER, Rate, RateEpoch, RateError};
use crate::instrument::hooks;
use crate::sched::m::M;
use crate::sched::runtime::Runtime;
use crate::sched::wait::Wait;

impl Rate {
    /// Returns the rate and its epoch, read as a pair under the lock. For the handler of machine `m`;
    /// signal-safe.
    pub(crate) fn epoch(&self, m: &'static M) -> RateEpoch {
        crate::triggered!(RateChangeKeepsTimer, self.holder() == Some(m.id));
        let _held = Held::take(m.runtime, Some(m));
        RateEpoch { hz: self.hz(), epoch: self.epoch.load(Ordering::SeqCst) }
    }
}

/// The rate's lock, held until drop.
struct Held {
    rate: &'static Rate,
}

impl Held {
    /// Waits for the lock and takes it. Signal-safe: the head of this file says why the wait ends.
    fn take(runtime: &'static Runtime, m: Option<&'static M>) -> Held {
        let rate = &runtime.profiler().rate;
        let me = m.map_or(OUTSIDER, |m| u32::from(m.id) + 1);
        while rate.holder.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            hooks::wait(&Wait::RateLock(rate));
        }
        crate::point!(RateLocked);
        Held { rate }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        crate::point!(RateRelease);
        self.rate.holder.store(0, Ordering::SeqCst);
    }
}

/// Sets the rate in signals a second, from any thread; zero switches profiling off. Returns whether
/// the rate was another before. Not for a signal handler.
///
/// # Errors
/// If the rate is beyond [`MAX_RATE`].
pub fn set_rate(runtime: &'static Runtime, hz: u32) -> Result<bool, RateError> {
    if hz > MAX_RATE {
        return Err(RateError::TooHigh(hz));
    }
    let m = M::of_thread().filter(|m| ptr::eq(m.runtime, runtime));
    if let Some(m) = m {
        if !crate::planted!(RateChangeKeepsTimer) {
            m.timer().set(0);
        }
        crate::point!(TimerDisarmed);
    }
    let held = Held::take(runtime, m);
    let changed = held.rate.hz.swap(hz, Ordering::SeqCst) != hz;
    held.rate.epoch.fetch_add(1, Ordering::SeqCst);
    crate::point!(RateChanged, ptr::null(), hz as usize);
    drop(held);
    if let Some(m) = m
        && hz != 0
    {
        m.timer().set(hz);
        crate::point!(TimerSet, ptr::null(), hz as usize);
    }
    Ok(changed)
}

impl M {
    /// Sets the rate from this machine's own thread: see [`set_rate`].
    ///
    /// # Errors
    /// If the rate is beyond [`MAX_RATE`].
    pub fn set_rate(&'static self, hz: u32) -> Result<bool, RateError> {
        set_rate(self.runtime, hz)
    }

    /// Arms this machine's timer anew if the rate is not the one that it was armed at. Called by the
    /// machine's own thread, as an operation begins.
    pub(crate) fn follow_rate(&'static self) {
        let hz = self.runtime.rate();
        // A machine that is driven from another thread has no timer to arm.
        if self.timer().hz() != hz && M::of_thread().is_some_and(|m| ptr::eq(m, self)) {
            self.timer().set(hz);
            crate::point!(TimerSet, ptr::null(), hz as usize);
        }
    }
}
