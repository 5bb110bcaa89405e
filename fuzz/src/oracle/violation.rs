//! A violation: what was wrong, and on which thread it was noticed. Small and `Copy`, since it is
//! noted in signal handlers; the words for it are made later ([`super::evidence`]), from state that
//! is still in place.

use sigstorm_runtime::unwind::throw::Throw;

/// A violation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Violation {
    /// The slot of the thread that noticed it, if a thread of the run did.
    pub(crate) thread: Option<usize>,
    pub(crate) kind: ViolationKind,
}

/// The kind of a violation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ViolationKind {
    /// The thread's last sample differs from the expected traceback.
    Traceback,
    /// The last event of the thread's tracer differs from the expected traceback.
    Event,
    /// The thread's last sample was skipped, and the stated reason was not true.
    Skip(&'static str),
    /// The runtime's own check.
    Throw(Throw),
    /// No thread can make progress.
    Deadlock,
    /// The thread waits for a lock that it holds itself.
    SelfDeadlock,
    /// The thread makes no progress, and everybody else had time enough to let it.
    Stuck,
    /// The thread waits again and again for what is so already.
    Livelock,
    /// An object that can be reached was not marked, or was freed.
    LiveObject(usize),
    /// The samples that are kept are not those that were taken.
    Samples(&'static str),
    /// The runtime did not do what the program did, or memory is not what the program wrote.
    Memory(&'static str),
    /// Something is not where it belongs at the end; the goroutine's index, if it is a goroutine's.
    Leak(&'static str, Option<usize>),
    /// The harness is wrong.
    Harness(&'static str),
}

impl ViolationKind {
    /// The violation, noticed by the thread in this slot.
    pub(crate) fn on(self, thread: usize) -> Violation {
        Violation { thread: Some(thread), kind: self }
    }

    /// The violation, noticed by no thread of the run.
    pub(crate) fn at_the_end(self) -> Violation {
        Violation { thread: None, kind: self }
    }
}
