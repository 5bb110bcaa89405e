//! The profiling rate: its value, its epoch, and its bounds. [`super::set_rate`] has the protocol.

use core::sync::atomic::{AtomicU32, Ordering};

/// The highest rate, in signals a second: beyond it handlers leave the program no time.
pub const MAX_RATE: u32 = 20_000;
/// The rate at which a runtime starts, in signals a second.
pub const INITIAL_RATE: u32 = 100;

/// The reason why a rate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The rate is beyond [`MAX_RATE`].
    #[error("a rate of {0} signals a second: it must be at most {MAX_RATE}")]
    TooHigh(u32),
}

/// The rate at which a sample was taken, and the epoch in which that rate held. A sample is worth the
/// time between two signals of that rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateEpoch {
    /// Signals a second.
    pub hz: u32,
    /// How often the rate had been set before.
    pub epoch: u32,
}

/// The rate and its lock. The lock is taken in [`super::set_rate`].
#[derive(Debug)]
pub struct Rate {
    /// Zero, or the holder of the lock: a machine's number and one, or [`OUTSIDER`].
    pub(super) holder: AtomicU32,
    pub(super) hz: AtomicU32,
    pub(super) epoch: AtomicU32,
}

/// A holder without a machine.
pub(super) const OUTSIDER: u32 = u32::MAX;

impl Rate {
    pub(crate) const fn new() -> Self {
        Rate { holder: AtomicU32::new(0), hz: AtomicU32::new(INITIAL_RATE), epoch: AtomicU32::new(0) }
    }

    /// Starts over at the initial rate. The lock is free.
    pub(crate) fn reset(&self) {
        self.holder.store(0, Ordering::SeqCst);
        self.hz.store(INITIAL_RATE, Ordering::SeqCst);
        self.epoch.store(0, Ordering::SeqCst);
    }

    /// Returns the rate without the lock: by the next instruction it may be another.
    pub(crate) fn hz(&self) -> u32 {
        self.hz.load(Ordering::SeqCst)
    }

    /// Returns whether the lock is held.
    pub(crate) fn is_locked(&self) -> bool {
        self.holder.load(Ordering::SeqCst) != 0
    }

    /// Returns the machine that holds the lock, if one does.
    pub fn holder(&self) -> Option<u8> {
        match self.holder.load(Ordering::SeqCst) {
            0 | OUTSIDER => None,
            word => Some(word as u8 - 1),
        }
    }
}
