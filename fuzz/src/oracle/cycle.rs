//! What a collector's cycle has done: which goroutines it has scanned.
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

/// What this cycle has done.
#[derive(Debug)]
pub(crate) struct Cycle<const N: usize> {
    goroutines: [Scanned; N],
    /// How often a cycle began to mark.
    begun: AtomicU32,
}

/// The moment at which a scan begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanBegun {
    cycle: u32,
    lives: u32,
    /// Whether the goroutine existed.
    existed: bool,
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
        Cycle { goroutines, begun: AtomicU32::new(0) }
    }

    /// Starts over.
    pub(crate) fn reset(&self) {
        self.goroutines.iter().for_each(|scanned| scanned.done.store(false, Ordering::Release));
    }

    /// Notes that a cycle begins to mark. The world is stopped.
    pub(crate) fn begins(&self) {
        self.reset();
        add_one(&self.begun);
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
            cycle: self.begun.load(Ordering::Acquire),
            lives: self.goroutines[index].lives.load(Ordering::Acquire),
            existed: exists(core, index),
        }
    }

    /// Whether a scan that scanned nothing should have: the goroutine existed all the time, and the cycle,
    /// which is still marking, has not scanned it.
    pub(crate) fn is_passed_over(&self, core: &Runtime, index: usize, begun: ScanBegun) -> bool {
        let passed =
            begun.existed && exists(core, index) && core.phase() == Phase::Mark && !self.has_scanned(index);
        passed
            && self.begun.load(Ordering::Acquire) == begun.cycle
            && self.goroutines[index].lives.load(Ordering::Acquire) == begun.lives
    }
}
