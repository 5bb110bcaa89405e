//! The scheduler: chooses the next step with an effect, and whose it is.
//!
//! A thread that has finished its step, is held, or waits for another, chooses the next step itself.
//! Where that step is another thread's it leaves an order in the other's slot and passes the baton. A
//! step that would have no effect is passed over at once, without a hand-over. After the last step
//! every thread finishes its work, in a fixed order; if no thread can, that is a deadlock.

use sigstorm_runtime::Phase;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::runtime::GOROUTINES;

use super::batch::ErasedSource;
use super::feedback::{hit, mix};
use super::holding::Holding;
use super::run::Run;
use super::thread::{CONTROLLER, EXT, GC, M1, M2, THREADS, Thread, ThreadState, actor_of, slot_of};
use super::trace::What as Event;
use crate::oracle::ViolationKind;
use crate::oracle::check::OwnStack;
use crate::oracle::lockstep::{can_do, part_of_cycle, uses_mailbox};
use crate::schedule::{Goroutine, Op, Step, Stop};

/// More rounds of finishing than any schedule needs.
const MAX_DRAINS: u32 = 100_000;

/// The request to a thread that gets the baton.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// Begin this.
    Begin(Op),
    /// Go on.
    Resume,
    /// Take a signal where you are.
    Signal,
    /// Finish what you have: the schedule is at its end.
    Finish,
}

/// A request, with the stop that comes with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) request: Request,
    pub(crate) stop: Option<Stop>,
}

impl Order {
    const fn without_stop(request: Request) -> Order {
        Order { request, stop: None }
    }
}

/// Where a run is in its schedule.
#[derive(Debug)]
pub(crate) struct Scheduler {
    steps: Vec<Step>,
    /// The next step.
    cursor: usize,
    /// The step under way.
    step: u32,
    draining: bool,
    drains: u32,
    /// Where the next schedule comes from, if another is to follow at once.
    pub(super) source: Option<ErasedSource>,
    /// Set from the start of a run by the thread that ended the last one, up to the run's first order.
    pub(super) begins: bool,
}

impl Scheduler {
    pub(super) const fn new() -> Self {
        Scheduler {
            steps: Vec::new(),
            cursor: 0,
            step: 0,
            draining: false,
            drains: 0,
            source: None,
            begins: false,
        }
    }

    /// Starts over with these steps.
    pub(super) fn reset(&mut self, steps: &[Step]) {
        self.steps.clear();
        self.steps.extend_from_slice(steps);
        (self.cursor, self.step, self.draining, self.drains) = (0, 0, false, 0);
    }

    /// The step under way.
    pub(crate) fn step(&self) -> u32 {
        self.step
    }

    /// The schedule, and how many of its steps were passed.
    pub(super) fn passed(&self) -> (&[Step], usize) {
        (&self.steps, self.cursor)
    }

    /// Whether the steps are used up, and threads finish what they do.
    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }
}

/// The scheduler's choice.
enum Choice {
    /// This thread gets this order.
    Order(usize, Order),
    /// This thread gets a signal while it handles one: it is pending until that ends.
    Pend(usize),
    /// The run is over.
    End,
    /// The run cannot end.
    Fail(ViolationKind),
}

impl Holding {
    /// Waits until the thread has something to do, and says what. The thread has set its state.
    pub(super) fn next_order(&mut self) -> Order {
        let me = self.me();
        loop {
            if let Some(order) = self.run().threads[me].order.take() {
                return self.run().accepted(me, order);
            }
            let (target, order) = self.choose();
            if target == me {
                return self.run().accepted(me, order);
            }
            self.hand_order(target, order);
        }
    }

    /// Leaves an order for another thread, passes the baton, and waits until it comes back. Breakpoints are the
    /// holder's, so they go and come with the baton.
    fn hand_order(&mut self, target: usize, order: Order) {
        let me = self.me();
        let run = self.run();
        run.suspend_breakpoints(me);
        if target != CONTROLLER && me != CONTROLLER && !run.scheduler.begins {
            run.counts.handovers += 1;
            run.note_handed(me);
        }
        let pass = run.leave_order(target, order);
        self.hand_over(pass);
        self.run().resume_breakpoints(me);
    }

    /// The next step with an effect, and whose it is; at the end of the run the controller.
    pub(super) fn choose(&mut self) -> (usize, Order) {
        let me = self.me();
        loop {
            match self.run().choose_step(me) {
                Choice::Order(target, order) => return (target, order),
                Choice::Pend(target) => self.send_signal(target),
                Choice::Fail(kind) => self.fail(kind),
                Choice::End => {
                    // Here and not by the controller, whom nobody can stop where the runtime throws.
                    if me != CONTROLLER
                        && let Err(kind) = self.read_samples()
                    {
                        self.fail(kind);
                    }
                    if self.begins_another() {
                        continue;
                    }
                    return (CONTROLLER, Order::without_stop(Request::Finish));
                }
            }
        }
    }
}

