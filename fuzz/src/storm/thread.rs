//! A storm's record of one of its threads.
//!
//! Its own thread and that thread's handler write; the watchdog, the handlers of others and
//! the report read. So everything is atomic and nothing is locked. A field is written
//! either by the thread or by its handler, unless it says otherwise.

use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::time::Duration;

use sigstorm_runtime::profiler::SkipReason;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::{CodeClass, M};

use super::ledger::{Ledger, OPERATIONS, Words};
use crate::oracle::Observed;
use crate::oracle::check::OwnStack;
use crate::oracle::sample_log::SampleLog;
use crate::schedule::Op;

/// In place of a goroutine's index: none.
pub(crate) const NONE: usize = usize::MAX;

thread_local! {
    static MINE: Cell<*const StormThread> = const { Cell::new(ptr::null()) };
}

/// The activity of a storm's thread; during an operation, that operation's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// The thread waits for the next round.
    Idle,
    /// The thread is between two operations.
    Between,
    /// The thread takes a goroutine.
    Take,
    /// The thread finishes what it has, at the end of a round.
    Finish,
    /// The thread stays in a system call.
    InSyscall,
    /// The thread runs foreign code.
    InForeignCode,
    /// The thread sends signals, reads samples and turns the rate.
    Disturbs,
    /// The thread carries out an operation of this kind.
    Op(u8),
}

/// Operations come after the others.
const FIRST_OP: u8 = 16;
const OTHERS: [Activity; 7] = [
    Activity::Idle,
    Activity::Between,
    Activity::Take,
    Activity::Finish,
    Activity::InSyscall,
    Activity::InForeignCode,
    Activity::Disturbs,
];

impl Activity {
    /// The operation `op`.
    pub(crate) fn of(op: Op) -> Activity {
        Activity::Op(op.kind() as u8)
    }

    fn code(self) -> u8 {
        match self {
            Activity::Op(kind) => FIRST_OP + kind,
            other => OTHERS.iter().position(|one| *one == other).unwrap_or(1) as u8,
        }
    }

    fn from_code(code: u8) -> Activity {
        match code.checked_sub(FIRST_OP) {
            Some(kind) => Activity::Op(kind),
            None => OTHERS.get(usize::from(code)).copied().unwrap_or(Activity::Between),
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activity::Idle => f.write_str("waits for the next round"),
            Activity::Between => f.write_str("is between two operations"),
            Activity::Take => f.write_str("takes a goroutine"),
            Activity::Finish => f.write_str("finishes what it has"),
            Activity::InSyscall => f.write_str("is in a system call"),
            Activity::InForeignCode => f.write_str("is in foreign code"),
            Activity::Disturbs => f.write_str("sends signals and turns the rate"),
            Activity::Op(kind) => write!(f, "is at `{}`", Op::names().nth(usize::from(*kind)).unwrap_or("?")),
        }
    }
}

/// A counter with one writer.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Count {
    const fn new() -> Self {
        Count(AtomicU64::new(0))
    }

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

/// The counts of a thread and its handler.
#[derive(Debug)]
pub(crate) struct ThreadCounts {
    // The handler's.
    pub(crate) signals: Count,
    pub(crate) tracebacks: Count,
    pub(crate) alone: Count,
    pub(crate) unjudged: Count,
    pub(crate) skips: [Count; SkipReason::ALL.len()],
    pub(crate) interrupted: [Count; CodeClass::ALL.len()],
    pub(crate) delays_in_handler: Count,
    /// Signals that arrived, counted before the runtime sees them; those that a thread has sent.
    pub(crate) arrived: Count,
    pub(crate) arrived_sent: Count,
    /// Signals in the runtime's accounts: samples that were kept and dropped, and signals that left none.
    pub(crate) kept: Count,
    pub(crate) dropped: Count,
    pub(crate) off: Count,
    pub(crate) foreign: Count,
    // The thread's.
    pub(crate) operations: Count,
    /// Operations that had an effect, by kind.
    pub(crate) kinds: [Count; Op::KINDS],
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

impl ThreadCounts {
    const fn new() -> Self {
        ThreadCounts {
            signals: Count::new(),
            tracebacks: Count::new(),
            alone: Count::new(),
            unjudged: Count::new(),
            skips: [const { Count::new() }; SkipReason::ALL.len()],
            interrupted: [const { Count::new() }; CodeClass::ALL.len()],
            delays_in_handler: Count::new(),
            arrived: Count::new(),
            arrived_sent: Count::new(),
            kept: Count::new(),
            dropped: Count::new(),
            off: Count::new(),
            foreign: Count::new(),
            operations: Count::new(),
            kinds: [const { Count::new() }; Op::KINDS],
            started: Count::new(),
            syscalls: Count::new(),
            foreign_calls: Count::new(),
            callbacks: Count::new(),
            panics: Count::new(),
            recoveries: Count::new(),
            copies: Count::new(),
            barriers: Count::new(),
            cycles: Count::new(),
            events: Count::new(),
            samples_read: Count::new(),
            interrupted_calls: Count::new(),
            delays: Count::new(),
        }
    }
}

/// State that a handler keeps from its beginning to its end. No other code touches it.
#[derive(Debug)]
pub(crate) struct InHandler {
    /// Every machine's ledger as the handler began.
    pub(crate) began: Box<[Words]>,
    /// The same once it was refused the lock.
    pub(crate) refused: Box<[Words]>,
    /// The last change of the rate that was confirmed as it began.
    pub(crate) rate: u32,
    /// The goroutine as the walk found it, while the walk held the lock.
    pub(crate) observed: Option<Observed>,
}

/// One thread of a storm.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct StormThread {
    pub(crate) name: String,
    pub(crate) machine: Option<&'static M>,
    pub(crate) tid: AtomicI32,
    /// The goroutine that it runs, by index, as the harness knows.
    pub(crate) owned: AtomicUsize,
    /// Set while the thread takes a goroutine: it may have it a moment before the harness knows.
    pub(crate) taking: AtomicBool,
    /// Set once its goroutine no longer runs: the thread may have let go of it a moment
    /// before the harness knows.
    pub(crate) leaving: AtomicBool,
    /// Whether its goroutine is in a foreign call, and so cannot leave it.
    pub(crate) locked_to_goroutine: AtomicBool,
    /// Distance below the top of the frame that its recovery goes to.
    pub(crate) recovers_to: AtomicUsize,
    activity: AtomicU8,
    /// Whose code it runs on its own stack.
    own_stack: AtomicU8,
    /// The request that it is about to make: a goroutine's index, and the generations of requests to it.
    pub(crate) requesting: [AtomicU32; 3],
    /// The samples of its machine.
    pub(crate) samples: SampleLog,
    /// Signals that other threads have sent to it.
    pub(crate) sent: AtomicU64,
    /// The last scheduling point that it reached, in its handler or not.
    pub(crate) point: AtomicU8,
    pub(crate) in_handler: AtomicBool,
    /// The PC that its handler has interrupted.
    pub(crate) pc: AtomicUsize,
    /// The thread's wait, while it waits.
    pub(crate) wait: AtomicPtr<Wait>,
    /// Looks of the thread at its wait that found it not over.
    pub(crate) looks: AtomicU64,
    /// Whatever it gets done.
    pub(crate) progress: AtomicU64,
    /// Set once the thread was stopped for good.
    pub(crate) parked: AtomicBool,
    random: [AtomicU64; 2],
    pub(crate) ledger: Ledger,
    handler: UnsafeCell<InHandler>,
    pub(crate) counts: ThreadCounts,
}

