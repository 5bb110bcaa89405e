//! Threads that wait for the baton in the kernel, in their goroutine's own system call.
//!
//! A thread whose goroutine is in a system call is idle: any order but a signal ends the call. Until
//! then it executes the goroutine's `syscall` instruction, on the goroutine's stack ([`Parking`]), and
//! no wait of the harness. So the collector scans a stack whose thread sleeps in the kernel, and a signal
//! arrives where it would in a program: at the instruction after `syscall`, with `EINTR`.
//!
//! ## Who does what
//!
//! 1. *M1 goes to sleep.* M1 chooses the next step. If that is its own and ends the call, there is nothing to
//!    wait for: the stub makes a call that returns at once, and M1 can be stopped at every instruction on the
//!    way. Otherwise the stub makes three calls: block the signal; pass the baton to the next thread or, if the
//!    next step is a signal to M1, send that; wait.
//! 2. *M2 wakes M1.* The thread with the baton ends M1's wait, or sends it the signal. That *is* passing the
//!    baton. M2 first leaves the order, and the breakpoint that comes with it.
//! 3. *A signal.* M1's handler begins with the baton, is judged, and may be held, as everywhere. At its end M1
//!    chooses again and passes the baton on without waiting: the handler returns, the stub finds `EINTR` and waits
//!    again.
//! 4. *M1 is back.* It unblocks the signal and continues.
//!
//! ## The instructions without the baton
//!
//! From the end of the second call to the third, and from the end of the handler to the next wait, M1 runs
//! without the baton, while another thread may run, too. These instructions are the loop of the stub. The loop
//! writes registers, and reads the calls, which lie on M1's own stack. No other thread can tell when M1 runs it:
//!
//! * The signal is blocked there and arrives in the wait, at one place.
//! * A breakpoint in the loop that another thread has set for itself is not for M1, which waits until it is gone
//!   ([`inject::set_breakpoint_for`](sigstorm_inject::set_breakpoint_for)).
//! * A breakpoint for M1 is not set in the loop by other threads: M1 may or may not reach it there. Breakpoints
//!   on the way from the wait to M1's own stack are set by the thread that wakes M1; those beyond, by M1 itself once
//!   it is back. No other thread reaches them before that, since the thread that wakes M1 waits itself, or is on its
//!   way into the kernel.

use sigstorm_inject::{Baton, Call, Parking};
use sigstorm_runtime::instrument::marked_code::find_func;
use sigstorm_runtime::sched::syscall::{SystemCall, SystemCalls};
use sigstorm_runtime::unwind::functab::info;
use sigstorm_runtime::{FuncId, M};

use super::holding::Holding;
use super::operate::Operator;
use super::run::Run;
use super::sample_accounting::sends;
use super::scheduler::{Order, Request};
use super::thread::ThreadState;
use crate::oracle::{Lockstep, ViolationKind};
use crate::schedule::Stop;

