//! The profiling rates of a storm, as the harness has set them.
//!
//! A sample carries a rate and the number of the change that set it. The harness announces a change
//! before it tells the runtime, and confirms it after. So a handler may meet any change from the last one
//! that was confirmed as it began to the last one that was announced as it ended, and no other.

use core::sync::atomic::{AtomicU32, Ordering};

use sigstorm_runtime::profiler::rate::{INITIAL_RATE, RateEpoch};

/// More changes than can be made while one handler runs.
const HISTORY: usize = 1 << 12;

/// The rates.
#[derive(Debug)]
pub(crate) struct RateLog {
    /// The rate that each change has set; a ring.
    hertz: Box<[AtomicU32]>,
    announced: AtomicU32,
    confirmed: AtomicU32,
}

impl RateLog {
    pub(crate) fn new() -> Self {
        let hertz = (0..HISTORY).map(|_| AtomicU32::new(INITIAL_RATE)).collect();
        RateLog { hertz, announced: AtomicU32::new(0), confirmed: AtomicU32::new(0) }
    }

    fn at(&self, change: u32) -> &AtomicU32 {
        &self.hertz[change as usize % HISTORY]
    }

    /// Starts over, for a runtime that was reset. No handler runs.
    pub(crate) fn reset(&self) {
        self.at(0).store(INITIAL_RATE, Ordering::SeqCst);
        self.announced.store(0, Ordering::SeqCst);
        self.confirmed.store(0, Ordering::SeqCst);
    }

    /// The rate is about to be set. Called by one thread at a time.
    pub(crate) fn announce(&self, hz: u32) {
        let change = self.announced.load(Ordering::SeqCst) + 1;
        self.at(change).store(hz, Ordering::SeqCst);
        self.announced.store(change, Ordering::SeqCst);
    }

    /// The rate that was announced is set.
    pub(crate) fn confirm(&self) {
        self.confirmed.store(self.announced.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The last confirmed change. Signal-safe.
    pub(crate) fn confirmed(&self) -> u32 {
        self.confirmed.load(Ordering::SeqCst)
    }

    /// Whether the rate can have been this one, in a handler that began after the change `since`. Signal-safe.
    pub(crate) fn can_have_been(&self, tick: RateEpoch, since: u32) -> bool {
        let announced = self.announced.load(Ordering::SeqCst);
        let known = (since..=announced).contains(&tick.epoch);
        known && self.at(tick.epoch).load(Ordering::SeqCst) == tick.hz
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_possible_from_their_announcement_on() {
        let log = RateLog::new();
        log.reset();
        let tick = |hz, period| RateEpoch { hz, epoch: period };
        assert!(log.can_have_been(tick(INITIAL_RATE, 0), log.confirmed()));
        assert!(!log.can_have_been(tick(7, 1), log.confirmed()));
        let since = log.confirmed();
        log.announce(7);
        assert!(log.can_have_been(tick(7, 1), since) && log.can_have_been(tick(INITIAL_RATE, 0), since));
        assert!(!log.can_have_been(tick(8, 1), since), "another rate");
        log.confirm();
        assert!(log.can_have_been(tick(INITIAL_RATE, 0), since), "the handler began before");
        assert!(!log.can_have_been(tick(INITIAL_RATE, 0), log.confirmed()), "a rate of the past");
    }
}
