//! Foreign code and its callbacks: the thread's loop, nested inside foreign frames.
//!
//! A foreign call is one operation of the core that comes back when foreign code has
//! returned. Foreign code asks here what to do next, so a thread that is idle in it waits
//! for an order with foreign frames below it on its stack; so does a thread in a callback,
//! with the frames of the foreign code that has called back in.

use sigstorm_runtime::sched::foreign::{Driver, MAX_CALLBACKS, Next};
use sigstorm_runtime::{FuncId, M};

use super::hooks::SEAT;
use super::state::{At, State, What, state};
use super::trace::What as Event;
use super::truth::Pending;
use crate::schedule::Op;

static DRIVER: Driver = Driver {
    next: |m| state().next_in_foreign_code(SEAT.get(), m),
    called_back: |m| state().called_back(SEAT.get(), m),
};

impl State {
    /// The innermost frame makes a foreign call, which lasts until the schedule has it return.
    pub(crate) fn foreign(&self, seat: usize, m: &'static M) {
        if self.mine(seat).can_call(FuncId::Cgocall) {
            self.mine(seat).pending = Pending::Call(FuncId::Cgocall);
            m.foreign(&DRIVER);
            self.mine(seat).returned();
        }
    }

    /// What a step comes to for a thread that is idle in foreign code: to call back in, if
    /// that is what it says and there is room, else to return.
    pub(crate) fn in_foreign_code(&self, seat: usize, op: Op) -> Option<What> {
        match op {
            Op::Callback => (self.mine(seat).callbacks() < MAX_CALLBACKS).then_some(What::Begin(op)),
            _ => Some(What::Resume),
        }
    }

    /// Foreign code asks what to do.
    fn next_in_foreign_code(&self, seat: usize, m: &'static M) -> Next {
        let thread = &self.threads[seat];
        // What has led here is over, and what stop it had.
        thread.disarm();
        if self.mine(seat).pending != Pending::Nothing {
            self.mine(seat).called();
        }
        loop {
            thread.at.set(At::Idle);
            let order = self.next_order(seat);
            thread.at.set(At::Running);
            let (calls_back, next) = match order.what {
                What::Signal => {
                    self.raise(seat, order.stop);
                    continue;
                }
                What::Begin(op) => {
                    self.note(seat, Event::Op(op), m.current());
                    (true, Next::CallBack)
                }
                What::Resume | What::Finish => (false, Next::Return),
            };
            self.arm(seat, order.stop);
            match calls_back {
                true => self.mine(seat).calls(FuncId::Callback),
                false => self.mine(seat).pending = Pending::Return,
            }
            return next;
        }
    }

    /// The callback's frame asks. Serves the thread until that frame has returned.
    fn called_back(&self, seat: usize, m: &'static M) {
        self.called(seat);
        self.threads[seat].disarm();
        let callbacks = self.mine(seat).callbacks();
        while self.mine(seat).callbacks() == callbacks {
            self.turn(seat, Some(m));
        }
    }
}
