//! The profiling rate: read by every handler, changed by any thread while signals fly.
//!
//! ## The lock
//!
//! A sample is worth the time between two signals, so it must carry the rate at which it
//! was taken, and the number of the period in which that rate held. The two are read as a
//! pair and changed as a pair, under a lock of the rate's own. The handler takes it, too,
//! for the moment that it takes to read them, and *waits* for it: to skip a sample because
//! somebody turns a knob would be a loss for no reason.
//!
//! ## Why the wait ends
//!
//! Whoever holds the lock goes on: it is held over nothing that waits. And the holder is
//! never the code that the handler has interrupted:
//!
//! * in a handler the signal is masked;
//! * a thread that changes the rate first disarms its own timer, and only then takes the
//!   lock; it gives the lock back before it arms the timer at the new rate;
//! * a thread without a machine has no timer, and a handler there does not take the lock.
//!
//! ## The other machines
//!
//! A machine's timer is armed by its own thread alone, so a changed rate reaches the others
//! late: as each begins its next operation it sees that its timer runs at another rate, and
//! arms it anew. Until then its signals come at the old rate, or come though profiling is
//! off, and find so in the handler.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::core::Core;
use crate::hooks;
use crate::m::M;
use crate::wait::Wait;

/// The highest rate, in signals a second: beyond it handlers leave the program no time.
pub const MAX_RATE: u32 = 20_000;
/// The rate at which a core starts.
pub const INITIAL_RATE: u32 = 100;

/// Why a rate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// There are bounds.
    #[error("a rate of {0} signals a second: it must be at most {MAX_RATE}")]
    TooHigh(u32),
}

/// What a signal is worth: the rate, and since which change it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Signals a second.
    pub hz: u32,
    /// How often the rate was changed before.
    pub period: u32,
}

/// The rate and its lock.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Zero, or who holds the lock: a machine's number and one, or [`OUTSIDER`].
    holder: AtomicU32,
    hz: AtomicU32,
    period: AtomicU32,
}

/// A holder without a machine.
const OUTSIDER: u32 = u32::MAX;

impl Rate {
    pub(crate) const fn new() -> Self {
        Rate { holder: AtomicU32::new(0), hz: AtomicU32::new(INITIAL_RATE), period: AtomicU32::new(0) }
    }

    /// Starts over. Nobody holds the lock.
    pub(crate) fn reset(&self) {
        self.holder.store(0, Ordering::SeqCst);
        self.hz.store(INITIAL_RATE, Ordering::SeqCst);
        self.period.store(0, Ordering::SeqCst);
    }

    /// The rate as it is, without the lock: by the next instruction it may be another.
    pub(crate) fn hz(&self) -> u32 {
        self.hz.load(Ordering::SeqCst)
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.holder.load(Ordering::SeqCst) != 0
    }

    /// The machine that holds the lock, if one does.
    pub(crate) fn holder(&self) -> Option<u8> {
        match self.holder.load(Ordering::SeqCst) {
            0 | OUTSIDER => None,
            word => Some(word as u8 - 1),
        }
    }

    /// What a signal is worth now. Signal-safe.
    pub(crate) fn tick(&self, m: &'static M) -> Tick {
        crate::triggered!(RateChangeKeepsTimer, self.holder() == Some(m.id));
        let _held = Held::take(m.core, Some(m));
        Tick { hz: self.hz(), period: self.period.load(Ordering::SeqCst) }
    }
}

/// The rate's lock, held until drop.
struct Held {
    rate: &'static Rate,
}

impl Held {
    /// Waits for it. Signal-safe: see the head of this file for why the wait ends.
    fn take(core: &'static Core, m: Option<&'static M>) -> Held {
        let rate = &core.profiler().rate;
        let me = m.map_or(OUTSIDER, |m| u32::from(m.id) + 1);
        while rate.holder.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            hooks::wait(&Wait::RateLock(core));
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

/// Changes the rate, from any thread; zero switches profiling off. False where it was that
/// already. Not for a signal handler.
pub fn set_rate(core: &'static Core, hz: u32) -> Result<bool, RateError> {
    if hz > MAX_RATE {
        return Err(RateError::TooHigh(hz));
    }
    let m = M::of_thread().filter(|m| ptr::eq(m.core, core));
    if let Some(m) = m {
        if !crate::planted!(RateChangeKeepsTimer) {
            m.timer().set(0);
        }
        crate::point!(TimerDisarmed);
    }
    let held = Held::take(core, m);
    let changed = held.rate.hz.swap(hz, Ordering::SeqCst) != hz;
    held.rate.period.fetch_add(1, Ordering::SeqCst);
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
    /// Changes the rate, from this machine's own thread: see [`set_rate`].
    pub fn set_rate(&'static self, hz: u32) -> Result<bool, RateError> {
        set_rate(self.core, hz)
    }

    /// Arms this machine's timer anew if the rate is another than it was armed at. By its own
    /// thread, as an operation begins.
    pub(crate) fn follow_rate(&'static self) {
        let hz = self.core.rate();
        // Whoever drives a machine from another thread has no timer to arm.
        if self.timer().hz() != hz && M::of_thread().is_some_and(|m| ptr::eq(m, self)) {
            self.timer().set(hz);
            crate::point!(TimerSet, ptr::null(), hz as usize);
        }
    }
}
