//! What the threads of a controlled run share, and the steps of handing the baton on.
//!
//! Everything here is touched only by the thread that holds the baton, so it is cells
//! in one static. Who holds the baton decides everything; the holder chooses the next
//! step itself and passes on only when that step is another's.

use core::cell::{Cell, UnsafeCell};

use sigstorm_inject::{Baton, Parking, Region};
use sigstorm_runtime::profiler::rate::RateEpoch;
use sigstorm_runtime::sched::runtime::{GOROUTINES, Phase};
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::unwind::throw::Throw;
use sigstorm_runtime::{M, Point, Runtime};

use super::accounts::Accounts;
use super::fates::Fates;
use super::instruction::{Recorder, Releases, TrapState};
use super::relay::Lent;
use super::trace::Trace;
use super::truth::{HeapTruth, Truth};
use crate::outcome::{Counts, Injected};
use crate::schedule::{Actor, Op, Step, Stop};

/// Seats at the baton: the controller's, then one for each actor.
pub(crate) const CONTROLLER: usize = 0;
/// The first machine's.
pub(crate) const M1: usize = 1;
/// The second machine's.
pub(crate) const M2: usize = 2;
/// The collector's.
pub(crate) const GC: usize = 3;
/// The seat of the thread that the runtime does not know.
pub(crate) const EXT: usize = 4;
/// How many seats there are.
pub(crate) const SEATS: usize = 5;

/// The actor of a seat.
pub(crate) fn actor_of(seat: usize) -> Actor {
    [Actor::World, Actor::M1, Actor::M2, Actor::Gc, Actor::Ext][seat]
}

/// The seat of an actor; none of an option.
pub(crate) fn seat_of(actor: Actor) -> Option<usize> {
    match actor {
        Actor::M1 => Some(M1),
        Actor::M2 => Some(M2),
        Actor::Gc => Some(GC),
        Actor::Ext => Some(EXT),
        Actor::World => None,
    }
}

/// What a thread is doing as the others see it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    /// Waiting for something to do.
    Idle,
    /// Doing it.
    Running,
    /// Held at a stop.
    Stopped,
    /// Waiting for another thread.
    Blocked(Wait),
}

/// What a thread is told when it gets the baton.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// Begin this.
    Begin(Op),
    /// Go on.
    Resume,
    /// Take a signal where you are.
    Signal,
    /// Finish what you have: the schedule is at its end.
    Finish,
}

/// An order, with the stop that comes with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) what: What,
    pub(crate) stop: Option<Stop>,
}