// SAFETY: `handler` is its own thread's handler's, which does not interrupt itself, and
// the report's once every thread is parked; everything else is atomic.
unsafe impl Sync for StormThread {}

impl StormThread {
    pub(crate) fn new(
        name: String,
        machine: Option<&'static M>,
        machines: usize,
        random: [u64; 2],
    ) -> StormThread {
        let words = || vec![[0; OPERATIONS]; machines].into_boxed_slice();
        StormThread {
            name,
            machine,
            tid: AtomicI32::new(0),
            owned: AtomicUsize::new(NONE),
            taking: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            locked_to_goroutine: AtomicBool::new(false),
            recovers_to: AtomicUsize::new(0),
            activity: AtomicU8::new(Activity::Idle.code()),
            own_stack: AtomicU8::new(OwnStack::Runtime as u8),
            requesting: [const { AtomicU32::new(0) }; 3],
            samples: SampleLog::new(),
            sent: AtomicU64::new(0),
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
            handler: UnsafeCell::new(InHandler { began: words(), refused: words(), rate: 0, observed: None }),
            counts: ThreadCounts::new(),
        }
    }

    /// Makes this the calling thread's.
    pub(crate) fn bind(&'static self) {
        self.tid.store(sigstorm_inject::gettid(), Ordering::SeqCst);
        MINE.set(self);
    }

    /// The calling thread's. Signal-safe.
    #[inline]
    pub(crate) fn mine() -> Option<&'static StormThread> {
        // SAFETY: null, or a thread of the storm, which lives as long as the process.
        unsafe { MINE.get().as_ref() }
    }

    /// Says what the thread is at, and that it makes progress.
    pub(crate) fn does(&self, activity: Activity) {
        self.activity.store(activity.code(), Ordering::Relaxed);
        self.progresses();
    }

    /// Says that the thread makes progress.
    pub(crate) fn progresses(&self) {
        self.progress.store(self.progress.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn activity(&self) -> Activity {
        Activity::from_code(self.activity.load(Ordering::Relaxed))
    }

    /// Says whose code it runs on its own stack.
    pub(crate) fn runs_on_own_stack(&self, whose: OwnStack) {
        self.own_stack.store(whose as u8, Ordering::Relaxed);
    }

    /// Whose code it runs on its own stack.
    pub(crate) fn own_stack(&self) -> OwnStack {
        OwnStack::from_code(self.own_stack.load(Ordering::Relaxed)).unwrap_or(OwnStack::MaybeForeign)
    }

    /// The goroutine that it runs, by index, as the harness knows.
    pub(crate) fn goroutine(&self) -> Option<usize> {
        Some(self.owned.load(Ordering::Relaxed)).filter(|&index| index != NONE)
    }

    /// Has the thread's handler change what it keeps.
    ///
    /// # Safety
    /// The caller is this thread's handler.
    pub(crate) unsafe fn keeps<R>(&self, change: impl FnOnce(&mut InHandler) -> R) -> R {
        // SAFETY: the handler does not interrupt itself (caller), and the reference ends with `change`.
        change(unsafe { &mut *self.handler.get() })
    }

    /// Looks at what its handler keeps.
    ///
    /// # Safety
    /// The caller is this thread's handler, or every thread is parked.
    pub(crate) unsafe fn look_at_handler<R>(&self, look: impl FnOnce(&InHandler) -> R) -> R {
        // SAFETY: nobody changes it meanwhile (caller).
        look(unsafe { &*self.handler.get() })
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