impl Run {
    /// The order, which the thread now carries out.
    fn accepted(&mut self, me: usize, order: Order) -> Order {
        self.scheduler.begins = false;
        let draining = self.scheduler.draining;
        self.threads[me].step = if draining { u32::MAX } else { self.scheduler.step };
        order
    }

    /// The next step with an effect.
    fn choose_step(&mut self, me: usize) -> Choice {
        loop {
            let index = self.scheduler.cursor;
            let Some(&step) = self.scheduler.steps.get(index) else { return self.choose_finish(me) };
            self.scheduler.cursor = index + 1;
            let Some(slot) = slot_of(step.actor) else { continue };
            if matches!(step.op, Op::Pend) {
                if self.can_pend(slot) {
                    self.begins_step(index, step.op);
                    self.note(slot, Event::Op(Op::Pend), None);
                    return Choice::Pend(slot);
                }
                continue;
            }
            let Some(request) = self.effect(slot, step.op) else { continue };
            self.begins_step(index, step.op);
            self.met_stops(slot, step.op);
            return Choice::Order(slot, Order { request, stop: step.stop });
        }
    }

    fn begins_step(&mut self, index: usize, op: Op) {
        self.scheduler.step = index as u32;
        self.effects.had_effect(index as u32);
        self.counts.steps += 1;
        self.counts.kinds[op.kind()] += 1;
    }

    /// The request that this step makes of a thread as it stands; none if the step has no effect.
    fn effect(&self, slot: usize, op: Op) -> Option<Request> {
        let thread = &self.threads[slot];
        if matches!(op, Op::Signal) {
            // Only a thread whose timer is armed gets one, and a handler masks its own.
            let comes = self.accounting.is_signalled(thread) && !thread.masks_signals();
            return comes.then_some(Request::Signal);
        }
        match thread.state {
            ThreadState::Stopped => Some(Request::Resume),
            ThreadState::Blocked(wait) => wait.over().then_some(Request::Resume),
            ThreadState::Running => None,
            ThreadState::Idle if thread.in_syscall => Some(Request::Resume),
            ThreadState::Idle if thread.own_stack == OwnStack::Foreign => self.in_foreign_code(slot, op),
            ThreadState::Idle => self.can_begin(slot, op).then_some(Request::Begin(op)),
        }
    }

    /// Whether an idle thread can do this.
    fn can_begin(&self, slot: usize, op: Op) -> bool {
        let runtime = self.runtime();
        let thread = &self.threads[slot];
        match (op, slot) {
            (Op::Rate { on }, _) => (runtime.rate() != 0) != on,
            (Op::Hz { hz }, _) => runtime.rate() != hz,
            (Op::Read, _) => self.accounting.has_unread() && !runtime.profiler().is_being_read(),
            (_, GC) => self.can_assist(slot, op),
            (_, M1 | M2) => self.can_assist(slot, op) || self.can_run(slot, op),
            (Op::Attach, _) => thread.machine.is_none(),
            (Op::Detach, _) => thread.machine.is_some(),
            _ => false,
        }
    }

    /// Whether a signal can be sent to a thread whose handler masks it. The thread with the baton sends it, as a
    /// timer would. A handler that was called from the kernel returns there without the baton, and there the signal
    /// would arrive: it gets none.
    fn can_pend(&self, slot: usize) -> bool {
        let thread = &self.threads[slot];
        thread.handler.active && !thread.kernel.active && self.accounting.is_signalled(thread)
    }

    /// Whether a thread can do this for others.
    fn can_assist(&self, slot: usize, op: Op) -> bool {
        let runtime = self.runtime();
        let status_of = |g: Goroutine| runtime.goroutines()[usize::from(g.code())].status.get();
        match part_of_cycle(op) {
            Op::Spawn { g } => matches!(status_of(g), status::IDLE | status::DEAD),
            Op::Ready { g } => runtime.goroutines()[usize::from(g.code())].is_parked(),
            Op::Preempt { g } => {
                let own = self.threads[slot].goroutine == Some(usize::from(g.code()));
                let asked = runtime.goroutines()[usize::from(g.code())].yield_requested();
                !own && status_of(g) == status::RUNNING && !asked
            }
            op => self.can_collect(op),
        }
    }

