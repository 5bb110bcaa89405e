//! The run's record of one thread.

use sigstorm_inject::Parking;
use sigstorm_runtime::M;
use sigstorm_runtime::profiler::rate::RateEpoch;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::stack::lock::Operation;

use super::breakpoints::Breakpoints;
use super::scheduler::Order;
use crate::oracle::Observed;
use crate::oracle::check::OwnStack;
use crate::oracle::requests::Outstanding;
use crate::schedule::Actor;

/// The controller's slot. Each actor has one of the others.
pub(crate) const CONTROLLER: usize = 0;
/// The first machine's.
pub(crate) const M1: usize = 1;
/// The second machine's.
pub(crate) const M2: usize = 2;
/// The collector's.
pub(crate) const GC: usize = 3;
/// The slot of the thread that the runtime does not know.
pub(crate) const EXT: usize = 4;
/// How many slots there are.
pub(crate) const THREADS: usize = 5;

/// The actor of a slot.
pub(crate) fn actor_of(slot: usize) -> Actor {
    [Actor::World, Actor::M1, Actor::M2, Actor::Gc, Actor::Ext][slot]
}

/// The slot of an actor; none of an option.
pub(crate) fn slot_of(actor: Actor) -> Option<usize> {
    match actor {
        Actor::M1 => Some(M1),
        Actor::M2 => Some(M2),
        Actor::Gc => Some(GC),
        Actor::Ext => Some(EXT),
        Actor::World => None,
    }
}

/// A thread's state as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ThreadState {
    /// The thread waits for something to do.
    Idle,
    /// The thread runs.
    Running,
    /// The thread is held at a stop.
    Stopped,
    /// The thread waits for another thread.
    Blocked(Wait),
}

/// A thread's signal handler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handler {
    /// Whether it runs.
    pub(crate) active: bool,
    /// Whether it returns to a stop at an instruction, where the thread is held again.
    pub(crate) returns_to_stop: bool,
    /// Whether the thread has sent itself its signal, and waits for its handler to return.
    pub(crate) is_raised: bool,
    /// The holder of the stack lock as the handler tried it, and its operation.
    pub(crate) lock_holder: Option<(usize, Operation)>,
    /// The profiling rate when the handler had the rate's lock.
    pub(crate) rate: Option<RateEpoch>,
    /// The goroutine as the handler's walk found it.
    pub(crate) observed: Option<Observed>,
}

/// A thread's wait for the baton in the kernel, in its goroutine's system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelWait {
    /// Set from the thread's entry into the kernel to wait until it is on its own stack again.
    pub(crate) active: bool,
    /// Whether the baton gets to it by its parking place and not by its slot.
    pub(crate) parked: bool,
    /// How many signals have interrupted the wait.
    pub(crate) interruptions: usize,
}

/// A thread of the run.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) state: ThreadState,
    /// The order that it carries out when it gets the baton.
    pub(crate) order: Option<Order>,
    /// The step whose order it carries out.
    pub(crate) step: u32,
    pub(crate) breakpoints: Breakpoints,
    pub(crate) handler: Handler,
    pub(crate) kernel: KernelWait,
    /// Whether a profiling signal that was sent to it has not arrived.
    pub(crate) signal_pending: bool,
    /// The goroutine that it runs, by index, as the harness knows.
    pub(crate) goroutine: Option<usize>,
    /// Whether its goroutine is in a system call.
    pub(crate) in_syscall: bool,
    /// Whose code it runs on its own stack.
    pub(crate) own_stack: OwnStack,
    /// Whether it moves something into the mailbox or out of it, or waits to.
    pub(crate) uses_mailbox: bool,
    /// Distance below the top of the frame that its recovery goes to.
    pub(crate) recovers_to: usize,
    /// The requests that were outstanding as its callback began.
    pub(crate) before_callback: Outstanding,
    // For good.
    pub(crate) tid: i32,
    pub(crate) parking: Option<&'static Parking>,
    /// The thread's machine. The thread from outside gains and loses one.
    pub(crate) machine: Option<&'static M>,
}

impl Thread {
    pub(crate) const fn new() -> Self {
        Thread {
            state: ThreadState::Idle,
            order: None,
            step: 0,
            breakpoints: Breakpoints::new(),
            handler: Handler {
                active: false,
                returns_to_stop: false,
                is_raised: false,
                lock_holder: None,
                rate: None,
                observed: None,
            },
            kernel: KernelWait { active: false, parked: false, interruptions: 0 },
            signal_pending: false,
            goroutine: None,
            in_syscall: false,
            own_stack: OwnStack::Runtime,
            uses_mailbox: false,
            recovers_to: 0,
            before_callback: Outstanding::NONE,
            tid: 0,
            parking: None,
            machine: None,
        }
    }

    /// Starts over. Its breakpoints are out of the code.
    pub(crate) fn reset(&mut self) {
        self.state = ThreadState::Idle;
        self.order = None;
        self.breakpoints.reset();
        self.handler.active = false;
        self.handler.returns_to_stop = false;
        self.handler.is_raised = false;
        self.handler.lock_holder = None;
        self.handler.rate = None;
        self.handler.observed = None;
        self.kernel.active = false;
        self.kernel.parked = false;
        self.signal_pending = false;
        self.goroutine = None;
        self.in_syscall = false;
        self.own_stack = OwnStack::Runtime;
        self.uses_mailbox = false;
    }

    /// Whether a signal of the thread has interrupted its wait in the kernel.
    pub(crate) fn waits_in_kernel(&self) -> bool {
        self.kernel.active && !self.handler.returns_to_stop
    }

    /// Whether the thread handles a signal, or is held where signals are blocked: it gets no other one.
    pub(crate) fn masks_signals(&self) -> bool {
        self.handler.active || self.breakpoints.is_stopped_masked()
    }
}
