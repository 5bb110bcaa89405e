//! What a collector's cycle has done: which goroutines it has scanned.
//!
//! Written at scheduling points of whichever thread scans, read by others in a storm, so everything
//! is atomic. Lives of goroutines are counted, since a goroutine that ended and was made anew while
//! a scan looked at it was rightly passed over.
//!
//! The runtime changes its phase a moment before the event that says so. So the ends of marking are
//! counted as well as its beginnings, and a scan is judged only if the runtime marked as it began:
//!
//! 1. M1 is about to scan G1. The collector is off, so the scan does nothing.
//! 2. M2 begins to mark; the event is yet to come.
//! 3. M1 sees that the collector marks, that no cycle has begun since 1, and that G1 was not scanned.
//!
//! And the same with a cycle's end before 1: whoever sees marking again after it has ended comes after
//! the event of the end.

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

/// What this cycle has done.
#[derive(Debug)]
pub(crate) struct Cycle<const N: usize> {
    goroutines: [Scanned; N],
    /// How often marking began or ended.
    turns: AtomicU32,
}

/// The moment at which a scan begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanBegun {
    turns: u32,
    lives: u32,
    /// Whether the collector marked and the goroutine existed.
    is_due: bool,
}

fn exists(core: &Runtime, index: usize) -> bool {
    !matches!(core.goroutines()[index].status.get(), status::IDLE | status::DEAD)
}

impl<const N: usize> Cycle<N> {
    pub(crate) const fn new() -> Self {
        let goroutines = [const { Scanned { done: AtomicBool::new(false), lives: AtomicU32::new(0) } }; N];
        Cycle { goroutines, turns: AtomicU32::new(0) }
    }

    /// Starts over.
    pub(crate) fn reset(&self) {
        self.goroutines.iter().for_each(|scanned| scanned.done.store(false, Ordering::SeqCst));
    }

    /// Notes that a cycle begins to mark.
    pub(crate) fn begins(&self) {
        self.reset();
        self.turns.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that a cycle has ended marking.
    pub(crate) fn ends(&self) {
        self.turns.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that the goroutine was scanned.
    pub(crate) fn scanned(&self, index: usize) {
        self.goroutines[index].done.store(true, Ordering::SeqCst);
    }

    /// Notes that the goroutine was made anew, or has ended.
    pub(crate) fn changes_life(&self, index: usize) {
        self.goroutines[index].lives.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether this cycle has scanned the goroutine.
    pub(crate) fn has_scanned(&self, index: usize) -> bool {
        self.goroutines[index].done.load(Ordering::SeqCst)
    }

    /// To be noted before a scan.
    pub(crate) fn scan_begins(&self, core: &Runtime, index: usize) -> ScanBegun {
        // First: what is seen after it belongs to this turn or to a later one.
        let turns = self.turns.load(Ordering::SeqCst);
        let lives = self.goroutines[index].lives.load(Ordering::SeqCst);
        ScanBegun { turns, lives, is_due: core.phase() == Phase::Mark && exists(core, index) }
    }

    /// Whether a scan that scanned nothing should have: the goroutine existed all the time, and the cycle,
    /// which was marking all the time, has not scanned it.
    pub(crate) fn is_passed_over(&self, core: &Runtime, index: usize, begun: ScanBegun) -> bool {
        let passed =
            begun.is_due && exists(core, index) && core.phase() == Phase::Mark && !self.has_scanned(index);
        passed
            && self.turns.load(Ordering::SeqCst) == begun.turns
            && self.goroutines[index].lives.load(Ordering::SeqCst) == begun.lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigstorm_runtime::Config;

    /// A runtime whose goroutine 1 exists, and which is in this phase.
    fn runtime(phase: Phase) -> &'static Runtime {
        let runtime = Runtime::leak_sized(Config::DEFAULT, 2, 2).expect("a runtime");
        // SAFETY: no thread runs anything of this runtime.
        unsafe { runtime.goroutines()[0].pretend_status(status::WAITING) };
        turn(runtime, phase);
        runtime
    }

    fn turn(runtime: &Runtime, phase: Phase) {
        // SAFETY: as above.
        unsafe { runtime.pretend_phase(phase) };
    }

    #[test]
    fn goroutine_that_no_scan_of_the_cycle_has_seen_is_passed_over() {
        let (runtime, cycle) = (runtime(Phase::Mark), Cycle::<2>::new());
        cycle.begins();
        let begun = cycle.scan_begins(runtime, 0);
        assert!(cycle.is_passed_over(runtime, 0, begun));
        assert!(
            !cycle.is_passed_over(runtime, 1, cycle.scan_begins(runtime, 1)),
            "there is no such goroutine"
        );
        cycle.changes_life(0);
        assert!(!cycle.is_passed_over(runtime, 0, begun), "it is another one");
        let begun = cycle.scan_begins(runtime, 0);
        cycle.scanned(0);
        assert!(!cycle.is_passed_over(runtime, 0, begun));
    }

    #[test]
    fn scan_while_the_collector_was_off_passes_nothing_over() {
        let (runtime, cycle) = (runtime(Phase::Off), Cycle::<2>::new());
        let begun = cycle.scan_begins(runtime, 0);
        // Another thread begins to mark, and has not said so yet.
        turn(runtime, Phase::Mark);
        assert!(!cycle.is_passed_over(runtime, 0, begun));
    }

    #[test]
    fn scan_that_marking_ended_under_passes_nothing_over() {
        let (runtime, cycle) = (runtime(Phase::Mark), Cycle::<2>::new());
        cycle.begins();
        let begun = cycle.scan_begins(runtime, 0);
        turn(runtime, Phase::Termination);
        assert!(!cycle.is_passed_over(runtime, 0, begun));
        cycle.ends();
        // The next cycle has not said that it begins.
        turn(runtime, Phase::Mark);
        assert!(!cycle.is_passed_over(runtime, 0, begun));
    }
}