/// How the baton gets to its next holder.
#[derive(Clone, Copy)]
pub(super) enum Pass {
    /// The next holder waits at its slot.
    Slot(usize),
    /// The next holder is parked, and is to resume.
    Wake(&'static Parking),
    /// The next holder is parked, and is to take a signal.
    Interrupt(&'static Parking),
}

impl Pass {
    /// Passes the baton. The caller may only wait then.
    pub(super) fn make(self, baton: &Baton) {
        match self {
            Pass::Slot(slot) => baton.pass(slot),
            Pass::Wake(parking) => parking.wake(),
            Pass::Interrupt(parking) => parking.interrupt(),
        }
    }

    /// The system call that passes the baton.
    fn call(self) -> Call {
        match self {
            Pass::Slot(slot) => Holding::baton().pass_call(slot),
            Pass::Wake(parking) => parking.wake_call(),
            Pass::Interrupt(parking) => parking.interrupt_call(),
        }
    }
}

impl Run {
    /// Leaves an order for another thread. How the baton is to get there.
    pub(super) fn leave_order(&mut self, target: usize, order: Order) -> Pass {
        let thread = &mut self.threads[target];
        let is_parked = core::mem::take(&mut thread.kernel.parked);
        let Some(parking) = thread.parking.filter(|_| is_parked) else {
            thread.order = Some(order);
            return Pass::Slot(target);
        };
        thread.state = ThreadState::Running;
        match order.request {
            Request::Signal => {
                self.signals_parked(target, order.stop);
                Pass::Interrupt(parking)
            }
            _ => {
                self.arm_woken(target, order.stop);
                Pass::Wake(parking)
            }
        }
    }

    /// A thread that waits in the kernel, or is about to, is sent a signal that arrives there. The stop is for the
    /// handler, which runs no code of the goroutine's side.
    fn signals_parked(&mut self, target: usize, stop: Option<Stop>) {
        sends(&mut self.threads[target], &mut self.counts);
        self.enter_handler(target);
        self.plan_stop(target, stop);
        match self.threads[target].breakpoints.planned().map(find_func) {
            Some(Some(extent)) if !extent.function.on_goroutine_stack() => self.arm_breakpoint(target),
            Some(_) => self.threads[target].breakpoints.drop_planned(),
            None => {}
        }
    }

    /// Arms the stop of a parked thread that is about to be woken: right now where it reaches it before it is
    /// back on its own stack, and later where it does not.
    fn arm_woken(&mut self, target: usize, stop: Option<Stop>) {
        self.plan_stop(target, stop);
        let Some(address) = self.threads[target].breakpoints.planned() else { return };
        let within = |from: usize, to: usize| from <= address && address < to;
        let (stub, out) = (info(FuncId::Syscall), info(FuncId::SwitchOut));
        if within(stub.after_call, stub.end) || within(out.start, out.end) {
            self.arm_breakpoint(target);
        }
    }

    /// The thread leaves an order for another one, which the baton is passed to from the kernel.
    fn parks(&mut self, me: usize, target: usize, order: Order) -> Pass {
        self.counts.handovers += 1;
        self.threads[me].kernel.parked = true;
        self.leave_order(target, order)
    }

    /// A thread is back from the kernel and on its own stack.
    pub(super) fn back_from_kernel(&mut self, me: usize) {
        let thread = &mut self.threads[me];
        if !core::mem::take(&mut thread.kernel.active) {
            return;
        }
        if let Some(parking) = thread.parking {
            parking.leave();
        }
        self.arm_breakpoint(me);
    }
}

impl Holding {
    /// Keeps an idle thread in its goroutine's system call until the thread is interrupted on its own stack
    /// or the call is over.
    pub(super) fn stay_in_syscall(&mut self, m: &'static M) {
        let me = self.me();
        let run = self.run();
        let parking = run.threads[me].parking.filter(|_| run.parks);
        let Some(parking) = parking else {
            let order = self.next_order();
            self.run().threads[me].state = ThreadState::Running;
            return match order.request {
                Request::Signal => self.raise_signal(order.stop),
                _ => self.come_back(m, order.stop),
            };
        };
        let (target, order) = self.choose();
        let run = self.run();
        if target == me && !matches!(order.request, Request::Signal) {
            run.threads[me].state = ThreadState::Running;
            return self.come_back(m, order.stop);
        }
        let pass = if target == me {
            run.threads[me].state = ThreadState::Running;
            run.signals_parked(me, order.stop);
            Pass::Interrupt(parking)
        } else {
            run.parks(me, target, order)
        };
        let calls = [parking.block_call(), pass.call(), parking.wait_call()];
        let calls = calls.map(|call| SystemCall { number: call.number, args: call.args });
        let Some(calls) = SystemCalls::new(&calls) else {
            self.fail(ViolationKind::Harness("a stub does not make as many calls"));
        };
        self.run().threads[me].kernel.active = true;
        self.leave_syscall(m, &calls);
    }

    /// Ends the call with one that comes back at once; the stop is on the way.
    fn come_back(&mut self, m: &'static M, stop: Option<Stop>) {
        let me = self.me();
        self.run().set_breakpoint(me, stop);
        self.leave_syscall(m, &SystemCalls::HARMLESS);
    }

    fn leave_syscall(&mut self, m: &'static M, calls: &SystemCalls) {
        let me = self.me();
        self.run().threads[me].kernel.interruptions = 0;
        let mut operator = Operator { holding: self, m };
        // SAFETY: the harmless call asks for a number. Parking's calls change this thread's mask, pass the
        // baton and wait, and what they point to lives as long as the process.
        let made = unsafe { operator.leave_syscall(calls) };
        let thread = &mut self.run().threads[me];
        thread.in_syscall = false;
        match made {
            Some(made) if made.interrupted == thread.kernel.interruptions && made.result > 0 => {}
            _ => self.fail(ViolationKind::Harness("the kernel tells another story of a system call")),
        }
        self.run().clear_breakpoint(me);
    }

    /// A handler ends that has interrupted its thread's system call: chooses what is next, and lets the thread
    /// go back to its wait. After this it may not have the baton.
    pub(super) fn back_to_kernel(mut self) {
        let me = self.me();
        let Some(parking) = self.run().threads[me].parking else { return };
        self.run().threads[me].state = ThreadState::Idle;
        let (target, order) = self.choose();
        let run = self.run();
        if target != me {
            let pass = run.parks(me, target, order);
            return self.give_up(pass);
        }
        run.threads[me].state = ThreadState::Running;
        if matches!(order.request, Request::Signal) {
            run.signals_parked(me, order.stop);
            // It is blocked, so it arrives in the wait.
            parking.interrupt();
        } else {
            // It has the baton all the way, so it can be stopped anywhere on it.
            run.set_breakpoint(me, order.stop);
            parking.wake();
        }
    }
}
