//! Who is next: choosing the next step and handing the baton on.
//!
//! A thread that has finished what it was told, or is held, or cannot go on, chooses the
//! next step itself. Where that is another's it leaves an order at the other's seat and
//! passes the baton. A step that would have no effect is passed over at once, without a
//! hand-over. After the last step every thread finishes what it does, in a fixed order;
//! where nobody can, that is a deadlock.

use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::runtime::GOROUTINES;
use sigstorm_runtime::{FuncId, Phase};

use super::feedback::{hit, mix};
use super::kernel::Pass;
use super::state::{
    At, CONTROLLER, EXT, GC, M1, M2, Order, SEATS, State, Thread, Violation, What, actor_of, seat_of,
};
use super::trace::What as Event;
use super::truth::Value;
use crate::schedule::{Op, Stop};

/// More rounds of finishing than any schedule needs.
const MAX_DRAINS: u32 = 100_000;

impl State {
    /// Waits until `seat` has something to do, and says what. The caller holds the baton and
    /// has set what it is at.
    pub(crate) fn next_order(&self, seat: usize) -> Order {
        loop {
            if let Some(order) = self.threads[seat].order.take() {
                return self.accepted(seat, order);
            }
            let (target, order) = self.choose(seat);
            if target == seat {
                return self.accepted(seat, order);
            }
            self.hand(seat, target, Some(order));
        }
    }

    /// The order, which `seat` now carries out.
    fn accepted(&self, seat: usize, order: Order) -> Order {
        self.begins.set(false);
        self.threads[seat].step.set(if self.draining.get() { u32::MAX } else { self.step.get() });
        order
    }

    /// Passes the baton to `target`, with an order, and waits until it comes back. Breakpoints
    /// are the holder's, so they go and come with the baton.
    pub(crate) fn hand(&self, seat: usize, target: usize, order: Option<Order>) {
        self.put_down(seat);
        if target != CONTROLLER && seat != CONTROLLER && !self.begins.get() {
            self.counts().handovers += 1;
            self.note_handed(seat);
        }
        let pass = order.map_or(Pass::Seat(target), |order| self.leave_order(target, order));
        self.pass(pass);
        self.baton.wait(seat);
        self.pick_up(seat);
    }

    /// Ends the run with a violation. Whatever the calling thread was doing is not gone on with.
    pub(crate) fn fail(&self, seat: usize, violation: Violation) -> ! {
        self.disarm_all();
        if self.violation.get().is_none() {
            self.violation.set(Some(violation));
        }
        self.baton.pass(CONTROLLER);
        loop {
            // Nobody passes it here any more.
            self.baton.wait(seat);
        }
    }

    /// The next step with an effect, and whose it is.
    pub(crate) fn choose(&self, me: usize) -> (usize, Order) {
        loop {
            let index = self.cursor.get();
            let Some(step) = self.with_steps(|steps| steps.get(index).copied()) else {
                match self.choose_finish(me) {
                    (CONTROLLER, _) if self.begins_another() => continue,
                    finish => return finish,
                }
            };
            self.cursor.set(index + 1);
            let Some(seat) = seat_of(step.actor) else { continue };
            if step.op == Op::Pend {
                self.pend(me, seat, index as u32);
                continue;
            }
            let Some(what) = self.effect(seat, step.op) else { continue };
            self.step.set(index as u32);
            self.fates.had_effect(index as u32);
            self.counts().steps += 1;
            self.counts().kinds[step.op.kind()] += 1;
            self.met_stops(seat, step.op);
            return (seat, Order { what, stop: step.stop });
        }
    }

    /// What this step comes to for a thread as it stands; nothing if it has no effect.
    fn effect(&self, seat: usize, op: Op) -> Option<What> {
        let thread = &self.threads[seat];
        if op == Op::Signal {
            // Only a thread whose timer is armed gets one, and a handler masks its own.
            let masked = thread.in_handler.get() || thread.trap.masked.get();
            return (self.is_signalled(seat) && !masked).then_some(What::Signal);
        }
        match thread.at.get() {
            At::Stopped => Some(What::Resume),
            At::Blocked(wait) => wait.over().then_some(What::Resume),
            At::Running => None,
            At::Idle if thread.in_syscall.get() => Some(What::Resume),
            At::Idle if thread.in_foreign.get() => self.in_foreign_code(seat, op),
            At::Idle => self.can_begin(seat, op).then_some(What::Begin(op)),
        }
    }

