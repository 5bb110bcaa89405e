//! Foreign code in a storm: it calls back in at random, and the goroutine works on in its callbacks.
//!
//! A foreign call is one operation of the runtime that returns when foreign code has returned. Foreign
//! code asks here for its next action, and hands over a callback's frame, so the thread's loop is nested in
//! foreign frames.

use core::cell::Cell;
use core::ptr;

use sigstorm_runtime::M;
use sigstorm_runtime::sched::foreign::{Driver, ForeignStep, MAX_CALLBACKS};

use super::worker::Worker;
use crate::oracle::check::OwnStack;

thread_local! {
    /// The thread's worker, while it is in a foreign call.
    static WORKER: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
}

static DRIVER: Driver =
    Driver { next: |_: &'static M| with_worker(next), called_back: |_: &'static M| with_worker(called_back) };

/// Runs `f` on the thread's worker.
fn with_worker<R>(f: fn(&mut Worker<'_>) -> R) -> R {
    // SAFETY: set by `call`, which is on this thread's stack and does not touch its worker until foreign code
    // has returned; a nested call puts the pointer back.
    f(unsafe { &mut *WORKER.get().cast::<Worker<'_>>() })
}

/// The innermost frame makes a foreign call.
pub(super) fn call(worker: &mut Worker<'_>) {
    let (m, thread) = (worker.m, worker.thread);
    let outer = WORKER.replace(ptr::from_mut(worker).cast());
    thread.runs_on_own_stack(OwnStack::MaybeForeign);
    m.foreign(&DRIVER);
    thread.runs_on_own_stack(OwnStack::Runtime);
    WORKER.set(outer);
}

fn next(worker: &mut Worker<'_>) -> ForeignStep {
    match worker.next_in_foreign_code(MAX_CALLBACKS) {
        true => ForeignStep::CallBack,
        false => ForeignStep::Return,
    }
}

fn called_back(worker: &mut Worker<'_>) {
    worker.called_back();
}
