//! Carrying out a step on the thread that it names: the core's operations, and the truth
//! that goes along with each.
//!
//! What is pending is told to the truth before the core is told to do it, and settled
//! when the core is back.

use sigstorm_inject as inject;
use sigstorm_runtime::profiler;
use sigstorm_runtime::profiler::rate::INITIAL_RATE;
use sigstorm_runtime::sched::panic::Unwind;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::{FuncId, M, RunResult};

use super::hooks::SEAT;
use super::state::{At, EXT, GC, State, Violation, What};
use super::trace::What as Event;
use super::truth::{Pending, SavedAt, TrueFrame, Truth, Value};
use crate::schedule::Op;

/// What a deferred call calls.
const DEFERRED: FuncId = FuncId::Tiny;

impl State {
    /// A thread of the run: does what it is told until the process ends.
    pub(crate) fn serve(&self, seat: usize, machine: Option<&'static M>) {
        let thread = &self.threads[seat];
        thread.tid.set(inject::gettid());
        thread.machine.set(machine);
        if let Some(m) = machine {
            // Without real timers there is nothing that the kernel could refuse.
            m.attach().expect("a machine without a real timer");
        }
        SEAT.set(seat);
        // Ready: the controller goes on, and the next baton comes with the first order.
        self.hand(seat, super::state::CONTROLLER, None);
        loop {
            self.turn(seat, machine);
        }
    }

    /// Waits for the next order and carries it out.
    pub(crate) fn turn(&self, seat: usize, machine: Option<&'static M>) {
        let thread = &self.threads[seat];
        thread.at.set(At::Idle);
        if let Some(m) = machine.filter(|_| thread.in_syscall.get()) {
            return self.stay_in_syscall(seat, m);
        }
        let order = self.next_order(seat);
        thread.at.set(At::Running);
        match order.what {
            What::Signal => self.raise(seat, order.stop),
            What::Finish => self.finish(seat),
            What::Begin(op) => {
                thread.begun.set(thread.step.get());
                self.arm(seat, order.stop);
                self.note(seat, Event::Op(op), machine.and_then(|m| m.current()));
                self.perform(seat, machine, op);
                thread.disarm();
            }
            What::Resume => self.fail(seat, Violation::Harness("an idle thread has nothing to go on with")),
        }
    }

    fn perform(&self, seat: usize, machine: Option<&'static M>, op: Op) {
        if let Op::Rate { on } = op {
            return self.set_rate(seat, if on { INITIAL_RATE } else { 0 });
        }
        if let Op::Hz { hz } = op {
            return self.set_rate(seat, hz);
        }
        if op == Op::Read {
            return self.read(seat);
        }
        match machine {
            Some(m) => match self.assist(seat, m, op) {
                Some(did) => self.had_effect(did),
                None if seat == GC => self.had_effect(false),
                None => self.run(seat, m, op),
            },
            None => self.bind(op),
        }
    }

    /// The thread that the runtime does not know becomes a machine's, or ceases to be.
    fn bind(&self, op: Op) {
        let Some(guest) = self.guest.get() else { return };
        match op {
            // Without a real timer the kernel refuses nothing.
            Op::Attach => self.had_effect(guest.attach().is_ok()),
            Op::Detach => guest.detach(),
            _ => {}
        }
    }

    fn set_rate(&self, seat: usize, hz: u32) {
        match profiler::set_rate(self.core(), hz) {
            Ok(did) => self.had_effect(did),
            Err(_) => self.fail(seat, Violation::Harness("a step asks for a rate that there is not")),
        }
    }

    /// Reads what the buffers hold.
    fn read(&self, seat: usize) {
        match self.read_samples() {
            Ok(read) => self.had_effect(read.is_some_and(|count| count != 0)),
            Err(violation) => self.fail(seat, violation),
        }
    }

    /// Takes back the count of a step that turned out to do nothing.
    fn had_effect(&self, did: bool) {
        if !did && !self.draining.get() {
            self.counts().steps -= 1;
            self.step_did_nothing();
        }
    }

