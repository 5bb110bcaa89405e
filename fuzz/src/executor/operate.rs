//! Carrying out an order on the thread that gets it.

use sigstorm_inject::{self as inject, Parking};
use sigstorm_runtime::profiler;
use sigstorm_runtime::profiler::rate::INITIAL_RATE;
use sigstorm_runtime::{G, M};

use super::foreign;
use super::holding::Holding;
use super::sample_accounting::sends;
use super::scheduler::Request;
use super::thread::{EXT, GC, ThreadState};
use super::trace::What as Event;
use crate::oracle::check::OwnStack;
use crate::oracle::lockstep::{Collected, uses_mailbox};
use crate::oracle::requests::Outstanding;
use crate::oracle::{Access, Lockstep, ShadowHeap, ShadowStack, ViolationKind};
use crate::schedule::{Goroutine, Op};

impl Holding {
    /// A thread of the run: does what it is told until the process ends. `machine` is the thread's for good.
    pub(super) fn serve(mut self, machine: Option<&'static M>, parking: &'static Parking) -> ! {
        let me = self.me();
        let thread = &mut self.run().threads[me];
        thread.tid = inject::gettid();
        thread.breakpoints.bind(thread.tid);
        thread.parking = Some(parking);
        thread.machine = machine;
        if let Some(m) = machine {
            // Without real timers there is nothing that the kernel could refuse.
            self.lend(|| m.attach()).expect("a machine without a real timer");
        }
        // Ready: the controller goes on, and the next baton comes with the first order.
        self.hand_over(super::parked_syscall::Pass::Slot(super::thread::CONTROLLER));
        loop {
            self.turn(machine);
        }
    }

    /// Waits for the next order and carries it out.
    pub(super) fn turn(&mut self, machine: Option<&'static M>) {
        let me = self.me();
        let thread = &mut self.run().threads[me];
        thread.state = ThreadState::Idle;
        if let Some(m) = machine.filter(|_| thread.in_syscall) {
            return self.stay_in_syscall(m);
        }
        let order = self.next_order();
        self.run().threads[me].state = ThreadState::Running;
        match order.request {
            Request::Signal => self.raise_signal(order.stop),
            Request::Finish => self.finish(),
            Request::Begin(op) => {
                let run = self.run();
                run.set_breakpoint(me, order.stop);
                run.note(me, Event::Op(op), machine.and_then(|m| m.current()));
                self.begin(machine, op);
                self.run().clear_breakpoint(me);
            }
            Request::Resume => self.fail(ViolationKind::Harness("an idle thread has nothing to go on with")),
        }
    }

    fn begin(&mut self, machine: Option<&'static M>, op: Op) {
        let me = self.me();
        let step = self.run().threads[me].step;
        let did = match (op, machine) {
            (Op::Rate { on }, _) => self.set_rate(if on { INITIAL_RATE } else { 0 }),
            (Op::Hz { hz }, _) => self.set_rate(hz),
            (Op::Read, _) => match self.read_samples() {
                Ok(read) => read.is_some_and(|count| count != 0),
                Err(kind) => self.fail(kind),
            },
            (op, Some(m)) => {
                let is_collector = self.me() == GC;
                let mut operator = Operator { holding: self, m };
                match operator.assist(op) {
                    Some(did) => did,
                    None => !is_collector && operator.run(op),
                }
            }
            (op, None) => self.bind(op),
        };
        self.run().had_effect(did, step);
    }

    /// The thread that the runtime does not know becomes a machine's, or ceases to be.
    fn bind(&mut self, op: Op) -> bool {
        let Some(extra_m) = self.run().extra_m else { return false };
        match op {
            // Without a real timer the kernel refuses nothing.
            Op::Attach => self.lend(|| extra_m.attach()).is_ok(),
            Op::Detach => {
                self.lend(|| extra_m.detach());
                true
            }
            _ => false,
        }
    }

    fn set_rate(&mut self, hz: u32) -> bool {
        let runtime = self.run().runtime();
        match self.lend(|| profiler::set_rate(runtime, hz)) {
            Ok(did) => did,
            Err(_) => self.fail(ViolationKind::Harness("a step asks for a rate that there is not")),
        }
    }

    /// Reads the buffers and holds every sample against what its handler was seen to take. How many there
    /// were; none where somebody else reads them.
    ///
    /// # Errors
    /// The first sample that is another one.
    pub(super) fn read_samples(&mut self) -> Result<Option<usize>, ViolationKind> {
        let runtime = self.run().runtime();
        let mut wrong = None;
        let read = self.lend(|| {
            runtime.profiler().read(|record| {
                // SAFETY: the runtime calls this, within `lend`.
                let Some(mut holding) = (unsafe { Holding::reclaim() }) else { return };
                let run = holding.run();
                if let Err(kind) = run.accounting.read(record, &mut run.counts) {
                    wrong.get_or_insert(kind);
                }
            })
        });
        wrong.map_or(Ok(read), Err)
    }

    /// Sends a thread a profiling signal.
    pub(super) fn send_signal(&mut self, target: usize) {
        let run = self.run();
        let thread = &mut run.threads[target];
        sends(thread, &mut run.counts);
        let tid = thread.tid;
        // Where it is this thread's own, and not masked, its handler has run when this returns.
        if self.lend(|| inject::tgkill(tid, libc::SIGPROF)).is_err() {
            self.fail(ViolationKind::Harness("the kernel refused to send a signal"));
        }
    }

