//! Threads that wait for the baton in the kernel, where their goroutine made a system call.
//!
//! A thread whose goroutine is in a system call is idle: anything but a signal ends the call.
//! What it does until then is not a wait of ours but the goroutine's own `syscall`
//! instruction, on the goroutine's stack ([`Parking`]). So the collector scans a stack whose
//! thread sleeps in the kernel, and a signal arrives where it would in a program: at the
//! instruction after `syscall`, with `EINTR`.
//!
//! ## Who does what
//!
//! *M1 goes to sleep.* M1 chooses the next step. Where that is its own and ends the call,
//! there is nothing to wait for: the stub makes a call that comes back at once, and every
//! instruction on the way is one that M1 can be stopped at. Otherwise the stub makes three
//! calls: block the signal; pass the baton on to the next, or, where the next step is a
//! signal to M1, send that; wait.
//!
//! *M2 wakes M1.* Whoever has the baton ends M1's wait, or sends it the signal; that *is*
//! passing the baton. M2 first leaves what the step says: where M1 is to be held.
//!
//! *A signal.* M1's handler begins with the baton, is judged, may be held, as everywhere. At
//! its end M1 chooses again, and passes the baton on without waiting: the handler returns,
//! the stub finds `EINTR` and waits again.
//!
//! *M1 is back.* It takes the signal's block away and goes on.
//!
//! ## The instructions without the baton
//!
//! From the second call's end to the third, and from the end of the handler to the wait
//! again, M1 runs without the baton, while another thread may run, too. That is the loop of
//! the stub. It writes registers, and reads the calls, which lie on M1's own stack. Nobody
//! can tell when M1 runs it:
//!
//! * The signal is blocked there and arrives in the wait, at one place.
//! * A breakpoint in the loop that another thread has for itself is not for M1, which waits
//!   until it is gone ([`inject::set_breakpoint_for`]).
//! * One for M1 is not armed there by others: in the loop M1 may or may not come to it. What
//!   follows the loop it comes to once it was woken, and those are armed by who wakes it;
//!   those still further, as soon as M1 is back. Before that no other thread comes there,
//!   since who wakes M1 waits itself, or is on its way into the kernel.

use sigstorm_inject::{self as inject, Call, Parking};
use sigstorm_runtime::instrument::marked_code::find_func;
use sigstorm_runtime::sched::syscall::{SystemCall, SystemCalls};
use sigstorm_runtime::unwind::functab::info;
use sigstorm_runtime::{FuncId, M};

use super::state::{At, Order, State, Violation, What};
use super::truth::Pending;
use crate::schedule::Stop;

