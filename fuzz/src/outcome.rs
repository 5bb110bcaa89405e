//! The outcome of a run: counts, a verdict with its evidence, the trace.
//!
//! Plain data, so that the process that ran a schedule (which a violation ends) can
//! hand it to the one that reports.

use serde::{Deserialize, Serialize};
use sigstorm_runtime::CodeClass;
use sigstorm_runtime::profiler::SkipReason;

use crate::schedule::Op;

sigstorm_runtime::named_codes! {
    /// The oracle's verdict.
    pub enum Verdict {
        /// A walk returned frames that differ from the right ones, or gave up half-way.
        BadTraceback = 1, "bad-traceback";
        /// A sample was skipped although the stated reason was not true at that instant.
        UnjustifiedSkip = 2, "unjustified-skip";
        /// A memory fault in the walk, the handler, or a read of a freed stack.
        Fault = 3, "fault";
        /// Nothing can move.
        Deadlock = 4, "deadlock";
        /// An entry's slot does not hold the trampoline.
        BarrierLost = 5, "barrier-lost";
        /// More barriers than there is room for.
        BarrierOverflow = 6, "barrier-overflow";
        /// A frame returned into a barrier that is not the next.
        BarrierOutOfOrder = 7, "barrier-out-of-order";
        /// Barriers were installed over barriers.
        DoubleInstall = 8, "double-install";
        /// An object reachable from real roots was unmarked at the end of mark termination.
        LiveObjectFreed = 9, "live-object-freed";
        /// A guard was hit.
        StackOverflow = 10, "stack-overflow";
        /// At the end something is not where it belongs.
        StateLeak = 11, "state-leak";
        /// The harness itself is wrong. Never a bug of the core.
        HarnessError = 12, "harness-error";
    }
}

/// The counts of one run or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    /// Schedules run.
    pub schedules: u64,
    /// Steps that had an effect.
    pub steps: u64,
    /// Times that the baton went from one thread to another.
    pub handovers: u64,
    /// Signals that the kernel delivered.
    pub signals: u64,
    /// Right tracebacks.
    pub tracebacks: u64,
    /// Samples of a thread without a goroutine.
    pub alone: u64,
    /// Samples without a traceback, by reason, in the order of `SkipReason::ALL`.
    pub skips: [u64; SkipReason::ALL.len()],
    /// Interrupted PCs, by class, in the order of `CodeClass::ALL`.
    pub interrupted: [u64; CodeClass::ALL.len()],
    /// Blocking system calls that a signal interrupted: `EINTR`.
    pub interrupted_calls: u64,
    /// Right events of the execution tracer.
    pub events: u64,
    /// Signals that were sent.
    pub sent: u64,
    /// Signals that the kernel dropped, since one was pending.
    pub coalesced: u64,
    /// Samples for which a buffer had no room.
    pub dropped: u64,
    /// Tracebacks that were read from the buffers.
    pub read_tracebacks: u64,
    /// Samples of a thread without a goroutine that were read.
    pub read_alone: u64,
    /// Samples without a traceback that were read, by reason, in the order of `SkipReason::ALL`.
    pub read_skips: [u64; SkipReason::ALL.len()],
    /// Steps that were begun, by [`Op::kind`].
    pub kinds: [u64; Op::KINDS],
    /// Frames of right tracebacks, by the code of their function.
    pub frames: [u64; FRAMES],
}

/// Codes below this one are of functions of the goroutine side, and so of frames.
pub const FRAMES: usize = 32;

impl Default for Counts {
    fn default() -> Self {
        Counts::from_words([0; Counts::WORDS])
    }
}

impl Counts {
    /// How many words it is.
    pub const WORDS: usize = size_of::<Counts>() / 8;

    /// The skips that are in the accounts, by reason: those that were read, and those of which
    /// there is no sample.
    pub fn accounted_skips(&self) -> [u64; SkipReason::ALL.len()] {
        let mut skips = self.read_skips;
        for skip in [SkipReason::ForeignThread, SkipReason::ProfilerOff] {
            let index = usize::from(skip.code()) - 1;
            skips[index] += self.skips[index];
        }
        skips
    }

    /// How many signals are accounted for: after runs without a violation all that were sent.
    pub fn accounted(&self) -> u64 {
        let skips: u64 = self.accounted_skips().iter().sum();
        self.read_tracebacks + self.read_alone + skips + self.coalesced + self.dropped
    }