    /// The schedule is at its end: finishes the cycle, or returns from every frame.
    fn finish(&mut self) {
        let me = self.me();
        let Some(m) = self.run().threads[me].machine else { return };
        match me {
            EXT => self.lend(|| m.detach()),
            GC => {
                let mut operator = Operator { holding: self, m };
                operator.assist(Op::Term);
                operator.assist(Op::Sweep);
            }
            _ => drop(Operator { holding: self, m }.finish()),
        }
    }
}

/// A thread with its machine, which holds the baton whenever it looks at the record.
pub(super) struct Operator<'a> {
    pub(super) holding: &'a mut Holding,
    pub(super) m: &'static M,
}

impl Operator<'_> {
    /// Does something with a goroutine, which the machine may have to take first.
    fn run(&mut self, op: Op) -> bool {
        let me = self.holding.me();
        if let Op::Run { g } = op {
            if self.goroutine().is_some() {
                self.operate(M::yield_now);
            }
            return self.take(usize::from(g.code()));
        }
        if self.goroutine().is_none() {
            let preferred = self.holding.run().preferred(me);
            if !preferred.is_some_and(|index| self.take(index)) {
                return false;
            }
            if self.goroutine().is_none() {
                // It was in a prologue, and was dropped there once more.
                return true;
            }
        }
        if matches!(op, Op::Syscall) {
            if self.stack(|stack| stack.can_call(sigstorm_runtime::FuncId::Syscall)) {
                self.enter_syscall();
                self.holding.run().threads[me].in_syscall = true;
            }
            return true;
        }
        self.holding.run().threads[me].uses_mailbox = uses_mailbox(op);
        let did = self.perform(op);
        self.holding.run().threads[me].uses_mailbox = false;
        did
    }

    /// The goroutine that the thread runs, which it must have.
    fn mine(&mut self) -> usize {
        match self.goroutine() {
            Some(index) => index,
            None => self.fail(ViolationKind::Harness("a step for a thread without a goroutine")),
        }
    }

    fn current(&self) -> Option<&'static G> {
        self.m.current()
    }
}

impl Access for Operator<'_> {
    const EXACT: bool = true;

    fn machine(&self) -> &'static M {
        self.m
    }

    fn goroutine(&mut self) -> Option<usize> {
        let me = self.holding.me();
        self.holding.run().threads[me].goroutine
    }

    fn named(&self, goroutine: Goroutine) -> usize {
        usize::from(goroutine.code())
    }

    #[inline(always)]
    fn stack<R>(&mut self, look: impl FnOnce(&ShadowStack) -> R) -> R {
        let mine = self.mine();
        look(&self.holding.run().shadows.stacks[mine])
    }

    #[inline(always)]
    fn change<R>(&mut self, change: impl FnOnce(&mut ShadowStack) -> R) -> R {
        let mine = self.mine();
        change(&mut self.holding.run().shadows.stacks[mine])
    }

    #[inline(always)]
    fn change_memory<R>(&mut self, change: impl FnOnce(&mut ShadowStack, &mut ShadowHeap) -> R) -> R {
        let mine = self.mine();
        let shadows = &mut self.holding.run().shadows;
        change(&mut shadows.stacks[mine], &mut shadows.heap)
    }

    #[inline(always)]
    fn operate<R>(&mut self, operation: impl FnOnce(&'static M) -> R) -> R {
        let m = self.m;
        self.holding.lend(|| operation(m))
    }

    fn takes(&mut self, g: &'static G) -> bool {
        self.operate(|m| m.take(g))
    }

    fn outstanding(&mut self) -> Outstanding {
        let mine = self.mine();
        self.holding.run().shadows.requests[mine].outstanding()
    }

    fn are_honoured(&mut self, before: Outstanding) -> bool {
        let mine = self.mine();
        let shadows = &self.holding.run().shadows;
        shadows.requests[mine].are_honoured(before, || shadows.stacks[mine].is_in_foreign_call())
    }

    fn begins_to_request(&mut self, _: usize) {
        // Nobody honours a request before the event that says that it was made.
    }

    fn saved_state(&mut self, is_right: impl Fn(&ShadowStack, usize, usize) -> bool) -> bool {
        let Some(g) = self.current() else { return false };
        let below = g.stack.top.get().wrapping_sub(g.sched.sp.get());
        self.stack(|stack| is_right(stack, g.sched.pc.get(), below))
    }

    fn slots_hold(&mut self) -> bool {
        let mine = self.mine();
        let run = self.holding.run();
        // While its stack is being moved, that says nothing.
        let moves = run
            .locks
            .holder(mine)
            .is_some_and(|(_, operation)| operation == sigstorm_runtime::stack::lock::Operation::Copystack);
        moves || run.shadows.slots_hold(run.runtime(), &run.runtime().goroutines()[mine], false)
    }

    fn recovers_to(&mut self, body: usize) {
        let me = self.holding.me();
        self.holding.run().threads[me].recovers_to = body;
    }

    fn collect(&mut self, scans: Option<usize>, operation: impl FnOnce(&'static M) -> bool) -> Collected {
        let me = self.holding.me();
        let run = self.holding.run();
        let runtime = run.runtime();
        run.threads[me].own_stack = OwnStack::Collector;
        let begun = scans.map(|index| (index, run.shadows.cycle.scan_begins(runtime, index)));
        let did = self.operate(operation);
        let run = self.holding.run();
        run.threads[me].own_stack = OwnStack::Runtime;
        let passed_over = !did
            && begun.is_some_and(|(index, begun)| run.shadows.cycle.is_passed_over(runtime, index, begun));
        Collected { did, passed_over }
    }

    fn call_foreign(&mut self) {
        self.operate(|m| m.foreign(&foreign::DRIVER));
    }

    fn fail(&mut self, kind: ViolationKind) -> ! {
        self.holding.fail(kind)
    }
}