/// A thread of the run.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) at: Cell<At>,
    pub(crate) order: Cell<Option<Order>>,
    /// The scheduling point it is to be held at, and how many times to come there.
    pub(crate) at_point: Cell<Option<(Point, u8)>>,
    /// The instruction it is to be held at, and how many times to come there.
    pub(crate) at_instruction: Cell<Option<(usize, u8)>>,
    /// What else its stops at instructions need.
    pub(crate) trap: TrapState,
    /// The step whose order it carries out.
    pub(crate) step: Cell<u32>,
    /// The step whose operation it has begun.
    pub(crate) begun: Cell<u32>,
    /// The stop as the schedule has it.
    pub(crate) stop: Cell<Option<Stop>>,
    /// The step that has it.
    pub(crate) stop_step: Cell<u32>,
    /// True from the beginning of its signal handler to its end.
    pub(crate) in_handler: Cell<bool>,
    /// True where its handler, when it ends, is back at a stop.
    pub(crate) held_again: Cell<bool>,
    /// True while it moves the mailbox onto its goroutine's stack, or waits to.
    pub(crate) in_bulk: Cell<bool>,
    /// True while it puts something into the mailbox.
    pub(crate) in_send: Cell<bool>,
    /// True where its buffer was full when its last sample was taken.
    pub(crate) found_full: Cell<bool>,
    /// True where that sample was written.
    pub(crate) filed: Cell<bool>,
    /// True where its sample failed to take the lock while that was held.
    pub(crate) lock_was_held: Cell<Option<(usize, Operation)>>,
    /// What the rate was when its handler had the rate's lock.
    pub(crate) rate_seen: Cell<RateEpoch>,
    /// True while a profiling signal that was sent to it has not come.
    pub(crate) pending: Cell<bool>,
    /// Whether its walk, as it ended, was right.
    pub(crate) walked: Cell<Option<bool>>,
    /// True where its goroutine is in a system call.
    pub(crate) in_syscall: Cell<bool>,
    /// Where it waits in the kernel.
    pub(crate) parking: Cell<Option<&'static Parking>>,
    /// True from when it goes into the kernel to wait until it is on its own stack again.
    pub(crate) in_kernel: Cell<bool>,
    /// True while the baton gets to it by its parking place and not its seat.
    pub(crate) parked: Cell<bool>,
    /// How many signals have interrupted its wait.
    pub(crate) interruptions: Cell<usize>,
    /// True while it runs foreign code, by the events.
    pub(crate) in_foreign: Cell<bool>,
    /// True while it collects.
    pub(crate) collecting: Cell<bool>,
    /// The goroutine that it runs, by index, as the executor knows.
    pub(crate) current: Cell<Option<usize>>,
    /// Distance below the top of the frame that its recovery goes to.
    pub(crate) recovers_to: Cell<usize>,
    pub(crate) tid: Cell<i32>,
    pub(crate) machine: Cell<Option<&'static M>>,
}

impl Thread {
    const fn new() -> Self {
        Thread {
            at: Cell::new(At::Idle),
            order: Cell::new(None),
            at_point: Cell::new(None),
            at_instruction: Cell::new(None),
            trap: TrapState::new(),
            step: Cell::new(0),
            begun: Cell::new(0),
            stop: Cell::new(None),
            stop_step: Cell::new(0),
            in_handler: Cell::new(false),
            held_again: Cell::new(false),
            in_bulk: Cell::new(false),
            in_send: Cell::new(false),
            found_full: Cell::new(false),
            filed: Cell::new(false),
            lock_was_held: Cell::new(None),
            rate_seen: Cell::new(RateEpoch { hz: 0, epoch: 0 }),
            pending: Cell::new(false),
            walked: Cell::new(None),
            in_syscall: Cell::new(false),
            parking: Cell::new(None),
            in_kernel: Cell::new(false),
            parked: Cell::new(false),
            interruptions: Cell::new(0),
            in_foreign: Cell::new(false),
            collecting: Cell::new(false),
            current: Cell::new(None),
            recovers_to: Cell::new(0),
            tid: Cell::new(0),
            machine: Cell::new(None),
        }
    }

    fn reset(&self) {
        self.at.set(At::Idle);
        self.order.set(None);
        self.disarm();
        self.in_handler.set(false);
        self.held_again.set(false);
        self.trap.reset();
        self.walked.set(None);
        self.lock_was_held.set(None);
        self.in_bulk.set(false);
        self.in_send.set(false);
        self.pending.set(false);
        self.in_syscall.set(false);
        self.in_kernel.set(false);
        self.parked.set(false);
        self.in_foreign.set(false);
        self.collecting.set(false);
        self.current.set(None);
    }

    /// Forgets any stop that was not come to.
    pub(crate) fn disarm(&self) {
        self.at_point.set(None);
        if self.at_instruction.take().is_some() {
            self.trap.disarm();
        }
        self.stop.set(None);
    }
}