    /// The truth of the goroutine that this thread runs.
    pub(crate) fn mine(&self, seat: usize) -> &mut Truth {
        match self.threads[seat].current.get() {
            Some(index) => self.truth(index),
            None => self.fail(seat, Violation::Harness("a step for a thread without a goroutine")),
        }
    }

    fn run(&self, seat: usize, m: &'static M, op: Op) {
        if let Op::Run { g } = op {
            if self.threads[seat].current.get().is_some() {
                m.yield_now();
            }
            self.had_effect(self.take(seat, m, usize::from(g.code())));
            return;
        }
        if self.threads[seat].current.get().is_none() {
            let taken = self.preferred(seat).is_some_and(|index| self.take(seat, m, index));
            if !taken {
                self.had_effect(false);
                return;
            }
            if self.threads[seat].current.get().is_none() {
                // It was in a prologue, and was let go there once more.
                return;
            }
        }
        match op {
            Op::Call { kind, times } => {
                for _ in 0..times {
                    if !self.mine(seat).can_call(kind) || !self.call(seat, m, kind) {
                        break;
                    }
                }
            }
            Op::Ret { frames } => {
                for _ in 0..frames {
                    if !self.ret(seat, m) {
                        break;
                    }
                }
            }
            Op::Syscall => {
                if self.mine(seat).can_call(FuncId::Syscall) {
                    self.mine(seat).pending = Pending::Call(FuncId::Syscall);
                    m.call(FuncId::Syscall);
                    self.mine(seat).called();
                    self.threads[seat].in_syscall.set(true);
                }
            }
            Op::Foreign => self.foreign(seat, m),
            Op::Yield => {
                m.yield_now();
            }
            Op::Park => {
                m.park();
            }
            Op::SetPc => {
                if !m.set_caller_pc() {
                    self.fail(seat, Violation::Memory("a return slot does not hold what a call put there"));
                }
            }
            Op::Panic => self.panic(seat, m, false),
            Op::Exit => self.panic(seat, m, true),
            Op::Recover => {
                let did = m.recover();
                if did != self.mine(seat).recovers() {
                    self.fail(
                        seat,
                        Violation::Memory("a deferred call and no other recovers the panic that made it"),
                    );
                }
                self.had_effect(did);
            }
            Op::Defer => self.had_effect(self.defer(seat, m)),
            other => self.mutate(seat, m, other),
        }
    }

    fn take(&self, seat: usize, m: &'static M, index: usize) -> bool {
        if !m.take(&self.core().goroutines()[index]) {
            return false;
        }
        let truth = self.mine(seat);
        if truth.saved_at == SavedAt::Start {
            // Through its first instructions, to its first ask.
            truth.pending = Pending::Continue;
            m.ret();
            self.mine(seat).settled();
            self.check_ask(seat, m);
        } else if let Pending::Call(kind) = truth.pending {
            // It was let go in that call's prologue, which begins again.
            truth.calls(kind);
            let left = m.proceed();
            self.arrived(seat, m, kind, left);
        }
        true
    }

    /// False where the thread has no goroutine any more.
    fn call(&self, seat: usize, m: &'static M, kind: FuncId) -> bool {
        self.mine(seat).calls(kind);
        let left = m.call(kind);
        self.arrived(seat, m, kind, left)
    }

    /// The callee asks; or the goroutine was let go in its prologue, and the call stays pending
    /// for whoever takes it. False where the thread has no goroutine any more.
    fn arrived(&self, seat: usize, m: &'static M, kind: FuncId, left: RunResult) -> bool {
        if left == RunResult::Preempted {
            return false;
        }
        self.called(seat);
        self.check_ask(seat, m);
        if kind == FuncId::Deferring {
            self.defer(seat, m);
        }
        !matches!(kind, FuncId::Gopanic | FuncId::Goexit) || self.unwind(seat, m)
    }

    /// The pending call has happened.
    pub(crate) fn called(&self, seat: usize) {
        if !self.mine(seat).has_done_what_was_asked() {
            self.fail(
                seat,
                Violation::Memory("what was asked of a goroutine is not done in its next prologue"),
            );
        }
        self.mine(seat).called();
    }

    /// The innermost frame defers a call. False where there is no room for another.
    fn defer(&self, seat: usize, m: &'static M) -> bool {
        let did = m.defer(DEFERRED);
        if !self.mine(seat).defers(did) {
            self.fail(seat, Violation::Memory("a call is not deferred, and there is room"));
        }
        did
    }

