//! What the threads of a storm share.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

use std::sync::Mutex;

use sigstorm_runtime::Runtime;
use sigstorm_runtime::unwind::throw::Throw;

use super::cell::{HeapCell, TruthCell};
use super::counts::StormCounts;
use super::options::Delay;
use super::seat::Seat;

sigstorm_runtime::named_codes! {
    /// What the threads are to do.
    pub(crate) enum Stage {
        /// Wait for a round to begin.
        Wait = 0, "wait";
        /// Work.
        Blow = 1, "blow";
        /// Finish what they have, and wait.
        Settle = 2, "settle";
    }
}

/// What is wrong. The evidence is still in place: everybody is stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// A thread's last sample differs from the truth.
    Traceback,
    /// The last event of a thread's tracer differs from the truth.
    Event,
    /// A thread's last sample was skipped without a reason.
    Skip(&'static str),
    /// The core's own.
    Throw(Throw),
    /// This thread waits for what it holds itself.
    SelfDeadlock,
    /// This thread does not get on, and everybody else had time enough to help it.
    Stuck,
    /// An object that can be reached was not marked, or was freed.
    LiveObject(usize),
    /// Memory is not what the program wrote.
    Memory(&'static str),
    /// Something is not where it belongs at the end; the goroutine, if it is one's.
    Leak(&'static str, Option<usize>),
    /// The harness is wrong.
    Harness(&'static str),
}

/// A violation: whose, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Violation {
    pub(crate) seat: Option<usize>,
    pub(crate) trouble: Trouble,
}

/// The shared state of a storm.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) core: &'static Runtime,
    /// The threads that run goroutines, the collector, and the weather.
    pub(crate) seats: Vec<Seat>,
    pub(crate) truths: Vec<TruthCell>,
    pub(crate) heap: HeapCell,
    stage: AtomicU8,
    /// Everybody stops at the next point: something is wrong.
    pub(crate) frozen: AtomicBool,
    violation: UnsafeCell<Option<Violation>>,
    claimed: AtomicBool,
    pub(crate) found: AtomicBool,
    /// The profiling rate as the weather has set it: changes << 32 | busy << 31 | hertz.
    pub(crate) rate: AtomicU64,
    /// One thread at a time changes the rate.
    pub(crate) rate_writers: Mutex<()>,
    /// A delay comes where a random 32-bit number is below this.
    pub(crate) delay_below: u64,
    pub(crate) delay_ns: u64,
    pub(crate) rounds: AtomicU64,
}

// SAFETY: `violation` is written once, by whoever has claimed it, and read after `found`;
// everything else is atomic or says for itself who may touch it.
unsafe impl Sync for Storm {}

static STORM: AtomicPtr<Storm> = AtomicPtr::new(ptr::null_mut());

/// The process's storm; none before it is made. Signal-safe.
#[inline]
pub(crate) fn storm() -> Option<&'static Storm> {
    // SAFETY: null, or a leaked storm.
    unsafe { STORM.load(Ordering::Acquire).as_ref() }
}

impl Storm {
    pub(crate) fn leak(core: &'static Runtime, seats: Vec<Seat>, delay: Delay) -> &'static Storm {
        let storm = Box::leak(Box::new(Storm {
            core,
            seats,
            truths: core.goroutines().iter().map(|_| TruthCell::new()).collect(),
            heap: HeapCell::new(),
            stage: AtomicU8::new(Stage::Wait as u8),
            frozen: AtomicBool::new(false),
            violation: UnsafeCell::new(None),
            claimed: AtomicBool::new(false),
            found: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            rate_writers: Mutex::new(()),
            delay_below: (delay.probability * 4_294_967_296.0) as u64,
            delay_ns: u64::from(delay.micros) * 1000,
            rounds: AtomicU64::new(0),
        }));
        STORM.store(storm, Ordering::Release);
        storm
    }

    pub(crate) fn stage(&self) -> Stage {
        Stage::from_code(self.stage.load(Ordering::SeqCst)).unwrap_or(Stage::Wait)
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
    }

    /// The seat of a machine, which come first and in order.
    pub(crate) fn seat_of_machine(&self, machine: u8) -> Option<&Seat> {
        self.seats.get(usize::from(machine)).filter(|seat| seat.machine.is_some())
    }

    /// Starts over: the core was reset, and every thread is idle.
    pub(crate) fn forget(&self) {
        for cell in &self.truths {
            cell.ended.store(true, Ordering::SeqCst);
        }
        // SAFETY: every thread is idle (see `blow`, the one caller).
        unsafe { self.heap.clear() };
    }

    /// A seat's index.
    pub(crate) fn index_of(&self, seat: &Seat) -> Option<usize> {
        self.seats.iter().position(|other| ptr::eq(other, seat))
    }

    /// Notes what is wrong, if it is the first, and has everybody stop. Signal-safe.
    pub(crate) fn note(&self, seat: Option<&Seat>, trouble: Trouble) {
        if !self.claimed.swap(true, Ordering::SeqCst) {
            let seat = seat.and_then(|seat| self.index_of(seat));
            // SAFETY: whoever has claimed it is the one writer, and nobody reads yet.
            unsafe { *self.violation.get() = Some(Violation { seat, trouble }) };
            self.found.store(true, Ordering::SeqCst);
        }
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Something is wrong: this thread stops for good. Signal-safe.
    pub(crate) fn fail(&self, seat: &Seat, trouble: Trouble) -> ! {
        self.note(Some(seat), trouble);
        seat.park()
    }

    /// What is wrong.
    pub(crate) fn violation(&self) -> Option<Violation> {
        if !self.found.load(Ordering::SeqCst) {
            return None;
        }
        // SAFETY: written before `found` was set, and never again.
        unsafe { *self.violation.get() }
    }

    /// All that was counted so far.
    pub(crate) fn counts(&self) -> StormCounts {
        let mut sum = StormCounts::default();
        for seat in &self.seats {
            let c = &seat.counts;
            sum.signals += c.signals.get();
            if seat.machine.is_some_and(|m| m.id != self.core.collector()) {
                sum.on_machines += c.signals.get();
            }
            sum.tracebacks += c.tracebacks.get();
            sum.alone += c.alone.get();
            sum.unjudged += c.unjudged.get();
            for (sum, skip) in sum.skips.iter_mut().zip(&c.skips) {
                *sum += skip.get();
            }
            for (sum, class) in sum.interrupted.iter_mut().zip(&c.interrupted) {
                *sum += class.get();
            }
            sum.operations += c.operations.get();
            sum.started += c.started.get();
            sum.syscalls += c.syscalls.get();
            sum.foreign_calls += c.foreign_calls.get();
            sum.callbacks += c.callbacks.get();
            sum.interrupted_calls += c.interrupted_calls.get();
            sum.events += c.events.get();
            sum.panics += c.panics.get();
            sum.recoveries += c.recoveries.get();
            sum.copies += c.copies.get();
            sum.barriers += c.barriers.get();
            sum.samples_read += c.samples_read.get();
            sum.cycles += c.cycles.get();
            sum.delays += c.delays.get() + c.delays_in_handler.get();
        }
        sum.rounds = self.rounds.load(Ordering::Relaxed);
        sum
    }
}