/// How the baton gets to its next holder.
#[derive(Clone, Copy)]
pub(crate) enum Pass {
    /// It waits at its seat.
    Seat(usize),
    /// It is parked, and is to go on.
    Wake(&'static Parking),
    /// It is parked, and is to take a signal.
    Interrupt(&'static Parking),
}

impl State {
    /// Passes the baton. The caller may only wait then.
    pub(crate) fn pass(&self, pass: Pass) {
        match pass {
            Pass::Seat(seat) => self.baton.pass(seat),
            Pass::Wake(parking) => parking.wake(),
            Pass::Interrupt(parking) => parking.interrupt(),
        }
    }

    /// The system call that passes the baton.
    fn pass_call(&self, pass: Pass) -> Call {
        match pass {
            Pass::Seat(seat) => self.baton.pass_call(seat),
            Pass::Wake(parking) => parking.wake_call(),
            Pass::Interrupt(parking) => parking.interrupt_call(),
        }
    }

    /// Leaves an order at another's seat. How the baton is to get there.
    pub(crate) fn leave_order(&self, target: usize, order: Order) -> Pass {
        let thread = &self.threads[target];
        match thread.parking.get().filter(|_| thread.parked.replace(false)) {
            None => {
                thread.order.set(Some(order));
                Pass::Seat(target)
            }
            Some(parking) => {
                thread.at.set(At::Running);
                if matches!(order.what, What::Signal) {
                    self.sends(target);
                    self.arm_handler(target, order.stop);
                    Pass::Interrupt(parking)
                } else {
                    self.arm_woken(target, order.stop);
                    Pass::Wake(parking)
                }
            }
        }
    }

    /// What an idle thread does whose goroutine is in a system call, until it is interrupted
    /// on its own stack or the call is over.
    pub(crate) fn stay_in_syscall(&self, seat: usize, m: &'static M) {
        let thread = &self.threads[seat];
        let parking = thread.parking.get().filter(|_| self.parks.get());
        let Some(parking) = parking else {
            let order = self.next_order(seat);
            thread.at.set(At::Running);
            return match order.what {
                What::Signal => self.raise(seat, order.stop),
                _ => self.come_back(seat, m, order.stop),
            };
        };
        let (target, order) = self.choose(seat);
        if target == seat && !matches!(order.what, What::Signal) {
            thread.at.set(At::Running);
            return self.come_back(seat, m, order.stop);
        }
        let pass = if target == seat {
            thread.at.set(At::Running);
            self.sends(seat);
            self.arm_handler(seat, order.stop);
            Pass::Interrupt(parking)
        } else {
            self.counts().handovers += 1;
            thread.parked.set(true);
            self.leave_order(target, order)
        };
        let calls = [parking.block_call(), self.pass_call(pass), parking.wait_call()];
        let calls = calls.map(|call| SystemCall { number: call.number, args: call.args });
        let Some(calls) = SystemCalls::new(&calls) else {
            self.fail(seat, Violation::Harness("a stub does not make as many calls"));
        };
        thread.in_kernel.set(true);
        self.leave_syscall(seat, m, &calls);
        thread.disarm();
    }

    /// Ends the call with one that comes back at once; the stop is on the way.
    fn come_back(&self, seat: usize, m: &'static M, stop: Option<Stop>) {
        self.arm(seat, stop);
        self.leave_syscall(seat, m, &SystemCalls::HARMLESS);
        self.threads[seat].disarm();
    }

    fn leave_syscall(&self, seat: usize, m: &'static M, calls: &SystemCalls) {
        let thread = &self.threads[seat];
        self.mine(seat).pending = Pending::Return;
        thread.interruptions.set(0);
        // SAFETY: the harmless call asks for a number. Parking's calls change this thread's
        // mask, pass the baton and wait, and what they point to lives as long as the process.
        let made = unsafe { m.make_syscalls(calls) };
        thread.in_syscall.set(false);
        self.mine(seat).returned();
        self.check_ask(seat, m);
        match made {
            Some(made) if made.interrupted == thread.interruptions.get() && made.result > 0 => {}
            _ => self.fail(seat, Violation::Harness("the kernel tells another story of a system call")),
        }
    }

    /// A handler ends that has interrupted its thread's system call: chooses what is next,
    /// and lets the thread go back to its wait. After this it may not have the baton.
    pub(crate) fn back_to_kernel(&self, seat: usize) {
        let thread = &self.threads[seat];
        let Some(parking) = thread.parking.get() else { return };
        thread.disarm();
        thread.at.set(At::Idle);
        let (target, order) = self.choose(seat);
        if target != seat {
            self.counts().handovers += 1;
            thread.parked.set(true);
            let pass = self.leave_order(target, order);
            return self.pass(pass);
        }
        thread.at.set(At::Running);
        if matches!(order.what, What::Signal) {
            self.sends(seat);
            self.arm_handler(seat, order.stop);
            // It is blocked, so it arrives in the wait.
            parking.interrupt();
        } else {
            // It has the baton all the way, so it can be stopped anywhere on it.
            self.arm(seat, order.stop);
            parking.wake();
        }
    }

    /// A thread is back from the kernel and on its own stack.
    pub(crate) fn back_from_kernel(&self, seat: usize) {
        let thread = &self.threads[seat];
        if !thread.in_kernel.replace(false) {
            return;
        }
        if let Some(parking) = thread.parking.get() {
            parking.leave();
        }
        if let Some((address, _)) = thread.at_instruction.get()
            && !thread.trap.is_coming_back()
            && inject::breakpoint() != Some(address)
        {
            self.arm_at(seat, address);
        }
    }

    /// Arms the stop of a handler that is about to begin. It runs no goroutine-side code.
    fn arm_handler(&self, seat: usize, stop: Option<Stop>) {
        let Some(address) = self.set_stop(seat, stop) else { return };
        match find_func(address) {
            Some(extent) if !extent.function.on_goroutine_stack() => self.arm_at(seat, address),
            _ => self.threads[seat].at_instruction.set(None),
        }
    }

    /// Arms the stop of a parked thread that is about to be woken: right now where it comes to
    /// it before it is back on its own stack, and later where it does not.
    fn arm_woken(&self, seat: usize, stop: Option<Stop>) {
        let Some(address) = self.set_stop(seat, stop) else { return };
        let within = |from: usize, to: usize| from <= address && address < to;
        let (stub, out) = (info(FuncId::Syscall), info(FuncId::SwitchOut));
        if within(stub.after_call, stub.end) || within(out.start, out.end) {
            self.arm_at(seat, address);
        }
    }
}