    fn can_collect(&self, op: Op) -> bool {
        let runtime = self.runtime();
        let phase = runtime.phase();
        let named = |g: Goroutine| &runtime.goroutines()[usize::from(g.code())];
        match op {
            Op::Mark | Op::Stw => phase == Phase::Off,
            Op::Scan { g } => {
                let scanned = self.shadows.cycle.has_scanned(usize::from(g.code()));
                let exists = !matches!(named(g).status.get(), status::IDLE | status::DEAD);
                phase == Phase::Mark && exists && !(scanned && named(g).scan_done())
            }
            Op::Drain { .. } | Op::Term => phase == Phase::Mark,
            Op::Sweep => phase == Phase::Sweep,
            Op::Shrink { g } => {
                let stopped = matches!(named(g).status.get(), status::RUNNABLE | status::WAITING);
                stopped && named(g).stack.size() > sigstorm_runtime::stack::MIN_STACK
            }
            _ => false,
        }
    }

    /// Whether an idle machine can do this with the goroutine that it has, or with one that it takes first.
    fn can_run(&self, slot: usize, op: Op) -> bool {
        let Some(index) = self.threads[slot].goroutine else {
            return match op {
                Op::Run { g } => self.can_take(usize::from(g.code())),
                Op::Call { .. } | Op::Syscall | Op::Foreign | Op::Alloc { .. } => {
                    self.preferred(slot).is_some()
                }
                _ => false,
            };
        };
        // A thread may be held between any two words that it moves into the mailbox or out of it: a program that
        // used the mailbox meanwhile would race with itself.
        let mailbox = || !uses_mailbox(op) || !self.threads.iter().any(|thread| thread.uses_mailbox);
        let other = || match op {
            Op::Run { g } => usize::from(g.code()) != index && self.can_take(usize::from(g.code())),
            _ => true,
        };
        can_do(&self.shadows.stacks[index], op) && mailbox() && other()
    }

    /// Whether a thread could take this goroutine now.
    pub(super) fn can_take(&self, index: usize) -> bool {
        let s = self.runtime().goroutines()[index].status.get();
        matches!(s & !status::SCAN, status::IDLE | status::RUNNABLE | status::DEAD)
    }

    /// The goroutine that a thread without one takes.
    pub(super) fn preferred(&self, slot: usize) -> Option<usize> {
        let first = slot - M1;
        (0..GOROUTINES).map(|i| (first + i) % GOROUTINES).find(|&i| self.can_take(i))
    }

    /// Notes for the feedback what is done while others are held.
    fn met_stops(&self, slot: usize, op: Op) {
        for (other, thread) in self.threads.iter().enumerate() {
            if other != slot
                && matches!(thread.state, ThreadState::Stopped)
                && let Some(stop) = thread.breakpoints.stop()
            {
                let place = match stop {
                    Stop::Point { point, .. } => u32::from(point.code()),
                    Stop::Instr { function, index, .. } => {
                        0x1_0000 | u32::from(function.code()) << 8 | u32::from(index & 0xff)
                    }
                };
                let code = op.code(actor_of(slot).class()).unwrap_or(0);
                hit(mix([4, place, u32::from(code) << 4 | (slot.min(GC) as u32)]));
            }
        }
    }

    // -- the end ----------------------------------------------------------------------

    /// The next thread with work once the steps are used up.
    fn choose_finish(&mut self, me: usize) -> Choice {
        if !self.scheduler.draining {
            self.scheduler.draining = true;
            self.note(me, Event::Drain, None);
        }
        self.scheduler.drains += 1;
        if self.scheduler.drains > MAX_DRAINS {
            return Choice::Fail(ViolationKind::Harness("finishing does not come to an end"));
        }
        let find = |wanted: fn(&Thread) -> bool| (M1..THREADS).find(|&slot| wanted(&self.threads[slot]));
        if let Some(slot) = find(|t| matches!(t.state, ThreadState::Stopped)) {
            return Choice::Order(slot, Order::without_stop(Request::Resume));
        }
        if let Some(slot) = find(|t| matches!(t.state, ThreadState::Blocked(wait) if wait.over())) {
            return Choice::Order(slot, Order::without_stop(Request::Resume));
        }
        if let Some(slot) = [GC, EXT, M1, M2].into_iter().find(|&slot| self.has_work(slot)) {
            return Choice::Order(slot, Order::without_stop(Request::Finish));
        }
        if find(|t| matches!(t.state, ThreadState::Blocked(_))).is_some() {
            return Choice::Fail(ViolationKind::Deadlock);
        }
        Choice::End
    }

    /// Whether an idle thread has something to finish.
    fn has_work(&self, slot: usize) -> bool {
        let (thread, runtime) = (&self.threads[slot], self.runtime());
        let is_left = |g: &sigstorm_runtime::G| g.status.get() == status::RUNNABLE || g.is_parked();
        let work = match slot {
            GC => matches!(runtime.phase(), Phase::Mark | Phase::Sweep),
            EXT => thread.machine.is_some(),
            _ => thread.goroutine.is_some() || runtime.goroutines().iter().any(is_left),
        };
        work && matches!(thread.state, ThreadState::Idle)
    }
}