    /// Returns from the innermost frame, or makes the deferred call that comes before.
    /// False once the goroutine has ended or was let go.
    fn ret(&self, seat: usize, m: &'static M) -> bool {
        if self.mine(seat).top().is_some_and(|f| f.function == FuncId::Deferring) {
            let deferred = m.deferred_before_return();
            if deferred != self.mine(seat).defers_before_return().then_some(DEFERRED) {
                self.fail(
                    seat,
                    Violation::Memory("a frame does not run what it has deferred, once, before it returns"),
                );
            }
            if let Some(deferred) = deferred {
                return self.call(seat, m, deferred);
            }
        }
        self.check_slots(seat, self.threads[seat].current.get(), false);
        self.mine(seat).pending = Pending::Return;
        let outermost = self.mine(seat).depth() == 1;
        let left = m.ret();
        if outermost != (left == RunResult::Exited) {
            self.fail(seat, Violation::Memory("a frame did not return to its caller"));
        }
        if outermost {
            return false;
        }
        self.mine(seat).returned();
        if left == RunResult::InForeign {
            // A callback's frame: what comes next is foreign code's to say.
            return false;
        }
        self.check_ask(seat, m);
        self.unwind(seat, m)
    }

    /// The innermost frame asks: it must be the one that the truth has there, where it has it.
    pub(crate) fn check_ask(&self, seat: usize, m: &'static M) {
        let asks = m.current().is_some_and(|g| {
            let below = g.stack.top.get().wrapping_sub(g.sched.sp.get());
            self.mine(seat).asks(g.sched.pc.get(), below)
        });
        if !asks {
            self.fail(seat, Violation::Memory("a call or a return has gone elsewhere"));
        }
    }

    fn panic(&self, seat: usize, m: &'static M, exits: bool) {
        let frame = if exits { FuncId::Goexit } else { FuncId::Gopanic };
        let can = self.mine(seat).can_panic(exits);
        self.mine(seat).calls(frame);
        match m.panic(exits) {
            left if left.is_some() != can => {
                self.fail(
                    seat,
                    Violation::Memory("a panic begins where none can, or does not where one can"),
                );
            }
            Some(left) => {
                self.arrived(seat, m, frame, left);
            }
            None => {
                self.mine(seat).settled();
                self.had_effect(false);
            }
        }
    }

    /// Where a panicking frame asks, answers it, until a frame asks that a schedule decides
    /// for. False once the goroutine has ended or was let go.
    fn unwind(&self, seat: usize, m: &'static M) -> bool {
        loop {
            match self.mine(seat).top().map(|f| f.function) {
                Some(FuncId::Gopanic | FuncId::Goexit) => {}
                Some(_) => return true,
                None => return false,
            }
            let next = m.unwind_next();
            if next != self.mine(seat).unwinds(DEFERRED) {
                self.fail(
                    seat,
                    Violation::Memory(
                        "a panic does not go on with the next deferred call, or to its landing",
                    ),
                );
            }
            match next {
                Unwind::Call(function) => {
                    if !self.call(seat, m, function) {
                        return false;
                    }
                }
                Unwind::End => {
                    m.end();
                    return false;
                }
                Unwind::Recover { below } => {
                    self.threads[seat].recovers_to.set(below);
                    m.recovery(below);
                    // It went on from the landing to its ask.
                    self.mine(seat).settled();
                    self.check_ask(seat, m);
                }
            }
        }
    }

    // -- the program's memory -----------------------------------------------------------