    /// As words, for a shared page.
    pub fn words(&self) -> &[u64; Counts::WORDS] {
        // SAFETY: `repr(C)` and nothing but `u64`s, so there is no padding.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// The words, to be changed.
    fn words_mut(&mut self) -> &mut [u64; Counts::WORDS] {
        // SAFETY: as above; every bit pattern is a `u64`.
        unsafe { &mut *core::ptr::from_mut(self).cast() }
    }

    /// From words.
    pub const fn from_words(words: [u64; Counts::WORDS]) -> Counts {
        // SAFETY: as above.
        unsafe { core::mem::transmute::<[u64; Counts::WORDS], Counts>(words) }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Counts) {
        for (mine, theirs) in self.words_mut().iter_mut().zip(other.words()) {
            *mine += theirs;
        }
    }

    /// Begins to count one schedule.
    pub fn begin(&mut self) {
        self.words_mut().fill(0);
        self.schedules = 1;
    }
}

/// The outcome of the stops at instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injected {
    /// Stops that were reached.
    pub held: u64,
    /// Times that another thread went on while one was held at one.
    pub handed: u64,
    /// Right tracebacks of signals that came exactly where the thread was held.
    pub right: u64,
    /// Such signals that found no goroutine.
    pub alone: u64,
    /// Such signals whose sample was skipped, by reason, in the order of `SkipReason::ALL`.
    pub skips: [u64; SkipReason::ALL.len()],
}

impl Injected {
    /// Nothing.
    pub const NONE: Injected =
        Injected { held: 0, handed: 0, right: 0, alone: 0, skips: [0; SkipReason::ALL.len()] };

    /// How many signals came exactly where the thread was held.
    pub fn samples(&self) -> u64 {
        self.right + self.alone + self.skips.iter().sum::<u64>()
    }
}

/// The visits of a step to an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// The step's index; the number of steps for what happens after the last.
    pub step: u32,
    /// The function's code.
    pub function: u8,
    /// Which of its instructions.
    pub index: u16,
    /// How often.
    pub count: u16,
    /// Which of the first eight times signals were blocked, a bit each.
    pub masked: u8,
}

/// One event of a trace, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Index of the step that was being carried out.
    pub step: u32,
    /// The actor: `m1`, `m2`, `gc`, `ext`.
    pub actor: String,
    /// The event: a scheduling point's name, or `signal`, `stop ..`, `call small`, ...
    pub what: String,
    /// The goroutine concerned; 0 for none.
    pub goroutine: u8,
    /// The PC: function + offset, or empty.
    pub pc: String,
    /// SP relative to the top of the stack, or empty.
    pub sp: String,
    /// The holder of the stack lock, or empty.
    pub lock: String,
    /// Barriers as position/length, or empty.
    pub barriers: String,
}

/// A violation and its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its verdict's name.
    pub verdict: String,
    /// One line: what was wrong.
    pub summary: String,
    /// The evidence, in lines: expected and found.
    pub evidence: Vec<String>,
    /// The goroutines' stacks and barriers, with markers.
    pub dump: Vec<String>,
    /// Index of the step at which it was found.
    pub step: usize,
}

impl Finding {
    /// A finding that names no step and has no stacks to show, such as one about a process that died.
    pub fn new(verdict: Verdict, summary: String, evidence: Vec<String>) -> Finding {
        Finding { verdict: verdict.name().to_owned(), summary, evidence, dump: Vec::new(), step: 0 }
    }

    /// An error of the harness with nothing to show for it.
    pub fn harness_error(summary: impl Into<String>) -> Finding {
        Finding::new(Verdict::HarnessError, summary.into(), Vec::new())
    }

    /// Returns whether it is an error of the harness, and says nothing of the core.
    pub fn is_harness_error(&self) -> bool {
        self.verdict == Verdict::HarnessError.name()
    }
}

/// The outcome of one run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The run's counts.
    pub counts: Counts,
    /// A hash of the event trace: the same bytes give the same hash, always.
    pub trace_hash: u64,
    /// The events, where they were asked for.
    pub events: Vec<Event>,
    /// The violation, if there was one. The process must not run another schedule then.
    pub finding: Option<Finding>,
    /// The outcome of its stops at instructions.
    pub injected: Injected,
    /// Notes for the user, such as that the trace is cut.
    pub notes: Vec<String>,
    /// Steps that had no effect, by index, where the run was traced.
    pub inert: Vec<u32>,
    /// Steps that had one, and a stop that was not reached, where the run was traced.
    pub unreached: Vec<u32>,
}