/// What is wrong, where it was noticed; the rest of the evidence is still in place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Violation {
    /// This thread's last sample differs from the truth.
    Traceback(usize),
    /// The frames of the last event that this thread's tracer took differ from the truth.
    Event(usize),
    /// This thread's last sample was skipped without a reason.
    Skip(usize, &'static str),
    /// The core's own.
    Throw(Throw),
    /// Nobody can move.
    Deadlock,
    /// This thread waits for what is so already, for ever.
    Livelock(usize),
    /// An object that can be reached was not marked.
    LiveObject(usize),
    /// The samples that are kept are not those that were taken.
    Samples(&'static str),
    /// Memory is not what the program wrote.
    Memory(&'static str),
    /// Something is not where it belongs at the end; the goroutine, if it is one's.
    Leak(&'static str, Option<usize>),
    /// The harness is wrong.
    Harness(&'static str),
}

/// The last event on a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastEvent {
    pub(crate) seat: u8,
    pub(crate) point: u8,
}

/// The shared state of a process's controlled runs.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) baton: Baton,
    pub(crate) threads: [Thread; SEATS],
    pub(crate) core: Cell<Option<&'static Runtime>>,
    pub(crate) region: UnsafeCell<Option<Region>>,
    pub(crate) steps: UnsafeCell<Vec<Step>>,
    /// The next step.
    pub(crate) cursor: Cell<usize>,
    /// The step under way.
    pub(crate) step: Cell<u32>,
    pub(crate) draining: Cell<bool>,
    pub(crate) drains: Cell<u32>,
    pub(crate) truth: [UnsafeCell<Truth>; GOROUTINES],
    pub(crate) heap: UnsafeCell<HeapTruth>,
    /// Who holds each goroutine's stack lock, and for what, by the events.
    pub(crate) ledger: [Cell<Option<(usize, Operation)>>; GOROUTINES],
    /// Whether each goroutine was scanned since the collector began to mark.
    pub(crate) scanned: [Cell<bool>; GOROUTINES],
    /// How often the collector has begun to mark.
    pub(crate) cycles: Cell<u32>,
    /// How often a goroutine has ended.
    pub(crate) ends: Cell<u32>,
    /// How often in a row somebody has waited for what was so already.
    pub(crate) vain_waits: Cell<u32>,
    /// What is reported at the end where nothing else is.
    pub(crate) late: Cell<Option<Violation>>,
    pub(crate) releases: [Releases; GOROUTINES],
    pub(crate) recorder: UnsafeCell<Recorder>,
    pub(crate) injected: Cell<Injected>,
    pub(crate) last: [Cell<LastEvent>; GOROUTINES],
    pub(crate) accounts: UnsafeCell<Accounts>,
    /// The machine that the thread from outside can become.
    pub(crate) guest: Cell<Option<&'static M>>,
    counts: UnsafeCell<Counts>,
    pub(crate) trace: UnsafeCell<Trace>,
    pub(crate) violation: Cell<Option<Violation>>,
    /// Where the next schedule comes from, if another is to follow at once.
    pub(super) feed: Cell<Option<Lent>>,
    /// True from when a run was begun by the thread that ended the last one, up to its first order.
    pub(super) begins: Cell<bool>,
    /// What became of each step.
    pub(crate) fates: Fates,
    /// True where threads wait in the kernel while they are in a system call.
    pub(crate) parks: Cell<bool>,
}

// SAFETY: only the thread with the baton touches it (see the head of this file).
unsafe impl Sync for State {}

static STATE: std::sync::OnceLock<&'static State> = std::sync::OnceLock::new();

/// The process's shared state. Made by the controller before any other thread or handler
/// asks for it.
#[inline]
pub(crate) fn state() -> &'static State {
    STATE.get_or_init(|| Box::leak(Box::new(State::new())))
}

impl State {
    fn new() -> Self {
        State {
            baton: Baton::new(),
            threads: [const { Thread::new() }; SEATS],
            core: Cell::new(None),
            region: UnsafeCell::new(None),
            steps: UnsafeCell::new(Vec::new()),
            cursor: Cell::new(0),
            step: Cell::new(0),
            draining: Cell::new(false),
            drains: Cell::new(0),
            truth: [const { UnsafeCell::new(Truth::new()) }; GOROUTINES],
            heap: UnsafeCell::new(HeapTruth::new()),
            ledger: [const { Cell::new(None) }; GOROUTINES],
            scanned: [const { Cell::new(false) }; GOROUTINES],
            cycles: Cell::new(0),
            ends: Cell::new(0),
            vain_waits: Cell::new(0),
            late: Cell::new(None),
            releases: [const { Releases::new() }; GOROUTINES],
            recorder: UnsafeCell::new(Recorder::default()),
            injected: Cell::new(Injected::default()),
            last: [const { Cell::new(LastEvent { seat: 0, point: 0 }) }; GOROUTINES],
            accounts: UnsafeCell::new(Accounts::new()),
            guest: Cell::new(None),
            counts: UnsafeCell::new(Counts::default()),
            trace: UnsafeCell::new(Trace::new()),
            violation: Cell::new(None),
            feed: Cell::new(None),
            begins: Cell::new(false),
            fates: Fates::new(),
            parks: Cell::new(true),
        }
    }

    /// Starts over with these steps.
    pub(crate) fn begin(&self, steps: &[Step], trace: bool) {
        self.threads.iter().for_each(Thread::reset);
        self.with_steps(|mine| {
            mine.clear();
            mine.extend_from_slice(steps);
        });
        self.cursor.set(0);
        self.step.set(0);
        self.draining.set(false);
        self.drains.set(0);
        for index in 0..GOROUTINES {
            self.truth(index).clear();
            self.ledger[index].set(None);
            self.scanned[index].set(false);
            self.releases[index].reset();
            self.last[index].set(LastEvent { seat: 0, point: 0 });
        }
        self.vain_waits.set(0);
        self.late.set(None);
        self.heap().clear();
        self.injected.set(Injected::default());
        self.counts().begin();
        self.trace().begin(trace);
        self.fates.begin(trace);
    }

    /// Runs `f` on the steps.
    pub(crate) fn with_steps<R>(&self, f: impl FnOnce(&mut Vec<Step>) -> R) -> R {
        // SAFETY: the caller holds the baton, and `f` does not come back here.
        f(unsafe { &mut *self.steps.get() })
    }

    /// A goroutine's truth. Not to be kept over anything that may pass the baton on.
    #[expect(clippy::mut_from_ref, reason = "whoever holds the baton is alone")]
    pub(crate) fn truth(&self, index: usize) -> &mut Truth {
        // SAFETY: the caller holds the baton and lets go of the reference before it passes it.
        unsafe { &mut *self.truth[index].get() }
    }

    /// The heap's truth. Not to be kept over anything that may pass the baton on.
    #[expect(clippy::mut_from_ref, reason = "whoever holds the baton is alone")]
    pub(crate) fn heap(&self) -> &mut HeapTruth {
        // SAFETY: as for `truth`.
        unsafe { &mut *self.heap.get() }
    }

    /// The trace. Not to be kept over anything that may pass the baton on.
    #[expect(clippy::mut_from_ref, reason = "whoever holds the baton is alone")]
    pub(crate) fn trace(&self) -> &mut Trace {
        // SAFETY: as for `truth`.
        unsafe { &mut *self.trace.get() }
    }

    /// The marked code.
    pub(crate) fn region(&self) -> Option<&Region> {
        // SAFETY: written once, before any thread was started.
        unsafe { (*self.region.get()).as_ref() }
    }

    /// The core.
    pub(crate) fn core(&self) -> &'static Runtime {
        self.core.get().expect("the core is made before any thread is started")
    }

    /// The counts. Not to be kept over anything that may pass the baton on.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "whoever holds the baton is alone")]
    pub(crate) fn counts(&self) -> &mut Counts {
        // SAFETY: as for `truth`.
        unsafe { &mut *self.counts.get() }
    }

    /// The collector's phase.
    pub(crate) fn phase(&self) -> Phase {
        self.core().phase()
    }
}
