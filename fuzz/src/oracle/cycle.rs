//! The progress of a collector's cycle: which goroutines it has scanned.
//!
//! Written at scheduling points of whichever thread scans, read by others in a storm, so everything
//! is atomic. Lives of goroutines are counted, since a goroutine that ended and was made anew while
//! a scan looked at it was rightly passed over.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::{Phase, Runtime};

/// One goroutine's part.
#[derive(Debug)]
struct Scanned {
    /// Whether this cycle has scanned it.
    done: AtomicBool,
    /// How often it was made anew or ended.
    lives: AtomicU32,
}

/// The progress of this cycle.
#[derive(Debug)]
pub(crate) struct Cycle<const N: usize> {
    goroutines: [Scanned; N],
    /// How often the collector's phase has changed.
    phases: AtomicU32,
}

/// The moment at which a scan begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanBegun {
    phases: u32,
    lives: u32,
    /// Whether the collector was marking, and the goroutine existed.
    was_due: bool,
}

/// One more. By one thread at a time.
fn add_one(count: &AtomicU32) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
}

fn exists(core: &Runtime, index: usize) -> bool {
    !matches!(core.goroutines()[index].status.get(), status::IDLE | status::DEAD)
}

impl<const N: usize> Cycle<N> {
    pub(crate) const fn new() -> Self {
        let goroutines = [const { Scanned { done: AtomicBool::new(false), lives: AtomicU32::new(0) } }; N];
        Cycle { goroutines, phases: AtomicU32::new(0) }
    }

    /// Starts over.
    pub(crate) fn reset(&self) {
        self.goroutines.iter().for_each(|scanned| scanned.done.store(false, Ordering::Release));
    }

    /// Notes that the collector's phase has changed. One thread at a time changes it.
    pub(crate) fn changes_phase(&self, phase: Phase) {
        add_one(&self.phases);
        if phase == Phase::Mark {
            self.reset();
        }
    }

    /// Notes that the goroutine was scanned.
    pub(crate) fn scanned(&self, index: usize) {
        self.goroutines[index].done.store(true, Ordering::Release);
    }

    /// Notes that the goroutine was made anew, or has ended. Called by the thread that runs it.
    pub(crate) fn changes_life(&self, index: usize) {
        add_one(&self.goroutines[index].lives);
    }

    /// Whether this cycle has scanned the goroutine.
    pub(crate) fn has_scanned(&self, index: usize) -> bool {
        self.goroutines[index].done.load(Ordering::Acquire)
    }

    /// To be noted before a scan.
    pub(crate) fn scan_begins(&self, core: &Runtime, index: usize) -> ScanBegun {
        ScanBegun {
            phases: self.phases.load(Ordering::Acquire),
            lives: self.goroutines[index].lives.load(Ordering::Acquire),
            was_due: core.phase() == Phase::Mark && exists(core, index),
        }
    }

    /// Whether a scan that scanned nothing should have: the goroutine existed all the time, and the cycle, which
    /// was marking as the scan began and still is, has not scanned it.
    ///
    /// The phase changes a moment before the change is noted here. A cycle that ended meanwhile, so that another one
    /// marks, has noted its end.
    pub(crate) fn is_passed_over(&self, core: &Runtime, index: usize, begun: ScanBegun) -> bool {
        let is_due = core.phase() == Phase::Mark && exists(core, index) && !self.has_scanned(index);
        is_due
            && begun.was_due
            && self.phases.load(Ordering::Acquire) == begun.phases
            && self.goroutines[index].lives.load(Ordering::Acquire) == begun.lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigstorm_runtime::{Config, M};

    #[test]
    fn scan_is_passed_over_only_in_the_cycle_that_it_began_in() {
        let runtime = Runtime::leak(Config::default()).expect("the default configuration");
        let (m, cycle) = (M::leak(runtime, 0), Cycle::<4>::new());
        assert!(m.take(&runtime.goroutines()[0]));
        let before = cycle.scan_begins(runtime, 0);
        assert!(m.gc_mark());
        assert!(!cycle.is_passed_over(runtime, 0, before), "nothing was being marked as it began");
        cycle.changes_phase(Phase::Mark);
        let begun = cycle.scan_begins(runtime, 0);
        assert!(cycle.is_passed_over(runtime, 0, begun));
        let idle = cycle.scan_begins(runtime, 1);
        assert!(!cycle.is_passed_over(runtime, 1, idle), "it does not exist");
        cycle.changes_life(0);
        assert!(!cycle.is_passed_over(runtime, 0, begun), "it may have been another goroutine");
        let begun = cycle.scan_begins(runtime, 0);
        cycle.scanned(0);
        assert!(!cycle.is_passed_over(runtime, 0, begun));
        let begun = cycle.scan_begins(runtime, 0);
        for phase in [Phase::Termination, Phase::Sweep, Phase::Off, Phase::Mark] {
            cycle.changes_phase(phase);
        }
        assert!(!cycle.is_passed_over(runtime, 0, begun), "another cycle marks");
    }
}