    fn mutate(&self, seat: usize, m: &'static M, op: Op) {
        let up = |frames: u8| usize::from(frames);
        let at = |slot: u8| usize::from(slot);
        let truth = self.mine(seat);
        let Some(top) = truth.frame(0) else { return };
        let slots = top.slots;
        let object = |s: u8| match slots[at(s)] {
            Value::Object(index) => Some(usize::from(index)),
            _ => None,
        };
        let did = match op {
            Op::Alloc { slot } => match m.alloc(at(slot)) {
                Some(index) => {
                    self.heap().fields[index] = Default::default();
                    self.set_slot(seat, 0, slot, Value::Object(index as u8));
                    true
                }
                None => return self.had_effect(false),
            },
            Op::Load { dst, src, field } => object(src).is_none_or(|index| {
                // It may wait for the world first, and the field may change meanwhile.
                let did = m.load(at(dst), at(src), at(field));
                let value = self.heap().fields[index][at(field)];
                self.set_slot(seat, 0, dst, value);
                did
            }),
            Op::Store { obj, src, field } => object(obj).is_none_or(|index| {
                let did = m.store(at(obj), at(field), at(src));
                self.heap().fields[index][at(field)] = slots[at(src)];
                did
            }),
            Op::Move { dst, src } => {
                let did = m.copy(at(dst), at(src));
                self.set_slot(seat, 0, dst, slots[at(src)]);
                did
            }
            Op::Clear { slot } => {
                let did = m.clear(at(slot));
                self.set_slot(seat, 0, slot, Value::Nil);
                did
            }
            Op::Up { frames, src, dst } => {
                let did = m.write_up(up(frames), at(dst), at(src));
                self.set_slot(seat, up(frames), dst, slots[at(src)]);
                did
            }
            Op::Ref { dst, frames, to } => {
                let did = m.refer(at(dst), up(frames), at(to));
                self.set_slot(seat, 0, dst, truth.points_to(up(frames), at(to)));
                did
            }
            Op::Send { slot } => {
                self.threads[seat].in_send.set(true);
                let did = m.send(at(slot), at(slot));
                self.threads[seat].in_send.set(false);
                self.heap().mailbox[at(slot)] = slots[at(slot)];
                self.set_slot(seat, 0, slot, Value::Nil);
                did
            }
            // The truth follows at its last scheduling point. Before its first, it may wait for the world.
            Op::Bulk { frames } => {
                self.threads[seat].in_bulk.set(true);
                m.bulk_move(up(frames))
            }
            _ => return self.had_effect(false),
        };
        if !did {
            self.fail(seat, Violation::Memory("a slot does not hold what was written there"));
        }
    }

    /// What a goroutine's frames have written must be there: in all of them, or the innermost. While
    /// its stack is being moved, that says nothing.
    pub(crate) fn check_slots(&self, seat: usize, goroutine: Option<usize>, all: bool) {
        let Some(index) = goroutine else { return };
        let g = &self.core().goroutines()[index];
        let moves = self.ledger[index].get().is_some_and(|(_, operation)| operation == Operation::Copystack);
        // SAFETY: a word of its stack, which nobody moves or frees now.
        let read = |address: usize| unsafe { (address as *const usize).read_volatile() };
        let holds =
            || self.truth(index).slots_hold(|at| self.core().heap().index(at), g.stack.top.get(), all, read);
        if moves == all && !holds() {
            self.fail(seat, Violation::Memory("a slot does not hold what was written there"));
        }
    }

    fn set_slot(&self, seat: usize, up: usize, slot: u8, value: Value) {
        if let Some(TrueFrame { slots, .. }) = self.mine(seat).frame(up) {
            slots[usize::from(slot)] = value;
        }
    }

    // -- the end ------------------------------------------------------------------------

    /// The schedule is at its end: finishes the cycle, or returns from every frame.
    fn finish(&self, seat: usize) {
        let Some(m) = self.threads[seat].machine.get() else { return };
        if seat == EXT {
            return m.detach();
        }
        if seat == GC {
            self.assist(seat, m, Op::Term);
            self.assist(seat, m, Op::Sweep);
            return;
        }
        if self.threads[seat].current.get().is_none() {
            let runnable = |index: usize| {
                let g = &self.core().goroutines()[index];
                g.status.get() == sigstorm_runtime::sched::g::status::RUNNABLE
            };
            if let Some(index) = (0..sigstorm_runtime::sched::runtime::GOROUTINES).find(|&i| runnable(i)) {
                self.take(seat, m, index);
            } else if let Some(g) = self.core().goroutines().iter().find(|g| g.is_parked()) {
                m.ready(g);
            }
        } else {
            while self.ret(seat, m) {}
        }
    }
}
