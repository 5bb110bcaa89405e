//! The right to touch what the threads of a controlled run share.
//!
//! Of the threads of a run one holds the baton, and only that thread runs. A [`Holding`] is that
//! fact as a value: it is neither `Copy` nor `Send`, and the thread that has it may borrow the [`Run`]. To
//! hand the baton on ([`Holding::hand_over`]), or to run code that may ([`Holding::lend`]), takes the
//! whole value, so no reference into the run outlives a hand-over: the compiler sees to it.
//!
//! # Who gets one, and why it is the only one
//!
//! 1. The controller makes the first one with the harness. Every thread that it starts waits for the
//!    baton before it makes its own.
//! 2. A thread calls the runtime, or sends itself a signal, only within [`Holding::lend`]. The runtime
//!    calls back (hooks, trap handler, signal handler, driver of foreign code) on that same thread,
//!    while the lender waits for the call to return. Such a callback [reclaims](Holding::reclaim) what
//!    was lent, and has let go of it when it returns.
//! 3. A thread that waits in the kernel for the baton, in its goroutine's system call, runs none of the
//!    harness's code there until it has the baton again ([`super::parked_syscall`]).

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::time::Duration;

use sigstorm_inject::Baton;

use super::parked_syscall::Pass;
use super::run::Run;
use super::thread::CONTROLLER;
use crate::oracle::ViolationKind;

/// A run that the thread with the baton may touch.
#[derive(Debug)]
struct RunCell(UnsafeCell<Run>);

// SAFETY: reached through a `Holding` alone, of which one is in use at a time (see the head of this file).
unsafe impl Sync for RunCell {}

static RUN: RunCell = RunCell(UnsafeCell::new(Run::new()));

/// The baton of this process's controlled runs.
static BATON: Baton = Baton::new();

thread_local! {
    /// The calling thread's slot; the controller's where it is no thread of the run.
    static SLOT: Cell<usize> = const { Cell::new(CONTROLLER) };
}

/// The calling thread holds the baton.
#[derive(Debug)]
pub(crate) struct Holding {
    me: usize,
    /// The baton is this thread's.
    not_send: PhantomData<*const ()>,
}

impl Holding {
    /// The calling thread, in slot `me`, holds the baton.
    ///
    /// # Safety
    /// The thread holds the baton, and has no other `Holding`.
    pub(super) unsafe fn new(me: usize) -> Holding {
        SLOT.set(me);
        Holding { me, not_send: PhantomData }
    }

    /// The holding lent to the code that calls back. None on the controller's thread, where the runtime's
    /// own start-up comes by, and on threads that are none of the run's.
    ///
    /// # Safety
    /// The caller was called back by code that runs within [`Holding::lend`] on this thread, and does not keep
    /// the value when it returns.
    #[inline(always)]
    pub(super) unsafe fn reclaim() -> Option<Holding> {
        let me = SLOT.get();
        (me != CONTROLLER).then_some(Holding { me, not_send: PhantomData })
    }

    /// Whether the calling thread has lent what it holds, and so can reclaim it.
    #[cfg(debug_assertions)]
    pub(super) fn is_lent() -> bool {
        SLOT.get() != CONTROLLER
    }

    /// The calling thread's slot.
    #[inline(always)]
    pub(crate) fn me(&self) -> usize {
        self.me
    }

    /// The state that the threads share.
    #[inline(always)]
    pub(crate) fn run(&mut self) -> &mut Run {
        // SAFETY: one `Holding` is in use at a time, and it is borrowed for as long as the reference lives.
        unsafe { &mut *RUN.0.get() }
    }

    /// Runs code that may call back, and then reclaims this.
    #[inline(always)]
    pub(crate) fn lend<R>(&mut self, code: impl FnOnce() -> R) -> R {
        code()
    }

    /// Runs code of the runtime whose events are nobody's: between two runs, while no thread is at work.
    pub(super) fn as_controller<R>(&mut self, code: impl FnOnce() -> R) -> R {
        let slot = SLOT.replace(CONTROLLER);
        let result = code();
        SLOT.set(slot);
        result
    }

    /// Passes the baton, and returns once it is back.
    pub(super) fn hand_over(&mut self, pass: Pass) {
        pass.make(&BATON);
        BATON.wait(self.me);
    }

    /// Passes the baton, and waits for it with `wait`, which is given a way to wait for so long. Returns false
    /// where it did not come back: then nothing of the run may be relied on.
    pub(super) fn hand_over_for(&mut self, pass: Pass, wait: fn(&dyn Fn(Duration) -> bool) -> bool) -> bool {
        let me = self.me;
        pass.make(&BATON);
        wait(&|limit| BATON.wait_timeout(me, limit))
    }

    /// Passes the baton for good: the calling thread continues without it, to the place where it waits.
    pub(super) fn give_up(self, pass: Pass) {
        pass.make(&BATON);
    }

    /// The baton, for system calls that pass it.
    pub(super) fn baton() -> &'static Baton {
        &BATON
    }

    /// Ends the run with a violation. Whatever the calling thread was doing is abandoned.
    #[cold]
    pub(crate) fn fail(&mut self, kind: ViolationKind) -> ! {
        let me = self.me;
        let run = self.run();
        run.code.clear_all();
        run.outcome.violated(kind.on(me));
        BATON.pass(CONTROLLER);
        loop {
            // Nobody passes it here any more.
            BATON.wait(me);
        }
    }
}
