//! What is known of one thread of a storm.
//!
//! Its own thread and that thread's handler write; the watchdog, the handlers of others and
//! the report read. So everything is atomic and nothing is locked. A field is written
//! either by the thread or by its handler, unless it says otherwise.

use core::cell::{Cell, UnsafeCell};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sigstorm_runtime::profiler::SkipReason;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::{CodeClass, M};

use super::ledger::{Ledger, OPERATIONS, Words};
use crate::executor::truth::Seen;

/// In place of a goroutine's index: none.
pub(crate) const NONE: usize = usize::MAX;

thread_local! {
    static SEAT: Cell<*const Seat> = const { Cell::new(ptr::null()) };
}

sigstorm_runtime::named_codes! {
    /// What a thread of a storm is at.
    pub(crate) enum Doing {
        /// It waits for the next round.
        Idle = 0, "waits for the next round";
        /// Between two operations.
        Between = 1, "is between two operations";
        /// It takes a goroutine.
        Take = 2, "takes a goroutine";
        /// It calls.
        Call = 3, "calls";
        /// It returns.
        Return = 4, "returns";
        /// It enters or leaves a system call.
        Syscall = 5, "is about a system call";
        /// It stays in a system call.
        InSyscall = 6, "is in a system call";
        /// It lets its goroutine go.
        Yield = 7, "lets its goroutine go";
        /// It panics, or runs deferred calls.
        Panic = 8, "panics";
        /// It recovers.
        Recover = 9, "recovers";
        /// It allocates, loads or stores.
        Memory = 10, "works on memory";
        /// It begins a cycle.
        Mark = 11, "begins a cycle";
        /// It scans.
        Scan = 12, "has a goroutine scanned";
        /// It blackens objects.
        Drain = 13, "blackens objects";
        /// It ends the mark phase.
        Terminate = 14, "ends the mark phase";
        /// It sweeps.
        Sweep = 15, "sweeps";
        /// It shrinks a stack.
        Shrink = 16, "shrinks a stack";
        /// It is about a foreign call, or in foreign code.
        Foreign = 18, "is about a foreign call";
        /// It throws signals about.
        Weather = 17, "sends signals and turns the rate";
    }
}