    /// True where an idle thread can do this.
    fn can_begin(&self, seat: usize, op: Op) -> bool {
        if let Op::Rate { on } = op {
            return (self.core().rate() != 0) != on;
        }
        if let Op::Hz { hz } = op {
            return self.core().rate() != hz;
        }
        if op == Op::Read {
            return self.accounts().has_unread() && !self.core().profiler().is_being_read();
        }
        match seat {
            GC => self.can_assist(seat, op),
            M1 | M2 => self.can_assist(seat, op) || self.can_run(seat, op),
            _ => match op {
                Op::Attach => self.threads[seat].machine.get().is_none(),
                Op::Detach => self.threads[seat].machine.get().is_some(),
                _ => false,
            },
        }
    }

    /// Sends a signal to a thread whose handler masks it: it is pending until that ends. Whoever
    /// has the baton sends it, as a timer would. Not to one that has been called from the kernel:
    /// it goes back there without the baton, and there the signal would come.
    fn pend(&self, me: usize, seat: usize, index: u32) {
        let thread = &self.threads[seat];
        if thread.in_handler.get() && !thread.in_kernel.get() && self.is_signalled(seat) {
            self.step.set(index);
            self.fates.had_effect(index);
            self.counts().steps += 1;
            self.counts().kinds[Op::Pend.kind()] += 1;
            self.note(seat, Event::Op(Op::Pend), None);
            self.send(me, seat);
        }
    }

    pub(crate) fn can_collect(&self, op: Op) -> bool {
        let gs = self.core().goroutines();
        match op {
            Op::Mark | Op::Stw => self.phase() == Phase::Off,
            Op::Scan { g } => {
                let scanned = self.scanned[usize::from(g.code())].get();
                let g = &gs[usize::from(g.code())];
                let exists = !matches!(g.status.get(), status::IDLE | status::DEAD);
                self.phase() == Phase::Mark && exists && !(scanned && g.scan_done())
            }
            Op::Drain { .. } | Op::Term => self.phase() == Phase::Mark,
            Op::Sweep => self.phase() == Phase::Sweep,
            Op::Shrink { g } => {
                let g = &gs[usize::from(g.code())];
                let stopped = matches!(g.status.get(), status::RUNNABLE | status::WAITING);
                stopped && g.stack.size() > sigstorm_runtime::stack::MIN_STACK
            }
            _ => false,
        }
    }

    fn can_run(&self, seat: usize, op: Op) -> bool {
        let Some(index) = self.threads[seat].current.get() else {
            // A thread without a goroutine takes one before it calls.
            return match op {
                Op::Run { g } => self.can_take(usize::from(g.code())),
                Op::Call { .. } | Op::Syscall | Op::Foreign | Op::Alloc { .. } => {
                    self.preferred(seat).is_some()
                }
                _ => false,
            };
        };
        let truth = self.truth(index);
        let Some(&top) = truth.top() else { return false };
        let slot = |slot: u8| top.slots[usize::from(slot)];
        let object = |s: u8| matches!(slot(s), Value::Object(_));
        // With foreign frames on its thread's stack it stays there, and does not end.
        let is_free = !truth.is_in_foreign_call();
        match op {
            Op::Run { g } => {
                is_free && usize::from(g.code()) != index && self.can_take(usize::from(g.code()))
            }
            Op::Call { kind, .. } => truth.can_call(kind),
            Op::Syscall => truth.can_call(FuncId::Syscall),
            Op::Foreign => truth.can_call(FuncId::Cgocall),
            Op::Yield | Op::Park => is_free,
            Op::Ret { .. } | Op::Alloc { .. } | Op::Clear { .. } | Op::Move { .. } => true,
            Op::Panic => truth.can_call(FuncId::Gopanic),
            Op::Exit => is_free && truth.can_call(FuncId::Goexit),
            Op::Recover => truth.is_panicking(),
            Op::Defer => top.function == FuncId::Deferring,
            Op::SetPc => truth.can_set_pc(),
            Op::Load { src, .. } => object(src),
            Op::Store { obj, src, .. } => object(obj) && !slot(src).is_up(),
            Op::Up { frames, src, .. } => truth.has_slots(usize::from(frames)) && !slot(src).is_up(),
            Op::Ref { frames, .. } => truth.has_slots(usize::from(frames)),
            Op::Bulk { frames } => truth.has_slots(usize::from(frames)) && !self.mailbox_is_in_use(),
            Op::Send { slot } => object(slot) && !self.mailbox_is_in_use(),
            _ => false,
        }
    }

