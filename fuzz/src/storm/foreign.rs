//! Foreign code in a storm: it calls back in at random, and the goroutine works on in its
//! callbacks.
//!
//! A foreign call is one operation of the core that comes back when foreign code has
//! returned. Foreign code asks here what to do next, and hands over a callback's frame, so
//! the thread's loop is nested in foreign frames.

use core::cell::Cell;
use core::ptr;

use sigstorm_runtime::sched::foreign::{Driver, MAX_CALLBACKS, Next};
use sigstorm_runtime::{FuncId, M};

use super::seat::{Below, Doing};
use super::state::Stage;
use super::work::Worker;
use crate::executor::truth::{Pending, Truth};

thread_local! {
    /// The thread's worker, while it is in a foreign call.
    static WORKER: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
}

static DRIVER: Driver =
    Driver { next: |_: &'static M| with_worker(next), called_back: |_: &'static M| with_worker(called_back) };

/// Runs `f` on the thread's worker.
fn with_worker<R>(f: fn(&mut Worker<'_>) -> R) -> R {
    // SAFETY: set by `call`, which is on this thread's stack and does not touch its worker
    // until foreign code has returned; a nested call puts the pointer back.
    f(unsafe { &mut *WORKER.get().cast::<Worker<'_>>() })
}

/// The innermost frame makes a foreign call.
pub(super) fn call(worker: &mut Worker<'_>) {
    if !worker.look(|truth| truth.can_call(FuncId::Cgocall)) {
        return;
    }
    let (m, seat) = (worker.m, worker.seat);
    seat.does(Doing::Foreign);
    seat.counts.foreign_calls.one();
    worker.update(|truth| truth.pending = Pending::Call(FuncId::Cgocall));
    let outer = WORKER.replace(ptr::from_mut(worker).cast());
    seat.is_below(Below::Either);
    m.foreign(&DRIVER);
    seat.is_below(Below::Runtime);
    WORKER.set(outer);
    worker.update(Truth::returned);
}

/// Foreign code asks what to do.
fn next(worker: &mut Worker<'_>) -> Next {
    worker.seat.is_below(Below::Foreign);
    if worker.look(|truth| truth.pending != Pending::Nothing) {
        worker.update(Truth::called);
    }
    worker.seat.ledger.idle();
    worker.seat.does(Doing::Foreign);
    for _ in 0..worker.below(200) {
        core::hint::spin_loop();
    }
    let may = worker.storm.stage() == Stage::Blow && worker.look(|truth| truth.callbacks() < MAX_CALLBACKS);
    let (pending, next) = if may && worker.below(2) == 0 {
        worker.seat.counts.callbacks.one();
        (Pending::Call(FuncId::Callback), Next::CallBack)
    } else {
        (Pending::Return, Next::Return)
    };
    worker.seat.is_below(Below::Either);
    worker.update(|truth| truth.pending = pending);
    next
}

/// The callback's frame asks. Works on until that frame has returned.
fn called_back(worker: &mut Worker<'_>) {
    worker.seat.is_below(Below::Runtime);
    worker.update(Truth::called);
    let callbacks = worker.look(Truth::callbacks);
    while worker.look(Truth::callbacks) == callbacks {
        if worker.storm.stage() == Stage::Blow {
            worker.one();
        } else {
            worker.ret();
        }
        worker.done();
    }
    worker.seat.is_below(Below::Either);
}
