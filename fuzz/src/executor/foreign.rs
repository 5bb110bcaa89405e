//! Foreign code and its callbacks: the thread's loop, nested inside foreign frames.
//!
//! A foreign call is one operation of the runtime that returns when foreign code has returned. Foreign
//! code asks here for its next action, so a thread that is idle in it waits for an order with foreign
//! frames below it on its stack; so does a thread in a callback, with the frames of the foreign code
//! that has called back in.

use sigstorm_runtime::FuncId;
use sigstorm_runtime::M;
use sigstorm_runtime::sched::foreign::{Driver, ForeignStep, MAX_CALLBACKS};

use super::holding::Holding;
use super::operate::Operator;
use super::run::Run;
use super::scheduler::Request;
use super::thread::ThreadState;
use super::trace::What as Event;
use crate::oracle::{Access, Lockstep, ShadowStack};
use crate::schedule::Op;

/// Drives a machine through foreign code.
pub(super) static DRIVER: Driver = Driver { next, called_back };

impl Run {
    /// The request that a step makes of a thread that is idle in foreign code: to call back in, if the step says so
    /// and there is room, else to return.
    pub(super) fn in_foreign_code(&self, slot: usize, op: Op) -> Option<Request> {
        let callbacks =
            self.threads[slot].goroutine.map_or(0, |index| self.shadows.stacks[index].callbacks());
        match op {
            Op::Callback => (callbacks < MAX_CALLBACKS).then_some(Request::Begin(op)),
            _ => Some(Request::Resume),
        }
    }
}

/// Foreign code asks for its next action.
fn next(m: &'static M) -> ForeignStep {
    // SAFETY: the runtime calls this, within `lend`.
    let Some(mut holding) = (unsafe { Holding::reclaim() }) else { return ForeignStep::Return };
    let me = holding.me();
    // The operation that led here is over, and so is its stop.
    holding.run().clear_breakpoint(me);
    Operator { holding: &mut holding, m }.entered_foreign_code();
    loop {
        holding.run().threads[me].state = ThreadState::Idle;
        let order = holding.next_order();
        let run = holding.run();
        run.threads[me].state = ThreadState::Running;
        let calls_back = match order.request {
            Request::Signal => {
                holding.raise_signal(order.stop);
                continue;
            }
            Request::Begin(op) => {
                run.note(me, Event::Op(op), m.current());
                true
            }
            Request::Resume | Request::Finish => false,
        };
        run.set_breakpoint(me, order.stop);
        let before = Operator { holding: &mut holding, m }.leaves_foreign_code(calls_back);
        holding.run().threads[me].before_callback = before;
        return if calls_back { ForeignStep::CallBack } else { ForeignStep::Return };
    }
}

/// The callback's frame asks. Serves the thread until that frame has returned.
fn called_back(m: &'static M) {
    // SAFETY: as in `next`.
    let Some(mut holding) = (unsafe { Holding::reclaim() }) else { return };
    let me = holding.me();
    let before = holding.run().threads[me].before_callback;
    let mut operator = Operator { holding: &mut holding, m };
    operator.called(FuncId::Callback, before);
    let callbacks = operator.stack(ShadowStack::callbacks);
    holding.run().clear_breakpoint(me);
    while (Operator { holding: &mut holding, m }).stack(ShadowStack::callbacks) == callbacks {
        holding.turn(Some(m));
    }
}