    /// True where a thread moves something into the mailbox or out of it. It may be held between any
    /// two words: a program that used it meanwhile would race with itself.
    fn mailbox_is_in_use(&self) -> bool {
        self.threads.iter().any(|thread| thread.in_bulk.get() || thread.in_send.get())
    }

    /// True where a thread could take this goroutine now.
    pub(crate) fn can_take(&self, index: usize) -> bool {
        let s = self.core().goroutines()[index].status.get();
        matches!(s & !status::SCAN, status::IDLE | status::RUNNABLE | status::DEAD)
    }

    /// The goroutine that a thread without one takes.
    pub(crate) fn preferred(&self, seat: usize) -> Option<usize> {
        let first = seat - M1;
        (0..GOROUTINES).map(|i| (first + i) % GOROUTINES).find(|&i| self.can_take(i))
    }

    /// Notes for the feedback what is done while others are held.
    fn met_stops(&self, seat: usize, op: Op) {
        for (other, thread) in self.threads.iter().enumerate() {
            if other != seat
                && matches!(thread.at.get(), At::Stopped)
                && let Some(stop) = thread.stop.get()
            {
                let place = match stop {
                    Stop::Point { point, .. } => u32::from(point.code()),
                    Stop::Instr { function, index, .. } => {
                        0x1_0000 | u32::from(function.code()) << 8 | u32::from(index & 0xff)
                    }
                };
                let code = op.code(actor_of(seat).class()).unwrap_or(0);
                hit(mix([4, place, u32::from(code) << 4 | (seat.min(GC) as u32)]));
            }
        }
    }

    // -- the end ----------------------------------------------------------------------

    /// What is left to do once the steps are used up. With nothing left, the controller.
    fn choose_finish(&self, me: usize) -> (usize, Order) {
        let order = |what| Order { what, stop: None };
        if !self.draining.replace(true) {
            self.note(me, Event::Drain, None);
        }
        self.drains.set(self.drains.get() + 1);
        if self.drains.get() > MAX_DRAINS {
            self.fail(me, Violation::Harness("finishing does not come to an end"));
        }
        let seats = || (M1..SEATS).map(|seat| (seat, &self.threads[seat]));
        let at = |wanted: fn(&Thread) -> bool| seats().find(|(_, t)| wanted(t)).map(|(seat, _)| seat);
        if let Some(seat) = at(|t| matches!(t.at.get(), At::Stopped)) {
            return (seat, order(What::Resume));
        }
        if let Some(seat) = at(|t| matches!(t.at.get(), At::Blocked(wait) if wait.over())) {
            return (seat, order(What::Resume));
        }
        let idle = |seat: usize| matches!(self.threads[seat].at.get(), At::Idle);
        if idle(GC) && matches!(self.phase(), Phase::Mark | Phase::Sweep) {
            return (GC, order(What::Finish));
        }
        if idle(EXT) && self.threads[EXT].machine.get().is_some() {
            return (EXT, order(What::Finish));
        }
        for seat in [M1, M2] {
            let has_work = self.threads[seat].current.get().is_some()
                || self
                    .core()
                    .goroutines()
                    .iter()
                    .any(|g| g.status.get() == status::RUNNABLE || g.is_parked());
            if idle(seat) && has_work {
                return (seat, order(What::Finish));
            }
        }
        if seats().any(|(_, t)| matches!(t.at.get(), At::Blocked(_))) {
            self.fail(me, Violation::Deadlock);
        }
        debug_assert!(idle(EXT));
        // Here and not by the controller, whom nobody can stop where the core throws.
        if me != CONTROLLER
            && let Err(violation) = self.read_samples()
        {
            self.fail(me, violation);
        }
        (CONTROLLER, order(What::Finish))
    }
}