sigstorm_runtime::named_codes! {
    /// Whose code a thread runs on its own stack, as far as the harness knows.
    pub(crate) enum Below {
        /// The runtime's.
        Runtime = 0, "the runtime";
        /// Foreign code.
        Foreign = 1, "foreign code";
        /// On the way from one to the other, of which the core alone knows the instant.
        Either = 2, "between the runtime and foreign code";
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// One more. By its one writer.
    #[inline]
    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// So many more. By its one writer.
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a thread and its handler count.
#[derive(Debug, Default)]
pub(crate) struct SeatCounts {
    // The handler's.
    pub(crate) signals: Count,
    pub(crate) tracebacks: Count,
    pub(crate) alone: Count,
    pub(crate) unjudged: Count,
    pub(crate) skips: [Count; SkipReason::ALL.len()],
    pub(crate) interrupted: [Count; CodeClass::ALL.len()],
    pub(crate) delays_in_handler: Count,
    // The thread's.
    pub(crate) operations: Count,
    pub(crate) started: Count,
    pub(crate) syscalls: Count,
    pub(crate) foreign_calls: Count,
    pub(crate) callbacks: Count,
    pub(crate) panics: Count,
    pub(crate) recoveries: Count,
    pub(crate) copies: Count,
    pub(crate) barriers: Count,
    pub(crate) cycles: Count,
    pub(crate) events: Count,
    pub(crate) samples_read: Count,
    pub(crate) interrupted_calls: Count,
    pub(crate) delays: Count,
}

/// What a handler keeps from its beginning to its end. Nobody else's.
#[derive(Debug)]
pub(crate) struct InHandler {
    /// Every machine's ledger as the handler began.
    pub(crate) began: Box<[Words]>,
    /// The same once it was refused the lock.
    pub(crate) refused: Box<[Words]>,
    /// The harness's word for the rate as it began.
    pub(crate) rate: u64,
    /// Where the walk saw the goroutine, and the top of its stack, while it held the lock.
    pub(crate) seen: Option<Seen>,
}

/// One thread of a storm.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) machine: Option<&'static M>,
    pub(crate) tid: AtomicI32,
    /// The goroutine that it runs, by index, as the harness knows.
    pub(crate) owned: AtomicUsize,
    /// True while it takes one: it may have it a moment before the harness knows.
    pub(crate) taking: AtomicBool,
    /// True from when its goroutine no longer runs: it may have let go of it a moment before
    /// the harness knows.
    pub(crate) leaving: AtomicBool,
    /// Distance below the top of the frame that its recovery goes to.
    pub(crate) recovers_to: AtomicUsize,
    doing: AtomicU8,
    /// Whose code it runs on its own stack.
    pub(crate) below: AtomicU8,
    /// The scheduling point that it came to last, in its handler or not.
    pub(crate) point: AtomicU8,
    pub(crate) in_handler: AtomicBool,
    /// What its handler has interrupted.
    pub(crate) pc: AtomicUsize,
    /// What it waits for, while it does.
    pub(crate) wait: AtomicPtr<Wait>,
    /// How often it looked whether that is over, and it was not.
    pub(crate) looks: AtomicU64,
    /// Whatever it gets done.
    pub(crate) progress: AtomicU64,
    /// True once it was stopped for good.
    pub(crate) parked: AtomicBool,
    random: [AtomicU64; 2],
    pub(crate) ledger: Ledger,
    handler: UnsafeCell<InHandler>,
    pub(crate) counts: SeatCounts,
}

// SAFETY: `handler` is its own thread's handler's, which does not interrupt itself, and
// the report's once every thread is parked; everything else is atomic.
unsafe impl Sync for Seat {}

impl Seat {
    pub(crate) fn new(name: String, machine: Option<&'static M>, machines: usize, random: [u64; 2]) -> Seat {
        let words = || vec![[0; OPERATIONS]; machines].into_boxed_slice();
        Seat {
            name,
            machine,
            tid: AtomicI32::new(0),
            owned: AtomicUsize::new(NONE),
            taking: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            recovers_to: AtomicUsize::new(0),
            doing: AtomicU8::new(Doing::Idle as u8),
            below: AtomicU8::new(Below::Runtime as u8),
            point: AtomicU8::new(0),
            in_handler: AtomicBool::new(false),
            pc: AtomicUsize::new(0),
            wait: AtomicPtr::new(ptr::null_mut()),
            looks: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            parked: AtomicBool::new(false),
            // Xorshift must not begin at zero.
            random: random.map(|r| AtomicU64::new(r | 1)),
            ledger: Ledger::default(),
            handler: UnsafeCell::new(InHandler { began: words(), refused: words(), rate: 0, seen: None }),
            counts: SeatCounts::default(),
        }
    }

    /// Makes this seat the calling thread's.
    pub(crate) fn sit(&'static self) {
        self.tid.store(sigstorm_inject::gettid(), Ordering::SeqCst);
        SEAT.set(self);
    }

    /// The calling thread's seat. Signal-safe.
    #[inline]
    pub(crate) fn mine() -> Option<&'static Seat> {
        // SAFETY: null, or a seat of the storm, which lives as long as the process.
        unsafe { SEAT.get().as_ref() }
    }

    /// Says what the thread is at, and that it gets on.
    pub(crate) fn does(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
        self.progress.store(self.progress.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Says whose code it runs on its own stack.
    pub(crate) fn is_below(&self, below: Below) {
        self.below.store(below as u8, Ordering::Relaxed);
    }

    /// Whose code it runs on its own stack.
    pub(crate) fn below(&self) -> Below {
        Below::from_code(self.below.load(Ordering::Relaxed)).unwrap_or(Below::Either)
    }

    pub(crate) fn doing(&self) -> Doing {
        Doing::from_code(self.doing.load(Ordering::Relaxed)).unwrap_or(Doing::Between)
    }

    /// The goroutine that it runs, by index, as the harness knows.
    pub(crate) fn goroutine(&self) -> Option<usize> {
        Some(self.owned.load(Ordering::Relaxed)).filter(|&index| index != NONE)
    }

    /// What its handler keeps.
    ///
    /// # Safety
    /// The caller is this thread's handler, or everybody is parked; and holds no other
    /// reference to it.
    #[expect(clippy::mut_from_ref, reason = "a handler is alone with what it keeps")]
    pub(crate) unsafe fn handler(&self) -> &mut InHandler {
        // SAFETY: as the caller says.
        unsafe { &mut *self.handler.get() }
    }

    /// A random number, for delays. Its handler has a stream of its own.
    #[inline]
    pub(crate) fn random(&self) -> u64 {
        let state = &self.random[usize::from(self.in_handler.load(Ordering::Relaxed))];
        let mut x = state.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.store(x, Ordering::Relaxed);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Stops here for good: something is wrong, and the report is about to look.
    pub(crate) fn park(&self) -> ! {
        loop {
            self.parked.store(true, Ordering::SeqCst);
            rest(Duration::from_millis(10));
        }
    }
}

/// Sleeps for so long, or until a signal comes. Signal-safe.
pub(crate) fn rest(time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    };
    // SAFETY: the record outlives the call; that it may end early is as it should be.
    unsafe { libc::nanosleep(&time, ptr::null_mut()) };
}
