//! The counts of a storm.

use sigstorm_runtime::CodeClass;
use sigstorm_runtime::profiler::SkipReason;

use crate::schedule::Op;

/// The counts of a storm so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StormCounts {
    /// Signals that were handled, on every thread.
    pub signals: u64,
    /// Of these on threads that run goroutines.
    pub on_machines: u64,
    /// Right tracebacks.
    pub tracebacks: u64,
    /// Samples of a thread without a goroutine.
    pub alone: u64,
    /// Samples that were taken while the record was being written, and so not judged.
    pub unjudged: u64,
    /// Samples without a traceback, by reason, in the order of `SkipReason::ALL`.
    pub skips: [u64; SkipReason::ALL.len()],
    /// Interrupted PCs, by class, in the order of `CodeClass::ALL`.
    pub interrupted: [u64; CodeClass::ALL.len()],
    /// Operations of goroutines.
    pub operations: u64,
    /// Operations that had an effect, by [`Op::kind`], those of the thread that signals, reads and sets the rate
    /// among them.
    pub kinds: [u64; Op::KINDS],
    /// Signals that threads have sent.
    pub sent: u64,
    /// Signals that threads have sent and that the kernel dropped, since one was pending.
    pub coalesced: u64,
    /// Samples for which a buffer had no room.
    pub dropped: u64,
    /// Goroutines that were started.
    pub started: u64,
    /// System calls.
    pub syscalls: u64,
    /// Foreign calls.
    pub foreign_calls: u64,
    /// Callbacks from foreign code.
    pub callbacks: u64,
    /// Times that a signal interrupted a system call and it was made again.
    pub interrupted_calls: u64,
    /// Right events of the execution tracer.
    pub events: u64,
    /// Panics.
    pub panics: u64,
    /// Recoveries.
    pub recoveries: u64,
    /// Stacks that were moved.
    pub copies: u64,
    /// Barriers that were put over return addresses.
    pub barriers: u64,
    /// Samples that were read from the machines' buffers.
    pub samples_read: u64,
    /// Cycles of the collector.
    pub cycles: u64,
    /// Delays at scheduling points.
    pub delays: u64,
    /// Times that everything was brought to an end, looked over and begun anew.
    pub rounds: u64,
}

impl Default for StormCounts {
    fn default() -> Self {
        StormCounts::from_words([0; StormCounts::WORDS])
    }
}

impl StormCounts {
    /// How many words it is.
    pub const WORDS: usize = size_of::<StormCounts>() / 8;

    /// Adds another's.
    pub fn add(&mut self, other: &StormCounts) {
        let mut words = self.to_words();
        for (mine, theirs) in words.iter_mut().zip(other.to_words()) {
            *mine += theirs;
        }
        *self = StormCounts::from_words(words);
    }

    /// As words, for a shared page.
    pub fn to_words(self) -> [u64; StormCounts::WORDS] {
        // SAFETY: `repr(C)` and nothing but `u64`s, so there is no padding.
        unsafe { core::mem::transmute::<StormCounts, [u64; StormCounts::WORDS]>(self) }
    }

    /// From words.
    pub fn from_words(words: [u64; StormCounts::WORDS]) -> StormCounts {
        // SAFETY: as above; every bit pattern is a `u64`.
        unsafe { core::mem::transmute::<[u64; StormCounts::WORDS], StormCounts>(words) }
    }
}
