//! The events that a tracer reports.

use std::ops::ControlFlow;
use std::process::ExitStatus;

use super::breakpoints::Lifetime;
use super::signals::SignalInfo;
use super::thread::Delivery;

/// Something that a traced program did.
///
/// Most events leave their thread *held*: it stays stopped until it is [resumed](super::Tracer::resume),
/// while the others go on. [`Event::held`] says which thread that is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A thread is about to run the instruction at a breakpoint. A one-shot breakpoint is lifted by
    /// now; one that stays is passed out of line when the thread goes on. Held.
    Breakpoint {
        /// The thread.
        tid: i32,
        /// The instruction's address, which is the thread's PC.
        address: u64,
        /// The breakpoint's lifetime.
        lifetime: Lifetime,
    },
    /// The signal that was delivered has interrupted the thread, which is at its handler's first
    /// instruction. Held.
    HandlerEntered {
        /// The thread.
        tid: i32,
        /// The delivery.
        delivery: Delivery,
    },
    /// The handler of a delivered signal has returned to the restorer: the next thing is the system
    /// call that goes back to where the signal came. Held.
    HandlerReturned {
        /// The thread.
        tid: i32,
        /// The delivery, as it was when the handler was entered.
        delivery: Delivery,
    },
    /// The handler of a delivered signal was left by a long jump. An event of the same thread
    /// follows, and that one holds it.
    HandlerLeft {
        /// The thread.
        tid: i32,
        /// The delivery, as it was when the handler was entered.
        delivery: Delivery,
    },
    /// A signal was delivered and no handler ran: there was none, or its frame did not fit on the
    /// stack (then the SIGSEGV of this follows). Another event of the thread follows.
    NotHandled {
        /// The thread.
        tid: i32,
        /// The signal.
        signal: i32,
    },
    /// A thread is about to receive a signal. It does so when it is resumed. Held.
    Signal {
        /// The thread.
        tid: i32,
        /// The signal.
        info: SignalInfo,
    },
    /// A thread is about to make a system call. Held.
    SyscallEntered {
        /// The thread.
        tid: i32,
        /// The call's number.
        number: u64,
        /// The arguments.
        args: [u64; 6],
    },
    /// A system call has returned. Held.
    SyscallReturned {
        /// The thread.
        tid: i32,
        /// The result, or the negative error number.
        result: i64,
    },
    /// A thread has run one instruction. Held.
    Stepped {
        /// The thread.
        tid: i32,
    },
    /// A thread was interrupted as [asked](super::Tracer::interrupt). Held.
    Interrupted {
        /// The thread.
        tid: i32,
    },
    /// A thread, or a process's first one, has not run yet. Held.
    ThreadStarted {
        /// The thread.
        tid: i32,
        /// Its process.
        pid: i32,
    },
    /// A thread has made a child process. The parent is held.
    Forked {
        /// The thread.
        tid: i32,
        /// The child.
        child: i32,
        /// Whether the kernel says that the child shares the parent's memory until it calls
        /// `exec` (`vfork`).
        vfork: bool,
    },
    /// A process runs another program now. Its first thread, which may have had another number, is
    /// before the first instruction. Breakpoints are gone with the old program. Held.
    Executed {
        /// The thread, whose number is the process's.
        tid: i32,
        /// The number that the thread had before.
        former: i32,
    },
    /// A thread is stopped with its process by SIGSTOP or its like. It goes on with SIGCONT.
    GroupStopped {
        /// The thread.
        tid: i32,
        /// The signal.
        signal: i32,
    },
    /// A child process is no longer traced: it runs freely, without breakpoints.
    LetGo {
        /// The child.
        pid: i32,
    },
    /// A thread has ended.
    ThreadExited {
        /// The thread.
        tid: i32,
        /// Its process.
        pid: i32,
    },
    /// A process has ended.
    ProcessExited {
        /// The process.
        pid: i32,
        /// How.
        status: ExitStatus,
    },
}

impl Event {
    /// The thread that the event leaves stopped.
    pub fn held(&self) -> Option<i32> {
        match *self {
            Event::Breakpoint { tid, .. }
            | Event::HandlerEntered { tid, .. }
            | Event::HandlerReturned { tid, .. }
            | Event::Signal { tid, .. }
            | Event::SyscallEntered { tid, .. }
            | Event::SyscallReturned { tid, .. }
            | Event::Stepped { tid }
            | Event::Interrupted { tid }
            | Event::ThreadStarted { tid, .. }
            | Event::Forked { tid, .. }
            | Event::Executed { tid, .. } => Some(tid),
            Event::HandlerLeft { .. }
            | Event::NotHandled { .. }
            | Event::GroupStopped { .. }
            | Event::LetGo { .. }
            | Event::ThreadExited { .. }
            | Event::ProcessExited { .. } => None,
        }
    }
}

/// The end of a wait for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Something happened.
    Event(Event),
    /// Nothing happened in the time that was given.
    TimedOut,
    /// Every thread is held: nothing can happen until one is resumed.
    AllHeld,
    /// No process is traced any more.
    Ended,
}

impl Waited {
    /// The event, or else the reason for which there is none, for use with `?`-like loops.
    pub fn into_flow(self) -> ControlFlow<Waited, Event> {
        match self {
            Waited::Event(event) => ControlFlow::Continue(event),
            other => ControlFlow::Break(other),
        }
    }
}
