//! The state shared by the threads of a storm.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

use std::sync::Mutex;

use sigstorm_runtime::Runtime;
use sigstorm_runtime::sched::runtime::MAX_GOROUTINES;

use super::counts::StormCounts;
use super::options::Delay;
use super::rate_log::RateLog;
use super::seqlock::{HeapCell, Shadow};
use super::thread::StormThread;
use crate::oracle::cycle::Cycle;
use crate::oracle::{ShadowHeap, Violation, ViolationKind};

sigstorm_runtime::named_codes! {
    /// The threads' orders.
    pub(crate) enum Stage {
        /// Wait for a round to begin.
        Wait = 0, "wait";
        /// Work.
        Blow = 1, "blow";
        /// Finish what they have, and wait.
        Settle = 2, "settle";
    }
}

/// The shared state of a storm.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) core: &'static Runtime,
    /// The threads that run goroutines, the collector, and the disturber.
    pub(crate) threads: Vec<StormThread>,
    pub(crate) shadows: Vec<Shadow>,
    pub(crate) cycle: Cycle<MAX_GOROUTINES>,
    pub(crate) heap: HeapCell,
    stage: AtomicU8,
    /// Everybody stops at the next point: something is wrong.
    pub(crate) frozen: AtomicBool,
    violation: UnsafeCell<Option<Violation>>,
    claimed: AtomicBool,
    pub(crate) found: AtomicBool,
    pub(crate) rate: RateLog,
    /// One thread at a time changes the rate.
    pub(crate) rate_writers: Mutex<()>,
    /// A delay comes where a random 32-bit number is below this.
    pub(crate) delay_below: u64,
    pub(crate) delay_ns: u64,
    pub(crate) rounds: AtomicU64,
    /// Signals that came while profiling was off, as the runtime has counted them up to this round.
    pub(crate) off_before: AtomicU64,
}

// SAFETY: `violation` is written once, by the thread that has claimed it, and read after `found`;
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
    pub(crate) fn leak(core: &'static Runtime, threads: Vec<StormThread>, delay: Delay) -> &'static Storm {
        let storm = Box::leak(Box::new(Storm {
            core,
            threads,
            shadows: core.goroutines().iter().map(|_| Shadow::new()).collect(),
            cycle: Cycle::new(),
            heap: HeapCell::new(),
            stage: AtomicU8::new(Stage::Wait as u8),
            frozen: AtomicBool::new(false),
            violation: UnsafeCell::new(None),
            claimed: AtomicBool::new(false),
            found: AtomicBool::new(false),
            rate: RateLog::new(),
            rate_writers: Mutex::new(()),
            delay_below: (delay.probability * 4_294_967_296.0) as u64,
            delay_ns: u64::from(delay.micros) * 1000,
            rounds: AtomicU64::new(0),
            off_before: AtomicU64::new(0),
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

    /// The thread of a machine: machines come first and in order.
    pub(crate) fn thread_of_machine(&self, machine: u8) -> Option<&StormThread> {
        self.threads.get(usize::from(machine)).filter(|thread| thread.machine.is_some())
    }

    /// Starts over: the runtime was reset for buffers of this capacity, and every thread is idle.
    pub(crate) fn reset(&self, buffer: usize) {
        for shadow in &self.shadows {
            shadow.ended.store(true, Ordering::SeqCst);
            shadow.requests.withdraw();
        }
        self.threads.iter().for_each(|thread| thread.samples.reset(buffer));
        self.cycle.reset();
        self.rate.reset();
        // SAFETY: every thread is idle (see `blow`, the one caller).
        unsafe { self.heap.change(ShadowHeap::clear) };
    }

    /// A thread's index.
    pub(crate) fn index_of(&self, thread: &StormThread) -> Option<usize> {
        self.threads.iter().position(|other| ptr::eq(other, thread))
    }

    /// Notes a violation, if it is the first, and has everybody stop. Signal-safe.
    pub(crate) fn note(&self, thread: Option<&StormThread>, kind: ViolationKind) {
        if !self.claimed.swap(true, Ordering::SeqCst) {
            let thread = thread.and_then(|thread| self.index_of(thread));
            // SAFETY: the thread that has claimed it is the one writer, and nobody reads yet.
            unsafe { *self.violation.get() = Some(Violation { thread, kind }) };
            self.found.store(true, Ordering::SeqCst);
        }
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// A violation: this thread stops for good. Signal-safe.
    pub(crate) fn fail(&self, thread: &StormThread, kind: ViolationKind) -> ! {
        self.note(Some(thread), kind);
        thread.park()
    }

    /// The violation, if one was found.
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
        for thread in &self.threads {
            let c = &thread.counts;
            sum.signals += c.signals.get();
            sum.sent += thread.sent.load(Ordering::Relaxed);
            sum.coalesced += thread.sent.load(Ordering::Relaxed).saturating_sub(c.arrived_sent.get());
            sum.dropped += c.dropped.get();
            for (sum, kind) in sum.kinds.iter_mut().zip(&c.kinds) {
                *sum += kind.get();
            }
            if thread.machine.is_some_and(|m| m.id != self.core.collector()) {
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
